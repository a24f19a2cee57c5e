"""Sessions: which are good, what a batch of them holds, what is laid out as lists; all by hand or against a loop."""

import numpy as np
import polars as pl
import pytest

from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import PAD, Codes, Interactions
from sememe.data.batches import with_codes
from sememe.data.sessions import (
    EVERY_SESSION,
    GoodSessions,
    SessionBatches,
    find_sessions,
    logged_lists,
)

NAN = float("nan")


def small_log(**changes):
    """User 0: sessions of 2, 3 and 1 events; user 1: none; user 2: one of 2 events, numbered like user 0's last."""
    columns = {
        "session": np.array([4, 4, 5, 5, 5, 9, 9, 9]),
        "watch_time": np.array([9, 1, 5, 6, NAN, 8, 10, 10], np.float32),
        "duration": np.full(8, 10, np.float32),
        "like": np.array([0, 0, 1, 0, -1, 1, 0, 0], np.int8),
        "follow": np.array([0, 0, 0, 1, 0, 0, 0, 1], np.int8),
        "rating": np.array([1, 2, 3, 4, 5, 6, 7, 8], np.float32),
        "propensity": np.linspace(0.1, 0.8, 8),
        "random_exposure": np.array([1, 1, 0, 0, 0, 1, 1, 0], np.int8),
    } | changes
    return Interactions(
        offsets=np.array([0, 6, 6, 8]),
        items=np.array([3, 1, 2, 0, 4, 1, 0, 2], np.int32),
        user_ids=pl.Series(["a", "b", "c"]),
        item_ids=pl.Series(list("vwxyz")),
        columns={name: values for name, values in columns.items() if values is not None},
    )


def random_log(seed=0, users=30):
    random = np.random.default_rng(seed)
    lengths = random.integers(0, 25, users)
    total = int(lengths.sum())
    return Interactions(
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        items=random.integers(0, 40, total).astype(np.int32),
        user_ids=pl.Series(range(users)),
        item_ids=pl.Series(range(40)),
        columns={
            "session": np.cumsum(random.random(total) < 0.3),
            "like": random.integers(-1, 2, total).astype(np.int8),
        },
    )


def test_sessions_are_runs_of_one_user():
    sessions = find_sessions(small_log())
    assert sessions.users.tolist() == [0, 0, 0, 2]
    assert sessions.starts.tolist() == [0, 2, 5, 6]
    assert sessions.ends.tolist() == [2, 5, 6, 8]
    assert sessions.sums(np.arange(8)).tolist() == [1, 9, 5, 13]


@pytest.mark.parametrize(
    ("good", "chosen"),
    [
        (EVERY_SESSION, [True, True, True, True]),
        (GoodSessions(watched=2, interactions=0), [False, True, False, True]),
        (GoodSessions(watched=1, watched_share=0.85, interactions=0), [True, False, False, True]),
        (GoodSessions(watched=0, interactions=1), [False, True, True, True]),
        (GoodSessions(watched=0, interactions=2), [False, True, False, False]),
        (GoodSessions(watched=0, interactions=0, watch_seconds=10.5), [False, True, False, True]),
        (GoodSessions(watched=2, interactions=1, watch_seconds=12), [False, False, False, True]),
    ],
)
def test_good_sessions_by_hand(good, chosen):
    log = small_log()
    assert good.choose(log, find_sessions(log)).tolist() == chosen


def test_bounds_of_zero_need_no_columns():
    bare = small_log(watch_time=None, duration=None, like=None, follow=None)
    assert EVERY_SESSION.choose(bare, find_sessions(bare)).all()
    with pytest.raises(DataError, match="'watch_time'"):
        GoodSessions().choose(bare, find_sessions(bare))
    with pytest.raises(ConfigError, match="below 0"):
        GoodSessions(watched=-1).choose(bare, find_sessions(bare))


def test_a_batch_by_hand():
    plan = SessionBatches(max_history=4, session_items=2, good=EVERY_SESSION, feedback=("like", "rating"))
    batch = plan.source(small_log(), seed=0)(0)
    order = np.argsort(batch["lengths"])
    rows = {name: values[order].tolist() for name, values in batch.items()}
    assert rows["user"] == [0, 0]
    assert rows["history"] == [[3, 1, PAD, PAD], [1, 2, 0, 4]]
    assert rows["history_session"] == [[1, 1, 0, 0], [2, 1, 1, 1]]
    assert rows["lengths"] == [2, 4]
    assert rows["targets"] == [[2, 0], [1, PAD]]
    assert rows["session_lengths"] == [2, 1]
    np.testing.assert_array_equal(rows["target_like"], [[1, 0], [1, NAN]])
    np.testing.assert_array_equal(rows["target_rating"], [[3, 4], [6, NAN]])
    assert {name: values.dtype.name for name, values in batch.items()} == {
        **dict.fromkeys(("history", "history_session", "lengths", "user", "targets", "session_lengths"), "int32"),
        **dict.fromkeys(("target_like", "target_rating"), "float32"),
    }


def test_every_good_session_with_a_past_is_given_once_an_epoch():
    log = random_log()
    plan = SessionBatches(
        batch_size=7, max_history=5, session_items=3, good=GoodSessions(watched=0), feedback=("like",)
    )
    source = plan.source(log, seed=3)
    given = [row for step in range(source.steps_per_epoch) for row in _rows(source(step))]
    expected = [row for user in range(log.num_users) for row in _slow_rows(log, user, plan)]
    assert sorted(given) == sorted(expected)
    assert len(given) == source.num_examples > 20
    again = plan.source(log, seed=3)(11)
    assert all(np.array_equal(again[name], values, equal_nan=True) for name, values in source(11).items())


def _rows(batch):
    for row, length in enumerate(batch["lengths"].tolist()):
        yield (
            int(batch["user"][row]),
            tuple(batch["history"][row, :length].tolist()),
            tuple(batch["history_session"][row, :length].tolist()),
            tuple(batch["targets"][row].tolist()),
            tuple(-1.0 if np.isnan(like) else float(like) for like in batch["target_like"][row]),
        )


def _slow_rows(log, user, plan):
    events = range(log.offsets[user], log.offsets[user + 1])
    numbers = [int(log.columns["session"][event]) for event in events]
    likes = [int(log.columns["like"][event]) for event in events]
    distinct = sorted(set(numbers))
    for place, number in enumerate(distinct[1:], start=1):
        inside = [event for event, its in enumerate(numbers) if its == number]
        if not any(likes[event] == 1 for event in inside):
            continue
        known = range(max(0, inside[0] - plan.max_history), inside[0])
        items = log.history(user)
        inside = inside[: plan.session_items]
        padding = plan.session_items - len(inside)
        yield (
            user,
            tuple(int(items[event]) for event in known),
            tuple(place - distinct.index(numbers[event]) for event in known),
            (*(int(items[event]) for event in inside), *[PAD] * padding),
            (*(float(likes[event]) for event in inside), *[-1.0] * padding),
        )


def test_targets_get_codes():
    codes = Codes(np.arange(10, dtype=np.int32).reshape(5, 2), (10, 10), 2)
    plan = SessionBatches(max_history=4, session_items=2, good=EVERY_SESSION)
    batch = with_codes(plan.source(small_log(), seed=0), codes)(0)
    order = np.argsort(batch["lengths"])
    assert batch["target_codes"][order].tolist() == [[[4, 5], [0, 1]], [[2, 3], [PAD, PAD]]]
    assert batch["target_codes"].dtype == np.int32


def test_what_cannot_be_learned_from_is_said():
    with pytest.raises(DataError, match="0 of 4 sessions are good"):
        SessionBatches(good=GoodSessions(watched=9)).source(small_log(), seed=0)
    with pytest.raises(ConfigError, match="session_items must be at least 1"):
        SessionBatches(session_items=0).source(small_log(), seed=0)
    with pytest.raises(DataError, match="'session'"):
        SessionBatches().source(small_log(session=None), seed=0)
    with pytest.raises(DataError, match="'smile'"):
        SessionBatches(good=EVERY_SESSION, feedback=("smile",)).source(small_log(), seed=0)


def test_sessions_as_lists_that_were_shown():
    lists = logged_lists(small_log(), length=2)
    assert lists.users.tolist() == [0, 0, 0, 2]
    assert lists.items.tolist() == [[3, 1], [2, 0], [1, PAD], [0, 2]]
    np.testing.assert_allclose(lists.propensities, [[0.1, 0.2], [0.3, 0.4], [0.6, 1.0], [0.7, 0.8]])
    assert lists.rewards.tolist() == [[1, 2], [3, 4], [6, 0], [7, 8]]
    assert lists.known.tolist() == [0, 2, 5, 0]
    assert lists.random_exposure.tolist() == [True, False, True, False]
    unknown = small_log(propensity=np.array([NAN, 1, 1, 1, 1, 1, 1, 1]))
    with pytest.raises(DataError, match="'propensity' is unknown"):
        logged_lists(unknown, length=2)
