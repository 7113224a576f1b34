"""What there is to know of a column's type for a row of statistics in `pg_statistic`.

The operators are those that ANALYZE would note, the ones of the type's default B-tree operator class
(`lookup_type_cache`, typcache.c). The text of values is read by the type's input function, and a superuser must run
none of a user's. PostgreSQL's own types are fine, and base types of extensions: only a superuser makes such a type, of
a function in C. Enums have PostgreSQL's own function. A domain's check and a range's canonical function are the user's,
and so is whatever a composite type holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg

#: OIDs that no release changes (pg_type.dat, pg_operator.dat, pg_collation.dat).
FLOAT8, FLOAT8_LESS, TSVECTOR, TEXT, DEFAULT_COLLATION = 701, 672, 3614, 25, 100
_MULTIRANGES = 140000


@dataclass(frozen=True, slots=True)
class ValueType:
    """One type of values.

    Parameters:
        oid: of the type, for a domain of its base type.
        typmod: of a domain's base type, else the column's.
        equal, less: operators, 0 where there is none.
        readable: whether a superuser may run its input function.
        is_range: whether it is a range type.
        element: of an array or a multirange, 0 for others: the array's element, the multirange's range.
    """

    oid: int
    typmod: int
    equal: int
    less: int
    readable: bool
    is_range: bool
    element: int


# Operators come from the default operator class: of the type itself, of its kind (any enum, array, range), or of one
# that it is binary-coercible to, a preferred one before others (GetDefaultOpClass, indexcmds.c); equality also from the
# hash operator class.
_TYPE: Final[LiteralString] = """
WITH RECURSIVE stripped(oid, typmod, step) AS (
  SELECT %(oid)s::oid, %(typmod)s::int4, 0
  UNION ALL
  SELECT t.typbasetype, CASE WHEN s.typmod = -1 THEN t.typtypmod ELSE s.typmod END, s.step + 1
    FROM stripped s JOIN pg_type t ON t.oid = s.oid AND t.typtype = 'd'
), base AS (
  SELECT t.oid, s.typmod, t.typtype, t.typnamespace, t.typinput = 'array_in'::regproc AS is_array, t.typelem
    FROM stripped s JOIN pg_type t ON t.oid = s.oid
   ORDER BY s.step DESC LIMIT 1
), class AS (
  SELECT m.amname, o.opcfamily, o.opcintype,
         row_number() OVER (PARTITION BY m.amname ORDER BY o.opcintype <> b.oid, i.typispreferred DESC, o.oid) AS place
    FROM base b
    JOIN pg_opclass o ON o.opcdefault
    JOIN pg_am m ON m.oid = o.opcmethod AND m.amname IN ('btree', 'hash')
    JOIN pg_type i ON i.oid = o.opcintype
   WHERE o.opcintype IN (b.oid, CASE WHEN b.is_array THEN 'anyarray'::regtype
                                     WHEN b.typtype = 'e' THEN 'anyenum'::regtype
                                     WHEN b.typtype = 'r' THEN 'anyrange'::regtype
                                     WHEN b.typtype = 'm' THEN to_regtype('anymultirange')
                                     WHEN b.typtype = 'c' THEN 'record'::regtype END)
      OR EXISTS (SELECT FROM pg_cast k WHERE k.castsource = b.oid AND k.casttarget = o.opcintype
                    AND k.castmethod = 'b' AND k.castcontext = 'i')
), operator AS (
  SELECT c.amname, p.amopstrategy, p.amopopr
    FROM class c
    JOIN pg_amop p ON p.amopfamily = c.opcfamily AND p.amoplefttype = c.opcintype AND p.amoprighttype = c.opcintype
   WHERE c.place = 1
)
SELECT b.oid::int8, b.typmod,
       coalesce((SELECT amopopr FROM operator WHERE amname = 'btree' AND amopstrategy = 3),
                (SELECT amopopr FROM operator WHERE amname = 'hash' AND amopstrategy = 1), 0)::int8,
       coalesce((SELECT amopopr FROM operator WHERE amname = 'btree' AND amopstrategy = 1), 0)::int8,
       CASE WHEN b.is_array THEN NULL  -- as its element
            WHEN b.typtype IN ('b', 'e') THEN true
            ELSE b.typtype IN ('r', 'm') AND b.typnamespace = 'pg_catalog'::regnamespace END,
       b.typtype = 'r',
       CASE WHEN b.is_array THEN b.typelem WHEN b.typtype = 'm' THEN {} ELSE 0 END::int8,
       b.is_array AND e.typtype = 'd'
  FROM base b LEFT JOIN pg_type e ON e.oid = b.typelem
"""


class ValueTypes:
    """Looks types up, each once.

    Parameters:
        superuser: a connection whose search path is `pg_catalog`.
    """

    def __init__(self, superuser: psycopg.Connection[Any]) -> None:
        self._superuser = superuser
        multirange: LiteralString = "(SELECT rngtypid FROM pg_range WHERE rngmultitypid = b.oid)"
        known = superuser.info.server_version >= _MULTIRANGES
        self._query = _TYPE.replace("{}", multirange if known else "0")
        self._found: dict[tuple[int, int], ValueType] = {}

    def of(self, oid: int, typmod: int = -1) -> ValueType:
        """Return what is to be known of a type.

        Errors: `psycopg.Error`; `KeyError` when there is no such type.
        """
        if (oid, typmod) not in self._found:
            row = self._superuser.execute(self._query, {"oid": oid, "typmod": typmod}).fetchone()
            if row is None:
                raise KeyError(oid)
            base, base_typmod, equal, less, readable, is_range, element, of_domain = row
            if readable is None:
                readable = not of_domain and self.of(element).readable
            self._found[oid, typmod] = ValueType(base, base_typmod, equal, less, readable, is_range, element)
        return self._found[oid, typmod]
