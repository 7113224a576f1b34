-- Who had trouble last? All cancelled orders and all bad reviews are read and sorted to find twenty of them.
SELECT user_id, created_at, id
FROM (
    SELECT user_id, created_at, id FROM orders WHERE status = 'cancelled'
    UNION ALL
    SELECT user_id, created_at, id FROM reviews WHERE stars = 1
) AS trouble
ORDER BY created_at DESC, user_id, id
LIMIT 20
