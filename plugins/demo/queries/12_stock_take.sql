-- One day's stock take: the cast hides the column, and no index is there yet. Both are needed.
SELECT warehouse, sum(delta) AS net
FROM inventory_movements
WHERE moved_at::date = date '2024-11-29'
GROUP BY warehouse
