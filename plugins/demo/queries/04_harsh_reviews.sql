-- Which reviews are harsher than their author's own average? The average is worked out again for every review.
SELECT r.id, r.product_id, r.stars
FROM reviews AS r
WHERE r.created_at >= '2025-11-15'
  AND r.stars < (SELECT avg(x.stars) FROM reviews AS x WHERE x.user_id = r.user_id)
