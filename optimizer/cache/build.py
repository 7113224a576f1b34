"""What answers depend on beside the request and the shadow: programs, rules, plugins and settings of this process."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import distributions
from pathlib import Path

from optimizer.cache.envelope import FORMAT_VERSION
from optimizer.hooks import Plugins
from optimizer.rule import Rule
from optimizer.settings import Settings

#: Settings that change no answer: where things are kept, how much at once, who may ask. All others count.
_NEUTRAL = frozenset(
    {
        "home", "redis_url", "cache_ttl_s", "cache_memory_bytes", "cluster_linger_s", "allow_http_sources", "api_keys",
        "allowed_hosts", "max_running", "max_waiting", "log_level", "log_format", "store_url", "job_concurrency",
        "job_timeout_ms", "job_keep_days",
    }
)  # fmt: skip


def build_digest(settings: Settings, plugins: Plugins, rules: Iterable[Rule]) -> str:
    """Return a digest of all that decides answers and stays the same as long as the process runs.

    Two processes with the same digest give the same answers. It covers every installed distribution by name and version
    (the parsers, the embedded PostgreSQL and all plugins among them), the source text of planproof's core and of the
    plugins (which change without a version while they are being written), the rules, the settings, and what plugins add
    by `planproof_cache_key`. Reading the source takes some tens of milliseconds: call it once.

    Parameters:
        settings: of this process.
        plugins: that are loaded.
        rules: all of them, enabled or not.
    """
    parts = {
        "format": FORMAT_VERSION,
        "python": sys.version,
        "distributions": sorted({(d.name, d.version) for d in distributions()}),
        "plugins": sorted(plugins.names),
        "plugin keys": sorted((name, str(key)) for name, key in plugins.collect("planproof_cache_key")),
        "rules": [(rule.code, rule.source) for rule in rules],
        "settings": {k: v for k, v in settings.model_dump(mode="json").items() if k not in _NEUTRAL},
    }
    digest = hashlib.sha256(json.dumps(parts).encode())
    for file in _sources(plugins):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _sources(plugins: Plugins) -> Iterator[Path]:
    """The files of the packages that the core and the plugins belong to, in a fixed order."""
    tops = {module.partition(".")[0] for module in (__name__, *plugins.modules)}
    for top in sorted(tops):
        module = sys.modules.get(top)
        folders = sorted(getattr(module, "__path__", ()))
        file = getattr(module, "__file__", None)
        if not folders and file:
            yield Path(file)
        for folder in folders:
            yield from sorted(f for f in Path(folder).rglob("*") if f.is_file() and f.parent.name != "__pycache__")
