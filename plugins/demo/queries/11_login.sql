-- Log in by e-mail, whatever its case: only an index on the expression helps.
SELECT id, deleted_at
FROM users
WHERE lower(email) = 'user95@example.net'
