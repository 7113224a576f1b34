-- Units sold of a range of products: an index that holds the quantity spares the table.
SELECT product_id, sum(quantity) AS units
FROM order_items
WHERE product_id BETWEEN 500 AND 550
GROUP BY product_id
