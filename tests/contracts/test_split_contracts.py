"""What every split promises: one battery, run over each kind, on a generated log with times and sessions."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from sememe.core.errors import DataError
from sememe.core.schema import Interactions
from sememe.data.simulator import PlantedWorld
from sememe.data.splits import Examples, GlobalTime, LastSession, LeaveOneOut, Split, check_no_leak
from sememe.data.withhold import withhold_items

LOG = PlantedWorld(branching=(3, 3), items_per_leaf=3, num_users=150, events_per_user=(2, 80)).generate(seed=1)


@dataclass(frozen=True)
class Withholding:
    """A split that also withholds a fifth of the items."""

    part: Any

    def split(self, interactions: Interactions) -> Split:
        return withhold_items(self.part.split(interactions), share=0.2)


KINDS = {
    "leave-one-out": LeaveOneOut(),
    "global-time": GlobalTime(),
    "global-time-all": GlobalTime(targets="all"),
    "last-session": LastSession(),
    "last-session-next": LastSession(targets="next"),
    "leave-one-out-withheld": Withholding(LeaveOneOut()),
    "global-time-withheld": Withholding(GlobalTime()),
    "last-session-next-withheld": Withholding(LastSession(targets="next")),
}
every_kind = pytest.mark.parametrize("part", KINDS.values(), ids=KINDS.keys())


def split_by(part: Any) -> Split:
    split: Split = part.split(LOG.interactions)
    assert len(split.valid) and len(split.test)
    return split


def times_of(user: int) -> Any:
    log = LOG.interactions
    assert log.timestamps is not None
    return log.timestamps[log.offsets[user] : log.offsets[user + 1]]


@every_kind
def test_no_history_holds_an_event_after_its_target(part: Any) -> None:
    split = split_by(part)
    check_no_leak(split)
    for examples in (split.valid, split.test):
        for user, start, end in zip(examples.users, examples.starts, examples.ends, strict=True):
            times = times_of(user)
            assert np.all(times[:start] < times[start:end].min())
            assert np.all(times[: split.train_ends[user]] < times[start:end].min())


@every_kind
def test_every_event_is_trained_on_or_asked_for_at_most_once(part: Any) -> None:
    split = split_by(part)
    uses = np.zeros(LOG.interactions.num_events, np.int64)
    for user, end in enumerate(split.train_ends):
        uses[LOG.interactions.offsets[user] : LOG.interactions.offsets[user] + end] += 1
    for examples in (split.valid, split.test):
        for user, start, end in zip(examples.users, examples.starts, examples.ends, strict=True):
            uses[LOG.interactions.offsets[user] + start : LOG.interactions.offsets[user] + end] += 1
    assert uses.max() == 1
    withheld = np.isin(LOG.interactions.prefix(split.train_ends).items, split.withheld).sum()
    assert split.train().num_events == split.train_ends.sum() - withheld


@every_kind
def test_the_same_log_gives_the_same_split_and_stays_as_it_is(part: Any) -> None:
    items = LOG.interactions.items.copy()
    first, second = split_by(part), split_by(part)
    np.testing.assert_array_equal(first.train_ends, second.train_ends)
    for ours, theirs in ((first.valid, second.valid), (first.test, second.test)):
        for name in ("users", "starts", "ends"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    np.testing.assert_array_equal(LOG.interactions.items, items)
    assert first.protocol == second.protocol


def _train_on_a_target(split: Split) -> Split:
    ends = split.train_ends.copy()
    ends[split.test.users[-1]] = split.test.ends[-1]
    return replace(split, train_ends=ends)


def _train_on_a_validation_target(split: Split) -> Split:
    ends = split.train_ends.copy()
    ends[split.valid.users[0]] = split.valid.ends[0]
    return replace(split, train_ends=ends)


def _ask_what_was_trained(split: Split) -> Split:
    starts = split.valid.starts.copy()
    row = int(np.flatnonzero(starts >= 2)[0])
    starts[row] = split.train_ends[split.valid.users[row]] - 1
    return replace(split, valid=Examples(split.valid.users, starts, split.valid.ends))


def _validate_on_a_test_target(split: Split) -> Split:
    _, in_valid, in_test = np.intersect1d(split.valid.users, split.test.users, return_indices=True)
    ends = split.valid.ends.copy()
    ends[in_valid[0]] = split.test.ends[in_test[0]]
    return replace(split, valid=Examples(split.valid.users, split.valid.starts, ends))


def _ask_beyond_the_history(split: Split) -> Split:
    ends = split.test.ends.copy()
    ends[0] = len(times_of(split.test.users[0])) + 1
    return replace(split, test=Examples(split.test.users, split.test.starts, ends))


@every_kind
@pytest.mark.parametrize(
    "leak",
    [
        _train_on_a_target,
        _train_on_a_validation_target,
        _ask_what_was_trained,
        _validate_on_a_test_target,
        _ask_beyond_the_history,
    ],
)
def test_a_leak_of_one_user_is_found(part: Any, leak: Callable[[Split], Split]) -> None:
    leaky = leak(split_by(part))
    with pytest.raises(DataError, match="the split leaks or is broken"):
        check_no_leak(leaky)
