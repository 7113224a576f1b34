"""How a value looks in a cache that others can write to: compressed, versioned, and sealed to its key.

    magic and format version | SHA-256 over key and value, cut to 16 bytes | zlib

Whatever does not open (other programs' values, other versions', truncated, damaged, moved to another key) is a miss.
The seal finds accidents; it is no signature: who may write to the Redis may write answers.
"""

from __future__ import annotations

import hashlib
import zlib

#: Changes whenever the form of a value or its meaning does.
FORMAT_VERSION = 1
#: Largest value that is sealed or opened; what claims to be larger is not unpacked.
MAX_VALUE_BYTES = 32_000_000
_MAGIC = b"planproof" + bytes([FORMAT_VERSION])
_SEAL_BYTES = 16
_LEVEL = 1  # plans repeat themselves: it already takes them to a sixth, at 100 MB/s and more


def seal(key: str, value: bytes) -> bytes | None:
    """Pack a value; None when it is too large."""
    if len(value) > MAX_VALUE_BYTES:
        return None
    return _MAGIC + _digest(key, value) + zlib.compress(value, _LEVEL)


def unseal(key: str, data: bytes) -> bytes | None:
    """Unpack what was sealed under the key; None for everything else."""
    start = len(_MAGIC) + _SEAL_BYTES
    if not data.startswith(_MAGIC) or len(data) <= start:
        return None
    unpacker = zlib.decompressobj()
    try:
        value = unpacker.decompress(data[start:], MAX_VALUE_BYTES + 1)
    except zlib.error:
        return None
    whole = unpacker.eof and not unpacker.unused_data
    return value if whole and data[len(_MAGIC) : start] == _digest(key, value) else None


def _digest(key: str, value: bytes) -> bytes:
    return hashlib.sha256(key.encode() + b"\0" + value).digest()[:_SEAL_BYTES]
