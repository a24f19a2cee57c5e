"""Killed clients, killed and hanging servers: what was acknowledged is there, and what is back is used again."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from appending_process import EVENTS, call
from store_servers import TIMEOUT, Database, Server

from sememe.serve.stores.protocol import Appended, ItemRow, Store, StoredEvent, StoreDownError

HERE = Path(__file__).parent
KILLS = 4


@pytest.fixture(params=["valkey", "postgres"])
def server(request: pytest.FixtureRequest) -> Server:
    """An empty server."""
    found: Server = request.getfixturevalue(f"{request.param}_server")
    found.clear()
    return found


def appending(url: str, name: str) -> "subprocess.Popen[str]":
    program = [sys.executable, str(HERE / "appending_process.py"), url, name]
    return subprocess.Popen(program, stdout=subprocess.PIPE, text=True)


def calls_in(store: Store, name: str) -> dict[int, int]:
    """Number of a call -> how many of its events are there."""
    found: dict[int, int] = {}
    for arrival in store.since(0, limit=1_000_000):
        writer, number, _ = arrival.event.event_id.split("-")
        if writer == name:
            found[int(number)] = found.get(int(number), 0) + 1
    return found


def assert_kept(store: Store, name: str, acknowledged: list[int]) -> None:
    """Every acknowledged call is there, and every call that is there is whole and as it was sent."""
    found = calls_in(store, name)
    assert acknowledged and set(acknowledged) <= set(found), sorted(set(acknowledged) - set(found))[:5]
    assert set(found.values()) == {EVENTS}
    # At most the one call that was under way may be there without having been acknowledged.
    assert len(found) <= len(acknowledged) + 1
    assert store.append(call(name, acknowledged[-1])) == Appended(accepted=0, duplicates=EVENTS)
    kept = {one.event_id: one for one in store.export_user(f"{name} {acknowledged[-1] % 5}")}
    assert all(kept[one.event_id] == one for one in call(name, acknowledged[-1]))


def test_a_killed_process_loses_no_acknowledged_event(database: Database) -> None:
    for kill in range(KILLS):
        process = appending(database.url, f"k{kill}")
        assert process.stdout is not None
        # The lines that are still in the pipe when it dies were acknowledged, too.
        acknowledged = [int(process.stdout.readline()) for _ in range(5 + 13 * kill)]
        process.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in process.stdout if line.endswith("\n")]
        process.wait()
        store = database.open()
        assert_kept(store, f"k{kill}", acknowledged)
        store.close()


def test_processes_append_side_by_side(database: Database) -> None:
    store = database.open()
    processes = {name: appending(database.url, name) for name in ("left", "right")}
    acknowledged: dict[str, list[int]] = {name: [] for name in processes}
    deadline = time.monotonic() + 60
    while min(len(calls_in(store, name)) for name in processes) < 30:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for name, process in processes.items():
        process.send_signal(signal.SIGKILL)
        assert process.stdout is not None
        acknowledged[name] = [int(line) for line in process.stdout if line.endswith("\n")]
        process.wait()
    for name in processes:
        assert_kept(store, name, acknowledged[name])
    store.close()


def test_a_killed_server_loses_no_acknowledged_event(server: Server) -> None:
    store = server.open()
    acknowledged: list[int] = []

    def write() -> None:
        for number in range(100_000):
            try:
                store.append(call("s", number))
            except StoreDownError:
                return
            acknowledged.append(number)

    for _ in range(2):
        acknowledged.clear()
        for user in range(5):
            store.delete_user(f"s {user}")
        writer = threading.Thread(target=write)
        writer.start()
        while len(acknowledged) < 40:
            time.sleep(0.005)
        server.crash()
        writer.join(timeout=3 * TIMEOUT)
        assert not writer.is_alive()
        server.start()
        assert_kept(store, "s", acknowledged)
    store.close()


def test_a_stopped_server_is_told_within_the_timeout_and_used_when_it_is_back(server: Server) -> None:
    store = server.open()
    store.append([StoredEvent("e1", "ann", "b1", timestamp=1)])
    store.put_items([ItemRow("b1", {"n": 1})])
    server.crash()
    questions = (
        lambda: store.append([StoredEvent("e2", "ann", "b1", timestamp=2)]),
        lambda: store.history("ann", limit=5),
        lambda: store.since(0, limit=5),
        lambda: store.delete_user("ann"),
        lambda: store.put_items([ItemRow("b1", {"n": 2})]),
        lambda: store.changes_since(0, limit=5),
        store.ping,
    )
    for question in questions:
        start = time.monotonic()
        with pytest.raises(StoreDownError, match="see that the server runs"):
            question()
        assert time.monotonic() - start < TIMEOUT
    with pytest.raises(StoreDownError):
        server.open()
    server.start()
    assert store.append([StoredEvent("e3", "ann", "b1", timestamp=3)]).accepted == 1
    assert [one.event_id for one in store.history("ann", limit=5)] == ["e1", "e3"]
    assert [change.fields for change in store.changes_since(0, limit=5)] == [{"n": 1}]
    store.close()


def test_a_server_that_hangs_is_told_within_the_timeout(server: Server) -> None:
    store = server.open(timeout=1.0)
    store.append([StoredEvent("e1", "ann", "b1", timestamp=1)])
    server.freeze()
    try:
        for _ in range(2):  # over the connection that there was, and over a new one
            start = time.monotonic()
            with pytest.raises(StoreDownError):
                store.append([StoredEvent("e2", "ann", "b2", timestamp=2)])
            assert time.monotonic() - start < TIMEOUT
    finally:
        server.thaw()
    # What was not acknowledged may have been done; sent again, it is there once.
    store.append([StoredEvent("e2", "ann", "b2", timestamp=2)])
    assert [one.event_id for one in store.history("ann", limit=5)] == ["e1", "e2"]
    store.close()
