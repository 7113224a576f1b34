-- Support looks a thing up by customer or by order number: an OR across two tables can use neither index.
SELECT i.*
FROM order_items AS i
JOIN orders AS o ON o.id = i.order_id
WHERE o.user_id = 5000 OR i.order_id = 4242
