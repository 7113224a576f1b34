-- All orders of one day. The function around the column hides it from its index.
SELECT *
FROM orders
WHERE date_trunc('day', created_at) = timestamp '2024-05-17'
