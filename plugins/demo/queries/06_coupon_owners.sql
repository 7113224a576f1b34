-- Orders that belong to a new customer, by account or by a coupon in their name: an OR in the join condition.
SELECT u.id, o.id AS order_id
FROM users AS u
JOIN orders AS o ON o.user_id = u.id OR o.coupon = u.email
WHERE u.country = 'NO' AND u.created_at >= '2025-10-01'
