-- Which products of a category ever lost stock? Counting all movements to learn whether there is one.
SELECT p.id, p.title
FROM products AS p
WHERE p.category_id = 170
  AND (
    SELECT count(*) FROM inventory_movements AS m WHERE m.product_id = p.id AND m.reason = 'loss'
  ) > 0
