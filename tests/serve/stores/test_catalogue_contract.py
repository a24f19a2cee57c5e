"""What every store keeps to, whichever database is behind it: the catalogue that changes."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from store_servers import Database

from sememe.core.errors import DataError
from sememe.serve.stores.protocol import ItemChange, ItemRow, Store

FIELDS: dict[str, Any] = {
    "title": 'It\'s "käse" 🧀 \0\n',
    "price": 0.1,
    "count": 2**60,
    "tags": ["a", None, True, {"deep": []}],
    "": "",
}


def changes(store: Store, version: int = 0, *, limit: int = 1000) -> list[ItemChange]:
    """All changes after `version`, read page by page."""
    found: list[ItemChange] = []
    while page := store.changes_since(version, limit=limit):
        versions = [change.version for change in page]
        assert versions == sorted(set(versions)) and versions[0] > version and len(page) <= limit
        version = versions[-1]
        found += page
    return found


def test_an_item_comes_back_as_it_was_put(store: Store) -> None:
    assert store.changes_since(0, limit=5) == []
    version = store.put_items([ItemRow("b1", FIELDS), ItemRow("b2"), ItemRow("'; DROP TABLE items; -- 🧀", {"a": 1})])
    first, second, third = store.changes_since(0, limit=5)
    assert first == ItemChange(first.version, "b1", fields=FIELDS, removed=False, stock=None)
    assert second.fields == {} and third.item_id == "'; DROP TABLE items; -- 🧀"
    assert 0 < first.version < second.version < third.version == version
    assert store.changes_since(version, limit=5) == []


def test_a_follower_gets_the_newest_state_of_each_item_in_the_order_of_change(store: Store) -> None:
    store.put_items([ItemRow(f"b{number}", {"n": number}) for number in range(5)])
    seen = store.set_stock({"b1": False, "b3": 7, "elsewhere": True})
    store.put_items([ItemRow("b1", {"n": 10}), ItemRow("b4", {"n": 1}), ItemRow("b4", {"n": 40})])
    last = store.remove_items(["b3", "b0", "b3", "of the run"])
    found = changes(store, limit=2)
    assert [change.item_id for change in found] == ["b2", "elsewhere", "b1", "b4", "b3", "b0", "of the run"]
    state = {change.item_id: (change.fields, change.removed, change.stock) for change in found}
    assert state == {
        "b0": (None, True, None),
        "b1": ({"n": 10}, False, False),
        "b2": ({"n": 2}, False, None),
        "b3": (None, True, None),
        "b4": ({"n": 40}, False, None),
        "elsewhere": (None, False, True),
        "of the run": (None, True, None),
    }
    assert found[-1].version == last and type(state["elsewhere"][2]) is bool
    assert [change.item_id for change in changes(store, seen)] == ["b1", "b4", "b3", "b0", "of the run"]


def test_a_removed_item_comes_back_when_it_is_put_and_not_when_it_is_in_stock(store: Store) -> None:
    store.put_items([ItemRow("b1", {"n": 1})])
    store.set_stock({"b1": 3})
    store.remove_items(["b1"])
    store.set_stock({"b1": 0})
    (change,) = changes(store)
    assert change.removed and change.fields is None and change.stock == 0 and type(change.stock) is int
    store.put_items([ItemRow("b1", {"n": 2})])
    (change,) = changes(store)
    assert not change.removed and change.fields == {"n": 2} and change.stock == 0


def test_versions_rise_whatever_happens(store: Store) -> None:
    versions = [store.put_items([ItemRow("b1")]), store.put_items([ItemRow("b1")]), store.remove_items(["b1"])]
    versions += [store.set_stock({"b1": True}), store.remove_items(["b1"])]
    assert versions == sorted(set(versions))
    nothing = [store.put_items([]), store.remove_items([]), store.set_stock({})]
    assert nothing == [versions[-1]] * 3


@pytest.mark.parametrize(
    "fields",
    [{"a": float("nan")}, {"a": {1, 2}}, {1: "a"}, {"a": "\ud800"}, [("a", 1)], {"a": float("inf")}, {"a": b"x"}],
)
def test_fields_that_are_no_json_are_refused(store: Store, fields: Any) -> None:
    with pytest.raises(DataError, match="item 1: the fields"):
        store.put_items([ItemRow("b1"), ItemRow("b2", fields)])
    assert changes(store) == []


def test_stock_and_ids_that_make_no_sense_are_refused(store: Store) -> None:
    for amount in (-1, 1.5, None, "3", 2**53):
        with pytest.raises(DataError, match="stock of 'b1'"):
            store.set_stock({"b0": 1, "b1": amount})  # type: ignore[dict-item]
    for item_id in ("", "\0", "x" * 1025, 5):
        with pytest.raises(DataError, match="item_id"):
            store.put_items([ItemRow(item_id)])  # type: ignore[arg-type]
        with pytest.raises(DataError, match="item_id"):
            store.remove_items(["b1", item_id])  # type: ignore[list-item]
        with pytest.raises(DataError, match="item_id"):
            store.set_stock({item_id: True})  # type: ignore[dict-item]
    with pytest.raises(DataError, match="version"):
        store.changes_since(-1, limit=5)
    assert changes(store) == []


def test_many_writers_give_no_version_twice_and_a_follower_ends_where_the_store_is(database: Database) -> None:
    store, other = database.open(), database.open()
    followed: dict[str, ItemChange] = {}
    version = 0

    def write(thread: int) -> None:
        for number in range(25):
            rows = [ItemRow(f"b{(number + part) % 12}", {"n": [thread, number]}) for part in range(thread + 1)]
            (store if thread % 2 else other).put_items(rows)

    def follow() -> int:
        nonlocal version
        while page := store.changes_since(version, limit=5):
            version = page[-1].version
            followed.update((change.item_id, change) for change in page)
        return version

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write, thread) for thread in range(4)]
        while not all(writer.done() for writer in writers):
            follow()
        for writer in writers:
            writer.result()
    assert follow() == 25 * (1 + 2 + 3 + 4)
    assert sorted(followed.values(), key=lambda change: change.version) == changes(other)
    store.close()
    other.close()
