"""Splits: what is learned from, what is selected on, what is tested on; and a check that nothing leaks.

Every split keeps, of each user, a prefix for training (`train_ends`), so that one array describes it.  An example is
"the first `starts` events are known, the events `starts..ends` are to be predicted".  `protocol` says in plain JSON
what was done, how much came out and who was left out why; it is printed beside every number.

Shape legend: U users, I items, E events, n examples, W withheld items.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import BoolArray, Int32Array, Int64Array, Interactions
from sememe.data.cut_times import BY_ORDER, cut_times, first_at_or_after
from sememe.data.ranges import chunks, count_items, flat_positions

Protocol = Mapping[str, Any]
"""JSON-able: name, parameters, counts, left_out, notes."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Questions to a recommender, at most one per user: given the first `starts` events, name those up to `ends`."""

    users: Int32Array
    """(n,) user index, ascending."""
    starts: Int64Array
    """(n,) events of the user that are known; at least 1."""
    ends: Int64Array
    """(n,) end of the events to be predicted, counted from the user's first event."""

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True, eq=False)
class Split:
    """One log, cut into a training prefix per user and the examples to select and to test on."""

    interactions: Interactions
    train_ends: Int64Array
    """(U,) how many of each user's first events are for training."""
    valid: Examples
    test: Examples
    protocol: Protocol = field(default_factory=dict)
    withheld: Int32Array = field(default_factory=lambda: np.zeros(0, np.int32))
    """(W,) items, ascending, that training and validation never ask for, so that they are new to the model in the test
    (see `sememe.data.withhold`); usually none."""

    def train(self) -> Interactions:
        """The training part: users and items keep their indices, also those that have no event left."""
        learned = self.interactions.prefix(self.train_ends)
        return learned.without_items(self.withheld) if len(self.withheld) else learned


@dataclass(frozen=True)
class LeaveOneOut:
    """The last event of each user is the test target, the second last the validation target.

    Users with fewer than 3 events cannot give both and still teach something: they stay in training whole, are not
    evaluated, and are counted in the protocol.  Most papers split so; it lets training look at other users' events that
    happened after a test event, so prefer GlobalTime for a log of your own.
    """

    def split(self, interactions: Interactions) -> Split:
        """Split every user's own history; needs no timestamps."""
        lengths = interactions.lengths()
        users = np.flatnonzero(lengths >= 3).astype(np.int32)
        train_ends = np.where(lengths >= 3, lengths - 2, lengths)
        last = lengths[users]
        return _finish(
            interactions,
            train_ends=train_ends,
            valid=Examples(users, last - 2, last - 1),
            test=Examples(users, last - 1, last),
            name="leave_one_out",
            parameters={},
            left_out={"users with fewer than 3 events (kept in training whole)": int(np.sum(lengths < 3))},
        )


@dataclass(frozen=True)
class GlobalTime:
    """One moment for everybody: training sees only events before it, as a system that goes live then would.

    The two cuts are event-time quantiles: `test_share` of all events happen at or after the second cut, `valid_share`
    between the two.  A user's example is the first event at or after the cut ("next"), or all of that period ("all");
    all the user's earlier events are the known history, so a test history includes the validation period.  Users
    without an event before the cut (new users) cannot be asked and are counted.  Where a user's own order and the clock
    disagree, the history ends at the first event that lies after the cut, so that nothing later slips in.
    """

    valid_share: float = 0.1
    test_share: float = 0.1
    targets: Literal["next", "all"] = "next"

    def split(self, interactions: Interactions) -> Split:
        """Split at two moments.  Raises DataError without timestamps or where all events share one time."""
        _check_shares(self.valid_share, self.test_share)
        _check_targets(self.targets)
        if interactions.timestamps is None:
            raise DataError(
                "a global time split needs a time for every event, and these interactions have no timestamps",
                fix=f"name the time column of your file, or {BY_ORDER}",
            )
        times = interactions.timestamps
        cuts = cut_times(times, valid_share=self.valid_share, test_share=self.test_share)
        first_valid = first_at_or_after(interactions, times, cuts.valid_from)
        first_test = first_at_or_after(interactions, times, cuts.test_from)
        lengths = interactions.lengths()
        return _finish(
            interactions,
            train_ends=first_valid,
            valid=self._examples(first_valid, first_test),
            test=self._examples(first_test, lengths),
            name="global_time",
            parameters={
                "valid_share": self.valid_share,
                "test_share": self.test_share,
                "targets": self.targets,
                "valid_from_ms": cuts.valid_from,
                "test_from_ms": cuts.test_from,
            },
            left_out={
                "users new in the validation period (no earlier event)": _count_new(first_valid, first_test),
                "users new in the test period (no earlier event)": _count_new(first_test, lengths),
                "users without an event in the validation period": int(np.sum(first_valid == first_test)),
                "users without an event in the test period": int(np.sum(first_test == lengths)),
            },
        )

    def _examples(self, starts: Int64Array, period_ends: Int64Array) -> Examples:
        users = np.flatnonzero((starts > 0) & (period_ends > starts)).astype(np.int32)
        starts = starts[users]
        return Examples(users, starts, period_ends[users] if self.targets == "all" else starts + 1)


@dataclass(frozen=True)
class LastSession:
    """The last session of each user is the test target, the second last the validation target.

    A session is a run of a user's events with one number in `columns["session"]`.  `targets` "all" asks for every event
    of the session, "next" for its first.  Users with fewer than 3 sessions stay in training whole and are counted.
    """

    targets: Literal["all", "next"] = "all"

    def split(self, interactions: Interactions) -> Split:
        """Split every user's own sessions.  Raises DataError where events carry no session."""
        _check_targets(self.targets)
        if "session" not in interactions.columns:
            raise DataError(
                'a session split needs the event column "session", and these interactions have '
                f"{sorted(interactions.columns) or 'no further columns'}",
                fix="name the session column of your file (session_id), or use LeaveOneOut or GlobalTime",
            )
        begins = _run_starts(interactions, interactions.columns["session"])
        first_run = np.searchsorted(begins, interactions.offsets)
        runs = np.diff(first_run)
        enough = runs >= 3
        users = np.flatnonzero(enough).astype(np.int32)
        offsets, lengths = interactions.offsets[:-1], interactions.lengths()
        last = begins[first_run[1:][users] - 1] - offsets[users]
        second_last = begins[first_run[1:][users] - 2] - offsets[users]
        train_ends = lengths.copy()
        train_ends[users] = second_last
        ends = lengths[users]
        whole = self.targets == "all"
        return _finish(
            interactions,
            train_ends=train_ends,
            valid=Examples(users, second_last, last if whole else second_last + 1),
            test=Examples(users, last, ends if whole else last + 1),
            name="last_session",
            parameters={"targets": self.targets},
            left_out={"users with fewer than 3 sessions (kept in training whole)": int(np.sum(~enough))},
        )


def check_no_leak(split: Split) -> None:
    """Raise DataError where something that is to be predicted could be learned from or seen in the history.

    Rules: training is a prefix of each user; every target lies after the user's training part and after the history;
    each user is asked at most once per part; a validation target never lies behind the user's test history; and for a
    global time split every training event, and every validation target, is older than the cut that follows it.
    Withheld items occur neither in the training part nor among the validation targets.
    """
    interactions = split.interactions
    lengths = interactions.lengths()
    ends = split.train_ends
    _require("train_ends has one entry per user", holds=np.array(ends.shape == lengths.shape))
    _require("train_ends lies inside each user's history", holds=(ends >= 0) & (ends <= lengths))
    for name, examples in (("valid", split.valid), ("test", split.test)):
        users = examples.users
        _require(f"the {name} users are distinct and ascending", holds=np.diff(users) > 0)
        _require(f"each {name} history holds an event", holds=examples.starts >= 1)
        _require(f"no {name} target is in the training part", holds=examples.starts >= ends[users])
        _require(f"each {name} example has a target", holds=examples.ends > examples.starts)
        _require(f"each {name} target is an event of its user", holds=examples.ends <= lengths[users])
    _, in_valid, in_test = np.intersect1d(split.valid.users, split.test.users, return_indices=True)
    ordered = split.valid.ends[in_valid] <= split.test.starts[in_test]
    _require("no test target is a validation target or older than one", holds=ordered)
    if len(split.withheld):
        _check_withheld(split)
    if split.protocol.get("name") == "global_time":
        _check_times(split)


def _check_withheld(split: Split) -> None:
    """The withheld items' side of check_no_leak."""
    withheld, items = split.withheld, split.interactions.num_items
    _require("the withheld items are distinct and ascending", holds=np.diff(withheld) > 0)
    _require("each withheld item is in the catalogue", holds=(withheld >= 0) & (withheld < items))
    learned = count_items(split.train().items, num_items=items)
    _require("no withheld item is in the training part", holds=learned[withheld] == 0)
    asked = target_items(split.interactions, split.valid)
    _require("no validation target is a withheld item", holds=~np.isin(asked, withheld))


def _check_times(split: Split) -> None:
    """The clock's side of check_no_leak: what is known at a cut is older than the cut."""
    times = split.interactions.timestamps
    assert times is not None, "a global time split without times"
    offsets = split.interactions.offsets
    valid_from, test_from = (split.protocol["parameters"][key] for key in ("valid_from_ms", "test_from_ms"))
    first_late = first_at_or_after(split.interactions, times, valid_from)
    _require("every training event is older than the validation cut", holds=split.train_ends <= first_late)
    known = split.valid.starts <= first_late[split.valid.users]
    _require("every validation history is older than the validation cut", holds=known)
    first_late = first_at_or_after(split.interactions, times, test_from)
    targets_old = split.valid.ends <= first_late[split.valid.users]
    _require("every validation target is older than the test cut", holds=targets_old)
    known = split.test.starts <= first_late[split.test.users]
    _require("every test history is older than the test cut", holds=known)
    for name, examples, cut in (("validation", split.valid, valid_from), ("test", split.test, test_from)):
        first_target = times[offsets[examples.users] + examples.starts]
        _require(f"the next event of each {name} example is not older than its cut", holds=first_target >= cut)


def _require(rule: str, *, holds: BoolArray) -> None:
    if not bool(np.all(holds)):
        raise DataError(
            f"the split leaks or is broken: the rule {rule!r} does not hold",
            fix="build the split with LeaveOneOut, GlobalTime or LastSession, or repair the part that made this one",
        )


def _finish(
    interactions: Interactions,
    *,
    train_ends: Int64Array,
    valid: Examples,
    test: Examples,
    name: str,
    parameters: Mapping[str, Any],
    left_out: Mapping[str, int],
) -> Split:
    """Count what came out, refuse an empty part, and write the protocol."""
    for part, examples in (("validation", valid), ("test", test)):
        if len(examples) == 0:
            raise DataError(
                f"the {name} split of {interactions.num_users} users and {interactions.num_events} events leaves no "
                f"{part} example",
                fix="use another split, larger shares, or more data; left out: "
                + "; ".join(f"{count} {reason}" for reason, count in left_out.items()),
            )
    split = Split(interactions, train_ends.astype(np.int64), valid, test)
    counts = part_counts(split)
    if counts["train_events"] == 0:
        raise DataError(
            f"the {name} split leaves no event to learn from",
            fix="use smaller shares, another split, or more data",
        )
    notes = ["cold targets are events of items that never occur in the training part; they are asked for all the same"]
    protocol = {
        "name": name,
        "parameters": dict(parameters),
        "counts": counts,
        "left_out": dict(left_out),
        "notes": notes,
    }
    return replace(split, protocol=protocol)


def part_counts(split: Split) -> dict[str, int]:
    """The counts of the protocol: users, items and events of the log and of each part, cold targets among them."""
    interactions = split.interactions
    trained = trained_items(split)
    learned = split.train().lengths() if len(split.withheld) else split.train_ends
    counts = {
        "users": interactions.num_users,
        "items": interactions.num_items,
        "events": interactions.num_events,
        "train_events": int(learned.sum()),
        "train_users": int(np.sum(learned > 0)),
        "train_items": int(trained.sum()),
    }
    for part, examples in (("valid", split.valid), ("test", split.test)):
        targets = target_items(interactions, examples)
        counts[f"{part}_users"] = len(examples)
        counts[f"{part}_targets"] = len(targets)
        counts[f"{part}_cold_targets"] = int(np.sum(~trained[targets]))
    return counts


def target_items(interactions: Interactions, examples: Examples) -> Int32Array:
    """(targets,) the items of all targets of all examples."""
    base = interactions.offsets[examples.users]
    return interactions.items[flat_positions(base + examples.starts, base + examples.ends)]


def trained_items(split: Split) -> BoolArray:
    """(I,) whether each item occurs in the training part: all occurrences less those behind the training prefixes."""
    interactions = split.interactions
    counts = count_items(interactions.items, num_items=interactions.num_items)
    offsets = interactions.offsets
    behind = flat_positions(offsets[:-1] + split.train_ends, offsets[1:])
    for part in chunks(len(behind)):
        counts -= np.bincount(interactions.items[behind[part]], minlength=interactions.num_items)
    counts[split.withheld] = 0
    return counts > 0


def _check_shares(valid_share: float, test_share: float) -> None:
    if not (0 < valid_share < 1 and 0 < test_share < 1 and valid_share + test_share < 1):
        raise ConfigError(
            f"valid_share and test_share are shares of all events and must leave some to train on, "
            f"got {valid_share} and {test_share}",
            fix="use two shares above 0 that add up to less than 1, e.g. 0.1 and 0.1",
        )


def _check_targets(targets: str) -> None:
    if targets not in ("next", "all"):
        raise ConfigError(f'targets must be "next" or "all", got {targets!r}', fix='set targets to "next" or "all"')


def _count_new(starts: Int64Array, period_ends: Int64Array) -> int:
    return int(np.sum((starts == 0) & (period_ends > 0)))


def _run_starts(interactions: Interactions, sessions: np.ndarray[Any, Any]) -> Int64Array:
    """(sessions,) flat positions at which a session begins; a new user always begins one."""
    begins = np.ones(interactions.num_events, np.bool_)
    begins[1:] = sessions[1:] != sessions[:-1]
    offsets = interactions.offsets[:-1]
    begins[offsets[offsets < interactions.num_events]] = True
    return np.flatnonzero(begins).astype(np.int64)
