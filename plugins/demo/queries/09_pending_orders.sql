-- The work list: 1,000 pending orders among 300,000.
SELECT id, user_id, created_at
FROM orders
WHERE status = 'pending'
ORDER BY created_at
