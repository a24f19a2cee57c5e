"""What is particular to the store in PostgreSQL: commits out of order, settings that lose events, encodings."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from store_servers import PostgresServer

from sememe.serve.stores.open import open_store
from sememe.serve.stores.protocol import DurabilityError, StoredEvent, StoreDownError, StoreFormatError


@pytest.fixture
def empty(postgres_server: PostgresServer) -> PostgresServer:
    postgres_server.clear()
    return postgres_server


def event(name: str) -> StoredEvent:
    return StoredEvent(name, "ann", "b1", timestamp=1)


def test_an_event_that_is_committed_late_is_not_skipped(empty: PostgresServer) -> None:
    import psycopg

    store = empty.open()
    # An append of "early" and "stuck" gets its numbers and then waits, as somebody else is inserting "stuck".
    with psycopg.connect(empty.url) as other:
        other.execute("INSERT INTO sememe_events VALUES (1000000, 'stuck', 'bob', 'b1', 1, NULL, NULL)")
        with ThreadPoolExecutor(2) as pool:
            late = pool.submit(store.append, [event("early"), event("stuck")])
            while not empty.run("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'transactionid'"):
                time.sleep(0.01)
            assert store.append([event("later")]).accepted == 1
            reading = pool.submit(store.since, 0, limit=10)
            time.sleep(0.2)
            assert not late.done() and not reading.done()
            other.rollback()
            assert late.result().accepted == 2
            assert [arrival.event.event_id for arrival in reading.result()] == ["early", "stuck", "later"]
    store.close()


def test_appends_do_not_wait_for_each_other(empty: PostgresServer) -> None:
    import psycopg

    store = empty.open(timeout=1.0)
    with psycopg.connect(empty.url) as other:
        other.execute("INSERT INTO sememe_events VALUES (1000000, 'stuck', 'bob', 'b1', 1, NULL, NULL)")
        # What never gets its turn is given up, here and on the server, and holds nobody up.
        with pytest.raises(StoreDownError):
            store.append([event("stuck")])
        assert store.append([event("free")]).accepted == 1
    store.close()


def test_a_commit_waits_for_the_disk_whatever_the_servers_default(empty: PostgresServer) -> None:
    empty.run("ALTER SYSTEM SET synchronous_commit = off")
    empty.run("SELECT pg_reload_conf()")
    try:
        while empty.run("SHOW synchronous_commit") != [("off",)]:
            time.sleep(0.02)
        store = empty.open()
        assert store._read("SHOW synchronous_commit", ()) == [("on",)]  # type: ignore[attr-defined]
        store.close()
    finally:
        empty.run("ALTER SYSTEM RESET synchronous_commit")
        empty.run("SELECT pg_reload_conf()")


def test_a_server_that_forgets_is_refused_with_what_to_set(empty: PostgresServer) -> None:
    empty.run("ALTER SYSTEM SET fsync = off")
    empty.run("SELECT pg_reload_conf()")
    try:
        while empty.run("SHOW fsync") != [("off",)]:
            time.sleep(0.02)
        with pytest.raises(DurabilityError, match="fsync off") as caught:
            empty.open()
        assert "durable=False" in caught.value.fix
        store = empty.open(durable=False)
        assert store.append([event("e1")]).accepted == 1
        store.close()
    finally:
        empty.run("ALTER SYSTEM RESET fsync")
        empty.run("SELECT pg_reload_conf()")


def test_a_database_that_does_not_hold_all_text_is_refused(empty: PostgresServer) -> None:
    empty.run("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'")
    empty.database = "latin"
    try:
        with pytest.raises(StoreFormatError, match="encoding LATIN1"):
            empty.open()
    finally:
        empty.database = "postgres"
        empty.run("DROP DATABASE latin")


def test_a_database_that_is_not_there_and_a_user_who_may_nothing_are_told(empty: PostgresServer) -> None:
    empty.database = "nowhere"
    try:
        with pytest.raises(StoreDownError, match='"nowhere" does not exist'):
            empty.open()
    finally:
        empty.database = "postgres"
    empty.run("CREATE ROLE guest LOGIN")
    try:
        with pytest.raises(StoreDownError, match="permission denied|no schema"):
            open_store(empty.url.replace("sememe@", "guest@"))
    finally:
        empty.run("DROP ROLE guest")


def test_more_threads_than_connections_wait_for_each_other(
    empty: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sememe.serve.stores.postgres.MOST_CONNECTIONS", 2)
    store = empty.open()
    start = threading.Barrier(8)

    def append(number: int) -> int:
        start.wait()
        return store.append([event(f"e{number}")]).accepted

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(append, range(8))) == 8
    assert empty.run("SELECT count(*) <= 3 FROM pg_stat_activity WHERE backend_type = 'client backend'") == [(True,)]
    store.close()


def test_connections_that_a_restart_cut_are_replaced(empty: PostgresServer) -> None:
    store = empty.open()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: store.append([event(f"a{number}")]), range(8)))
    empty.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(lambda number: store.append([event(f"b{number}")]), range(8)))
    assert sum(one.accepted for one in told) == 8 and len(store.history("ann", limit=50)) == 16
    store.close()


def test_stores_that_are_made_at_once_are_one(empty: PostgresServer) -> None:
    with ThreadPoolExecutor(5) as pool:
        stores = list(pool.map(lambda _: empty.open(), range(5)))
    for number, store in enumerate(stores):
        assert store.append([event(f"e{number}")]).accepted == 1
    assert len(stores[0].history("ann", limit=50)) == 5
    for store in stores:
        store.close()


def test_a_store_of_a_newer_version_is_refused(empty: PostgresServer) -> None:
    empty.open().close()
    empty.run("UPDATE sememe_counters SET last = 7 WHERE name = 'schema'")
    with pytest.raises(StoreFormatError, match=r"schema version 7, .* reads version 1"):
        empty.open()
