"""Makes a TPC-H database in any PostgreSQL; the other benchmarks build on it.

    python benchmarks/tpch.py "host=... dbname=tpch" --scale 0.2

Data comes from `tpchgen-cli` (PyPI, development dependency), schema, keys and queries from `fixtures/tpch`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

FIXTURES = Path(__file__).parents[1] / "fixtures" / "tpch"
TABLES = ("region", "nation", "part", "supplier", "partsupp", "customer", "orders", "lineitem")
_CHUNK_BYTES = 1 << 20


def queries() -> dict[str, str]:
    """Return the 22 queries by name, `q01` to `q22`, in order."""
    return {path.stem: path.read_text() for path in sorted(FIXTURES.glob("q[0-9][0-9].sql"))}


def fill(connection: psycopg.Connection[Any], scale: float) -> None:
    """Make tables, rows, primary and foreign keys and statistics in an empty database.

    Parameters:
        connection: in autocommit mode, of a role that may create tables there.
        scale: TPC-H scale factor; 1 is about 1.5 GB in PostgreSQL.
    """
    connection.execute((FIXTURES / "schema.sql").read_bytes())
    with tempfile.TemporaryDirectory(prefix="tpch-") as folder:
        command = [_generator(), "csv", "--scale-factor", str(scale), "--output-dir", folder]
        subprocess.run(command, check=True, capture_output=True)
        for table in TABLES:
            _copy(connection, table, Path(folder) / f"{table}.csv")
    connection.execute((FIXTURES / "keys.sql").read_bytes())
    connection.execute("VACUUM (FREEZE, ANALYZE)")


def _copy(connection: psycopg.Connection[Any], table: str, path: Path) -> None:
    statement = sql.SQL("COPY {} FROM STDIN (FORMAT csv, HEADER)").format(sql.Identifier(table))
    with path.open("rb") as file, connection.cursor() as cursor, cursor.copy(statement) as copy:
        while chunk := file.read(_CHUNK_BYTES):
            copy.write(chunk)


def _generator() -> str:
    beside = Path(sys.executable).parent / "tpchgen-cli"
    found = str(beside) if beside.exists() else shutil.which("tpchgen-cli")
    if found is None:
        sys.exit("tpchgen-cli is missing: pip install tpchgen-cli")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Fill the database that a connection string names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("conninfo", help="an empty database")
    parser.add_argument("--scale", type=float, default=0.2)
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    with psycopg.connect(options.conninfo, autocommit=True) as connection:
        fill(connection, options.scale)
    print(f"TPC-H scale {options.scale:g} in {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
