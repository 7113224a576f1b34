"""The counters of GIN indexes, read by costs alone, against what their metapages say."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from optimizer.shadow.pages.skeleton_brin import BrinRanges
from optimizer.shadow.pages.skeleton_gin import GinCounters
from optimizer.shadow.pages.storage import FileLayout, Layout
from optimizer.shadow.server.cluster import Cluster
from optimizer.shadow.source import shape_sql
from optimizer.shadow.source.gin_reader import GinIndex, find_gin, read_counters

TABLES = """
CREATE EXTENSION pageinspect;
CREATE EXTENSION pg_trgm;
CREATE EXTENSION hstore;
CREATE TABLE many (id integer, numbers integer[], texts text[], uuids uuid[], days date[], doc jsonb, words tsvector,
                   title text, pairs hstore, few integer[]);
INSERT INTO many
SELECT i, ARRAY[i, i % 700, i % 3], ARRAY['a' || i % 90, 'b' || i % 4], ARRAY[md5(i::text)::uuid],
       ARRAY[date '2020-01-01' + i % 900], jsonb_build_object('a', i % 100, 'b', jsonb_build_array('x' || i % 13)),
       to_tsvector('simple', 'w' || i % 500 || ' x' || i % 7 || ' y' || i), 'title ' || md5(i::text),
       hstore('k' || i % 40, 'v' || i % 900), ARRAY[i % 2]
  FROM generate_series(1, 20000) i;
CREATE INDEX gin_numbers ON many USING gin (numbers);
CREATE INDEX gin_texts ON many USING gin (texts);
CREATE INDEX gin_uuids ON many USING gin (uuids);
CREATE INDEX gin_days ON many USING gin (days);
CREATE INDEX gin_ops ON many USING gin (doc) WITH (fastupdate = off);
CREATE INDEX gin_words ON many USING gin (words);
CREATE INDEX gin_trigrams ON many USING gin (title gin_trgm_ops);
CREATE INDEX gin_pairs ON many USING gin (pairs);
CREATE INDEX gin_partial ON many USING gin (few) WHERE id % 3 = 0;
CREATE TABLE paths AS SELECT id, doc FROM many;
CREATE INDEX gin_paths ON paths USING gin (doc jsonb_path_ops);
"""
LATER = """
INSERT INTO many SELECT id + 100000, numbers, texts, uuids, days, doc, words, title, pairs, few
  FROM many WHERE id < 900;
"""
NAMES = (
    "gin_numbers",
    "gin_texts",
    "gin_uuids",
    "gin_days",
    "gin_ops",
    "gin_words",
    "gin_trigrams",
    "gin_pairs",
    "gin_partial",
    "gin_paths",
)


@pytest.fixture(scope="module")
def source(scratch_cluster: Cluster) -> Iterator[psycopg.Connection[Any]]:
    with scratch_cluster.connect() as admin:
        admin.execute("CREATE DATABASE gin_source")
    with scratch_cluster.connect("gin_source") as connection:
        connection.execute(TABLES.encode())
        connection.execute("VACUUM (ANALYZE)")
        connection.execute(LATER.encode())
        connection.execute("SET search_path = pg_catalog")
        yield connection


@pytest.fixture(scope="module")
def read(source: psycopg.Connection[Any]) -> dict[str, tuple[GinIndex, GinCounters]]:
    with source.transaction(force_rollback=True):
        source.execute(shape_sql.SETTINGS)
        indexes = find_gin(source)
        counters = read_counters(source, indexes)
    return {index.name: (index, counters[index.oid]) for index in indexes if index.oid in counters}


@pytest.mark.parametrize("name", NAMES)
def test_costs_tell_what_the_planner_reads_of_the_metapage(
    source: psycopg.Connection[Any], read: dict[str, tuple[GinIndex, GinCounters]], name: str
) -> None:
    index, counters = read[name]
    ((pending, total, entry, data, entries),) = source.execute(
        "SELECT n_pending_pages, n_total_pages, n_entry_pages, n_data_pages, n_entries"
        " FROM public.gin_metapage_info(public.get_raw_page(%s, 0))",
        [f"public.{name}"],
    ).fetchall()
    # As gincostestimate scales them to the present size, and clamps them.
    scale = index.blocks / total
    entry_pages = min(math.ceil(entry * scale), index.blocks - pending)
    data_pages = min(math.ceil(data * scale), index.blocks - pending - entry_pages)
    assert counters.pending_pages == pending
    assert counters.entries == math.ceil(entries * scale)
    assert counters.data_pages == pytest.approx(data_pages, abs=counters.entries / 2000 + 1)
    assert round(counters.entry_pages**0.15) == round(entry_pages**0.15)
    assert counters.total_pages == index.blocks


def test_pending_pages_are_among_them(read: dict[str, tuple[GinIndex, GinCounters]]) -> None:
    assert read["gin_numbers"][1].pending_pages > 0
    assert read["gin_ops"][1].pending_pages == 0


def test_layouts_keep_what_metapages_are_to_say() -> None:
    counters, ranges = GinCounters(1, 20, 15, 3, 400), BrinRanges(4, 2)
    layout = Layout((FileLayout(1, 20, gin=counters), FileLayout(2, 9, brin=ranges), FileLayout(3, 5)), ("a note",))
    assert Layout.from_json(layout.to_json()) == layout
