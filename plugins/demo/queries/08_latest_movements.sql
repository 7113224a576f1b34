-- The last movements of one product: a filter and an order that one index serves together.
SELECT id, moved_at, delta
FROM inventory_movements
WHERE product_id = 777
ORDER BY moved_at DESC
LIMIT 20
