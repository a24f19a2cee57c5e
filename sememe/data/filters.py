"""Filters: leave events, users and items out, close the gaps in the indices, and count everything that went.

Users without an event left lose their index.  So do items that had events and have none left; items that never had one
(catalogue-only items, kept on purpose) stay.

Shape legend: U users, I items, E events.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import BoolArray, Catalog, Int32Array, Int64Array, Interactions
from sememe.data.dropped import Dropped
from sememe.data.ranges import CHUNK_EVENTS, count_items


@dataclass(frozen=True, eq=False)
class Filtered:
    """What is left, under new indices, and what went."""

    interactions: Interactions
    catalog: Catalog
    dropped: tuple[Dropped, ...]
    """Only reasons that happened."""


@dataclass(frozen=True)
class Dedupe:
    """Keep the first of equal events of a user.

    "exact": the same item at the same time; "consecutive": the same item as the event before, whenever that was;
    "item": an item the user has had before.
    """

    rule: Literal["exact", "consecutive", "item"] = "exact"

    def apply(self, interactions: Interactions, catalog: Catalog) -> Filtered:
        """Raises DataError where the rule is "exact" and there are no timestamps."""
        if self.rule == "consecutive":
            keep, reason = ~_same_as_before(interactions), "events with the same item as the user's event before"
        elif self.rule == "item":
            keep, reason = _first_of_equals(interactions, times=None), "events with an item that the user had before"
        elif self.rule == "exact":
            if interactions.timestamps is None:
                raise DataError(
                    'Dedupe("exact") compares user, item and time, and these interactions have no timestamps',
                    fix='use Dedupe("consecutive") or Dedupe("item"), or name the time column of your file',
                )
            keep = _first_of_equals(interactions, times=interactions.timestamps)
            reason = "duplicate events (same user, item and time)"
        else:
            raise ConfigError(
                f'the rule of Dedupe must be "exact", "consecutive" or "item", got {self.rule!r}',
                fix="use one of these three",
            )
        return _keep_events(interactions, catalog, keep=keep, reason=reason)


@dataclass(frozen=True)
class MinLength:
    """Leave out users with fewer than `events` events.  Once: it does not look at items (KCore does)."""

    events: int = 3

    def apply(self, interactions: Interactions, catalog: Catalog) -> Filtered:
        """Raises DataError where no user is long enough."""
        _check_positive("MinLength", events=self.events)
        lengths = interactions.lengths()
        keep = np.repeat(lengths >= self.events, lengths)
        reason = f"events of users with fewer than {self.events} events"
        return _keep_events(interactions, catalog, keep=keep, reason=reason)


@dataclass(frozen=True)
class KCore:
    """Leave out users with fewer than `users` events and items with fewer than `items`, again until none is left.

    Events are counted, not distinct partners: a user who bought one item five times has five.  The result, the largest
    part of the log in which both bounds hold, does not depend on the order of the steps.
    """

    users: int = 5
    items: int = 5

    def apply(self, interactions: Interactions, catalog: Catalog) -> Filtered:
        """Raises DataError where nothing is dense enough."""
        _check_positive("KCore", users=self.users, items=self.items)
        keep = np.zeros(interactions.num_events, np.bool_)
        keep[self._core(interactions)] = True
        reason = f"events outside the core ({self.users} events per user, {self.items} per item)"
        return _keep_events(interactions, catalog, keep=keep, reason=reason)

    def _core(self, interactions: Interactions) -> Int64Array:
        """(events in the core,) flat positions; every round looks only at what the one before has left."""
        users, items = interactions.users(), np.asarray(interactions.items)
        places = np.arange(interactions.num_events, dtype=np.int64)
        while True:
            per_user = count_items(users, num_items=interactions.num_users)
            per_item = count_items(items, num_items=interactions.num_items)
            enough = (per_user >= self.users)[users] & (per_item >= self.items)[items]
            if bool(enough.all()):
                return places
            users, items, places = users[enough], items[enough], places[enough]


def _keep_events(interactions: Interactions, catalog: Catalog, *, keep: BoolArray, reason: str) -> Filtered:
    """The events with `keep` (E,), under indices without gaps."""
    assert catalog.num_items == interactions.num_items, "catalogue and interactions count different items"
    lost = int(np.sum(~keep))
    if lost == 0:
        return Filtered(interactions, catalog, ())
    if lost == interactions.num_events:
        raise DataError(
            f"a filter leaves nothing: all {lost} events are {reason}",
            fix="lower the bounds of the filter, or give more data",
        )
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(keep, dtype=np.int64)])
    lengths = np.diff(ends[interactions.offsets])
    old_items = interactions.items[keep]
    had = count_items(interactions.items, num_items=interactions.num_items) > 0
    has = count_items(old_items, num_items=interactions.num_items) > 0
    users, items = np.flatnonzero(lengths > 0), np.flatnonzero(has | ~had)
    new_index = np.full(interactions.num_items, -1, np.int32)
    new_index[items] = np.arange(len(items), dtype=np.int32)
    times = interactions.timestamps
    left = Interactions(
        offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths[users], dtype=np.int64)]),
        items=new_index[old_items],
        user_ids=interactions.user_ids.gather(users),
        item_ids=interactions.item_ids.gather(items),
        timestamps=None if times is None else times[keep],
        columns={name: values[keep] for name, values in interactions.columns.items()},
    )
    vectors = catalog.vectors
    dropped = (
        Dropped(reason, lost),
        Dropped("users without an event left", interactions.num_users - len(users)),
        Dropped("items without an event left", interactions.num_items - len(items)),
    )
    return Filtered(
        left,
        Catalog(catalog.frame[items], None if vectors is None else vectors[items]),
        tuple(each for each in dropped if each.count),
    )


def _same_as_before(interactions: Interactions) -> BoolArray:
    """(E,) whether an event has the item of the same user's event before it."""
    same = np.zeros(interactions.num_events, np.bool_)
    same[1:] = interactions.items[1:] == interactions.items[:-1]
    firsts = interactions.offsets[:-1]
    same[firsts[firsts < interactions.num_events]] = False
    return same


def _first_of_equals(interactions: Interactions, *, times: Int64Array | None) -> BoolArray:
    """(E,) whether no earlier event of the user has the same item (and time, where times are given)."""
    first = np.ones(interactions.num_events, np.bool_)
    for block in _user_blocks(interactions.offsets):
        offsets = interactions.offsets[block.start : block.stop + 1]
        events = slice(int(offsets[0]), int(offsets[-1]))
        users = np.repeat(np.arange(len(offsets) - 1, dtype=np.int32), np.diff(offsets))
        keys: list[Int32Array | Int64Array] = [np.asarray(interactions.items[events]), users]
        if times is not None:
            keys.insert(0, np.asarray(times[events]))
        # lexsort is stable, so that among equals the earliest comes first.
        order = np.lexsort(keys)
        equal = np.ones(max(len(order) - 1, 0), np.bool_)
        for key in keys:
            equal &= key[order[1:]] == key[order[:-1]]
        first[events.start + order[1:][equal]] = False
    return first


def _user_blocks(offsets: Int64Array) -> Iterator[slice]:
    """Slices of users that together have at most CHUNK_EVENTS events (or are a single user)."""
    start, last = 0, len(offsets) - 1
    while start < last:
        stop = int(np.searchsorted(offsets, offsets[start] + CHUNK_EVENTS, side="right")) - 1
        stop = min(max(stop, start + 1), last)
        yield slice(start, stop)
        start = stop


def _check_positive(part: str, /, **values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"{part}: {name} must be at least 1, got {value}", fix=f"set {name} to 1 or more")
