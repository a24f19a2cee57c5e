"""What every store keeps to, whichever database is behind it: events."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_servers import Database

from sememe.core.errors import DataError
from sememe.serve.stores.protocol import Appended, Recent, Store, StoredEvent, StoreDownError

HOUR = 3_600_000
ODD_IDS = (
    "it's",
    'a "b"',
    "'; DROP TABLE events; --",
    "a:b:{c}*?",
    "%s %(x)s",
    "\\",
    "../../etc/passwd",
    " ",
    "new\nline",
    "null",
    "0",
    "käse 日本 🧀",
    "x" * 1024,
    "🧀" * 256,
    "\x01\x1f\x7f",
    "[]",
)


def event(number: int, *, user: str = "ann", item: str = "b1", time: int | None = None) -> StoredEvent:
    return StoredEvent(f"e{number}", user, item, timestamp=number if time is None else time)


def ids(events: list[StoredEvent]) -> list[str]:
    return [one.event_id for one in events]


def arrived(store: Store, *, limit: int = 1000) -> list[str]:
    """Ids of all events in the order of arrival, read page by page."""
    found: list[str] = []
    cursor = 0
    while page := store.since(cursor, limit=limit):
        places = [arrival.cursor for arrival in page]
        assert places == sorted(set(places)) and places[0] > cursor and len(page) <= limit
        cursor = places[-1]
        found += [arrival.event.event_id for arrival in page]
    return found


def test_an_event_comes_back_as_it_was_sent(store: Store) -> None:
    sent = [
        StoredEvent("e1", "ann", "b1", timestamp=1_700_000_000_000),
        StoredEvent("e2", "ann", "b2", timestamp=1_700_000_000_001, event_type="click", value=0.1),
        StoredEvent("e3", "ann", "b3", timestamp=2**53 - 1, event_type="rating", value=5),
        StoredEvent("e4", "ann", "b3", timestamp=-(2**53 - 1), value=-1e308),
    ]
    assert store.append(sent) == Appended(accepted=4, duplicates=0)
    history = store.history("ann", limit=10)
    assert history == [sent[3], sent[0], sent[1], sent[2]]
    assert [type(one.value) for one in history] == [float, type(None), float, float]
    assert store.export_user("ann") == history
    assert [arrival.event for arrival in store.since(0, limit=10)] == sent
    assert store.append([]) == Appended(accepted=0, duplicates=0)
    store.ping()


def test_the_newest_events_come_in_the_order_of_time_and_then_of_arrival(store: Store) -> None:
    store.append([event(1, time=5 * HOUR), event(2, time=2 * HOUR)])
    store.append([event(n, item=f"b{n}", time=hour * HOUR) for n, hour in ((3, 5), (4, 9), (5, 5))])
    store.append([event(6, time=HOUR), event(7, user="bob", item="b9", time=99 * HOUR)])
    assert ids(store.history("ann", limit=10)) == ["e6", "e2", "e1", "e3", "e5", "e4"]
    assert ids(store.history("ann", limit=3)) == ["e3", "e5", "e4"]
    assert store.history("nobody", limit=5) == []
    both = store.histories(["bob", "nobody", "ann", "bob"], limit=2)
    assert [ids(one) for one in both] == [["e7"], [], ["e5", "e4"], ["e7"]]
    assert store.recent(["bob", "nobody", "ann"], limit=3) == [
        Recent(("b9",), (99 * HOUR,)),
        Recent((), ()),
        Recent(("b3", "b5", "b4"), (5 * HOUR, 5 * HOUR, 9 * HOUR)),
    ]
    assert store.histories([], limit=2) == [] == store.recent([], limit=2)
    assert arrived(store, limit=2) == ["e1", "e2", "e3", "e4", "e5", "e6", "e7"]


def test_an_event_sent_twice_is_kept_once_and_as_it_first_was(store: Store) -> None:
    first = event(1, item="b1", time=HOUR)
    assert store.append([first, event(1, item="b2"), first]) == Appended(accepted=1, duplicates=2)
    other = StoredEvent("e1", "bob", "b3", timestamp=7, event_type="click", value=1.0)
    assert store.append([event(2), other, event(3)]) == Appended(accepted=2, duplicates=1)
    assert store.append([other]) == Appended(accepted=0, duplicates=1)
    assert first in store.history("ann", limit=10) and store.history("bob", limit=10) == []
    assert arrived(store) == ["e1", "e2", "e3"]


@pytest.mark.parametrize("odd", ODD_IDS)
def test_any_text_is_an_id(store: Store, odd: str) -> None:
    mine = StoredEvent(odd, odd, odd, timestamp=1, event_type=odd)
    assert store.append([mine, event(1)]).accepted == 2
    assert store.append([mine]).duplicates == 1
    assert store.history(odd, limit=5) == [mine] == store.export_user(odd)
    assert store.recent([odd], limit=5) == [Recent((odd,), (1,))]
    assert store.histories(["ann", odd], limit=5)[1] == [mine]
    assert store.delete_user(odd) == 1
    assert store.history(odd, limit=5) == [] and ids(store.history("ann", limit=5)) == ["e1"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"event_id": ""}, "event 1: event_id is empty"),
        ({"user_id": "a\0b"}, "NUL"),
        ({"item_id": "\ud800"}, "Unicode"),
        ({"item_id": "x" * 1025}, "1025 bytes"),
        ({"user_id": "🧀" * 257}, "1028 bytes"),
        ({"user_id": 7}, "an id is text"),
        ({"event_type": "\0"}, "event_type"),
        ({"timestamp": 2**53}, "timestamp"),
        ({"timestamp": 1.5}, "timestamp"),
        ({"timestamp": True}, "timestamp"),
        ({"value": float("nan")}, "finite"),
        ({"value": float("inf")}, "finite"),
        ({"value": 10**400}, "finite"),
        ({"value": "5"}, "finite"),
        ({"value": True}, "finite"),
    ],
)
def test_what_breaks_a_rule_is_refused_and_nothing_of_its_call_is_kept(
    store: Store, change: dict[str, object], told: str
) -> None:
    fields = {"event_id": "e2", "user_id": "ann", "item_id": "b1", "timestamp": 2} | change
    with pytest.raises(DataError, match=told):
        store.append([event(1), StoredEvent(**fields)])  # type: ignore[arg-type]
    assert store.since(0, limit=10) == []


def test_questions_that_make_no_sense_are_refused(store: Store) -> None:
    for limit in (0, -1, 2**31, 1.5, True):
        with pytest.raises(DataError, match="limit"):
            store.history("ann", limit=limit)  # type: ignore[arg-type]
    for cursor in (-1, 2**63, 0.5):
        with pytest.raises(DataError, match="cursor"):
            store.since(cursor, limit=1)  # type: ignore[arg-type]
    for question in (store.export_user, store.delete_user):
        with pytest.raises(DataError, match="NUL"):
            question("\0")
    with pytest.raises(DataError, match="empty"):
        store.histories(["ann", ""], limit=1)
    with pytest.raises(DataError, match="limit"):
        store.recent(["ann"], limit=0)


def test_a_user_is_forgotten_and_the_others_stay_where_they_are(store: Store) -> None:
    store.append([event(number, user="ann" if number % 2 else "bob") for number in range(2500)])
    before = {arrival.event.event_id: arrival.cursor for arrival in store.since(0, limit=5000)}
    assert store.delete_user("ann") == 1250 and store.delete_user("ann") == 0
    assert store.history("ann", limit=5) == []
    after = store.since(0, limit=5000)
    assert {arrival.event.user_id for arrival in after} == {"bob"} and len(after) == 1250
    assert all(before[arrival.event.event_id] == arrival.cursor for arrival in after)
    # Numbers are not used again, even those of the last events; ids are free again.
    last = max(before.values())
    assert store.delete_user("bob") == 1250 and store.since(0, limit=5) == []
    assert store.append([event(1)]).accepted == 1
    (arrival,) = store.since(last, limit=5)
    assert arrival.cursor > last and arrival.event == event(1)


def test_a_history_of_100_000_events_is_read_from_its_end(database: Database) -> None:
    store = database.open(timeout=60)  # it is about the short reads; the long calls may take their time
    rng = random.Random(0)
    times = list(range(100_000))
    rng.shuffle(times)
    for start in range(0, len(times), 20_000):
        store.append([event(time, item=f"b{time % 50}") for time in times[start : start + 20_000]])
    seconds = []
    for _ in range(5):
        start_s = time.perf_counter()
        history = store.history("ann", limit=50)
        seconds.append(time.perf_counter() - start_s)
    assert ids(history) == [f"e{number}" for number in range(99_950, 100_000)]
    # Reading all of it takes a second; a walk from the end takes less than a hundredth of one.
    assert min(seconds) < 0.05
    assert len(store.export_user("ann")) == 100_000
    assert store.delete_user("ann") == 100_000
    assert store.append([event(1)]).accepted == 1 and ids([one.event for one in store.since(0, limit=9)]) == ["e1"]
    store.close()


def test_what_many_threads_append_is_all_there_once(store: Store) -> None:
    # Each call shares half of its events with the call of another thread, and in the opposite order.
    def append(thread: int) -> Appended:
        told = []
        for round_ in range(10):
            shared = [event(round_ * 1000 + number, user=f"u{number}") for number in range(10)]
            own = [event(100_000 * (thread + 1) + round_ * 10 + number) for number in range(10)]
            told.append(store.append([*(shared if thread % 2 else shared[::-1]), *own]))
        return Appended(accepted=sum(one.accepted for one in told), duplicates=sum(one.duplicates for one in told))

    with ThreadPoolExecutor(6) as pool:
        told = list(pool.map(append, range(6)))
    assert sum(one.accepted for one in told) == 100 + 600 and sum(one.duplicates for one in told) == 500
    found = arrived(store, limit=77)
    assert len(found) == len(set(found)) == 700


def test_a_reader_that_goes_on_from_its_cursor_sees_every_event(store: Store) -> None:
    done = threading.Event()
    seen: list[str] = []

    def read() -> None:
        cursor = 0
        while True:
            last_round = done.is_set()
            while page := store.since(cursor, limit=7):
                cursor = page[-1].cursor
                seen.extend(arrival.event.event_id for arrival in page)
            if last_round:
                return

    def write(thread: int) -> None:
        for number in range(60):
            # Calls of different lengths: a long one gets its numbers early and is committed late.
            store.append([event(100_000 * thread + 100 * number + part) for part in range(1 + number % 3 * 20)])

    reader = threading.Thread(target=read)
    reader.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    done.set()
    reader.join()
    assert len(seen) == len(set(seen)) == 4 * 20 * (1 + 21 + 41)


def test_users_can_be_deleted_while_others_append(store: Store) -> None:
    def write(user: str) -> int:
        for number in range(50):
            store.append([StoredEvent(f"{user}{number}{part}", user, "b1", timestamp=number) for part in "xyz"])
        return 0

    with ThreadPoolExecutor(3) as pool:
        writers = [pool.submit(write, user) for user in ("ann", "bob")]
        deleted = 0
        while not writers[0].done():
            deleted += store.delete_user("ann")
        for writer in writers:
            writer.result()
    deleted += store.delete_user("ann")
    assert deleted == 150 and store.export_user("ann") == []
    assert len(store.export_user("bob")) == 150 == len(arrived(store))


def test_a_store_opened_again_holds_what_it_held(database: Database) -> None:
    first = database.open()
    first.append([event(1)])
    first.close()
    with pytest.raises(StoreDownError, match="closed"):
        first.append([event(2)])
    with pytest.raises(StoreDownError, match="closed"):
        first.ping()
    second, third = database.open(), database.open()
    second.append([event(3)])
    assert ids(third.history("ann", limit=5)) == ["e1", "e3"]
    second.close()
    third.close()


# Each example empties the one database that they share.
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    calls=st.lists(
        st.lists(st.tuples(st.integers(0, 12), st.sampled_from("ab"), st.integers(0, 4)), min_size=1, max_size=6),
        max_size=6,
    )
)
def test_a_store_is_a_list_in_memory(database: Database, calls: list[list[tuple[int, str, int]]]) -> None:
    store = database.open()
    for user in "ab":
        store.delete_user(user)
    kept: dict[str, StoredEvent] = {}
    for call in calls:
        events = [event(number, user=user, time=time) for number, user, time in call]
        before = len(kept)
        for one in events:
            kept.setdefault(one.event_id, one)
        assert store.append(events).accepted == len(kept) - before
    for user in "ab":
        mine = sorted((one for one in kept.values() if one.user_id == user), key=lambda one: one.timestamp)
        assert store.history(user, limit=100) == mine
        assert store.history(user, limit=2) == mine[-2:]
    assert arrived(store, limit=3) == list(kept)
    store.close()
