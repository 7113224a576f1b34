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
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import errors, pq, sql

from optimizer.candidate import IndexCandidate
from optimizer.catalog import Catalog, Table
from optimizer.errors import SqlError
from optimizer.shadow.admission import free_name, unfit
from optimizer.shadow.btree_size import IndexSize, estimate_index
from optimizer.shadow.cluster import Cluster
from optimizer.shadow.guarded import GuardedConnection
from optimizer.shadow.pool import SPARE, PlanningDatabase, spend
from optimizer.shadow.port import HypotheticalIndex
from optimizer.shadow.skeleton import BLOCK_BYTES
from optimizer.shadow.storage import lay_out_index

#: Only this method's pages are written by hand.
METHOD = "btree"
_MAX_PAGES = 2**31 - 1
#: Blocks of the largest index that is made: a file stands for each GB, and statistics may state any number of rows.
MAX_BLOCKS = 2**29
#: Characters with which a candidate's name and its numbered forms surely begin alike.
_BEGINNING = 8


@dataclass(frozen=True, slots=True)
class Made:
    """A hypothetical index; `oids` are its own, and for a partitioned table also those of the partitions' indexes."""

    index: HypotheticalIndex
    oids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Part:
    """One index that CREATE INDEX made: `root` names the statement's own, which for a partitioned table has no storage.

    `relfilenode` is 0 for those without.
    """

    root: tuple[str, str]
    oid: int
    relfilenode: int
    table: tuple[str, str]
    key_types: tuple[str, ...]


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
        self._own_functions = any(schema != "pg_catalog" for schema, _ in catalog.functions)

    @property
    def candidates(self) -> tuple[IndexCandidate, ...]:
        """What was asked for so far, in the order in which it was made or refused."""
        return (*self._made, *self.refused)

    def create(self, candidates: Iterable[IndexCandidate]) -> dict[IndexCandidate, HypotheticalIndex]:
        """Make those that do not exist yet; one that is refused is left out, with the reason in `refused`.

        Errors: `TimeLimitError`, `ShadowUnavailableError`.
        """
        wanted = tuple(dict.fromkeys(candidates))
        fresh = [c for c in wanted if c not in self._made and c not in self.refused]
        for candidate in fresh:
            reason = unfit(candidate, self._catalog)
            if not reason and candidate.method != METHOD:
                reason = f"indexes of method {candidate.method} cannot be hypothetical here yet: only {METHOD} can"
            if reason:
                self.refused[candidate] = reason
        fresh = [c for c in fresh if c not in self.refused]
        if fresh:
            tainted, self.tainted = self.tainted, True
            if any(map(self._may_run_functions, fresh)):
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

    def drop_all(self) -> None:
        """Drop them, so that the database is as it was made."""
        if self._made:
            names = (sql.Identifier(c.schema, made.index.name) for c, made in self._made.items())
            _drop(self._database.superuser, sql.SQL("DROP INDEX {}").format(sql.SQL(", ").join(names)))
        self._made.clear()
        self.refused.clear()
        self._shown = frozenset()

    def _may_run_functions(self, candidate: IndexCandidate) -> bool:
        """Whether making an index may have run functions of the schema's, as its owner, who may write what stays."""
        computes = candidate.predicate is not None or any(key.column is None for key in candidate.key_columns)
        return computes and self._own_functions

    def _create(self, candidates: Sequence[IndexCandidate]) -> bool:
        """Make indexes; returns whether one was left behind that is not offered."""
        superuser = self._database.superuser
        with superuser.pipeline():
            taken = _taken(superuser, candidates)
            found = table_rows(superuser, {(c.schema, c.table) for c in candidates})
            names, rows = _names(candidates, taken.fetchall()), found.fetchall()
        parts: list[_Part] = []
        with self._owner() as owner:
            swap_out(superuser, rows)
            try:
                refusals = owner.run_each([c.ddl(names[c], concurrently=False) for c in candidates])
                self.refused |= {c: str(r.args[0]) for c, r in zip(candidates, refusals, strict=True) if r is not None}
                created = [c for c in candidates if c not in self.refused]
                parts = _parts(superuser, [(c.schema, names[c]) for c in created])
            finally:
                with superuser.pipeline():
                    _hide(superuser, parts)
                    swap_in(superuser, rows)
        left_over = False
        sized: list[tuple[_Part, IndexSize]] = []
        for candidate in created:
            own = [part for part in parts if part.root == (candidate.schema, names[candidate])]
            try:
                sizes = [(part, self._size(candidate, part)) for part in own if part.relfilenode]
            except SqlError as error:  # its predicate cannot be planned; the index stays behind, unseen
                self.refused[candidate] = str(error.args[0])
                left_over = True
                continue
            sized += sizes
            index = HypotheticalIndex(candidate, names[candidate], sum(size.bytes for _, size in sizes))
            self._made[candidate] = Made(index, tuple(part.oid for part in own))
        _set_sizes(superuser, sized)
        for part, size in sized:
            lay_out_index(self._cluster, self._database.oid, part.relfilenode, size)
        return left_over

    def _size(self, candidate: IndexCandidate, part: _Part) -> IndexSize:
        table: Table | None = self._catalog.tables.get(part.table)
        if table is None:  # a partition that the source's catalog does not tell of
            return IndexSize(1, 0, 0)
        rows = None
        if candidate.predicate is not None and table.rows > 0:
            rows = self._count_rows(table.qualified, candidate.predicate)
        size = estimate_index(candidate, table, self._catalog, rows=rows, key_types=part.key_types)
        if size.blocks > MAX_BLOCKS:
            raise SqlError(f"the index would take more than {MAX_BLOCKS * BLOCK_BYTES >> 40} TB")
        return size


def _drop(superuser: psycopg.Connection[Any], command: sql.Composed) -> None:
    """Run a DROP past psycopg, which would take it for a reason to forget all that it has prepared."""
    result = superuser.pgconn.exec_(command.as_bytes(superuser))
    if result.status != pq.ExecStatus.COMMAND_OK:
        raise errors.error_from_result(result)


def table_rows(superuser: psycopg.Connection[Any], tables: Iterable[tuple[str, str]]) -> psycopg.Cursor[Any]:
    """Read the catalog's rows of some tables and their partitions, to be put back as they were by `swap_in`."""
    schemas, names = zip(*tables, strict=True)
    return superuser.execute(
        """
        SELECT c.oid::int8, c.relfilenode::int8, c.relpages, c.reltuples, c.relallvisible, c.relallfrozen
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
           SET relfilenode = w.file, relpages = w.pages, reltuples = w.tuples, relallvisible = w.visible,
               relallfrozen = w.frozen
          FROM unnest(%s::oid[], %s::oid[], %s::int4[], %s::float4[], %s::int4[], %s::int4[])
               w(oid, file, pages, tuples, visible, frozen)
         WHERE c.oid = w.oid""",
        [list(column) for column in zip(*rows, strict=True)] if rows else [[]] * 6,
        prepare=True,
    )


def _hide(superuser: psycopg.Connection[Any], parts: Sequence[_Part]) -> None:
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


def _parts(superuser: psycopg.Connection[Any], names: Sequence[tuple[str, str]]) -> list[_Part]:
    """Find the indexes of these schemas and names, and for partitioned ones those of the partitions."""
    rows = superuser.execute(
        """
        SELECT w.schema, w.name, c.oid::int8, coalesce(pg_relation_filenode(c.oid), 0)::int8, n.nspname::text,
               t.relname::text,
               ARRAY(SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
                      WHERE a.attrelid = c.oid AND a.attnum BETWEEN 1 AND i.indnkeyatts ORDER BY a.attnum)
          FROM unnest(%s::text[], %s::text[]) w(schema, name)
          JOIN pg_namespace rn ON rn.nspname = w.schema
          JOIN pg_class r ON r.relnamespace = rn.oid AND r.relname = w.name
          JOIN LATERAL (SELECT r.oid UNION SELECT relid FROM pg_partition_tree(r.oid)) tree(oid) ON true
          JOIN pg_class c ON c.oid = tree.oid
          JOIN pg_index i ON i.indexrelid = c.oid
          JOIN pg_class t ON t.oid = i.indrelid
          JOIN pg_namespace n ON n.oid = t.relnamespace
         ORDER BY c.oid""",
        [[schema for schema, _ in names], [name for _, name in names]],
        prepare=True,
    ).fetchall()
    return [_Part((row[0], row[1]), row[2], row[3], (row[4], row[5]), tuple(row[6])) for row in rows]


def _set_sizes(superuser: psycopg.Connection[Any], sizes: Sequence[tuple[_Part, IndexSize]]) -> None:
    superuser.execute(
        """
        UPDATE pg_catalog.pg_class c SET relpages = w.pages, reltuples = w.tuples
          FROM unnest(%s::oid[], %s::int4[], %s::float4[]) w(oid, pages, tuples) WHERE c.oid = w.oid""",
        [
            [part.oid for part, _ in sizes],
            [min(size.blocks, _MAX_PAGES) for _, size in sizes],
            [size.tuples for _, size in sizes],
        ],
        prepare=True,
    )
