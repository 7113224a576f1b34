"""Makes a TPC-DS database in any PostgreSQL; the fidelity benchmark builds on it.

    python benchmarks/tpcds.py "host=... dbname=tpcds" --scale 0.1

Data and queries come from DuckDB's extension (PyPI `duckdb` and `duckdb-extension-tpcds`, dependencies of benchmarks
only) as it runs, so none of their text is kept here. Keys are those of the specification's section 2.3.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql

_CHUNK_BYTES: Final = 1 << 20
_TYPES: Final = {"VARCHAR": "varchar"}

PRIMARY_KEYS: Final = {
    "call_center": "cc_call_center_sk",
    "catalog_page": "cp_catalog_page_sk",
    "catalog_returns": "cr_item_sk, cr_order_number",
    "catalog_sales": "cs_item_sk, cs_order_number",
    "customer": "c_customer_sk",
    "customer_address": "ca_address_sk",
    "customer_demographics": "cd_demo_sk",
    "date_dim": "d_date_sk",
    "household_demographics": "hd_demo_sk",
    "income_band": "ib_income_band_sk",
    "inventory": "inv_date_sk, inv_item_sk, inv_warehouse_sk",
    "item": "i_item_sk",
    "promotion": "p_promo_sk",
    "reason": "r_reason_sk",
    "ship_mode": "sm_ship_mode_sk",
    "store": "s_store_sk",
    "store_returns": "sr_item_sk, sr_ticket_number",
    "store_sales": "ss_item_sk, ss_ticket_number",
    "time_dim": "t_time_sk",
    "warehouse": "w_warehouse_sk",
    "web_page": "wp_web_page_sk",
    "web_returns": "wr_item_sk, wr_order_number",
    "web_sales": "ws_item_sk, ws_order_number",
    "web_site": "web_site_sk",
}
#: Endings of columns that refer to another table's key, whatever comes before them; the longest that fits counts.
REFERENCES: Final = {
    "_sold_date_sk": "date_dim",
    "_ship_date_sk": "date_dim",
    "_returned_date_sk": "date_dim",
    "inv_date_sk": "date_dim",
    "_first_shipto_date_sk": "date_dim",
    "_first_sales_date_sk": "date_dim",
    "_sold_time_sk": "time_dim",
    "_return_time_sk": "time_dim",
    "_returned_time_sk": "time_dim",
    "_item_sk": "item",
    "_customer_sk": "customer",
    "_cdemo_sk": "customer_demographics",
    "_hdemo_sk": "household_demographics",
    "_addr_sk": "customer_address",
    "_store_sk": "store",
    "_promo_sk": "promotion",
    "_call_center_sk": "call_center",
    "_catalog_page_sk": "catalog_page",
    "_ship_mode_sk": "ship_mode",
    "_warehouse_sk": "warehouse",
    "_reason_sk": "reason",
    "_web_page_sk": "web_page",
    "_web_site_sk": "web_site",
    "_income_band_sk": "income_band",
}
#: Indexes as a cautious administrator would add them.
INDEXES: Final = (
    "store_sales (ss_sold_date_sk)",
    "store_sales (ss_customer_sk)",
    "store_sales (ss_store_sk, ss_sold_date_sk)",
    "store_sales (ss_quantity) WHERE ss_quantity < 21",
    "store_returns (sr_returned_date_sk)",
    "store_returns (sr_customer_sk) INCLUDE (sr_return_amt)",
    "catalog_sales (cs_sold_date_sk)",
    "catalog_sales (cs_bill_customer_sk)",
    "catalog_sales (cs_ship_date_sk DESC)",
    "catalog_returns (cr_returned_date_sk)",
    "web_sales (ws_sold_date_sk)",
    "web_sales (ws_bill_customer_sk)",
    "web_returns (wr_returned_date_sk)",
    "date_dim (d_date)",
    "date_dim (d_year, d_moy)",
    "date_dim (d_month_seq)",
    "item (i_category, i_class)",
    "item (i_manufact_id)",
    "item (lower(i_brand))",
    "customer (c_current_addr_sk)",
    "customer_address (ca_state, ca_county)",
    "customer_demographics (cd_gender, cd_marital_status, cd_education_status)",
    "inventory USING brin (inv_date_sk)",
    "store USING hash (s_county)",
)


def queries() -> dict[str, str]:
    """Return the 99 queries by name, `ds01` to `ds99`, in order; PostgreSQL takes them as the extension gives them."""
    with _generator() as connection:
        found = connection.execute("SELECT query_nr, query FROM tpcds_queries() ORDER BY 1").fetchall()
    return {f"ds{number:02}": text.strip().rstrip(";") for number, text in found}


def fill(connection: psycopg.Connection[Any], scale: float) -> None:
    """Make tables, rows, keys, indexes and statistics in an empty database.

    Parameters:
        connection: in autocommit mode, of a role that may create tables there.
        scale: TPC-DS scale factor; 1 is about 1.6 GB in PostgreSQL.
    """
    with tempfile.TemporaryDirectory(prefix="tpcds-") as folder, _generator(Path(folder) / "duck.db") as generator:
        generator.execute(f"CALL dsdgen(sf = {scale})")
        for table in PRIMARY_KEYS:
            columns = generator.execute(
                "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = ?"
                " ORDER BY ordinal_position",
                [table],
            ).fetchall()
            definitions = sql.SQL(", ").join(
                sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(_TYPES.get(kind, kind))) for name, kind in columns
            )
            connection.execute(sql.SQL("CREATE TABLE {} ({})").format(sql.Identifier(table), definitions))
            path = Path(folder) / f"{table}.csv"
            generator.execute(f"COPY {table} TO '{path}' (FORMAT csv, HEADER false)")
            _copy(connection, table, path)
            path.unlink()
            keys = sql.SQL(PRIMARY_KEYS[table])
            connection.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(sql.Identifier(table), keys))
    for table, column, target in _foreign_keys(connection):
        # NOT VALID: the generator's rows break some of them, and the planner takes their word all the same.
        connection.execute(
            sql.SQL("ALTER TABLE {} ADD FOREIGN KEY ({}) REFERENCES {} NOT VALID").format(
                *map(sql.Identifier, (table, column, target))
            )
        )
    for index in INDEXES:
        connection.execute(f"CREATE INDEX ON {index}".encode())
    connection.execute("VACUUM (FREEZE, ANALYZE)")


def _foreign_keys(connection: psycopg.Connection[Any]) -> Iterator[tuple[str, str, str]]:
    """Yield (table, column, table referred to)."""
    rows = connection.execute(
        "SELECT table_name::text, column_name::text FROM information_schema.columns WHERE table_schema = 'public'"
        " ORDER BY table_name, ordinal_position"
    ).fetchall()
    for table, column in rows:
        endings = sorted((e for e in REFERENCES if column.endswith(e)), key=len)
        if endings and PRIMARY_KEYS.get(REFERENCES[endings[-1]]) != column:
            yield table, column, REFERENCES[endings[-1]]


@contextmanager
def _generator(path: Path | None = None) -> Iterator[Any]:
    """Open DuckDB with the extension, which its package holds unsigned."""
    try:
        duckdb = importlib.import_module("duckdb")
        package = importlib.import_module("duckdb_extension_tpcds")
    except ImportError:
        sys.exit("TPC-DS needs two packages: pip install duckdb==1.5.5 duckdb-extension-tpcds==1.5.5")
    folder = Path(package.__file__ or "").parent / "extensions" / f"v{duckdb.__version__}"
    config = {"allow_unsigned_extensions": "true", "memory_limit": "2GB"}
    with duckdb.connect(str(path or ":memory:"), config=config) as connection:
        connection.execute(f"LOAD '{folder / 'tpcds.duckdb_extension'}'")
        yield connection


def _copy(connection: psycopg.Connection[Any], table: str, path: Path) -> None:
    command = sql.SQL("COPY {} FROM STDIN (FORMAT csv)").format(sql.Identifier(table))
    with path.open("rb") as file, connection.cursor() as cursor, cursor.copy(command) as copy:
        while chunk := file.read(_CHUNK_BYTES):
            copy.write(chunk)


def main(arguments: Sequence[str] | None = None) -> None:
    """Fill the database that a connection string names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("conninfo", help="an empty database")
    parser.add_argument("--scale", type=float, default=0.1)
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    with psycopg.connect(options.conninfo, autocommit=True) as connection:
        fill(connection, options.scale)
    print(f"TPC-DS scale {options.scale:g} in {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
