"""Schema files: what runs, what is left out, what is refused, and that hostile ones get nowhere."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import psycopg
import pytest

from optimizer.ddl import CopyRows, Script, Statement, apply_script, decode_sql, read_script
from optimizer.ddl_pieces import cut
from optimizer.errors import InputError, SqlError, TimeLimitError, TooLargeError
from optimizer.parse_guard import MAX_CHAIN, check_chains, read_outline
from optimizer.shadow.server.cluster import Cluster

LIMIT = 64_000_000
_numbers = itertools.count()


def read(text: str) -> Script:
    return read_script(text, max_bytes=LIMIT)


def kinds(text: str) -> list[str]:
    return [item.kind if isinstance(item, Statement) else "COPY" for item in read(text).items]


class Database:
    """A fresh database with its unprivileged owner."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name, self.owner = cluster, name, "ddl_owner"
        cluster.ensure_role(self.owner)
        with cluster.connect() as connection:
            connection.execute(f"CREATE DATABASE {name} OWNER {self.owner} TEMPLATE template0")

    def apply(self, text: str, timeout_s: float | None = 20) -> Script:
        script = read(text)
        with (
            self.cluster.connect(self.name, self.owner) as owner,
            self.cluster.connect(self.name) as superuser,
        ):
            apply_script(script, owner, extension_connection=superuser, timeout_s=timeout_s)
        return script

    def rows(self, query: str) -> list[tuple[object, ...]]:
        with self.cluster.connect(self.name, self.owner) as connection:
            return connection.execute(query.encode()).fetchall()


@pytest.fixture
def database(scratch_cluster: Cluster) -> Iterator[Database]:
    name = f"ddl_{next(_numbers)}"
    yield Database(scratch_cluster, name)
    with scratch_cluster.connect() as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


ACCEPTED = r"""
-- a schema file with one of everything
BEGIN;
SET search_path = public;
SET statement_timeout = 0;
SELECT pg_catalog.set_config('search_path', 'public', false);
CREATE EXTENSION IF NOT EXISTS plpgsql WITH SCHEMA pg_catalog;
CREATE EXTENSION citext;
CREATE EXTENSION "uuid-ossp";
CREATE EXTENSION postgis;
CREATE SCHEMA IF NOT EXISTS app AUTHORIZATION somebody;
CREATE SCHEMA public;
CREATE TYPE mood AS ENUM ('sad', 'o;k');
CREATE TYPE pair AS (a int, b text);
CREATE TYPE span AS RANGE (subtype = int4);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, u uuid DEFAULT uuid_generate_v4(), m mood,
    c citext, n positive, twice int GENERATED ALWAYS AS (n * 2) STORED);
CREATE TABLE logs (at date) PARTITION BY RANGE (at);
CREATE TABLE logs_2024 (at date);
ALTER TABLE logs ATTACH PARTITION logs_2024 FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
ALTER TABLE t OWNER TO somebody;
ALTER TABLE t ADD CONSTRAINT few CHECK (n < 1000);
ALTER TABLE ONLY t ALTER COLUMN n SET STATISTICS 500;
CREATE INDEX ON t USING gin (to_tsvector('english', c::text));
CREATE STATISTICS both_of_them ON m, n FROM t;
CREATE VIEW v AS SELECT n, m FROM t;
CREATE MATERIALIZED VIEW mv AS SELECT n FROM t;
REFRESH MATERIALIZED VIEW mv;
CREATE SEQUENCE s;
SELECT pg_catalog.setval('s', 41, true);
CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql SECURITY DEFINER AS $body$ BEGIN RETURN 1; END; $body$;
CREATE FUNCTION g() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER touched BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION touch();
COMMENT ON TABLE t IS 'it''s; fine';
COMMENT ON EXTENSION citext IS 'x';
ALTER TABLE t ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON t USING (true);
GRANT SELECT ON t TO somebody;
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO somebody;
INSERT INTO t (m, c, n) VALUES ('o;k', 'A', 7);
COPY t (m, c, n) FROM stdin;
sad	a;\\b	8
\N	\N	9
\.
DROP TABLE IF EXISTS nothing;
ANALYZE t;
COMMIT
"""


def test_one_of_everything(database: Database) -> None:
    script = database.apply(ACCEPTED)
    assert database.rows("SELECT m::text, c::text, n, twice FROM t ORDER BY id") == [
        ("o;k", "A", 7, 14),
        ("sad", "a;\\b", 8, 16),
        (None, None, 9, 18),
    ]
    assert database.rows("SELECT count(u) FROM t WHERE c = 'a'") == [(1,)]
    assert database.rows("SELECT nextval('s'), g()") == [(42, 2)]
    assert database.rows("SELECT bool_or(prosecdef) FROM pg_proc WHERE proname = 'f'") == [(False,)]
    told = {kind: reason for _, kind, reason in script.skipped}
    assert "one owner" in told["GRANT"]
    assert any("postgis is not available" in reason for _, _, reason in script.skipped)
    assert any("uuid_generate_v4 got a stand-in" in reason for _, _, reason in script.skipped)
    assert any("INVOKER" in reason for _, _, reason in script.skipped)
    line = next(number for number, text in enumerate(ACCEPTED.split("\n"), 1) if text.startswith("GRANT"))
    assert (line, "GRANT") in {(number, kind) for number, kind, _ in script.skipped}


def test_a_real_dump_comes_through(database: Database, scratch_cluster: Cluster) -> None:
    database.apply(ACCEPTED)
    dump = scratch_cluster.run("pg_dump", "--statistics", dbname=database.name).stdout
    copy = Database(scratch_cluster, f"{database.name}_copy")
    try:
        text = decode_sql(dump)
        assert "\\restrict" in text
        copy.apply(text)
        count = "SELECT reltuples FROM pg_class WHERE relname = 't'"
        assert copy.rows(count) == database.rows(count) == [(3.0,)]
        assert copy.rows("SELECT m::text, n FROM t ORDER BY id") == database.rows(
            "SELECT m::text, n FROM t ORDER BY id"
        )
    finally:
        with scratch_cluster.connect() as connection:
            connection.execute(f"DROP DATABASE {copy.name} WITH (FORCE)")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE ROLE x",
        "ALTER ROLE x SUPERUSER",
        "ALTER SYSTEM SET fsync = off",
        "ALTER DATABASE x SET a = 1",
        "CREATE DATABASE x",
        "CREATE TABLESPACE x LOCATION '/x'",
        "COPY t FROM PROGRAM 'id'",
        "COPY t TO PROGRAM 'id'",
        "COPY t FROM '/etc/passwd'",
        "COPY (SELECT 1) TO STDOUT",
        "COPY t TO STDOUT",
        "DO $$ BEGIN END $$",
        "LOAD 'x'",
        "CREATE EVENT TRIGGER e ON ddl_command_start EXECUTE FUNCTION f()",
        "CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw",
        "CREATE FOREIGN TABLE t (a int) SERVER s",
        "CREATE USER MAPPING FOR x SERVER s",
        "IMPORT FOREIGN SCHEMA a FROM SERVER s INTO b",
        "DROP TABLE t",
        "DROP OWNED BY x",
        "CREATE FUNCTION f() RETURNS int LANGUAGE c AS 'libc', 'system'",
        "CREATE FUNCTION f() RETURNS int LANGUAGE internal AS 'x'",
        "CREATE FUNCTION f() RETURNS int LANGUAGE plpython3u AS 'x'",
        "CREATE TYPE b (input = x, output = y)",
        "CREATE CAST (int AS text) WITHOUT FUNCTION",
        "CREATE RULE r AS ON INSERT TO t DO INSTEAD NOTHING",
        "CREATE ACCESS METHOD m TYPE INDEX HANDLER h",
        "CREATE SCHEMA s CREATE TABLE t (a int)",
        "SET session_preload_libraries = 'x'",
        "SET standard_conforming_strings = off",
        "SET LOCAL dynamic_library_path = '/x'",
        "RESET ALL",
        "SELECT 1",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT pg_catalog.set_config('role', 'planproof', false)",
        "SELECT pg_catalog.setval('s', (SELECT 1))",
        "SELECT pg_catalog.setval('s', 1), pg_sleep(9)",
        "SELECT pg_catalog.setval('s', 1) UNION SELECT pg_sleep(9)",
        "SELECT pg_catalog.setval('s', 1) FROM pg_sleep(9)",
        "SELECT evil.setval('s', 1)",
        "SELECT * FROM pg_catalog.pg_restore_relation_stats('a', pg_read_file('/etc/passwd'))",
        "WITH x AS (DELETE FROM t RETURNING 1) SELECT 1",
        "UPDATE t SET a = 1",
        "DELETE FROM t",
        "TRUNCATE t",
        "CALL p()",
        "EXPLAIN ANALYZE DELETE FROM t",
        "PREPARE x AS SELECT 1",
        "LISTEN x",
        "CHECKPOINT",
        "ROLLBACK",
        "LOCK TABLE t",
        "ALTER EXTENSION citext ADD TABLE t",
        "ALTER TABLE t OWNER TO x, ADD COLUMN b int",
    ],
)
def test_refused(statement: str) -> None:
    with pytest.raises(SqlError) as caught:
        read(f"CREATE TABLE t (a int);\n\n  {statement};")
    assert caught.value.line == 3
    assert "accepted" in str(caught.value)


@pytest.mark.parametrize(
    "command", [r"\! id", r"\copy t from x", r"\i /etc/passwd", r"\connect other", r"\gexec", "\\"]
)
def test_backslash_commands_are_refused(command: str) -> None:
    with pytest.raises(SqlError, match=r"psql|backslash"):
        read(f"CREATE TABLE t (a int);\n{command}\n")


def test_a_backslash_inside_a_statement_is_refused() -> None:
    with pytest.raises(SqlError, match="backslash"):
        read("CREATE TABLE t (a int) \\! id\n;")


@pytest.mark.parametrize(
    "text",
    [
        "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $a$ SELECT $b$; DROP TABLE t; $b$ $a$",
        "CREATE TABLE t (a text DEFAULT E'\\'; DROP TABLE t; --')",
        "CREATE TABLE t (a text DEFAULT '; DROP TABLE t; --')",
        'CREATE TABLE "a;b" (a int)',
        "CREATE /* ; /* ; */ ; */ TABLE t (a int) -- ; DROP TABLE t",
        "CREATE TABLE t (a text DEFAULT U&'\\0061;')",
        "CREATE TABLE t$x$ (a int, b$x$ int)",
        "INSERT INTO t VALUES ('a' \n 'b;c')",
        "INSERT INTO t VALUES (E'a\\'' \n 'b\\';c')",
    ],
)
def test_semicolons_that_end_nothing(text: str) -> None:
    assert len(read(f"{text};\n").items) == 1


def test_two_statements_cannot_share_a_call(database: Database) -> None:
    with (
        database.cluster.connect(database.name, database.owner) as connection,
        pytest.raises(SqlError, match="multiple commands"),
    ):
        smuggled = Statement("CREATE TABLE a (a int); CREATE TABLE b (a int)", "CREATE TABLE", 1)
        apply_script(Script((smuggled,), (), ()), connection)
    with (
        database.cluster.connect(database.name, database.owner) as connection,
        pytest.raises(SqlError, match="multiple commands"),
    ):
        rows = CopyRows("COPY pg_type FROM stdin; CREATE TABLE b (a int)", "t", (), "", 1, 2)
        apply_script(Script((rows,), (), ()), connection)
    assert database.rows("SELECT count(*) FROM pg_class WHERE relname IN ('a', 'b')") == [(0,)]


@pytest.mark.parametrize(
    "text",
    [
        "SELECT " + "(" * 10_000 + "1" + ")" * 10_000,
        "CREATE VIEW v AS SELECT " + "+".join(["1"] * 400_000),
        "CREATE VIEW v AS SELECT 1" + "::int" * 400_000,
        "CREATE VIEW v AS SELECT 1 FROM t " + "CROSS JOIN t " * 100_000,
        "CREATE VIEW v AS SELECT " + "f(" * 400 + "1" + ")" * 400,
        "CREATE VIEW v AS SELECT " + "array[" * 9_000 + "1" + "]" * 9_000,
        "/*" * 10_000,
        "CREATE TABLE t (a text DEFAULT $x$ never closed",
        "CREATE TABLE t (a text DEFAULT 'never closed",
        "COPY t FROM stdin;\n1\n2\n",
        "CREATE TABLE t (a int)\0; DROP TABLE t",
        "CREATE TABLE t (a text DEFAULT '\ud800')",
    ],
    ids=lambda text: text[:40].encode("ascii", "replace").decode(),
)
def test_text_made_to_break_the_reader(text: str) -> None:
    with pytest.raises(SqlError) as caught:
        read(text)
    assert caught.value.line == 1
    assert len(str(caught.value)) < 300


def test_chains_below_the_limit_are_read() -> None:
    assert kinds("CREATE VIEW v AS SELECT " + "||".join(["a"] * 3_000)) == ["CREATE VIEW"]
    assert kinds("CREATE VIEW v AS " + " UNION ALL ".join(["SELECT 1"] * 500)) == ["CREATE VIEW"]
    assert len(read_outline("INSERT INTO t VALUES " + ",".join(["(1, 'a')"] * MAX_CHAIN))) == 1
    check_chains("SELECT " + ",".join(["f(1 + 2)"] * MAX_CHAIN))


def test_where_an_error_is(database: Database) -> None:
    with pytest.raises(SqlError) as caught:
        read("CREATE TABLE ü (a int);\r\n\r\nCREATE TABLE ü (a int,\r\n  'ü' int);")
    assert (caught.value.line, caught.value.column) == (4, 3)
    with pytest.raises(SqlError, match='"nowhere" does not exist') as caught:
        database.apply("CREATE TABLE a (a int);\n\n\nCREATE VIEW v AS SELECT 'ü',\n  1 FROM nowhere;")
    assert (caught.value.line, caught.value.column) == (5, 10)
    with pytest.raises(SqlError, match="invalid input syntax") as caught:
        database.apply("CREATE TABLE b (a int);\nCOPY b (a) FROM stdin;\n1\n2\nthree\n\\.\n")
    assert caught.value.line == 5


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("CREATE TABLE `t` (`a` int AUTO_INCREMENT) ENGINE=InnoDB;", "MySQL"),
        ("CREATE TABLE [dbo].[t] ([a] int IDENTITY(1,1));", "SQL Server"),
        ("CREATE TABLE t (a INTEGER PRIMARY KEY AUTOINCREMENT);", "SQLite"),
        ("CREATE TABLE t (a NUMBER(10) CONSTRAINT x ENABLE, b VARCHAR2(10 CHAR));", "Oracle"),
    ],
)
def test_other_dialects_are_named(text: str, name: str) -> None:
    with pytest.raises(SqlError, match=f"looks like {name}"):
        read(text)


def test_decode_sql() -> None:
    assert decode_sql(b"\xef\xbb\xbfSELECT 1") == "SELECT 1"
    assert decode_sql("ü".encode()) == "ü"
    with pytest.raises(InputError, match="byte 4 is 0xfc"):
        decode_sql(b"SET \xfc")
    with pytest.raises(InputError, match="byte 4 is 0xfc"):
        decode_sql(b"\xef\xbb\xbf1\xfc")
    for data, advice in ((b"PGDMP\x01", "pg_restore"), (b"\x1f\x8b\x08", "gzip"), ("x".encode("utf-16"), "UTF-16")):
        with pytest.raises(InputError, match=advice):
            decode_sql(data)


def test_limits() -> None:
    with pytest.raises(TooLargeError, match="limit is 10"):
        read_script("CREATE TABLE t (a int)", max_bytes=10)
    with pytest.raises(SqlError, match="split it"):
        read("INSERT INTO t VALUES " + ",".join(["('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa')"] * 90_000))


@pytest.mark.parametrize("text", ["", ";;;", "-- nothing\n", "/* nothing */", "\ufeff", "\r\n"])
def test_empty_scripts(text: str) -> None:
    assert read(text) == Script((), (), ())


def test_pieces_keep_their_lines() -> None:
    pieces = list(cut("a;\nb\n;c;\nCOPY t FROM stdin;\n1\n\\.\nd"))
    assert [(piece.text, piece.line) for piece in pieces] == [
        ("a", 1),
        ("b", 2),
        ("c", 3),
        ("COPY t FROM stdin", 4),
        ("d", 7),
    ]
    assert (pieces[3].rows, pieces[3].rows_line) == ("1\n", 5)


def test_extensions_come_before_what_could_trap_them(database: Database) -> None:
    """A superuser runs an extension's script: no function or operator of the file's may be in its schema by then."""
    database.apply(
        "CREATE SCHEMA ext;\n"
        "CREATE FUNCTION ext.later() RETURNS bool LANGUAGE sql AS 'SELECT true';\n"
        "CREATE EXTENSION earthdistance WITH SCHEMA ext;\n"
        "CREATE TABLE ext.t (c ext.cube);"
    )
    order = "SELECT (SELECT oid FROM pg_extension WHERE extname = 'cube') < 'ext.later'::regproc::oid"
    assert database.rows(order) == [(True,)]
    assert database.rows("SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'ext'") == [
        (database.owner,)
    ]


def test_an_extension_never_joins_objects_of_the_file(database: Database) -> None:
    database.apply("CREATE FUNCTION public.lower(text) RETURNS text LANGUAGE sql AS 'SELECT $1'")
    with pytest.raises(SqlError, match="move it up"):
        database.apply("CREATE EXTENSION citext")
    database.apply('CREATE EXTENSION "uuid-ossp" WITH SCHEMA other; CREATE EXTENSION citext WITH SCHEMA other')
    with pytest.raises(SqlError, match=r"must be owner|permission denied"):
        database.apply("ALTER FUNCTION other.uuid_generate_v4() RENAME TO x")


def test_extensions_need_a_superuser(database: Database) -> None:
    script = read("CREATE EXTENSION citext")
    with (
        database.cluster.connect(database.name, database.owner) as connection,
        pytest.raises(SqlError, match="cannot be created"),
    ):
        apply_script(script, connection)


def test_what_runs_has_no_rights(database: Database) -> None:
    for call in ("pg_read_file('/etc/passwd')", "pg_ls_dir('.')", "lo_import('/etc/passwd')"):
        with pytest.raises(SqlError, match="permission denied"):
            database.apply(f"CREATE MATERIALIZED VIEW leak AS SELECT {call}")
    attack = "CREATE FUNCTION evil() RETURNS int LANGUAGE plpgsql AS $$ BEGIN {}; RETURN 1; END $$; {}"
    for body in ("SET ROLE planproof", "EXECUTE 'ALTER SYSTEM SET fsync = on'", "COPY pg_type TO PROGRAM 'id'"):
        with pytest.raises(SqlError):
            database.apply(attack.format(body, "CREATE TABLE x AS SELECT evil()"))
        database.apply("DROP FUNCTION IF EXISTS evil()")


def test_a_file_that_never_ends_is_ended(database: Database) -> None:
    forever = (
        "CREATE FUNCTION forever() RETURNS int LANGUAGE plpgsql AS $$ BEGIN LOOP BEGIN PERFORM pg_sleep(60); "
        "EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$;\nCREATE TABLE t AS SELECT forever()"
    )
    with pytest.raises(TimeLimitError, match="line 2"):
        database.apply(forever, timeout_s=0.5)
    with pytest.raises(TimeLimitError, match="line 1"):
        database.apply("CREATE TABLE t AS SELECT 1 FROM pg_sleep(60)", timeout_s=0.5)


def test_autocommit_is_asked_for(database: Database) -> None:
    with (
        psycopg.connect(database.cluster.conninfo(database.name, database.owner)) as connection,
        pytest.raises(ValueError, match="autocommit"),
    ):
        apply_script(read("CREATE TABLE t (a int)"), connection)
