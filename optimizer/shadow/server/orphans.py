"""Folders of databases that a server does not know: what a crash in the middle of CREATE or DROP DATABASE leaves.

They would stay for ever, with files of any size in them.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import psycopg

#: Below a data folder: the laid-out files of templates, by OID (see `laid_out`).
SET_ASIDE = "planproof_files"


def sweep_folders(admin: psycopg.Connection[Any], data: Path) -> None:
    """Delete them.

    Parameters:
        admin: nobody else may be connected: a database that is being made has a folder before it is known.
        data: the data folder.
    """
    known = {str(oid) for (oid,) in admin.execute("SELECT oid::int8 FROM pg_catalog.pg_database").fetchall()}
    for folder in (data / "base").iterdir():
        if folder.name.isdigit() and folder.name not in known:
            shutil.rmtree(folder, ignore_errors=True)


def sweep_set_aside(admin: psycopg.Connection[Any], data: Path) -> None:
    """Delete files of templates that the server does not know.

    Parameters:
        admin: nobody else may be connected: a template that is being dropped loses its files afterwards.
        data: the data folder.
    """
    if not (data / SET_ASIDE).is_dir():
        return
    known = {str(oid) for (oid,) in admin.execute("SELECT oid::int8 FROM pg_catalog.pg_database").fetchall()}
    for folder in (data / SET_ASIDE).iterdir():
        if folder.name not in known:
            shutil.rmtree(folder, ignore_errors=True)
