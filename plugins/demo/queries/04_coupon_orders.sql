-- Which of the last orders spent more than is usual with their coupon? Each of them reads the whole order table.
SELECT o.id, o.coupon, o.total
FROM orders AS o
WHERE o.created_at >= '2025-11-13' AND o.coupon IS NOT NULL
  AND o.total > (SELECT avg(x.total) FROM orders AS x WHERE x.coupon = o.coupon)
