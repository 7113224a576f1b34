"""One statement, parsed once: `Query` and its `Fingerprint`.

Two parsers, each for what it is good at. libpg_query (PostgreSQL's own grammar) decides what is valid, splits and
fingerprints; sqlglot gives the tree that rules match and build on. A statement whose sqlglot round trip is not the same
query by PostgreSQL's grammar is planned and gets index advice, but is never rewritten.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import NewType

import postgast
import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from optimizer.canonical import canonical, relation_names
from optimizer.dialect import PlanproofPostgres
from optimizer.errors import SqlError, TooLargeError
from optimizer.foreign import dialect_hint
from optimizer.parse_guard import check_chains, check_subscripts, read_outline, syntax_error

#: planproof's own identity of a query's shape, literals left out. Not PostgreSQL's queryid, which differs by version.
Fingerprint = NewType("Fingerprint", str)

DEFAULT_MAX_BYTES = 1_000_000
#: Deepest nesting of parentheses that is read. sqlglot recurses per level; real queries stay below 50.
MAX_NESTING = 100
#: Longest statement of which a tree is made, in tokens: sqlglot takes some 20 microseconds for each.
MAX_TREE_TOKENS = 50_000
#: Statement kinds that are planned, by libpg_query's node name.
_KINDS = {"select_stmt": "select", "insert_stmt": "insert", "update_stmt": "update", "delete_stmt": "delete"}
_BETWEEN = frozenset(map(postgast.pg_query_pb2.Token.Value, ("SQL_COMMENT", "C_COMMENT", "ASCII_59")))
_DRIVER_PLACEHOLDER = re.compile(r"%s|%\(\w+\)s|(?<![:\w]):[A-Za-z_]\w*|\?")


@dataclass(frozen=True, slots=True, eq=False)
class Parsed:
    """What the two parsers say of one statement; made by `Query.parse`."""

    kind: str
    fingerprint: Fingerprint
    parameters: int
    tree: exp.Expr | None
    unreadable: str | None


@dataclass(frozen=True)
class Query:
    """One SQL statement.

    Parameters:
        sql: the user's text without its final semicolon.
        parsed: what the parsers found.
        before: what stands in front of it in the user's text: blanks and comments.
    """

    sql: str
    parsed: Parsed = field(repr=False, compare=False)
    before: str = field(default="", repr=False, compare=False)

    @classmethod
    def parse(cls, sql: str, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Query:
        """Read one statement.

        Parameters:
            sql: the text; one SELECT, INSERT, UPDATE or DELETE (a leading EXPLAIN is not one).
            max_bytes: largest text accepted.

        Errors: `SqlError` with line and column; `TooLargeError`.
        """
        check_text(sql, max_bytes)
        before, text = _one_statement(sql)
        with _in_place(before):
            return cls._parse(before, text)

    @classmethod
    def _parse(cls, before: str, text: str) -> Query:
        outline = read_outline(text)[0]
        node = outline.WhichOneof("node") or "unknown"
        if node not in _KINDS:
            statement = node.removesuffix("_stmt").replace("_", " ").upper()
            raise SqlError(f"{statement} is not a query: give one SELECT, INSERT, UPDATE or DELETE", line=1, column=1)
        if node == "select_stmt" and outline.select_stmt.HasField("into_clause"):
            raise SqlError("SELECT INTO makes a table: leave INTO out", line=1, column=1)
        tree, unreadable = _tree(text)
        parsed = Parsed(
            kind=_KINDS[node],
            fingerprint=Fingerprint(postgast.fingerprint(text).hex),
            parameters=_parameter_count(text),
            tree=tree,
            unreadable=unreadable,
        )
        return cls(text, parsed, before)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Turn the places of errors that are about `sql` into places in the user's text.

        Errors: `SqlError`, when one was raised in the block.
        """
        with _in_place(self.before):
            yield

    @property
    def kind(self) -> str:
        """`select`, `insert`, `update` or `delete`."""
        return self.parsed.kind

    @property
    def fingerprint(self) -> Fingerprint:
        """The shape's identity: equal for statements that differ in literals and layout only."""
        return self.parsed.fingerprint

    @property
    def parameters(self) -> int:
        """The highest `$n` in the text, 0 without parameters."""
        return self.parsed.parameters

    @property
    def tree(self) -> exp.Expr | None:
        """sqlglot's tree, or None when it can't be trusted (see `unreadable`). Never mutate it: copy first."""
        return self.parsed.tree

    @property
    def unreadable(self) -> str | None:
        """Why there is no tree, and so no rewrite."""
        return self.parsed.unreadable

    @cached_property
    def reading_tree(self) -> exp.Expr | None:
        """`tree`, or where that is None a tree to look at only: printed, it may not be the same statement."""
        return self.tree if self.tree is not None else _readable(self.sql)

    @cached_property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables read or written, as written, without CTEs, sorted."""
        try:
            return relation_names(self.sql)
        except SqlError:  # PostgreSQL reads it, but it nests too deeply to be walked
            return ()


@contextmanager
def _in_place(before: str) -> Iterator[None]:
    try:
        yield
    except SqlError as error:
        raise error.after(before) from error.__cause__


def statement_text(sql: str, *, max_bytes: int = DEFAULT_MAX_BYTES) -> tuple[str, str]:
    """Return the texts that `Query.before` and `Query.sql` would be, without reading more than that takes.

    Errors: as `Query.parse`, for what is not one statement of PostgreSQL's.
    """
    check_text(sql, max_bytes)
    return _one_statement(sql)


def render(tree: exp.Expr) -> str:
    """Print a tree as PostgreSQL SQL, indented."""
    return tree.sql(dialect=PlanproofPostgres, pretty=True)


def parse_expression(sql: str) -> exp.Expr:
    """Parse a piece of SQL (a predicate, an index expression) that PostgreSQL itself printed."""
    try:
        check_subscripts(sql)
    except SqlError as error:
        raise SqlglotError(str(error)) from error
    return sqlglot.parse_one(sql, dialect=PlanproofPostgres)


def check_text(sql: str, max_bytes: int) -> None:
    """Refuse text that no parser should see: empty, too large, with NUL bytes, or nested too deeply.

    Errors: `SqlError`, `TooLargeError`.
    """
    if len(sql) > max_bytes or len(sql.encode("utf-8", "surrogatepass")) > max_bytes:
        raise TooLargeError(
            f"the query is larger than {max_bytes:,} bytes: send one query, or raise PLANPROOF_MAX_SQL_BYTES"
        )
    if not sql.strip():
        raise SqlError("the query is empty: give one SELECT, INSERT, UPDATE or DELETE")
    if "\0" in sql:
        raise SqlError.at_offset("the query contains a NUL byte: PostgreSQL text cannot hold one", sql, sql.index("\0"))
    surrogate = next((i for i, char in enumerate(sql) if "\ud800" <= char <= "\udfff"), None)
    if surrogate is not None:
        raise SqlError.at_offset("the query is not valid UTF-8: save it as UTF-8", sql, surrogate)
    if sql.count("(") + sql.count("[") > MAX_NESTING:
        _check_nesting(sql)


def _check_nesting(sql: str) -> None:
    """Count brackets that PostgreSQL's scanner takes for such, so that those in text and comments don't count."""
    try:
        tokens = postgast.scan(sql).tokens
    except postgast.PgQueryError as error:
        raise _syntax_error(sql, error) from None
    data = sql.encode()
    depth = 0
    for token in tokens:
        text = data[token.start : token.start + 1] if token.end == token.start + 1 else b""
        depth += (text in (b"(", b"[")) - (text in (b")", b"]"))
        if depth > MAX_NESTING:
            offset = len(data[: token.start].decode())
            raise SqlError.at_offset(f"the query nests parentheses deeper than {MAX_NESTING} levels", sql, offset)


def _one_statement(sql: str) -> tuple[str, str]:
    """Return what stands in front of the statement, and the statement."""
    check_chains(sql)
    try:
        statements = postgast.split(sql)
        postgast.fingerprint(sql)  # parses: splitting alone only scans
    except postgast.PgQueryError as error:
        raise _syntax_error(sql, error) from None
    if not statements:
        raise SqlError("the query holds only comments: give one SELECT, INSERT, UPDATE or DELETE")
    start = 0 if sql.startswith(statements[0]) else _first_token(sql)
    if len(statements) > 1:
        end = start + len(statements[0])
        start = end + _first_token(sql[end:])
        raise SqlError.at_offset(
            f"{len(statements)} statements where one is expected: send them one by one", sql, start
        )
    return sql[:start], statements[0].strip()


def _first_token(sql: str) -> int:
    """Where the first statement begins, behind blanks, comments and lone semicolons."""
    data = sql.encode()
    token = next(token for token in postgast.scan(sql).tokens if token.token not in _BETWEEN)
    return len(data[: token.start].decode())


def _syntax_error(sql: str, error: postgast.PgQueryError) -> SqlError:
    plain = syntax_error(error, sql)
    offset = max(error.cursorpos - 1, 0)
    placeholder = _DRIVER_PLACEHOLDER.search(sql, max(offset - 2, 0), offset + 40)
    if placeholder and placeholder.start() <= offset + 1:
        hint = f"{placeholder.group()} is a driver's placeholder, write $1, $2, ... or a value"
        return SqlError.at_offset(f"{plain.args[0]}: {hint}", sql, placeholder.start())
    hint = dialect_hint(sql)
    return SqlError(f"{plain.args[0]}{hint}", line=plain.line, column=plain.column) if hint else plain


def _parameter_count(sql: str) -> int:
    if "$" not in sql:
        return 0
    tokens = postgast.scan(sql).tokens
    param = postgast.pg_query_pb2.Token.Value("PARAM")
    data = sql.encode()
    return max((int(data[t.start + 1 : t.end]) for t in tokens if t.token == param), default=0)


def _tree(sql: str) -> tuple[exp.Expr | None, str | None]:
    """Parse with sqlglot and prove the round trip with PostgreSQL's grammar."""
    try:
        tree = _sqlglot_tree(sql)
        printed = render(tree)
    except (SqlglotError, RecursionError, ValueError) as error:
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        return None, f"the rewriter cannot read this statement ({first_line})"
    try:
        wanted = canonical(sql)
        faithful = printed == sql or canonical(printed) == wanted  # what a rule printed is printed the same again
    except SqlError as error:
        return None, f"the rewriter cannot read this statement ({error})"
    if not faithful:
        return None, "the rewriter would not print this statement back unchanged, so it is not rewritten"
    return tree, None


def _readable(sql: str) -> exp.Expr | None:
    try:
        return _sqlglot_tree(sql)
    except (SqlglotError, RecursionError, ValueError):
        return None


def _sqlglot_tree(sql: str) -> exp.Expr:
    """Parse with sqlglot, whose tokenizer wants a space after `$1`."""
    try:
        check_subscripts(sql)
    except SqlError as error:
        raise ValueError(str(error)) from error
    if "$" not in sql and len(sql) <= MAX_TREE_TOKENS:  # a token has a character at least
        return sqlglot.parse_one(sql, dialect=PlanproofPostgres)
    tokens = postgast.scan(sql).tokens
    if len(tokens) > MAX_TREE_TOKENS:
        raise ValueError(f"it has more than {MAX_TREE_TOKENS:,} words and signs")
    param = postgast.pg_query_pb2.Token.Value("PARAM")
    data, end, pieces = sql.encode(), 0, []
    for token in tokens:
        if token.token == param:
            pieces.append(data[end : token.end])
            end = token.end
    return sqlglot.parse_one(b" ".join([*pieces, data[end:]]).decode(), dialect=PlanproofPostgres)
