"""Filters: hand-worked cases, a slow twin for the core, and indices without gaps."""

from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import Catalog, Interactions
from sememe.data import filters
from sememe.data.filters import Dedupe, KCore, MinLength


def world(histories, *, times=None, num_items=None):
    """A log and its catalogue; item i has the id "i<i>", the title "title <i>" and the vector [i, i]."""
    flat = np.array([item for history in histories for item in history], np.int32)
    count = num_items or int(flat.max()) + 1
    log = Interactions(
        offsets=np.concatenate([[0], np.cumsum([len(history) for history in histories])]).astype(np.int64),
        items=flat,
        user_ids=pl.Series([f"u{user}" for user in range(len(histories))]),
        item_ids=pl.Series([f"i{item}" for item in range(count)]),
        timestamps=None if times is None else np.array([t for row in times for t in row], np.int64),
        columns={"rating": np.arange(len(flat), dtype=np.float32)},
    )
    frame = pl.DataFrame({"item_id": log.item_ids, "title": [f"title {item}" for item in range(count)]})
    return log, Catalog(frame, np.arange(count, dtype=np.float32)[:, None].repeat(2, axis=1))


def histories_of(log):
    """User id -> item ids."""
    return {user: log.item_ids.gather(log.history(index)).to_list() for index, user in enumerate(log.user_ids)}


def assert_consistent(filtered):
    """No gap in the indices, and catalogue rows that belong to their items."""
    log, catalog = filtered.interactions, filtered.catalog
    assert catalog.frame["item_id"].to_list() == log.item_ids.to_list()
    numbers = [int(name[1:]) for name in log.item_ids]
    assert catalog.frame["title"].to_list() == [f"title {number}" for number in numbers]
    assert catalog.vectors[:, 0].tolist() == numbers
    assert log.offsets[-1] == log.num_events == len(log.columns["rating"])
    assert log.offsets.dtype == np.int64
    assert log.items.dtype == np.int32
    assert log.lengths().min() > 0


def counts(filtered):
    return [each.count for each in filtered.dropped]


def test_min_length_by_hand():
    log, catalog = world([[0, 1], [1, 2, 3], [4], [3, 3, 1, 2]])
    filtered = MinLength(events=3).apply(log, catalog)
    assert_consistent(filtered)
    assert histories_of(filtered.interactions) == {"u1": ["i1", "i2", "i3"], "u3": ["i3", "i3", "i1", "i2"]}
    assert filtered.interactions.columns["rating"].tolist() == [2, 3, 4, 6, 7, 8, 9]
    assert counts(filtered) == [3, 2, 2]
    assert "fewer than 3" in filtered.dropped[0].reason


def test_items_that_never_had_an_event_stay():
    log, catalog = world([[0], [1, 2]], num_items=5)
    filtered = MinLength(events=2).apply(log, catalog)
    assert_consistent(filtered)
    assert filtered.interactions.item_ids.to_list() == ["i1", "i2", "i3", "i4"]


@pytest.mark.parametrize(
    ("rule", "expected", "lost"),
    [
        ("exact", {"u0": [1, 1, 2, 1], "u1": [1, 2]}, [2]),
        ("consecutive", {"u0": [1, 2, 1], "u1": [1, 2]}, [3]),
        ("item", {"u0": [1, 2], "u1": [1, 2]}, [4]),
    ],
)
def test_dedupe_by_hand(rule, expected, lost):
    log, catalog = world([[1, 1, 1, 2, 1], [1, 2, 2]], times=[[5, 5, 6, 7, 8], [8, 9, 9]], num_items=3)
    filtered = Dedupe(rule).apply(log, catalog)
    assert_consistent(filtered)
    assert histories_of(filtered.interactions) == {u: [f"i{item}" for item in row] for u, row in expected.items()}
    assert counts(filtered) == lost


def test_dedupe_keeps_the_first_also_when_equals_are_apart():
    log, catalog = world([[3, 1, 3, 3]], times=[[5, 5, 5, 6]])
    filtered = Dedupe().apply(log, catalog)
    assert filtered.interactions.columns["rating"].tolist() == [0, 1, 3]
    assert filtered.interactions.timestamps.tolist() == [5, 5, 6]


def test_dedupe_in_small_blocks_of_users_is_the_same(monkeypatch):
    random = np.random.default_rng(0)
    histories = [random.integers(0, 5, random.integers(1, 12)).tolist() for _ in range(50)]
    log, catalog = world(histories, times=[np.sort(random.integers(0, 3, len(h))).tolist() for h in histories])
    whole = [Dedupe(rule).apply(log, catalog) for rule in ("exact", "item")]
    monkeypatch.setattr(filters, "CHUNK_EVENTS", 7)
    for rule, expected in zip(("exact", "item"), whole, strict=True):
        blocks = Dedupe(rule).apply(log, catalog)
        np.testing.assert_array_equal(blocks.interactions.columns["rating"], expected.interactions.columns["rating"])


def test_k_core_by_hand():
    # i3 goes (one event), then u2 is too short, then i2 has one event left and goes; u0 and u1 keep i0 and i1.
    log, catalog = world([[0, 1, 2], [0, 1], [2, 3]])
    filtered = KCore(users=2, items=2).apply(log, catalog)
    assert_consistent(filtered)
    assert histories_of(filtered.interactions) == {"u0": ["i0", "i1"], "u1": ["i0", "i1"]}
    assert counts(filtered) == [3, 1, 2]


def slow_core(histories, users, items):
    """Take one user or item that breaks its bound away at a time."""
    pairs = [(user, item, place) for user, history in enumerate(histories) for place, item in enumerate(history)]
    while True:
        per_user, per_item = Counter(pair[0] for pair in pairs), Counter(pair[1] for pair in pairs)
        bad = [pair for pair in pairs if per_user[pair[0]] < users or per_item[pair[1]] < items]
        if not bad:
            return {(f"u{user}", f"i{item}", place) for user, item, place in pairs}
        pairs = [pair for pair in pairs if pair[0] != bad[0][0]] if per_user[bad[0][0]] < users else [
            pair for pair in pairs if pair[1] != bad[0][1]
        ]  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(
    histories=st.lists(st.lists(st.integers(0, 6), max_size=8), min_size=1, max_size=8).filter(any),
    users=st.integers(1, 4),
    items=st.integers(1, 4),
)
def test_k_core_equals_its_slow_twin(histories, users, items):
    log, catalog = world(histories, num_items=7)
    expected = slow_core(histories, users, items)
    try:
        filtered = KCore(users=users, items=items).apply(log, catalog)
    except DataError:
        assert not expected
        return
    left = filtered.interactions
    # `rating` numbers the events of the whole log, so it says which of them are left.
    places = left.columns["rating"].astype(int)
    positions = places - log.offsets[log.users()[places]]
    triples = zip(left.user_ids.gather(left.users()), left.item_ids.gather(left.items), positions, strict=True)
    assert set(triples) == expected
    assert KCore(users=users, items=items).apply(left, filtered.catalog).dropped == ()


def test_nothing_to_drop_changes_nothing():
    log, catalog = world([[0, 1], [1, 0]], times=[[1, 2], [1, 2]])
    for part in (MinLength(events=2), KCore(users=2, items=2), Dedupe(), Dedupe("consecutive"), Dedupe("item")):
        filtered = part.apply(log, catalog)
        assert filtered.interactions is log
        assert filtered.dropped == ()


def test_what_a_filter_cannot_do_is_said():
    log, catalog = world([[0, 1], [1, 2]])
    with pytest.raises(DataError, match="leaves nothing: all 4 events"):
        MinLength(events=3).apply(log, catalog)
    with pytest.raises(DataError, match="leaves nothing"):
        KCore(users=2, items=3).apply(log, catalog)
    with pytest.raises(DataError, match="no timestamps"):
        Dedupe().apply(log, catalog)
    with pytest.raises(ConfigError, match="'equal'"):
        Dedupe("equal").apply(log, catalog)
    with pytest.raises(ConfigError, match="items must be at least 1, got 0"):
        KCore(items=0).apply(log, catalog)
