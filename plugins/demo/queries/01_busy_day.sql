-- How was one day? A function around the column hides it from its index.
SELECT count(*) AS orders, sum(total) AS revenue
FROM orders
WHERE date_trunc('day', created_at) = timestamp '2024-05-17'
