"""Splits: hand-worked cuts, and for each split a property test that nothing leaks."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import Interactions
from sememe.data.splits import Examples, GlobalTime, LastSession, LeaveOneOut, Split, check_no_leak


def log(histories, *, times=None, sessions=None, num_items=None):
    """Interactions from one list per user."""
    flat = [item for history in histories for item in history]
    offsets = np.concatenate([[0], np.cumsum([len(history) for history in histories])]).astype(np.int64)
    count = num_items if num_items is not None else max(flat, default=-1) + 1
    return Interactions(
        offsets=offsets,
        items=np.array(flat, np.int32),
        user_ids=pl.Series([f"u{user}" for user in range(len(histories))]),
        item_ids=pl.Series([f"i{item}" for item in range(count)]),
        timestamps=None if times is None else np.array([t for row in times for t in row], np.int64),
        columns={} if sessions is None else {"session": np.array([s for row in sessions for s in row], np.int64)},
    )


def asked(examples):
    return list(zip(examples.users.tolist(), examples.starts.tolist(), examples.ends.tolist(), strict=True))


@st.composite
def logs(draw):
    """Up to 8 users with 0-7 events each; times may tie and need not be in order within a user."""
    lengths = draw(st.lists(st.integers(0, 7), min_size=1, max_size=8))
    row = [st.lists(st.integers(0, 20), min_size=n, max_size=n) for n in lengths]
    times = [draw(r) for r in row]
    if draw(st.booleans()):
        times = [sorted(t) for t in times]
    histories = [draw(r) for r in row]
    sessions = [np.cumsum([t % 2 for t in ts]).tolist() for ts in times]
    return log(histories, times=times, sessions=sessions, num_items=21)


def test_leave_one_out_by_hand():
    split = LeaveOneOut().split(log([[0, 1, 2, 3], [4, 5], [], [1, 2, 6]]))
    assert split.train_ends.tolist() == [2, 2, 0, 1]
    assert asked(split.valid) == [(0, 2, 3), (3, 1, 2)]
    assert asked(split.test) == [(0, 3, 4), (3, 2, 3)]
    assert split.train().items.tolist() == [0, 1, 4, 5, 1]
    counts = split.protocol["counts"]
    # Trained on items 0, 1, 4, 5: both validation targets (2, 2) and both test targets (3, 6) are cold.
    assert (counts["train_items"], counts["valid_cold_targets"], counts["test_cold_targets"]) == (4, 2, 2)
    assert (counts["train_events"], counts["train_users"], counts["test_users"]) == (5, 3, 2)
    assert sum(split.protocol["left_out"].values()) == 2
    assert "whole" in next(iter(split.protocol["left_out"]))


def test_global_time_by_hand():
    # 10 events at times 0..9; shares .2 and .3 put the cuts at the events of times 5 and 7.
    interactions = log([[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]], times=[[0, 3, 6, 8], [1, 2, 9], [4, 5, 7]])
    split = GlobalTime(valid_share=0.2, test_share=0.3).split(interactions)
    parameters = split.protocol["parameters"]
    assert (parameters["valid_from_ms"], parameters["test_from_ms"]) == (5, 7)
    assert split.train_ends.tolist() == [2, 2, 1]
    assert asked(split.valid) == [(0, 2, 3), (2, 1, 2)]
    assert asked(split.test) == [(0, 3, 4), (1, 2, 3), (2, 2, 3)]
    assert split.protocol["left_out"] == {
        "users new in the validation period (no earlier event)": 0,
        "users new in the test period (no earlier event)": 0,
        "users without an event in the validation period": 1,
        "users without an event in the test period": 0,
    }


def test_global_time_can_ask_for_the_whole_period_and_counts_new_users():
    interactions = log(
        [[0, 1, 2, 3], [4, 5, 6, 0], [7, 8]], times=[[0, 1, 2, 9], [3, 7, 7, 8], [7, 9]]
    )  # user 2 is new in validation
    split = GlobalTime(valid_share=0.3, test_share=0.3, targets="all").split(interactions)
    assert split.train_ends.tolist() == [3, 1, 0]
    assert asked(split.valid) == [(1, 1, 3)]
    assert asked(split.test) == [(0, 3, 4), (1, 3, 4), (2, 1, 2)]
    left_out = split.protocol["left_out"]
    assert left_out["users new in the validation period (no earlier event)"] == 1
    assert left_out["users new in the test period (no earlier event)"] == 0


def test_global_time_ends_the_history_where_order_and_clock_disagree():
    # User 0 is ordered by position; its second event carries a late time, so nothing after it may be history.
    interactions = log([[0, 1, 2, 3], [4, 5, 6, 7, 8, 9]], times=[[0, 9, 1, 9], [2, 3, 4, 5, 6, 8]])
    split = GlobalTime(valid_share=0.2, test_share=0.2).split(interactions)
    assert split.train_ends[0] == 1
    assert asked(split.test)[0] == (0, 1, 2)


def test_last_session_by_hand():
    sessions = [[1, 1, 2, 3, 3], [4, 4, 5], [], [6, 7, 8]]
    interactions = log([[0, 1, 2, 3, 4], [0, 1, 2], [], [2, 1, 0]], sessions=sessions)
    split = LastSession().split(interactions)
    assert split.train_ends.tolist() == [2, 3, 0, 1]
    assert asked(split.valid) == [(0, 2, 3), (3, 1, 2)]
    assert asked(split.test) == [(0, 3, 5), (3, 2, 3)]
    assert sum(split.protocol["left_out"].values()) == 2
    assert asked(LastSession(targets="next").split(interactions).test) == [(0, 3, 4), (3, 2, 3)]


def test_session_numbers_that_repeat_across_users_do_not_join_users():
    interactions = log([[0, 1, 2], [3, 4, 5]], sessions=[[1, 2, 3], [3, 4, 5]])
    assert asked(LastSession().split(interactions).test) == [(0, 2, 3), (1, 2, 3)]


@pytest.mark.parametrize("part", [LeaveOneOut(), GlobalTime(), GlobalTime(targets="all"), LastSession()])
@settings(max_examples=30, deadline=None)
@given(interactions=logs())
def test_no_split_leaks(part, interactions):
    try:
        split = part.split(interactions)
    except DataError:
        return
    check_no_leak(split)
    json.dumps(split.protocol)
    trained = set()
    train = split.train()
    for user in range(interactions.num_users):
        full, learned = interactions.history(user).tolist(), train.history(user).tolist()
        assert full[: len(learned)] == learned
        trained.update(learned)
    cold = 0
    for user, start, end in asked(split.test):
        assert end > start >= max(1, split.train_ends[user])
        cold += sum(item not in trained for item in interactions.history(user)[start:end].tolist())
    assert split.protocol["counts"]["test_cold_targets"] == cold


@settings(max_examples=30, deadline=None)
@given(interactions=logs())
def test_global_time_never_looks_past_its_cuts(interactions):
    try:
        split = GlobalTime(valid_share=0.25, test_share=0.25).split(interactions)
    except DataError:
        return
    valid_from, test_from = (split.protocol["parameters"][key] for key in ("valid_from_ms", "test_from_ms"))
    assert np.all(split.train().timestamps < valid_from)
    for examples, cut in ((split.valid, valid_from), (split.test, test_from)):
        for user, start, _ in asked(examples):
            begin = interactions.offsets[user]
            assert np.all(interactions.timestamps[begin : begin + start] < cut)
            assert interactions.timestamps[begin + start] >= cut


GOOD = log([[0, 1, 2, 3], [1, 2, 3, 0]], times=[[0, 1, 5, 9], [0, 2, 6, 9]])


def shifted(examples, *, by):
    return Examples(examples.users, examples.starts + by, examples.ends + by)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda s: replace(s, train_ends=s.train_ends + 1), "no valid target is in the training part"),
        (lambda s: replace(s, train_ends=s.train_ends - 9), "train_ends lies inside"),
        (lambda s: replace(s, test=shifted(s.test, by=-1)), "no test target is a validation target"),
        (lambda s: replace(s, test=shifted(s.test, by=1)), "each test target is an event of its user"),
        (lambda s: replace(s, valid=Examples(s.valid.users[[0, 0]], s.valid.starts, s.valid.ends)), "distinct"),
        (lambda s: replace(s, test=Examples(s.test.users, s.test.starts, s.test.starts)), "has a target"),
        (lambda s: replace(s, train_ends=s.train_ends * 0, valid=shifted(s.valid, by=-2)), "holds an event"),
    ],
)
def test_check_no_leak_finds_a_planted_leak(change, rule):
    split = LeaveOneOut().split(GOOD)
    check_no_leak(split)
    with pytest.raises(DataError, match=rule):
        check_no_leak(change(split))


def test_check_no_leak_knows_the_clock():
    split = GlobalTime(valid_share=0.25, test_share=0.25).split(GOOD)
    assert asked(split.valid) == [(0, 2, 3), (1, 2, 3)]
    check_no_leak(split)
    late = Split(GOOD, split.train_ends, shifted(split.valid, by=1), split.test, split.protocol)
    with pytest.raises(DataError, match="test"):
        check_no_leak(late)
    early = replace(split, train_ends=split.train_ends - 1, valid=shifted(split.valid, by=-1))
    with pytest.raises(DataError, match="not older than its cut"):
        check_no_leak(early)


def test_what_a_split_cannot_do_is_said():
    with pytest.raises(DataError, match="no timestamps"):
        GlobalTime().split(log([[0, 1, 2]]))
    with pytest.raises(DataError, match="the last of all times, 5 ms, at which 3 of 3 events happen"):
        GlobalTime().split(log([[0, 1, 2]], times=[[5, 5, 5]]))
    # Events 5 of 0..5 open both periods: 6 * 0.8 and 6 * 0.9 both round to 5.
    few = log([[0, 1, 2], [3, 4, 5]], times=[[1, 2, 3], [4, 5, 6]])
    with pytest.raises(DataError, match="the last of all times, 6 ms, at which 1 of 6 events happen") as caught:
        GlobalTime().split(few)
    assert "use LeaveOneOut, which needs the order only: --set data.split.rule=leave_one_out" in caught.value.fix
    assert GlobalTime(valid_share=0.2, test_share=0.2).split(few).protocol["parameters"]["valid_from_ms"] == 5
    with pytest.raises(DataError, match='event column "session"'):
        LastSession().split(log([[0, 1, 2]]))
    with pytest.raises(DataError, match="leaves no validation example"):
        LeaveOneOut().split(log([[0, 1], [1]]))
    with pytest.raises(DataError, match="no events"):
        GlobalTime().split(log([[], []], times=[[], []]))
    with pytest.raises(ConfigError, match=r"0\.6 and 0\.5"):
        GlobalTime(valid_share=0.6, test_share=0.5).split(GOOD)
    with pytest.raises(ConfigError, match="'first'"):
        LastSession(targets="first").split(GOOD)
