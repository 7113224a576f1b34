"""A dump's statements in the order of the source's OIDs, as far as they can run in it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from optimizer.shadow.source.dump_order import Place, in_order

DUMP = (
    "CREATE TYPE public.mood AS ENUM ('calm')",
    "CREATE TABLE public.parent (\n    a integer\n)",
    "CREATE TABLE public.aa (\n    b integer\n)\nINHERITS (public.parent)",
    "CREATE VIEW public.bb AS\n SELECT b FROM public.aa",
    "CREATE TABLE public.cc (\n    v public.bb\n)\nINHERITS (public.parent)",
    "CREATE TABLE public.dd (\n)\nINHERITS (public.parent)",
    "ALTER TABLE ONLY public.parent\n    ADD CONSTRAINT parent_key PRIMARY KEY (a)",
    "CREATE INDEX a_index ON public.parent USING btree (a)",
    'CREATE UNIQUE INDEX "z ""index" ON public.parent USING btree (a, b)',
    "CREATE MATERIALIZED VIEW public.late AS\n SELECT a FROM public.parent GROUP BY a",
    "CREATE INDEX late_index ON public.late USING btree (a)",
    "CREATE STATISTICS public.s1 ON a, b FROM public.aa",
    "CREATE STATISTICS public.s2 ON a, b FROM public.aa",
    "ALTER TABLE ONLY public.aa\n    ADD CONSTRAINT key FOREIGN KEY (b) REFERENCES public.parent(a)",
)


def ordered(*places: Place, dump: Sequence[str] = DUMP) -> list[int]:
    ranks = {place: rank for rank, place in enumerate(places)}
    return [DUMP.index(text) for text in in_order(dump, str, ranks)]


def test_without_ranks_a_dump_stays_as_it_is() -> None:
    assert ordered() == list(range(len(DUMP)))


def test_indexes_and_keys_come_as_the_source_made_them() -> None:
    found = ordered(("index", "public", 'z "index'), ("index", "public", "a_index"), ("index", "public", "parent_key"))
    assert found == [0, 1, 2, 3, 4, 5, 8, 7, 6, 9, 10, 11, 12, 13]


def test_an_index_waits_for_its_relation() -> None:
    found = ordered(
        ("index", "public", "late_index"), ("index", "public", "a_index"), ("index", "public", "parent_key")
    )
    assert found == [0, 1, 2, 3, 4, 5, 7, 6, 8, 9, 10, 11, 12, 13]


def test_children_come_as_the_source_made_them() -> None:
    assert ordered(*(("child", "public", name) for name in ("dd", "cc", "aa")))[:6] == [0, 1, 5, 2, 3, 4]


def test_statistics_objects_come_as_the_source_made_them() -> None:
    assert ordered(("statistics", "public", "s2"), ("statistics", "public", "s1"))[11:13] == [12, 11]


@pytest.mark.parametrize("known", [0, 3, 50])
def test_nothing_is_lost_or_doubled(known: int) -> None:
    dump = [f"CREATE INDEX i{n} ON public.parent USING btree (a)" for n in range(100)]
    ranks: dict[Place, int] = {("index", "public", f"i{n}"): 100 - n for n in range(100 - known, 100)}
    found = list(in_order(dump, str, ranks))
    assert sorted(found) == sorted(dump)
    assert found[: 100 - known] == dump[: 100 - known]
    assert found[100 - known :] == dump[100 - known :][::-1]
