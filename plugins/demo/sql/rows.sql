-- Rows made in the server. :scale is replaced by the factor; 1 gives a million order items.
-- Skew: power(random(), n) makes few products, users and days popular, as in any real shop.
SELECT setseed(0.42);

INSERT INTO categories
SELECT n, CASE WHEN n > 20 THEN 1 + n % 20 END, 'category ' || n
FROM generate_series(1, 200) AS n;

INSERT INTO products
SELECT n, 1 + (200 * power(random(), 2))::int % 200, 'SKU-' || lpad(n::text, 7, '0'), 'product ' || md5(n::text),
       round((5 + 200 * power(random(), 3))::numeric, 2),
       timestamp '2022-01-01' + n * (interval '1400 days' / (20000 * :scale)),
       CASE WHEN n % 12 = 0 THEN timestamp '2024-01-01' + n * interval '31 minutes' END
FROM generate_series(1, (20000 * :scale)::int) AS n;

INSERT INTO users
SELECT n, 'user' || n || '@' || (ARRAY['example.com', 'example.org', 'Example.net'])[1 + n % 3],
       (ARRAY['US', 'US', 'US', 'GB', 'DE', 'FR', 'BR', 'NO'])[1 + (random() * 7)::int],
       CASE WHEN n % 5 = 0 THEN 1 + (n * random())::int END,
       timestamp '2022-01-01' + n * (interval '1400 days' / (100000 * :scale)),
       CASE WHEN n % 50 = 0 THEN timestamp '2025-06-01' + n * interval '1 second' END
FROM generate_series(1, (100000 * :scale)::int) AS n;

INSERT INTO orders
SELECT n, 1 + ((100000 * :scale - 1) * power(random(), 2))::int,
       CASE WHEN n > 299000 * :scale THEN 'pending' WHEN n % 100 < 93 THEN 'delivered' WHEN n % 100 < 98 THEN 'cancelled'
            WHEN n % 100 = 98 THEN 'returned' ELSE 'shipped' END,
       round((10 + 300 * power(random(), 3))::numeric, 2),
       CASE WHEN n % 10 = 0 THEN 'WELCOME' || n % 3 END,
       timestamp '2023-01-01' + n * (interval '1050 days' / (300000 * :scale))
FROM generate_series(1, (300000 * :scale)::int) AS n;

INSERT INTO order_items
SELECT o, line, 1 + ((20000 * :scale - 1) * power(random(), 3))::int, 1 + (5 * power(random(), 4))::int,
       round((5 + 200 * random())::numeric, 2)
FROM generate_series(1, (300000 * :scale)::int) AS o, generate_series(1, 1 + o % 6) AS line;

INSERT INTO inventory_movements
SELECT n, 1 + ((20000 * :scale - 1) * power(random(), 2))::int, 1 + n % 8, (20 * random())::int - 10,
       (ARRAY['sale', 'sale', 'sale', 'sale', 'return', 'restock', 'count', 'loss'])[1 + n % 8],
       'https://documents.example.com/' || md5(n::text),
       timestamp '2023-01-01' + n * (interval '1050 days' / (500000 * :scale))
FROM generate_series(1, (500000 * :scale)::int) AS n;

INSERT INTO reviews
SELECT n, 1 + ((20000 * :scale - 1) * power(random(), 3))::int, 1 + ((100000 * :scale - 1) * random())::int,
       1 + (4.999 * sqrt(random()))::int % 5, CASE WHEN n % 3 = 0 THEN repeat(md5(n::text), 2) END,
       timestamp '2023-06-01' + n * (interval '900 days' / (200000 * :scale))
FROM generate_series(1, (200000 * :scale)::int) AS n;
