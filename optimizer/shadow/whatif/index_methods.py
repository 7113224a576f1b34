"""What differs between access methods when an index is hypothetical: its size, and how its statement is run."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from optimizer.errors import SqlError
from optimizer.shadow.sizes.brin_size import brin_size
from optimizer.shadow.sizes.btree_size import IndexSize, estimate_index
from optimizer.shadow.sizes.gin_size import gin_size
from optimizer.shadow.sizes.gist_size import bloom_size, gist_size, spgist_size
from optimizer.shadow.sizes.hash_size import hash_size
from optimizer.shadow.sizes.index_request import IndexRequest
from optimizer.shadow.sizes.vector_size import hnsw_size, ivfflat_size, with_one_list

#: MaxBlockNumber
_MOST_BLOCKS: Final = 2**32 - 2
_MOST_ROWS: Final = 1e15
Options = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Method:
    """One access method.

    Parameters:
        size: the model of its size.
        made_with: storage parameters with which the empty index is made, from those of the candidate.
    """

    size: Callable[[IndexRequest], IndexSize]
    made_with: Callable[[Options], Iterable[tuple[str, str]]] = tuple


def _btree_size(request: IndexRequest) -> IndexSize:
    return estimate_index(
        request.candidate,
        request.table,
        request.catalog,
        rows=request.rows,
        key_types=request.key_types,
        joint=request.joint,
    )


METHODS: Final[Mapping[str, Method]] = MappingProxyType(
    {
        "btree": Method(_btree_size),
        "hash": Method(hash_size),
        "gin": Method(gin_size),
        "gist": Method(gist_size),
        "spgist": Method(spgist_size),
        "brin": Method(brin_size),
        "bloom": Method(bloom_size),
        "hnsw": Method(hnsw_size),
        "ivfflat": Method(ivfflat_size, with_one_list),
    }
)


def index_size(request: IndexRequest) -> IndexSize:
    """Estimate the size of an index of any method as CREATE INDEX would build it at the source.

    Errors: `SqlError` for a method that is not known, a storage parameter that is out of bounds, or statistics that
    nothing can be made of.
    """
    method = METHODS.get(request.candidate.method)
    if method is None:
        raise SqlError(f"sizes of {request.candidate.method} indexes cannot be estimated, so none can be hypothetical")
    try:
        if not (0 <= request.entries <= _MOST_ROWS and 0 <= request.table_rows <= _MOST_ROWS):
            raise ValueError(request.table_rows)
        size = method.size(request)
        if not (1 <= size.blocks <= _MOST_BLOCKS and 0 <= size.tuples < math.inf):
            raise ValueError(size)
        return size
    except (ArithmeticError, ValueError, struct.error):  # no number of rows, or one that no page can state
        raise SqlError(
            f"the statistics of {request.table.qualified} state no size that an index could have: refresh the shadow"
        ) from None
