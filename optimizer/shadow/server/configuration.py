"""What each embedded cluster is for, and its configuration, for PostgreSQL 13 to 18."""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import Final

SUPERUSER: Final = "planproof"


class ClusterKind(StrEnum):
    """The three clusters, kept apart because each would endanger the next (DESIGN, "Three clusters, not one").

    HOLLOW holds schemas and statistics and no rows, with hand-written pages; disposable.
    SCRATCH runs untrusted queries of the equivalence gate; disposable, limited in memory.
    STORE holds past cases, the ledger and jobs; durable.
    """

    HOLLOW = "hollow"
    SCRATCH = "scratch"
    STORE = "store"

    @property
    def disposable(self) -> bool:
        """Whether the cluster may be thrown away and made anew."""
        return self is not ClusterKind.STORE


_COMMON: Final = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "allow_alter_system": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    # Users' SQL and values do not belong in a log, and the log must stay small.
    "log_min_messages": "fatal",
    "log_min_error_statement": "panic",
    "log_checkpoints": "off",
    # Ends what a killed process of ours left running.
    "client_connection_check_interval": "2s",
    "huge_pages": "off",
    "jit": "off",
    # POSIX shared memory lives in /dev/shm, 64 MB in a usual container; files in the data folder have no such limit.
    "dynamic_shared_memory_type": "mmap",
    # Three worker processes fewer per cluster; nothing here is bound by reading.
    "io_method": "sync",
    # Some ten server processes: each keeps up to 14 (idle planning sessions hold two, free scratch databases one, and
    # two of its own), and a request takes up to 5 more. Beyond that connections are refused for a while, then 503.
    "max_connections": "250",
    # A statement that touches every table of a large schema locks them all.
    "max_locks_per_transaction": "256",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "min_wal_size": "32MB",
    "max_wal_senders": "0",
    "max_logical_replication_workers": "0",
    "wal_level": "minimal",
    # All databases share the queue: 512 kB instead of 8 GB for a session that listens and never reads.
    "max_notify_queue_pages": "64",
}

_SCRAM_ITERATIONS: Final = "1"

# A crash of the machine costs a disposable cluster, and a commit costs nothing.
_DISPOSABLE: Final = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    # Logins are many and short. Iterations slow down the guessing of passwords; ours are 256 random bits, or an HMAC
    # under such a key, which nobody guesses at any speed.
    "scram_iterations": _SCRAM_ITERATIONS,
}

_OWN: Final = MappingProxyType(
    {
        ClusterKind.HOLLOW: _DISPOSABLE
        | {
            # Recovery after a crash would silently put old pages over hand-written ones: end instead; the next start
            # has a new generation, at which shadows check their pages.
            "restart_after_crash": "off",
            # New files are synced, not logged, so no log record can undo a hand-written page later.
            "wal_skip_threshold": "0",
            # Functions that run at plan time may sort and hash.
            "temp_file_limit": "512MB",
        },
        ClusterKind.SCRATCH: _DISPOSABLE
        | {
            "restart_after_crash": "on",
            "work_mem": "4MB",
            "hash_mem_multiplier": "1",
            "maintenance_work_mem": "16MB",
            "temp_file_limit": "256MB",
            # The databases are tiny: workers would only multiply the memory that one query may take.
            "max_parallel_workers_per_gather": "0",
        },
        ClusterKind.STORE: {"shared_buffers": "32MB", "work_mem": "4MB", "restart_after_crash": "on"},
    }
)

#: The first versions whose initdb knows --no-instructions, --locale-provider, the builtin one, --no-data-checksums.
_INSTRUCTIONS, _PROVIDERS, _BUILTIN, _CHECKSUMS = 14, 15, 17, 18
#: The first major version that knows a setting; older servers would not start with it.
_SINCE: Final = MappingProxyType(
    {
        "client_connection_check_interval": 14,
        "scram_iterations": 16,
        "allow_alter_system": 17,
        "max_notify_queue_pages": 17,
        "io_method": 18,
    }
)
# Every role needs its password: the account's other processes can reach the socket. No line admits TCP or replication.
PG_HBA: Final = "local all all scram-sha-256\n"


def cluster_name(kind: ClusterKind, major: int | None) -> str:
    """Return what a cluster and its folder are called: `hollow`, or `hollow-15` where another major version serves it.

    Parameters:
        kind: which cluster.
        major: of the server; None for the embedded one.
    """
    return str(kind) if major is None else f"{kind}-{major}"


def postgresql_conf(kind: ClusterKind, socket_folder: str, major: int) -> str:
    """Return the whole postgresql.conf of a cluster, written at every start so that new versions apply new settings.

    Parameters:
        kind: which cluster.
        socket_folder: where its socket is to be.
        major: version of the server.
    """
    values = _COMMON | _OWN[kind] | {"unix_socket_directories": f'"{socket_folder}"'}
    quoted = {n: value.replace("'", "''") for n, value in values.items() if _SINCE.get(n, 0) <= major}
    return "".join(f"{name} = '{value}'\n" for name, value in quoted.items())


def initdb_arguments(kind: ClusterKind, major: int) -> tuple[tuple[str, ...], ...]:
    """Return the argument lists to try, in this order, for making a cluster of this kind.

    PostgreSQL takes the builtin C.UTF-8 for a C collation and plans `LIKE 'ab%'` on a plain index, which production
    databases rarely can. So the hollow cluster prefers the C library's C.UTF-8, where the machine has it.

    Parameters:
        kind: which cluster.
        major: version of initdb; only hollow clusters may be older than the embedded server.
    """
    common = [f"--username={SUPERUSER}", "--encoding=UTF8", "--auth-local=scram-sha-256", "--auth-host=reject"]
    common += ["--text-search-config=pg_catalog.english"]
    if kind.disposable:
        common += ["--no-sync"]
    if major >= _INSTRUCTIONS:
        common += ["--no-instructions"]
    if kind.disposable and major >= _CHECKSUMS:
        common += ["--no-data-checksums"]
    if kind.disposable and major >= _SINCE["scram_iterations"]:
        common += [f"--set=scram_iterations={_SCRAM_ITERATIONS}"]
    libc = (*common, "--locale=C", "--lc-collate=C.UTF-8", "--lc-ctype=C.UTF-8")
    if major >= _PROVIDERS:
        libc += ("--locale-provider=libc",)
    fallback = (*common, "--locale=C")
    if major >= _BUILTIN:
        fallback += ("--locale-provider=builtin", "--builtin-locale=C.UTF-8")
    return (libc, fallback) if kind is ClusterKind.HOLLOW else (fallback,)
