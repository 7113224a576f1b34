"""Reading what users hand in: files and standard input, with limits and exact complaints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

from optimizer.ddl import decode_sql
from optimizer.errors import InputError, TooLargeError


def read_query(path: Path | None, max_bytes: int) -> str:
    """Read SQL from a file, or from standard input for `-` and None.

    Parameters:
        path: the file.
        max_bytes: the largest input accepted.

    Errors: `InputError` (nothing to read, no such file, a folder, not UTF-8), `TooLargeError`.
    """
    if path is not None and str(path) != "-":
        return read_file(path, max_bytes)
    if path is None and sys.stdin.isatty():
        raise InputError("no query: name a file, or give `-` and the query on standard input")
    return _decode(_read(sys.stdin.buffer, "standard input", max_bytes), "standard input")


def read_file(path: Path, max_bytes: int) -> str:
    """Read a text file.

    Errors: `InputError`, `TooLargeError`.
    """
    try:
        with path.open("rb") as file:
            data = _read(file, str(path), max_bytes)
    except IsADirectoryError:
        raise InputError(f"{path} is a folder: name a file") from None
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: check the file's name") from None
    except ValueError as error:  # a NUL byte in the name
        raise InputError(f"{str(path)!r} is not a file's name: {error}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    return _decode(data, str(path))


def _read(file: BinaryIO, name: str, max_bytes: int) -> bytes:
    data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise TooLargeError(f"{name} is larger than {max_bytes:,} bytes: give less, or raise the limit in the settings")
    return data


def _decode(data: bytes, name: str) -> str:
    try:
        return decode_sql(data)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
