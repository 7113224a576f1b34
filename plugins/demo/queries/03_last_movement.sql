-- When did each product last move? The subquery runs once for every product.
SELECT p.id, p.title, (SELECT max(m.moved_at) FROM inventory_movements AS m WHERE m.product_id = p.id) AS last_moved
FROM products AS p
WHERE p.id <= 100
