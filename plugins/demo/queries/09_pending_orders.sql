-- The work list: 1,000 pending orders among 300,000. An index over just those is tiny.
SELECT *
FROM orders
WHERE status = 'pending'
ORDER BY created_at
