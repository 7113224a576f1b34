-- The last movements of one product: a filter and an order that one index serves together.
SELECT *
FROM inventory_movements
WHERE product_id = 7
ORDER BY moved_at DESC
LIMIT 20
