-- Units sold of a range of products: an index that holds the quantity spares the table.
SELECT product_id, sum(quantity) AS units
FROM order_items
WHERE product_id BETWEEN 5000 AND 5500
GROUP BY product_id
