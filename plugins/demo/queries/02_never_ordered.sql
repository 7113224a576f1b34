-- Who signed up lately and never ordered? NOT IN reads the whole order table again for every user.
SELECT id, email
FROM users
WHERE created_at >= '2025-10-28' AND id NOT IN (SELECT user_id FROM orders)
