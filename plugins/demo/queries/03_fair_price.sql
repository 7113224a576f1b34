-- How are the newest products priced for their category? The average is worked out anew for each of them.
SELECT p.id, p.title, p.price,
       (SELECT avg(c.price) FROM products AS c WHERE c.category_id = p.category_id) AS usual
FROM products AS p
WHERE p.added_at >= '2025-06-15'
