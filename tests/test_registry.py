"""The registry of shadows: files that survive, names, damage, locks."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from optimizer.errors import InputError, ShadowUnavailableError, UnknownShadowError
from optimizer.shadow.registry import Registry, ShadowRecord


def record(name: str, revision: str = "0123456789ab") -> ShadowRecord:
    """A record as `Services` would make it."""
    return ShadowRecord(
        name=name,
        kind="hollow",
        revision=revision,
        created="2026-01-01T00:00:00+00:00",
        origin="shop on db:5432",
        database=f"planproof_{name}_{revision}",
        server_version="15.4",
        not_cloned=("collation: ...",),
        settings={"work_mem": "4MB"},
    )


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """An empty registry."""
    return Registry(tmp_path / "shadows")


def test_what_is_put_is_found_again(registry: Registry) -> None:
    kept = registry.put(record("shop"), {"schema.sql": "CREATE TABLE t ();"}, dsn="host=db password=secret")
    again = Registry(registry.root).get("shop")
    assert again == kept
    assert again.read("schema.sql") == "CREATE TABLE t ();"
    assert registry.dsn("shop") == "host=db password=secret"
    assert registry.list() == (kept,)


def test_only_its_user_may_read_it(registry: Registry) -> None:
    registry.put(record("shop"), {"schema.sql": "x"}, dsn="password=secret")
    for path in (registry.root, *registry.root.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_whoever_deletes_a_shadow_keeps_its_lock(registry: Registry) -> None:
    """Until its databases are dropped, too: another may be about to make one of the same name."""
    registry.put(record("shop"), {})
    with registry.lock("shop"):
        registry.delete("shop")
        with pytest.raises(ShadowUnavailableError), Registry(registry.root).lock("shop", timeout_s=0):
            pass
    assert list((registry.root / ".locks").iterdir()) == []


def test_a_new_revision_replaces_the_old(registry: Registry) -> None:
    old = registry.put(record("shop"), {"schema.sql": "old"}, dsn="host=db")
    new = registry.put(record("shop", "ba9876543210"), {"schema.sql": "new"})
    assert registry.get("shop") == new
    assert not old.folder.exists()
    assert registry.dsn("shop") == "host=db"


@pytest.mark.parametrize("name", ["", "Shop", "a b", "../x", "x" * 41, "ü", "a/b", "a\n"])
def test_names_that_cannot_be(registry: Registry, name: str) -> None:
    with pytest.raises(InputError, match="cannot name a shadow"):
        registry.get(name)


def test_unknown_names_the_known(registry: Registry) -> None:
    with pytest.raises(UnknownShadowError, match=r"none yet.*shadow add shop"):
        registry.get("shop")
    registry.put(record("one"), {})
    registry.put(record("two"), {})
    with pytest.raises(UnknownShadowError, match="there are one, two"):
        registry.get("shop")
    with pytest.raises(UnknownShadowError):
        registry.delete("shop")


@pytest.mark.parametrize("damage", ["", "{", "null", "[]", '{"name": "shop"}', '{"kind": 7}', "\udcff"])
def test_a_damaged_record_is_one_clear_error(registry: Registry, damage: str) -> None:
    kept = registry.put(record("shop"), {})
    (kept.folder.parent / "record.json").write_bytes(damage.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"shadow 'shop' is damaged.*drop it") as caught:
        registry.get("shop")
    assert "\n" not in str(caught.value)
    assert registry.names() == ("shop",)
    registry.delete("shop")
    assert registry.names() == ()


def test_a_record_under_another_name_is_refused(registry: Registry) -> None:
    registry.put(record("one"), {})
    (registry.root / "one").rename(registry.root / "two")
    with pytest.raises(InputError, match="another shadow's"):
        registry.get("two")


def test_a_missing_file_is_one_clear_error(registry: Registry) -> None:
    kept = registry.put(record("shop"), {"schema.sql": "x"})
    (kept.folder / "schema.sql").unlink()
    with pytest.raises(InputError, match=r"damaged.*schema.sql"):
        kept.read("schema.sql")
    with pytest.raises(InputError, match=r"damaged.*dsn"):
        registry.dsn("shop")


def test_a_lock_keeps_others_out(registry: Registry) -> None:
    entered = threading.Event()
    leave = threading.Event()

    def hold() -> None:
        with registry.lock("shop"):
            entered.set()
            leave.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    assert entered.wait(10)
    with pytest.raises(ShadowUnavailableError, match="being changed"), registry.lock("shop", timeout_s=0.1):
        raise AssertionError("two held the lock")
    with registry.lock("other", timeout_s=0.1):
        leave.set()
    holder.join()
    with registry.lock("shop", timeout_s=0.1):
        assert registry.names() == ()
