"""A source with all kinds of tables and statistics that PostgreSQL 13 to 18 have, and queries that need them."""

from __future__ import annotations

from typing import LiteralString

SCHEMA: LiteralString = """
SELECT setseed(0.42);
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy', 'odd "one"');
CREATE DOMAIN amount AS numeric(10, 2) CHECK (VALUE >= 0);
CREATE DOMAIN label AS varchar(20);
CREATE TYPE pair AS (a integer, b text);
CREATE TYPE span AS RANGE (subtype = float8);
CREATE EXTENSION citext;
CREATE EXTENSION pg_trgm;
CREATE EXTENSION btree_gist;
CREATE TABLE customer (
    id integer PRIMARY KEY, name text NOT NULL, email citext UNIQUE, city varchar(30), feeling mood, credit amount,
    born date, code char(4), nick name, tag label);
CREATE TABLE orders (
    id bigint PRIMARY KEY, customer_id integer NOT NULL REFERENCES customer, placed timestamptz NOT NULL,
    total numeric(12, 2), state mood NOT NULL, note text);
CREATE TABLE line (
    order_id bigint NOT NULL REFERENCES orders, number integer, product integer, price float8, quantity smallint,
    PRIMARY KEY (order_id, number));
CREATE TABLE product (id serial PRIMARY KEY, title text, tags text[], sizes integer[], facts jsonb, words tsvector);
CREATE TABLE visit (id integer GENERATED ALWAYS AS IDENTITY, at timestamp, stay int4range, busy tstzrange, home inet,
    worth money, flag boolean, bits bit(8), spot point, own span, both_of pair, list amount[]) WITH (fillfactor = 70);
CREATE TABLE measured (id bigint, at date NOT NULL, value float8) PARTITION BY RANGE (at);
CREATE TABLE measured_1 PARTITION OF measured FOR VALUES FROM ('2024-01-01') TO ('2024-07-01');
CREATE TABLE measured_2 PARTITION OF measured FOR VALUES FROM ('2024-07-01') TO ('2025-01-01');
CREATE TABLE measured_3 PARTITION OF measured FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE event (id bigint, kind text, body text) PARTITION BY LIST (kind);
CREATE TABLE event_a PARTITION OF event FOR VALUES IN ('a');
CREATE TABLE event_rest PARTITION OF event DEFAULT;
CREATE TABLE spread (id bigint, value integer) PARTITION BY HASH (id);
CREATE TABLE spread_0 PARTITION OF spread FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE spread_1 PARTITION OF spread FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE animal (id integer, name text);
CREATE TABLE dog (breed text) INHERITS (animal);
CREATE TABLE computed (a integer, b integer GENERATED ALWAYS AS (a * 2) STORED);
CREATE UNLOGGED TABLE fleeting (id integer, value text);
CREATE TABLE quiet (id integer);
CREATE TABLE hollowed (id integer PRIMARY KEY, many integer);
ALTER TABLE hollowed ALTER many SET (n_distinct = 77);
ALTER TABLE customer ALTER city SET STATISTICS 20;
INSERT INTO customer
SELECT i, 'name ' || md5(i::text), 'u' || i || '@Example.org', 'city ' || (random() ^ 2 * 60)::int,
       (ARRAY['sad', 'ok', 'ok', 'happy', 'odd "one"'])[1 + (random() * 4)::int]::mood,
       (random() * 500)::numeric(10, 2), date '1950-01-01' + (random() * 20000)::int, chr(65 + i % 26) || i % 9,
       'nick' || i % 100, nullif('tag' || i % 7, 'tag3')
  FROM generate_series(1, 4000) i;
INSERT INTO orders
SELECT i, 1 + (random() ^ 2 * 3999)::int, timestamptz '2024-01-01 00:00+00' + i * interval '9 min',
       (random() * 1000)::numeric(12, 2), (ARRAY['sad', 'ok', 'happy'])[1 + (random() * 2)::int]::mood,
       repeat('x', (random() * 30)::int)
  FROM generate_series(1, 30000) i;
INSERT INTO line
SELECT o, n, (random() ^ 3 * 999)::int, random() * 100, (random() * 20)::int
  FROM generate_series(1, 30000) o, generate_series(1, 3) n;
INSERT INTO product (title, tags, sizes, facts, words)
SELECT 'product ' || i, ARRAY['t' || i % 11, 't' || i % 23, 'all'], ARRAY[i % 5, i % 17, NULL],
       jsonb_build_object('colour', 'c' || i % 9, 'weight', i % 100),
       to_tsvector('simple', 'word' || i % 13 || ' common more' || i % 40)
  FROM generate_series(1, 1000) i;
INSERT INTO visit (at, stay, busy, home, worth, flag, bits, spot, own, both_of, list)
SELECT timestamp '2024-05-05' + i * interval '1 hour',
       CASE WHEN i % 50 = 0 THEN 'empty'::int4range ELSE int4range(i % 900, i % 900 + 1 + i % 40) END,
       tstzrange('2024-01-01 00:00+00'::timestamptz + i * interval '1 day', NULL), ('10.0.' || i % 200 || '.1')::inet,
       (i % 80)::numeric::money, i % 3 = 0, (i % 256)::bit(8), point(i, i), span(i, i + 1.5), ROW(i % 9, 'b')::pair,
       ARRAY[i % 4, i % 6]::amount[]
  FROM generate_series(1, 5000) i;
INSERT INTO measured SELECT i, date '2024-01-01' + i % 700, random() * i FROM generate_series(1, 20000) i;
INSERT INTO event SELECT i, chr(97 + i % 5), 'body ' || i % 50 FROM generate_series(1, 8000) i;
INSERT INTO spread SELECT i, i % 300 FROM generate_series(1, 8000) i;
INSERT INTO animal SELECT i, 'animal' || i % 30 FROM generate_series(1, 900) i;
INSERT INTO dog SELECT i, 'dog' || i % 300, 'breed' || i % 12 FROM generate_series(1, 3000) i;
INSERT INTO computed (a) SELECT i % 500 FROM generate_series(1, 4000) i;
INSERT INTO fleeting SELECT i, 'v' || i % 40 FROM generate_series(1, 2000) i;
INSERT INTO hollowed SELECT i, i % 1000 FROM generate_series(1, 10000) i;
CREATE INDEX orders_customer ON orders (customer_id);
CREATE INDEX orders_placed ON orders (placed DESC);
CREATE INDEX orders_sad ON orders (total) WHERE state = 'sad';
CREATE INDEX line_product ON line (product) INCLUDE (price);
CREATE INDEX customer_lower ON customer (lower(name));
CREATE INDEX customer_year ON customer ((date_part('year', born)), city);
CREATE INDEX customer_pattern ON customer (name text_pattern_ops);
CREATE INDEX customer_trgm ON customer USING gin (name gin_trgm_ops);
CREATE INDEX customer_code ON customer USING hash (code);
CREATE INDEX product_tags ON product USING gin (tags);
CREATE INDEX product_words ON product USING gin (words);
CREATE INDEX product_title ON product USING gin (to_tsvector('simple', title));
CREATE INDEX product_facts ON product USING gin (facts jsonb_path_ops);
CREATE INDEX product_colour ON product ((facts ->> 'colour'));
CREATE INDEX visit_stay ON visit USING gist (stay);
CREATE INDEX visit_home ON visit USING spgist (home inet_ops);
CREATE INDEX visit_at ON visit USING brin (at);
CREATE INDEX visit_flag ON visit (flag, at);
CREATE INDEX measured_id ON measured (id);
CREATE INDEX measured_at ON measured (at, value);
CREATE INDEX event_id ON event (id);
CREATE INDEX animal_name ON animal (name);
CREATE INDEX dog_name ON dog (name);
CREATE STATISTICS customer_pair (dependencies, ndistinct, mcv) ON city, tag FROM customer;
CREATE VIEW happy AS SELECT * FROM orders WHERE state = 'happy';
CREATE MATERIALIZED VIEW totals AS SELECT customer_id, sum(total) AS sum FROM orders GROUP BY customer_id;
CREATE INDEX totals_sum ON totals (sum);
CREATE FUNCTION twice(integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2';
"""

QUERIES = (
    "SELECT * FROM customer WHERE city = 'city 3'",
    "SELECT * FROM customer WHERE city < 'city 2'",
    "SELECT * FROM customer WHERE feeling = 'happy'",
    "SELECT * FROM customer WHERE feeling > 'ok'",
    "SELECT * FROM customer WHERE credit > 400",
    "SELECT * FROM customer WHERE credit = 12.5 OR tag = 'tag1'",
    "SELECT * FROM customer WHERE tag = 'tag1' AND city = 'city 5'",
    "SELECT city, tag, count(*) FROM customer GROUP BY city, tag",
    "SELECT * FROM customer WHERE born BETWEEN date '1980-01-01' AND date '1981-01-01'",
    "SELECT * FROM customer WHERE code = 'A1'",
    "SELECT * FROM customer WHERE code > 'X'",
    "SELECT * FROM customer WHERE nick = 'nick7'",
    "SELECT * FROM customer WHERE email = 'U17@example.org'",
    "SELECT * FROM customer WHERE lower(name) > 'name e'",
    "SELECT * FROM customer WHERE name LIKE 'name a%'",
    "SELECT * FROM customer WHERE name LIKE '%abc%'",
    "SELECT * FROM customer WHERE date_part('year', born) = 1999",
    "SELECT * FROM customer WHERE tag IS NULL",
    "SELECT city, count(*) FROM customer GROUP BY city ORDER BY 2",
    "SELECT DISTINCT nick FROM customer",
    "SELECT * FROM orders WHERE placed > '2024-07-01 00:00+00' ORDER BY placed LIMIT 10",
    "SELECT * FROM orders WHERE placed > '2030-01-01 00:00+00'",
    "SELECT * FROM orders WHERE state = 'sad' AND total > 900",
    "SELECT * FROM happy WHERE customer_id = 77",
    "SELECT c.city, sum(o.total) FROM customer c JOIN orders o ON o.customer_id = c.id GROUP BY c.city",
    "SELECT * FROM customer c JOIN orders o ON o.customer_id = c.id WHERE c.city = 'city 1' AND o.state = 'ok'",
    "SELECT * FROM orders o JOIN line l ON l.order_id = o.id WHERE o.customer_id = 12",
    "SELECT product, sum(price * quantity) FROM line GROUP BY product ORDER BY 2 DESC LIMIT 5",
    "SELECT price FROM line WHERE product = 3",
    "SELECT count(*) FROM line JOIN product p ON p.id = line.product WHERE p.tags @> '{t3}'",
    "SELECT * FROM orders WHERE EXISTS (SELECT FROM line WHERE order_id = orders.id AND product = 900)",
    "SELECT * FROM orders WHERE customer_id NOT IN (SELECT customer_id FROM totals WHERE sum > 9000)",
    "SELECT * FROM product WHERE tags @> '{t5}'",
    "SELECT * FROM product WHERE tags && '{t5,t6}'",
    "SELECT * FROM product WHERE tags = '{t1,t1,all}'",
    "SELECT * FROM product WHERE 3 = ANY (sizes)",
    "SELECT * FROM product WHERE sizes <@ '{1,2,3}'",
    "SELECT * FROM product WHERE words @@ 'word3 & common'",
    "SELECT * FROM product WHERE to_tsvector('simple', title) @@ 'product'::tsquery",
    'SELECT * FROM product WHERE facts @> \'{"colour": "c3"}\'',
    "SELECT * FROM product WHERE facts ->> 'colour' = 'c4'",
    "SELECT * FROM visit WHERE stay @> 17",
    "SELECT * FROM visit WHERE stay && int4range(100, 140)",
    "SELECT * FROM visit WHERE stay << int4range(100, 140)",
    "SELECT * FROM visit WHERE busy @> '2025-01-01 00:00+00'::timestamptz",
    "SELECT * FROM visit WHERE home << '10.0.16.0/20'",
    "SELECT * FROM visit WHERE home = '10.0.17.1'",
    "SELECT * FROM visit WHERE worth > 70::money",
    "SELECT * FROM visit WHERE flag AND at > '2024-08-01'",
    "SELECT * FROM visit WHERE bits = B'00010001'",
    "SELECT * FROM visit WHERE at = '2024-06-06'",
    "SELECT * FROM visit WHERE spot <@ box '(0,0),(50,50)'",
    "SELECT * FROM measured WHERE at >= '2024-08-01' AND at < '2024-09-01'",
    "SELECT * FROM measured WHERE id = 77",
    "SELECT at, avg(value) FROM measured GROUP BY at",
    "SELECT * FROM measured a JOIN measured b ON a.id = b.id WHERE a.at = '2025-03-03'",
    "SELECT * FROM event WHERE kind = 'b'",
    "SELECT body, count(*) FROM event GROUP BY body",
    "SELECT * FROM spread WHERE id = 5",
    "SELECT value, count(*) FROM spread GROUP BY value",
    "SELECT * FROM animal WHERE name = 'dog7'",
    "SELECT name, count(*) FROM animal GROUP BY name",
    "SELECT * FROM ONLY animal WHERE name = 'animal7'",
    "SELECT * FROM computed WHERE b = 8",
    "SELECT * FROM computed WHERE b < 100",
    "SELECT value, count(*) FROM fleeting GROUP BY value",
    "SELECT * FROM quiet WHERE id = 1",
    "SELECT many, count(*) FROM hollowed GROUP BY many",
    "SELECT * FROM totals WHERE sum > 20000",
    "SELECT * FROM hollowed WHERE many = twice(21)",
    "SELECT * FROM orders ORDER BY total LIMIT 3",
    "WITH best AS (SELECT customer_id, rank() OVER (ORDER BY sum DESC) AS place FROM totals) "
    "SELECT * FROM best JOIN customer ON customer.id = best.customer_id WHERE place < 10",
    "UPDATE orders SET note = '' WHERE customer_id = 5",
    "DELETE FROM line WHERE product = 4",
)

#: Indexes that are made hypothetically, each with a query that wants it.
HYPOTHETICAL = (
    ("CREATE INDEX ON line (quantity)", "SELECT * FROM line WHERE quantity = 3 AND price < 5"),
    ("CREATE INDEX ON orders (total, customer_id)", "SELECT customer_id FROM orders WHERE total = 5"),
    ("CREATE INDEX ON customer (born) INCLUDE (city)", "SELECT city FROM customer WHERE born = '1980-01-01'"),
    ("CREATE INDEX ON measured (value)", "SELECT * FROM measured WHERE value < 1"),
    ("CREATE INDEX ON orders (note) WHERE total > 500", "SELECT * FROM orders WHERE note = 'xx' AND total > 500"),
    ("CREATE INDEX ON customer ((upper(name)))", "SELECT * FROM customer WHERE upper(name) = 'NAME'"),
    ("CREATE INDEX ON hollowed USING hash (many)", "SELECT * FROM hollowed WHERE many = 7"),
    ("CREATE INDEX ON event USING gin (body gin_trgm_ops)", "SELECT * FROM event WHERE body LIKE '%body 17%'"),
    ("CREATE INDEX ON visit USING gist (busy)", "SELECT * FROM visit WHERE busy @> timestamptz '2025-01-01 00:00+00'"),
)

#: What runs as a superuser makes a role.
HOSTILE: LiteralString = """
CREATE FUNCTION touched(value text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'canary') THEN
    EXECUTE 'CREATE ROLE canary';
  END IF;
  RETURN value;
END $$;
CREATE FUNCTION distance(a text, b text) RETURNS float8 LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN PERFORM touched(a); RETURN 1; END $$;
CREATE DOMAIN word AS text CHECK (touched(VALUE) IS NOT NULL);
CREATE TYPE holder AS (inner_word word, number integer);
CREATE TYPE stretch AS RANGE (subtype = text, subtype_diff = distance);
CREATE TABLE t (plain text, word word, words word[], held holder, stretched stretch, "odd "" column" word);
INSERT INTO t SELECT 'p' || i % 9, 'w' || i % 20, ARRAY['a' || i % 3]::word[], ROW('h' || i % 5, i)::holder,
                     stretch('a' || i % 4, 'b'), 'o' || i % 2
  FROM generate_series(1, 2000) i;
CREATE INDEX touched_index ON t (touched(plain));
CREATE INDEX word_index ON t (word);
CREATE INDEX stretch_index ON t USING gist (stretched);
ANALYZE t;
"""
