-- The demo's shop: a schema that grew, with the indexes somebody remembered to make.
CREATE TABLE categories (
    id integer NOT NULL,
    parent_id integer,
    name text NOT NULL
);

CREATE TABLE products (
    id integer NOT NULL,
    category_id integer NOT NULL,
    sku text NOT NULL,
    title text NOT NULL,
    price numeric(10, 2) NOT NULL,
    added_at timestamp without time zone NOT NULL,
    discontinued_at timestamp without time zone
);

CREATE TABLE users (
    id integer NOT NULL,
    email text NOT NULL,
    country char(2) NOT NULL,
    referrer_id integer,
    created_at timestamp without time zone NOT NULL,
    deleted_at timestamp without time zone
);

CREATE TABLE orders (
    id integer NOT NULL,
    user_id integer NOT NULL,
    status text NOT NULL,
    total numeric(12, 2) NOT NULL,
    coupon text,
    created_at timestamp without time zone NOT NULL
);

CREATE TABLE order_items (
    order_id integer NOT NULL,
    line integer NOT NULL,
    product_id integer NOT NULL,
    quantity integer NOT NULL,
    unit_price numeric(10, 2) NOT NULL
);

CREATE TABLE inventory_movements (
    id bigint NOT NULL,
    product_id integer NOT NULL,
    warehouse smallint NOT NULL,
    delta integer NOT NULL,
    reason text NOT NULL,
    document text NOT NULL,
    moved_at timestamp without time zone NOT NULL
);

CREATE TABLE reviews (
    id integer NOT NULL,
    product_id integer NOT NULL,
    user_id integer NOT NULL,
    stars smallint NOT NULL,
    body text,
    created_at timestamp without time zone NOT NULL
);
