"""What is particular to the store in a file: full disks, locks, other files, what is left after a deletion."""

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sememe.serve.stores.protocol import ItemRow, StoredEvent, StoreDownError, StoreFormatError
from sememe.serve.stores.sqlite import SqliteStore


def events(first: int, count: int, *, user: str = "ann") -> list[StoredEvent]:
    return [
        StoredEvent(f"{user} {number}", user, f"item {number}", timestamp=number)
        for number in range(first, first + count)
    ]


def test_a_commit_waits_for_the_disk(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "deep" / "events.db")
    store.append(events(0, 1))
    settings = {name: store._writer.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")}
    assert settings == {"journal_mode": "wal", "synchronous": 2}
    store.close()


def test_a_full_disk_is_told_and_nothing_is_half_written(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "events.db")
    store.append(events(0, 10))
    version = store.put_items([ItemRow("b1", {"n": 1})])
    (pages,) = store._writer.execute("PRAGMA page_count").fetchone()
    store._writer.execute(f"PRAGMA max_page_count = {pages + 3}")
    for _ in range(2):
        with pytest.raises(StoreDownError, match="full") as caught:
            store.append(events(100, 5000))
        assert "free space" in caught.value.fix
        with pytest.raises(StoreDownError, match="full"):
            store.put_items([ItemRow(f"b{number}", {"title": "x" * 200}) for number in range(500)])
    assert len(store.since(0, limit=10_000)) == 10 == len(store.history("ann", limit=10_000))
    assert len(store.changes_since(0, limit=10)) == 1
    store._writer.execute("PRAGMA max_page_count = 1000000")
    assert store.append(events(100, 5000)).accepted == 5000
    assert store.set_stock({"b1": True}) == version + 1
    assert [arrival.cursor for arrival in store.since(0, limit=10_000)] == list(range(1, 5011))
    store.close()


def test_a_process_that_holds_the_file_is_waited_for_and_then_told(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "events.db", timeout=0.2)
    store.append(events(0, 1))
    other = sqlite3.connect(tmp_path / "events.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreDownError, match="locked") as caught:
        store.append(events(1, 1))
    assert "longer timeout" in caught.value.fix
    assert len(store.history("ann", limit=5)) == 1
    threading.Timer(0.05, lambda: other.execute("ROLLBACK")).start()
    assert store.append(events(1, 1)).accepted == 1
    other.close()
    store.close()


def test_a_thread_that_writes_too_long_is_waited_for_and_then_told(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "events.db", timeout=0.05)
    with store._turn, pytest.raises(StoreDownError, match=r"busy writing for 0\.05 s"):
        store.append(events(0, 1))
    assert store.append(events(0, 1)).accepted == 1
    store.close()


def test_more_readers_than_connections_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sememe.serve.stores.sqlite.MOST_READERS", 2)
    store = SqliteStore.open(tmp_path / "events.db", timeout=20)
    store.append(events(0, 200))
    with ThreadPoolExecutor(8) as pool:
        lengths = list(pool.map(lambda _: len(store.history("ann", limit=200)), range(200)))
    assert lengths == [200] * 200 and len(store._readers._idle) <= 2
    store._readers._timeout = 0.01
    lent = [store._readers.take() for _ in range(2)]
    with pytest.raises(StoreDownError, match="all 2 connections"):
        store.ping()
    for connection in lent:
        store._readers.give_back(connection)
    store.ping()
    # One that is out while the store is closed is closed when it comes back.
    late = store._readers.take()
    store.close()
    store._readers.give_back(late)
    with pytest.raises(sqlite3.ProgrammingError):
        late.execute("SELECT 1")


def test_what_is_no_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE events (a)")
    other.commit()
    other.close()
    before = (tmp_path / "other.db").read_bytes()
    with pytest.raises(StoreFormatError, match="another program"):
        SqliteStore.open(tmp_path / "other.db")
    assert (tmp_path / "other.db").read_bytes() == before
    (tmp_path / "text.db").write_text("no database at all, but long enough to have a header " * 10)
    with pytest.raises(StoreDownError, match="not a database"):
        SqliteStore.open(tmp_path / "text.db")
    with pytest.raises(StoreDownError, match="unable to open"):
        SqliteStore.open(tmp_path)
    with pytest.raises(StoreDownError, match=r"text\.db"):
        SqliteStore.open(tmp_path / "text.db" / "events.db")


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "events.db")
    store.append(events(0, 3000))
    store.close()
    content = (tmp_path / "events.db").read_bytes()
    (tmp_path / "events.db").write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    store = None
    with pytest.raises(StoreDownError, match="malformed") as caught:
        store = SqliteStore.open(tmp_path / "events.db")
        store.history("ann", limit=5)
    assert "restore it from a backup" in caught.value.fix
    if store is not None:
        store.close()


def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    SqliteStore.open(tmp_path / "events.db").close()
    with sqlite3.connect(tmp_path / "events.db") as connection:
        connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(StoreFormatError, match=r"schema version 7, .* reads version 1"):
        SqliteStore.open(tmp_path / "events.db")


def test_stores_that_are_made_at_once_are_one(tmp_path: Path) -> None:
    for round_ in range(5):
        path = tmp_path / f"{round_}.db"
        with ThreadPoolExecutor(6) as pool:
            stores = list(pool.map(lambda _, path=path: SqliteStore.open(path), range(6)))
        for number, store in enumerate(stores):
            assert store.append(events(number, 1)).accepted == 1
        assert len(stores[0].history("ann", limit=10)) == 6
        for store in stores:
            store.close()


def test_what_a_user_had_deleted_is_no_longer_in_the_file(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "events.db")
    store.append([*events(0, 500, user="secret-name"), *events(0, 500, user="bob")])
    store.close()
    assert b"secret-name" in (tmp_path / "events.db").read_bytes()
    store = SqliteStore.open(tmp_path / "events.db")
    assert store.delete_user("secret-name") == 500
    store.close()
    left = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"secret-name" not in left and b"bob" in left
