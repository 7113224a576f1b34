"""Reads the calls of `pg_restore_relation_stats` and `pg_restore_attribute_stats` that pg_dump 18 writes.

Servers before 18 do not have these functions. What the calls say is read from their text, by PostgreSQL's grammar, and
written into the catalog by `catalog_statistics.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from optimizer.errors import SqlError
from optimizer.parse_guard import read_outline

_LARGEST_REAL, _LEAST_REAL = 3e38, 1e-37
_RELATION, _ATTRIBUTE = "pg_restore_relation_stats", "pg_restore_attribute_stats"


@dataclass(frozen=True, slots=True)
class RelationCall:
    """What one relation's call states; as in `pg_class`."""

    schema: str
    relation: str
    pages: int
    rows: float
    all_visible: int


@dataclass(frozen=True, slots=True)
class AttributeCall:
    """What one column's call states; as in `pg_stats`, arrays of values in their text form.

    Parameters:
        schema, relation: of the table, or of the index for the column of an expression index.
        column: its name, or for an index its number.
        inherited: whether rows of children are counted.
        values: the arrays of values that are stated, by argument name, such as `most_common_vals`.
        numbers: the arrays of numbers, and `correlation` and `range_empty_frac` as arrays of one.
    """

    schema: str
    relation: str
    column: str | int
    inherited: bool
    null_frac: float
    avg_width: int
    n_distinct: float
    values: Mapping[str, str]
    numbers: Mapping[str, tuple[float, ...]]

    @property
    def place(self) -> str:
        """The column, for people."""
        return f"{self.schema}.{self.relation}.{self.column}"

    def with_more(self, other: AttributeCall) -> AttributeCall:
        """Return this call with the arrays that another one of the same column states."""
        return replace(self, values={**self.values, **other.values}, numbers={**self.numbers, **other.numbers})


def read_call(sql: str) -> RelationCall | AttributeCall:
    """Read one statement that `optimizer.ddl` has let through.

    Errors: `SqlError` without a place when it is no such call, or an argument is not what it should be.
    """
    function, arguments = _arguments(sql)
    try:
        if function == _RELATION:
            return RelationCall(
                arguments["schemaname"],
                arguments["relname"],
                _whole(arguments.get("relpages", "0")),
                _finite(arguments.get("reltuples", "-1")),
                _whole(arguments.get("relallvisible", "0")),
            )
        if function == _ATTRIBUTE:
            return attribute_call(arguments)
    except (KeyError, ValueError) as error:
        raise SqlError(f"{function} has an argument that is missing or wrong: {error}") from error
    raise SqlError(f"{function} is not known here")


def attribute_call(arguments: Mapping[str, str]) -> AttributeCall:
    """Read the arguments of `pg_restore_attribute_stats` by name, each in text form.

    Errors: `KeyError`, `ValueError` when one is missing or wrong.
    """
    numbers = {name: _numbers(arguments[name]) for name in _NUMBERS if name in arguments}
    numbers |= {name: (_finite(arguments[name]),) for name in _SINGLE if name in arguments}
    return AttributeCall(
        arguments["schemaname"],
        arguments["relname"],
        arguments["attname"] if "attname" in arguments else _whole(arguments["attnum"]),
        arguments.get("inherited", "f").lower() in ("t", "true", "on", "1"),
        _finite(arguments.get("null_frac", "0")),
        _whole(arguments.get("avg_width", "0")),
        _finite(arguments.get("n_distinct", "0")),
        {name: arguments[name] for name in _VALUES if name in arguments},
        numbers,
    )


_VALUES = (
    "most_common_vals",
    "histogram_bounds",
    "most_common_elems",
    "range_length_histogram",
    "range_bounds_histogram",
)
_NUMBERS = ("most_common_freqs", "most_common_elem_freqs", "elem_count_histogram")
_SINGLE = ("correlation", "range_empty_frac")


def _arguments(sql: str) -> tuple[str, dict[str, str]]:
    """Return the called function's name, and its arguments by name, those that are NULL left out."""
    (node,) = read_outline(sql)
    statement = node.select_stmt
    if statement.from_clause:
        call = statement.from_clause[0].range_function.functions[0].list.items[0].func_call
    else:
        call = statement.target_list[0].res_target.val.func_call
    found = [_text(argument) for argument in call.args]
    named = zip(found[::2], found[1::2], strict=False)
    name = call.funcname[-1].string.sval if call.funcname else ""
    return name, {key: value for key, value in named if key is not None and value is not None}


def _text(node: Any) -> str | None:
    """Return a constant as text, whatever it is cast to; None for NULL."""
    while node.WhichOneof("node") == "type_cast":
        node = node.type_cast.arg
    constant = node.a_const
    if constant.isnull:
        return None
    kind = constant.WhichOneof("val")
    if kind is None:
        return None
    # Each kind's message has one field, of the kind's own name.
    value = getattr(getattr(constant, kind), kind)
    return ("t" if value else "f") if isinstance(value, bool) else str(value)


def _numbers(text: str) -> tuple[float, ...]:
    inner = text.strip().removeprefix("{").removesuffix("}")
    return tuple(_finite(number) for number in inner.split(",")) if inner else ()


def _finite(text: str) -> float:
    """Read a number that fits PostgreSQL's `real`."""
    number = float(text)
    if not abs(number) < _LARGEST_REAL:  # nor is NaN
        raise ValueError(f"{text!r} is no number")
    return number if abs(number) > _LEAST_REAL else 0.0


def _whole(text: str) -> int:
    """Read a number that fits PostgreSQL's `integer`."""
    number = int(text)
    if not -(2**31) <= number < 2**31:
        raise ValueError(f"{text!r} is out of range")
    return number
