"""What is particular to the store in Valkey or Redis: settings that lose events, memory that runs out."""

import pytest
from store_servers import ValkeyServer, start_valkey

from sememe.serve.stores.protocol import (
    DurabilityError,
    ItemRow,
    Store,
    StoredEvent,
    StoreDownError,
    StoreFormatError,
)


def events(first: int, count: int) -> list[StoredEvent]:
    return [StoredEvent(f"e{number}", "ann", "b1", timestamp=number) for number in range(first, first + count)]


@pytest.fixture
def empty(valkey_server: ValkeyServer) -> ValkeyServer:
    valkey_server.clear()
    return valkey_server


def test_a_server_that_forgets_is_refused_with_what_to_set() -> None:
    server = start_valkey(settings=("--appendonly", "no"))
    try:
        with pytest.raises(DurabilityError, match="appendonly no, appendfsync everysec, and would forget") as caught:
            server.open()
        assert "CONFIG SET appendonly yes; CONFIG SET appendfsync always" in caught.value.fix
        store = server.open(durable=False)
        assert store.append(events(0, 1)).accepted == 1
        store.close()
        client = server.client()
        for command in caught.value.fix.split("; ")[:2]:
            assert client.execute_command(command)
        client.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(DurabilityError, match="has maxmemory-policy allkeys-lru"):
            server.open()
        client.config_set("maxmemory-policy", "noeviction")
        server.open().close()
    finally:
        server.remove()


def test_a_server_that_does_not_tell_its_settings_is_refused(empty: ValkeyServer) -> None:
    client = empty.client()
    client.execute_command("ACL", "SETUSER", "app", "on", ">pass", "~sememe:*", "+@all", "-config")
    empty_url = empty.url
    try:
        empty.url = empty_url.replace("://", "://app:pass@")
        with pytest.raises(DurabilityError, match="does not tell its settings") as caught:
            empty.open()
        assert "pass" not in str(caught.value) and "appendfsync always" in caught.value.fix
        store = empty.open(durable=False)
        assert store.append(events(0, 2)).accepted == 2
        store.close()
        empty.url = empty_url.replace("://", "://app:wrong@")
        with pytest.raises(StoreDownError, match="valkey://127") as refused:
            empty.open()
        assert "wrong" not in str(refused.value) and "user and password" in refused.value.fix
    finally:
        empty.url = empty_url
        client.execute_command("ACL", "DELUSER", "app")


def test_a_server_without_memory_is_told_and_nothing_is_half_written(empty: ValkeyServer) -> None:
    store: Store = empty.open()
    store.append(events(0, 3))
    version = store.put_items([ItemRow("b1", {"n": 1})])
    client = empty.client()
    client.config_set("maxmemory", "500kb")
    try:
        with pytest.raises(StoreDownError, match="memory"):
            store.append(events(10, 1000))
        with pytest.raises(StoreDownError, match="memory"):
            store.put_items([ItemRow("b2")])
        assert len(store.history("ann", limit=10)) == 3 == len(store.since(0, limit=10))
        assert store.delete_user("ann") == 3
    finally:
        client.config_set("maxmemory", "0")
    assert store.append(events(10, 1000)).accepted == 1000
    assert store.put_items([ItemRow("b2")]) == version + 1
    store.close()


def test_a_user_that_left_leaves_no_key(empty: ValkeyServer) -> None:
    store = empty.open()
    store.append(events(0, 2500))
    assert store.delete_user("ann") == 2500
    assert sorted(empty.client().keys()) == ["sememe:cursor", "sememe:schema"]
    store.close()


def test_a_gap_of_many_deleted_events_is_crossed(empty: ValkeyServer) -> None:
    store = empty.open()
    store.append([StoredEvent("first", "bob", "b1", timestamp=1)])
    empty.client().incrby("sememe:cursor", 130_000)
    store.append([StoredEvent("last", "bob", "b1", timestamp=1)])
    found = store.since(0, limit=2)
    assert [(arrival.cursor, arrival.event.event_id) for arrival in found] == [(1, "first"), (130_002, "last")]
    assert store.since(1, limit=1) == found[1:] and store.since(130_002, limit=1) == []
    # A cursor from before the server was replaced by an empty one.
    assert store.since(999_999, limit=1) == []
    store.close()


def test_a_store_of_a_newer_version_is_refused(empty: ValkeyServer) -> None:
    empty.open().close()
    empty.client().set("sememe:schema", 7)
    with pytest.raises(StoreFormatError, match=r"schema version 7, .* reads version 1"):
        empty.open()
    empty.client().set("sememe:schema", "mine")
    with pytest.raises(StoreFormatError, match="another program"):
        empty.open()
