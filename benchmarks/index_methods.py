"""Hypothetical indexes of every access method against really built ones: sizes, and costs of queries.

    python benchmarks/index_methods.py [--rows 100000] [--scale 0.05] [--target 100]

Fills a database with generated columns that suit the methods, with vectors, and with TPC-H; clones it; and for every
index below asks the hollow shadow for its estimated size and the cost of a query with it, then builds it at the source
and asks there. Prints a line an index, and for each method the median and the 95th percentile of the relative error in
size, and the least, median and greatest ratio of costs. B-trees are left to `index_sizes.py`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import tpch

from optimizer.index_ddl import parse_index_ddl
from optimizer.plan import Plan
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.server.cluster import ClusterKind

GENERATED = """
CREATE EXTENSION vector;
CREATE EXTENSION pg_trgm;
CREATE EXTENSION btree_gist;
CREATE EXTENSION btree_gin;
SELECT setseed(0.42);
CREATE TABLE vocabulary AS
SELECT i, (SELECT string_agg(substr('etaoinshrdlucmfwypvbgkqjxz', 1 + floor(26 * power(random(), 1.7))::int, 1), '')
             FROM generate_series(1, 2 + i %% 9 + (random() * 3)::int) k WHERE i > 0) AS word
  FROM generate_series(1, 40000) i;
CREATE INDEX ON vocabulary (i);
ANALYZE vocabulary;
CREATE FUNCTION words(n int, skew float8) RETURNS text[] LANGUAGE sql VOLATILE AS $$
SELECT array_agg(word) FROM (SELECT 1 + floor(40000 * power(random(), skew))::int AS w FROM generate_series(1, n)) p
  JOIN vocabulary ON i = w $$;
CREATE TABLE m AS
SELECT i AS id, (random() * 1000)::int AS thousand, (random() * 1e9)::bigint AS big,
       floor(20000 * power(random(), 6))::int AS skewed,
       'user' || (random() * n / 5)::int || '@example.org' AS email,
       words(1 + i %% 8, 5) AS tags,
       ARRAY[floor(500 * power(random(), 3))::int, 1000 + i %% 1000, (random() * n * 10)::int + 5000] AS numbers,
       ARRAY[i %% 20, i %% 7, (random() * 300)::int] AS few,
       array_to_string(words(3 + i %% 6, 3), ' ') AS title,
       array_to_string(words(20 + i %% 60, 4), ' ') AS body,
       jsonb_build_object('id', i, 'kind', (ARRAY['click', 'view', 'buy'])[1 + i %% 3],
                          'price', round((random() * 500)::numeric, 2),
                          'user', jsonb_build_object('name', 'user' || (random() * 2000)::int, 'age', 18 + i %% 60),
                          'tags', to_jsonb(words(2, 5))) AS doc,
       jsonb_build_object('kind', (ARRAY['click', 'view', 'buy'])[1 + i %% 3], 'page', (random() * 200)::int) AS small,
       point(random() * 1000, random() * 1000) AS place,
       box(point(random() * 1000, random() * 1000), point(random() * 1000, random() * 1000)) AS area,
       int4range(i, i + (random() * 100)::int + 1) AS span,
       tstzrange(timestamptz '2024-01-01' + i * interval '1 min',
                 timestamptz '2024-01-01' + i * interval '1 min' + random() * interval '1 day') AS during,
       ('10.' || i %% 200 || '.' || (random() * 200)::int || '.1')::inet AS address,
       timestamptz '2024-01-01' + i * interval '1 min' AS created,
       timestamptz '2024-01-01' + (random() * n)::int * interval '1 min' AS scattered,
       CASE WHEN random() < 0.9 THEN NULL ELSE (random() * 100000)::int END AS rare,
       gen_random_uuid() AS uid
  FROM (SELECT %(rows)s AS n) s, generate_series(1, n) i;
ALTER TABLE m ADD COLUMN lexemes tsvector GENERATED ALWAYS AS (to_tsvector('simple', title)) STORED;
CREATE TABLE v AS
SELECT i AS id, (SELECT array_agg(random() - 0.5) FROM generate_series(1, 64) k WHERE i > 0)::vector(64) AS e,
       (SELECT array_agg(random()) FROM generate_series(1, 200) k WHERE i > 0)::halfvec(200) AS h
  FROM generate_series(1, %(rows)s / 10) i;
"""
_E = "'[" + ",".join(["0.5"] * 64) + "]'"
_H = "'[" + ",".join(["0.5"] * 200) + "]'"


@dataclass(frozen=True, slots=True)
class Case:
    """An index and the WHERE or ORDER BY that it serves."""

    index: str
    condition: str

    @property
    def query(self) -> str:
        """The query whose costs are compared."""
        return f"SELECT * FROM {self.index.split()[0]} {self.condition}"


CASES = (
    Case("m USING hash (id)", "WHERE id = 77"),
    Case("m USING hash (thousand)", "WHERE thousand = 77"),
    Case("m USING hash (thousand) WITH (fillfactor = 40)", "WHERE thousand = 77"),
    Case("m USING hash (skewed)", "WHERE skewed = 1200"),
    Case("m USING hash (email)", "WHERE email = 'user77@example.org'"),
    Case("m USING hash (rare)", "WHERE rare = 77"),
    Case("m USING hash (uid)", "WHERE uid = '00000000-0000-0000-0000-000000000000'"),
    Case("m USING hash (big) WHERE thousand < 300", "WHERE big = 77 AND thousand < 300"),
    Case("lineitem USING hash (l_partkey)", "WHERE l_partkey = 77"),
    Case("lineitem USING hash (l_orderkey)", "WHERE l_orderkey = 77"),
    Case("orders USING hash (o_clerk)", "WHERE o_clerk = 'Clerk#000000077'"),
    Case("m USING brin (id)", "WHERE id < 1000"),
    Case("m USING brin (created)", "WHERE created < '2024-01-03'"),
    Case("m USING brin (scattered)", "WHERE scattered < '2024-01-01 00:10'"),
    Case("m USING brin (id) WITH (pages_per_range = 4)", "WHERE id < 1000"),
    Case("m USING brin (id, created) WITH (pages_per_range = 1)", "WHERE id < 1000"),
    Case("m USING brin (email) WITH (pages_per_range = 2)", "WHERE email < 'user1'"),
    Case("m USING brin (thousand int4_bloom_ops) WITH (pages_per_range = 8)", "WHERE thousand = 77"),
    Case("m USING brin (uid uuid_bloom_ops)", "WHERE uid = '00000000-0000-0000-0000-000000000000'"),
    Case("m USING brin (id int4_minmax_multi_ops) WITH (pages_per_range = 2)", "WHERE id < 1000"),
    Case("m USING brin (created timestamptz_minmax_multi_ops)", "WHERE created < '2024-01-03'"),
    Case("m USING brin (address inet_inclusion_ops) WITH (pages_per_range = 4)", "WHERE address << '10.7.0.0/16'"),
    Case("m USING brin (rare) WITH (pages_per_range = 4)", "WHERE rare = 77"),
    Case("lineitem USING brin (l_shipdate)", "WHERE l_shipdate < '1992-02-01'"),
    Case("lineitem USING brin (l_orderkey) WITH (pages_per_range = 16)", "WHERE l_orderkey < 1000"),
    Case("m USING gin (tags)", "WHERE tags @> ARRAY['anik']"),
    Case("m USING gin (numbers)", "WHERE numbers @> ARRAY[77]"),
    Case("m USING gin (few)", "WHERE few @> ARRAY[277]"),
    Case("m USING gin (title gin_trgm_ops)", "WHERE title LIKE '%qxz%'"),
    Case("m USING gin (email gin_trgm_ops)", "WHERE email LIKE '%ser777@%'"),
    Case("m USING gin (body gin_trgm_ops)", "WHERE body LIKE '%qxzj%'"),
    Case("m USING gin (lower(title) gin_trgm_ops) WHERE thousand < 100",
         "WHERE lower(title) LIKE '%qxz%' AND thousand < 100"),
    Case("m USING gin (doc)", "WHERE doc @> '{\"id\": 77}'"),
    Case("m USING gin (doc jsonb_path_ops)", "WHERE doc @> '{\"id\": 77}'"),
    Case("m USING gin (small)", "WHERE small @> '{\"page\": 77}'"),
    Case("m USING gin (small jsonb_path_ops)", "WHERE small @> '{\"page\": 77}'"),
    Case("m USING gin (lexemes)", "WHERE lexemes @@ 'anik'"),
    Case("m USING gin (to_tsvector('english', body))",
         "WHERE to_tsvector('english', body) @@ to_tsquery('english', 'anik')"),
    Case("m USING gin (thousand)", "WHERE thousand = 77"),
    Case("m USING gin (email, thousand)", "WHERE email = 'user77@example.org' AND thousand = 77"),
    Case("lineitem USING gin (l_comment gin_trgm_ops)", "WHERE l_comment LIKE '%sleepyish%'"),
    Case("lineitem USING gin (to_tsvector('english', l_comment))",
         "WHERE to_tsvector('english', l_comment) @@ to_tsquery('english', 'sleepyish')"),
    Case("part USING gin (p_name gin_trgm_ops)", "WHERE p_name LIKE '%chiffon%'"),
    Case("orders USING gin (to_tsvector('english', o_comment))",
         "WHERE to_tsvector('english', o_comment) @@ to_tsquery('english', 'sleepyish')"),
    Case("customer USING gin (string_to_array(c_address, ' '))", "WHERE string_to_array(c_address, ' ') @> ARRAY['x']"),
    Case("m USING gist (place)", "ORDER BY place <-> point '(5,5)' LIMIT 10"),
    Case("m USING gist (area)", "WHERE area && box '((1,1),(2,2))'"),
    Case("m USING gist (span)", "WHERE span @> 77"),
    Case("m USING gist (during)", "WHERE during @> timestamptz '2024-01-05'"),
    Case("m USING gist (address inet_ops)", "WHERE address << '10.7.0.0/16'"),
    Case("m USING gist (id)", "ORDER BY id <-> 77 LIMIT 10"),
    Case("m USING gist (big)", "WHERE big = 77"),
    Case("m USING gist (created)", "WHERE created < '2024-01-01 01:00'"),
    Case("m USING gist (email)", "WHERE email = 'user77@example.org'"),
    Case("m USING gist (uid)", "WHERE uid = '00000000-0000-0000-0000-000000000000'"),
    Case("m USING gist (title gist_trgm_ops)", "WHERE title LIKE '%qxz%'"),
    Case("m USING gist (title gist_trgm_ops (siglen = 64))", "WHERE title LIKE '%qxz%'"),
    Case("m USING gist (lexemes)", "WHERE lexemes @@ 'anik'"),
    Case("m USING gist (thousand, during)", "WHERE thousand = 77 AND during @> timestamptz '2024-01-05'"),
    Case("part USING gist (p_name gist_trgm_ops)", "WHERE p_name LIKE '%chiffon%'"),
    Case("m USING spgist (place)", "WHERE place <@ box '((1,1),(9,9))'"),
    Case("m USING spgist (place kd_point_ops)", "WHERE place <@ box '((1,1),(9,9))'"),
    Case("m USING spgist (email)", "WHERE email = 'user77@example.org'"),
    Case("m USING spgist (title)", "WHERE title = 'x'"),
    Case("m USING spgist (span)", "WHERE span @> 77"),
    Case("m USING spgist (address)", "WHERE address << '10.7.0.0/16'"),
    Case("m USING spgist (area)", "WHERE area && box '((1,1),(2,2))'"),
    Case("part USING spgist (p_name)", "WHERE p_name = 'x'"),
    Case("v USING hnsw (e vector_l2_ops)", f"ORDER BY e <-> {_E} LIMIT 10"),
    Case("v USING hnsw (e vector_cosine_ops) WITH (m = 32)", f"ORDER BY e <=> {_E} LIMIT 10"),
    Case("v USING hnsw (h halfvec_l2_ops) WITH (m = 8)", f"ORDER BY h <-> {_H} LIMIT 10"),
    Case("v USING hnsw ((binary_quantize(e)::bit(64)) bit_hamming_ops)",
         f"ORDER BY binary_quantize(e)::bit(64) <~> binary_quantize({_E}::vector)::bit(64) LIMIT 10"),
    Case("v USING ivfflat (e vector_l2_ops) WITH (lists = 20)", f"ORDER BY e <-> {_E} LIMIT 10"),
    Case("v USING ivfflat (e vector_ip_ops) WITH (lists = 200)", f"ORDER BY e <#> {_E} LIMIT 10"),
    Case("v USING ivfflat (h halfvec_l2_ops)", f"ORDER BY h <-> {_H} LIMIT 10"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """A case: blocks estimated and real, costs with either index, nodes alike, and whether the real one is used."""

    case: Case
    estimated: int
    real: int
    cost: float
    real_cost: float
    alike: bool
    used: bool

    @property
    def error(self) -> float:
        """Relative error in blocks."""
        return abs(self.estimated - self.real) / self.real

    @property
    def ratio(self) -> float:
        """Cost with the hypothetical index over the cost with the real one."""
        return self.cost / self.real_cost


def measure(connection: psycopg.Connection[Any], services: Services) -> Iterator[Outcome]:
    """Ask the shadow, then build each index at the source, look at it and drop it."""
    shadow = services.shadow("methods")
    with shadow.session() as session:
        candidates = {case: parse_index_ddl(f"CREATE INDEX ON {case.index}", shadow.catalog()) for case in CASES}
        made = session.create(candidates.values())
        for case, candidate in candidates.items():
            if candidate not in made:
                print(f"refused: {case.index}: {session.refused[candidate]}")
                continue
            plan = session.explain(case.query, using=[made[candidate]])
            connection.execute(candidate.ddl("measured", concurrently=False).encode())
            ((blocks,),) = connection.execute("SELECT pg_relation_size('measured') / 8192").fetchall()
            ((explained,),) = connection.execute(f"EXPLAIN (FORMAT JSON) {case.query}".encode()).fetchall()
            connection.execute("DROP INDEX measured")
            real = explained[0]["Plan"]
            alike = _nodes(dict(plan.raw)) == _nodes(real)
            estimated = made[candidate].storage_bytes // 8192
            used = "measured" in Plan.from_explain(explained).indexes
            yield Outcome(case, estimated, blocks, plan.cost.total_cost, real["Total Cost"], alike, used)


def _nodes(plan: dict[str, Any]) -> list[str]:
    return [plan["Node Type"], *(line for child in plan.get("Plans", ()) for line in _nodes(child))]


def print_outcomes(outcomes: Sequence[Outcome]) -> None:
    """Print a line an index, then the totals by method."""
    print(f"{'index':72} {'estimated':>9} {'real':>9} {'ratio':>6} {'cost/real':>9} nodes")
    by_method = defaultdict(list)
    for outcome in outcomes:
        by_method[outcome.case.index.split("USING ")[1].split()[0]].append(outcome)
        told = ("alike" if outcome.alike else "differ") + ("" if outcome.used else ", unused")
        print(
            f"{outcome.case.index[:72]:72} {outcome.estimated:>9,} {outcome.real:>9,}"
            f" {outcome.estimated / outcome.real:>6.2f} {outcome.ratio:>9.3f} {told}"
        )
    print("method   indexes  size error: median, p95   cost/real: least, median, most   same nodes   used")
    for method, found in by_method.items():
        errors = sorted(o.error for o in found)
        high = errors[min(round(0.95 * len(errors)), len(errors) - 1)]
        ratios = [o.ratio for o in found if o.used] or [o.ratio for o in found]
        print(
            f"{method:8} {len(found):>7} {statistics.median(errors):>19.1%} {high:>6.1%}"
            f" {min(ratios):>16.3f} {statistics.median(ratios):>7.3f} {max(ratios):>6.3f}"
            f" {sum(o.alike for o in found):>12} of {len(found)} {sum(o.used for o in found):>6}"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run in a temporary home."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="of the generated table")
    parser.add_argument("--scale", type=float, default=0.05, help="of TPC-H")
    parser.add_argument("--target", type=int, default=100, help="default_statistics_target")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="pp-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        home.chmod(0o711)
        with Services.open(Settings(home=home, cluster_linger_s=10)) as services:
            try:
                source = services.supervisor.cluster(ClusterKind.STORE)
                with source.connect() as admin:
                    admin.execute("CREATE DATABASE methods")
                with source.connect("methods") as connection:
                    connection.execute(GENERATED.replace("%(rows)s", str(options.rows)).replace("%%", "%").encode())
                    tpch.fill(connection, options.scale)
                    connection.execute(f"SET default_statistics_target = {options.target}".encode())
                    connection.execute("VACUUM ANALYZE")
                    services.add_hollow("methods", source.conninfo("methods"))
                    print_outcomes(list(measure(connection, services)))
            finally:
                services.supervisor.stop_all()


if __name__ == "__main__":
    main()
