"""Withheld items: one case worked by hand, and what holds for every log: nothing of them is learned or selected on."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_splits import asked, log, logs

from sememe.core.errors import ConfigError, DataError
from sememe.data.batches import PrefixBatches
from sememe.data.splits import GlobalTime, LastSession, LeaveOneOut, Split, check_no_leak, target_items
from sememe.data.withhold import withhold_items

# Leave-one-out trains on [0 1], [3 2], [2 4], [0 1]; asks in validation for 2, 1, 3, in the test for 3, 0, 5.
# Of the test targets, 0 and 3 are trained on, so that these two can be withheld.
HISTORIES = [[0, 1, 2, 3], [3, 2, 1, 0], [2, 4, 3, 5], [0, 1]]
LOG = log(HISTORIES, times=[[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13]], sessions=HISTORIES)


def test_withholding_by_hand():
    split = withhold_items(LeaveOneOut().split(LOG), share=0.34)  # round(0.34 * 6 items) = 2
    check_no_leak(split)
    assert split.withheld.tolist() == [0, 3]
    train = split.train()
    assert [train.history(user).tolist() for user in range(4)] == [[1], [2], [2, 4], [1]]
    assert train.timestamps.tolist() == [1, 5, 8, 9, 13]
    assert train.columns["session"].tolist() == [1, 2, 2, 4, 1]
    assert (train.num_users, train.num_items) == (4, 6)
    # The third user's validation target is item 3.
    assert asked(split.valid) == [(0, 2, 3), (1, 2, 3)]
    assert asked(split.test) == [(0, 3, 4), (1, 3, 4), (2, 3, 4)]
    counts = split.protocol["counts"]
    assert (counts["train_events"], counts["train_users"], counts["train_items"]) == (5, 4, 3)
    assert (counts["valid_users"], counts["valid_targets"], counts["valid_cold_targets"]) == (2, 2, 0)
    # Item 5 was cold before.
    assert (counts["test_users"], counts["test_cold_targets"], counts["test_withheld_targets"]) == (3, 3, 2)
    assert counts["withheld_items"] == 2
    assert split.protocol["parameters"] == {"withhold_items": 0.34}
    left_out = split.protocol["left_out"]
    assert left_out["training events of withheld items"] == 3
    assert left_out["validation examples that ask for a withheld item"] == 1
    assert left_out["users with fewer than 3 events (kept in training whole)"] == 1
    json.dumps(split.protocol)


def test_a_validation_example_goes_if_any_of_its_targets_is_withheld():
    sessions = [[0, 0, 1, 1, 2], [3, 3, 4, 4, 5], [6, 7, 8]]
    split = LastSession().split(log([[0, 5, 1, 2, 3], [0, 5, 2, 0, 0], [1, 2, 4]], sessions=sessions))
    assert asked(split.valid) == [(0, 2, 4), (1, 2, 4), (2, 1, 2)]
    # Of the test targets 3, 0 and 4, training knows only 0; it is the second target of the second user.
    split = withhold_items(split, share=0.1)
    assert split.withheld.tolist() == [0]
    assert asked(split.valid) == [(0, 2, 4), (2, 1, 2)]


def test_withholding_nothing_changes_nothing():
    split = LeaveOneOut().split(LOG)
    assert withhold_items(split, share=0.0) is split
    assert len(split.withheld) == 0
    assert "withheld_items" not in split.protocol["counts"]


@pytest.mark.parametrize("part", [LeaveOneOut(), GlobalTime(), GlobalTime(targets="all"), LastSession()])
@settings(max_examples=30, deadline=None)
@given(interactions=logs(), share=st.sampled_from([0.05, 0.2, 0.5]))
def test_no_withheld_item_is_learned_or_selected_on(part, interactions, share):
    try:
        whole = part.split(interactions)
        split = withhold_items(whole, share=share)
    except DataError:
        return
    check_no_leak(split)
    withheld = set(split.withheld.tolist())
    assert len(withheld) == max(1, round(share * len(set(interactions.items.tolist()))))
    tested = target_items(interactions, split.test).tolist()
    assert withheld <= set(tested)
    assert withheld <= set(whole.train().items.tolist())
    for user in range(interactions.num_users):
        before = whole.train().history(user).tolist()
        assert split.train().history(user).tolist() == [item for item in before if item not in withheld]
    expected = [
        (user, start, end)
        for user, start, end in asked(whole.valid)
        if not withheld & set(interactions.history(user)[start:end].tolist())
    ]
    assert asked(split.valid) == expected
    assert asked(split.test) == asked(whole.test)
    left_out, counts = split.protocol["left_out"], split.protocol["counts"]
    assert counts["train_events"] == split.train().num_events
    assert left_out["training events of withheld items"] == whole.train().num_events - split.train().num_events
    assert left_out["validation examples that ask for a withheld item"] == len(whole.valid) - len(split.valid)
    trained = set(split.train().items.tolist())
    assert counts["train_items"] == len(trained)
    assert counts["test_cold_targets"] == sum(item not in trained for item in tested)
    assert counts["test_withheld_targets"] == sum(item in withheld for item in tested)


def many_items():
    """60 users who each walk over all of 40 items, each from another start."""
    return log([[(user + step) % 40 for step in range(12)] for user in range(60)], num_items=40)


def test_the_draw_is_fixed_and_a_larger_share_adds_items():
    split = LeaveOneOut().split(many_items())
    small, large = (withhold_items(split, share=share).withheld for share in (0.1, 0.3))
    assert (len(small), len(large)) == (4, 12)
    assert set(small) < set(large)
    assert small.tolist() == withhold_items(split, share=0.1).withheld.tolist()
    # One frozen draw: other numbers would make every earlier cold result another experiment.
    assert small.tolist() == [5, 7, 11, 28]


def test_batches_of_the_training_part_hold_no_withheld_item():
    split = withhold_items(LeaveOneOut().split(many_items()), share=0.2)
    source = PrefixBatches(batch_size=16).source(split.train(), seed=0)
    shown = [np.concatenate([batch["history"].ravel(), batch["target"]]) for batch in map(source, range(40))]
    assert source.steps_per_epoch <= 40
    assert not np.isin(np.concatenate(shown), split.withheld).any()


def test_check_no_leak_finds_a_planted_leak_of_a_withheld_item(monkeypatch):
    split = withhold_items(LeaveOneOut().split(LOG), share=0.34)
    with pytest.raises(DataError, match="no validation target is a withheld item"):
        check_no_leak(replace(split, valid=LeaveOneOut().split(LOG).valid))
    with pytest.raises(DataError, match="distinct and ascending"):
        check_no_leak(replace(split, withheld=np.array([3, 0], np.int32)))
    with pytest.raises(DataError, match="in the catalogue"):
        check_no_leak(replace(split, withheld=np.array([-1, 0], np.int32)))
    monkeypatch.setattr(Split, "train", lambda self: self.interactions.prefix(self.train_ends))
    with pytest.raises(DataError, match="no withheld item is in the training part"):
        check_no_leak(split)


def test_what_cannot_be_withheld_is_said():
    split = LeaveOneOut().split(LOG)
    for share in (-0.1, 1.0):
        with pytest.raises(ConfigError, match="share of the items"):
            withhold_items(split, share=share)
    with pytest.raises(DataError, match="asks for 3 items, and 2 items are both a test target and"):
        withhold_items(split, share=0.5)
    only = LeaveOneOut().split(log([[0, 1, 0], [0, 2, 0]]))
    with pytest.raises(DataError, match="leaves no event to learn from"):
        withhold_items(only, share=0.1)
    chosen = LeaveOneOut().split(log([[1, 0, 2], [0, 1, 0]]))  # item 0 goes, the second user's target stays
    assert asked(withhold_items(chosen, share=0.1).valid) == [(1, 1, 2)]
    with pytest.raises(DataError, match="leaves no validation example"):
        withhold_items(LeaveOneOut().split(log([[1, 0, 2], [0, 0, 0]])), share=0.1)
