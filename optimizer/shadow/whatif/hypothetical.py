"""Makes hypothetical indexes in a planning database, and shows or hides them.

CREATE INDEX would read a table of the source's size. So the table's storage is pointed at an empty file while the index
is made, and back afterwards: nobody else is in this database, so nobody sees the middle. Then the index gets the size
and height that it would have at the source.

The statement is run by the unprivileged owner, since its expressions are the user's; the superuser only changes the
catalog. If we are killed in between, the next who wants this database finds the swap and drops it (`pool._try`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import sql

from optimizer.candidate import IndexCandidate
from optimizer.catalog import Catalog, Table
from optimizer.errors import SqlError
from optimizer.shadow.guarded import GuardedConnection
from optimizer.shadow.pages.skeleton import BLOCK_BYTES
from optimizer.shadow.pool import SPARE, PlanningDatabase, spend
from optimizer.shadow.port import HypotheticalIndex
from optimizer.shadow.server.cluster import Cluster
from optimizer.shadow.sizes.btree_size import IndexSize
from optimizer.shadow.sizes.index_ends import column_ends, has_grown, leaf_of
from optimizer.shadow.sizes.index_request import IndexRequest
from optimizer.shadow.sizes.joint_counts import CountsByTable, read_joint_counts
from optimizer.shadow.whatif.admission import free_name, unfit
from optimizer.shadow.whatif.index_files import Part, drop, find_parts, lay_out
from optimizer.shadow.whatif.index_methods import METHODS, index_size
from optimizer.shadow.whatif.plain_index import PlainIndex, is_plain, make_plain

#: Blocks of the largest index that is made: a file stands for each GB, and statistics may state any number of rows.
MAX_BLOCKS = 2**29
#: Characters with which a candidate's name and its numbered forms surely begin alike.
_BEGINNING = 8


@dataclass(frozen=True, slots=True)
class Made:
    """A hypothetical index; `oids` are its own, and for a partitioned table also those of the partitions' indexes."""

    index: HypotheticalIndex
    oids: tuple[int, ...]


class HypotheticalIndexes:
    """The hypothetical indexes of one planning database.

    Parameters:
        cluster: the hollow cluster.
        database: the leased one.
        owner: opens the owner's connection to it.
        catalog: of the source, for estimates.
        count_rows: the planner's estimate of the rows of a table that a predicate keeps.
    """

    def __init__(
        self,
        cluster: Cluster,
        database: PlanningDatabase,
        owner: Callable[[], AbstractContextManager[GuardedConnection]],
        catalog: Catalog,
        count_rows: Callable[[str, str], float],
    ) -> None:
        self._cluster = cluster
        self._database = database
        self._owner = owner
        self._catalog = catalog
        self._count_rows = count_rows
        self._made: dict[IndexCandidate, Made] = {}
        self._shown: frozenset[int] = frozenset()
        self.refused: dict[IndexCandidate, str] = {}
        #: True when something may be left over that we do not know of: the database must not be used again.
        self.tainted = False
        #: What never changes here: rows of tables in pg_class, names taken in a schema, counts of combinations, ends of
        #: columns.
        self._tables: dict[tuple[str, str], tuple[Any, ...]] = {}
        self._names: dict[str, set[str]] = {}
        self._joint: CountsByTable | None = None
        self._ends: dict[tuple[str, str, str], tuple[bytes, bytes] | None] = {}
        self._own_functions = any(schema != "pg_catalog" for schema, _ in catalog.functions)

    @property
    def candidates(self) -> tuple[IndexCandidate, ...]:
        """What was asked for so far, in the order in which it was made or refused."""
        return (*self._made, *self.refused)

    def create(self, candidates: Iterable[IndexCandidate]) -> dict[IndexCandidate, HypotheticalIndex]:
        """Make those that do not exist yet; one that is refused is left out, with the reason in `refused`.

        Where that may run functions of the schema's (`may_run_functions`), the database's files must be its own.

        Errors: `TimeLimitError`, `ShadowUnavailableError`.
        """
        wanted = tuple(dict.fromkeys(candidates))
        fresh = [c for c in wanted if c not in self._made and c not in self.refused]
        for candidate in fresh:
            reason = unfit(candidate, self._catalog)
            if not reason and candidate.method not in METHODS:
                reason = f"indexes of method {candidate.method} cannot be hypothetical: their sizes are not known"
            if reason:
                self.refused[candidate] = reason
        fresh = [c for c in fresh if c not in self.refused]
        fresh = self._make_plain(fresh)
        if fresh:
            tainted, self.tainted = self.tainted, True
            if self.may_run_functions(fresh):
                spend(self._database)
                tainted = True
            self.tainted = self._create(fresh) or tainted
        return {c: self._made[c].index for c in wanted if c in self._made}

    def show(self, using: Iterable[HypotheticalIndex]) -> None:
        """Make exactly these visible to the planner; the others stay, unseen.

        Errors: `KeyError` for an index that was not made here.
        """
        wanted = frozenset(oid for index in using for oid in self._made[index.candidate].oids)
        changed = wanted ^ self._shown
        if changed:
            self._database.superuser.execute(
                "UPDATE pg_catalog.pg_index SET indisvalid = (indexrelid = ANY(%s)) WHERE indexrelid = ANY(%s)",
                [list(wanted), list(changed)],
                prepare=True,
            )
            self._shown = wanted

    def drop(self, indexes: Iterable[HypotheticalIndex]) -> None:
        """Drop some of them.

        Errors: `KeyError` for an index that was not made here.
        """
        gone = {index.candidate: self._made[index.candidate] for index in indexes}
        if gone:
            names = (sql.Identifier(c.schema, made.index.name) for c, made in gone.items())
            drop(self._database.superuser, sql.SQL("DROP INDEX {}").format(sql.SQL(", ").join(names)))
        for candidate, made in gone.items():
            del self._made[candidate]
            self._shown -= frozenset(made.oids)
            self._names.get(candidate.schema, set()).discard(made.index.name)

    def drop_all(self) -> None:
        """Drop them, so that the database is as it was made."""
        self.drop([made.index for made in self._made.values()])
        self.refused.clear()

    def may_run_functions(self, candidates: Iterable[IndexCandidate]) -> bool:
        """Whether making these may run functions of the schema's, as its owner, who may write what stays."""
        fresh = (c for c in candidates if c not in self._made and c not in self.refused)
        return self._own_functions and any(
            c.predicate is not None or any(key.column is None for key in c.key_columns) for c in fresh
        )

    def _make_plain(self, candidates: Sequence[IndexCandidate]) -> list[IndexCandidate]:
        """Make those that need no owner, all at once; returns the others. The indexes are visible already."""
        indexes: list[PlainIndex] = []
        for candidate in candidates:
            if not is_plain(candidate, self._catalog):
                continue
            row = self._table_row(candidate)
            if row is None:
                continue
            taken = self._names_in(candidate.schema)
            name = free_name(candidate, taken)
            try:
                size = self._estimate(candidate, self._catalog.tables[candidate.schema, candidate.table])
            except SqlError:  # refused on the other way
                continue
            if size.blocks <= MAX_BLOCKS:
                taken.add(name)
                indexes.append(PlainIndex(candidate, name, size, row, self._leaf(candidate, row)))
        if not indexes:
            return list(candidates)
        try:
            oids = make_plain(self._cluster, self._database, indexes)
        except psycopg.OperationalError:
            raise
        except psycopg.Error:  # one of them is refused: the other way tells which
            self._release(indexes)
            return list(candidates)
        for plain, oid in zip(indexes, oids, strict=True):
            index = HypotheticalIndex(plain.candidate, plain.name, plain.size.bytes)
            self._made[plain.candidate] = Made(index, (oid,))
        self._shown |= frozenset(oids)
        return [c for c in candidates if c not in self._made]

    def _leaf(self, candidate: IndexCandidate, row: tuple[Any, ...]) -> tuple[bytes, ...]:
        """The first and the last entry, where there are no rows and the statistics may be trusted to hold them."""
        table, first = self._catalog.tables[candidate.schema, candidate.table], candidate.key_columns[0]
        column = table.columns[first.column or ""]
        if not self._database.template.hollow or has_grown(table, row[2]):
            return ()
        place = (table.schema, table.name, column.name)
        if place not in self._ends:
            self._ends[place] = column_ends(self._database.superuser, row[0], column)
        ends = self._ends[place]
        attributes = len(candidate.key_columns) + len(candidate.include)
        return leaf_of(ends, column, attributes, descending=first.descending) if ends is not None else ()

    def _release(self, indexes: Iterable[PlainIndex]) -> None:
        for index in indexes:
            self._names_in(index.candidate.schema).discard(index.name)

    def _table_row(self, candidate: IndexCandidate) -> tuple[Any, ...] | None:
        """The table's row in pg_class, None unless it is one table without partitions."""
        place = (candidate.schema, candidate.table)
        if place not in self._tables:
            rows = table_rows(self._database.superuser, [place]).fetchall()
            if len(rows) != 1:
                return None
            self._tables[place] = rows[0]
        return self._tables[place]

    def _names_in(self, schema: str) -> set[str]:
        if schema not in self._names:
            found = self._database.superuser.execute(
                "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
                " WHERE n.nspname = %s",
                [schema],
            )
            self._names[schema] = {name for (name,) in found}
        return self._names[schema]

    def _create(self, candidates: Sequence[IndexCandidate]) -> bool:
        """Make indexes; returns whether one was left behind that is not offered."""
        superuser = self._database.superuser
        with superuser.pipeline():
            taken = _taken(superuser, candidates)
            found = table_rows(superuser, {(c.schema, c.table) for c in candidates})
            names, rows = _names(candidates, taken.fetchall()), found.fetchall()
        parts: list[Part] = []
        with self._owner() as owner:
            swap_out(superuser, rows)
            try:
                refusals = owner.run_each([_statement(c, names[c]) for c in candidates])
                self.refused |= {c: str(r.args[0]) for c, r in zip(candidates, refusals, strict=True) if r is not None}
                created = [c for c in candidates if c not in self.refused]
                parts = find_parts(superuser, [(c.schema, names[c]) for c in created])
            finally:
                with superuser.pipeline():
                    _hide(superuser, parts)
                    swap_in(superuser, rows)
        left_over = False
        sized: list[tuple[Part, IndexSize]] = []
        for candidate in created:
            own = [part for part in parts if part.root == (candidate.schema, names[candidate])]
            try:
                sizes = [(part, self._size(candidate, part)) for part in own if part.relfilenode]
            except SqlError as error:  # its predicate cannot be planned; the index stays behind, unseen
                self.refused[candidate] = str(error.args[0])
                left_over = True
                continue
            sized += sizes
            partitions = tuple(part.name for part in own if part.name != names[candidate])
            index = HypotheticalIndex(candidate, names[candidate], sum(size.bytes for _, size in sizes), partitions)
            self._made[candidate] = Made(index, tuple(part.oid for part in own))
        lay_out(self._cluster, self._database, sized)
        return left_over

    def _size(self, candidate: IndexCandidate, part: Part) -> IndexSize:
        table: Table | None = self._catalog.tables.get(part.table)
        if table is None:  # a partition that the source's catalog does not tell of
            return IndexSize(1, 0, 0)
        rows = None
        if candidate.predicate is not None and table.rows > 0:
            rows = self._count_rows(table.qualified, candidate.predicate)
        size = self._estimate(candidate, table, rows=rows, key_types=part.key_types, opclasses=part.opclasses)
        if size.blocks > MAX_BLOCKS:
            raise SqlError(f"the index would take more than {MAX_BLOCKS * BLOCK_BYTES >> 40} TB")
        return size

    def _estimate(self, candidate: IndexCandidate, table: Table, **known: Any) -> IndexSize:
        if self._joint is None:
            self._joint = read_joint_counts(self._database.superuser)
        joint = self._joint.get((table.schema, table.name), {})
        return index_size(IndexRequest(candidate, table, self._catalog, joint=joint, **known))


def _statement(candidate: IndexCandidate, name: str) -> str:
    """The CREATE INDEX that is run over no rows."""
    options = METHODS[candidate.method].made_with(candidate.options)
    return replace(candidate, options=tuple(options)).ddl(name, concurrently=False)


def table_rows(superuser: psycopg.Connection[Any], tables: Iterable[tuple[str, str]]) -> psycopg.Cursor[Any]:
    """Read the catalog's rows of some tables and their partitions, to be put back as they were by `swap_in`."""
    schemas, names = zip(*tables, strict=True)
    return superuser.execute(
        """
        SELECT c.oid::int8, c.relfilenode::int8, c.relpages, c.reltuples, c.relallvisible
          FROM pg_class c
         WHERE c.relkind IN ('r', 'm') AND c.oid IN (
               SELECT coalesce(p.relid, t.oid)
                 FROM unnest(%s::text[], %s::text[]) w(schema, name)
                 JOIN pg_namespace n ON n.nspname = w.schema
                 JOIN pg_class t ON t.relnamespace = n.oid AND t.relname = w.name
                 LEFT JOIN LATERAL pg_partition_tree(t.oid) p ON true)""",
        [list(schemas), list(names)],
        prepare=True,
    )


def swap_out(superuser: psycopg.Connection[Any], rows: Sequence[tuple[Any, ...]]) -> None:
    """Point tables at an empty file."""
    superuser.execute(
        "UPDATE pg_catalog.pg_class SET relfilenode = (SELECT s.relfilenode FROM pg_class s"
        " WHERE s.oid = %s::regclass) WHERE oid = ANY(%s)",
        [SPARE, [row[0] for row in rows]],
        prepare=True,
    )


def swap_in(superuser: psycopg.Connection[Any], rows: Sequence[tuple[Any, ...]]) -> None:
    """Point them back, with the counts that CREATE INDEX changed."""
    superuser.execute(
        """
        UPDATE pg_catalog.pg_class c
           SET relfilenode = w.file, relpages = w.pages, reltuples = w.tuples, relallvisible = w.visible
          FROM unnest(%s::oid[], %s::oid[], %s::int4[], %s::float4[], %s::int4[])
               w(oid, file, pages, tuples, visible)
         WHERE c.oid = w.oid""",
        [list(column) for column in zip(*rows, strict=True)] if rows else [[]] * 5,
        prepare=True,
    )


def _hide(superuser: psycopg.Connection[Any], parts: Sequence[Part]) -> None:
    superuser.execute(
        "UPDATE pg_catalog.pg_index SET indisvalid = false WHERE indexrelid = ANY(%s)",
        [[part.oid for part in parts]],
        prepare=True,
    )


def _taken(superuser: psycopg.Connection[Any], candidates: Sequence[IndexCandidate]) -> psycopg.Cursor[Any]:
    """Ask for the schemas and names of relations that candidates could clash with."""
    return superuser.execute(
        """
        SELECT n.nspname::text, c.relname::text
          FROM pg_class c
          JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = ANY(%s)
           AND EXISTS (SELECT FROM unnest(%s::text[]) beginning WHERE starts_with(c.relname::text, beginning))""",
        [[c.schema for c in candidates], [c.name[:_BEGINNING] for c in candidates]],
        prepare=True,
    )


def _names(candidates: Sequence[IndexCandidate], relations: Iterable[tuple[str, str]]) -> dict[IndexCandidate, str]:
    """Choose a name for each candidate that no relation of its schema has."""
    taken = set(relations)
    chosen = {}
    for candidate in candidates:
        name = free_name(candidate, {name for schema, name in taken if schema == candidate.schema})
        taken.add((candidate.schema, name))
        chosen[candidate] = name
    return chosen
