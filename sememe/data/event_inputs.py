"""What a model may read of an event beside its item: what was done, how long after the event before, and whether it was
liked.

All are small whole numbers, 0 where nothing is known, so that a model reads them from a table.  They are worked out
for the events asked for and kept nowhere: a log that is a memory map stays on disk.

Shape legend: E events, n positions asked for, N rows, W width of the longest row.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from sememe.core.errors import ConfigError, DataError, did_you_mean
from sememe.core.schema import Int32Array, Int64Array, Interactions
from sememe.data.ranges import chunks, flat_positions

EventInput = Literal["action", "gap", "positive"]
UNKNOWN = 0
"""Value of an event of which nothing is known, and of padding."""

HOUR_MS = 3_600_000
MOST_DOUBLINGS = 14
"""Gaps of 2 ** 14 - 1 hours (almost two years) and more are one."""
NUM_GAPS = MOST_DOUBLINGS + 2

# floor(log2(1 + hours)) is at least k from 2 ** k - 1 hours on; whole milliseconds know no rounding.
_EDGES_MS = HOUR_MS * (2 ** np.arange(1, MOST_DOUBLINGS + 1, dtype=np.int64) - 1)
_ACTION_COLUMN = "event_type"

POSITIVE = 2
"""Value of "positive" where it was."""
_LIKED = ("like", "follow")


def event_inputs(log: Interactions, events: Iterable[str], *, places: Int64Array) -> dict[str, Int32Array]:
    """Name -> (n,) values of the events at `places`.

    "action": the code of the event's type plus 1, UNKNOWN where it has none.
    "gap": 1 + min(floor(log2(1 + hours since the user's event before)), MOST_DOUBLINGS); UNKNOWN for a user's first
        event and where a time is not known.  An event that lies before its predecessor has the gap of none, 1.
    "positive": POSITIVE where the item was liked or its maker followed, 1 where neither is known to have happened and
        one is known not to have, else UNKNOWN.

    Args:
        log: what the events belong to.
        events: names of EventInput.
        places: (n,) positions in the log, each in 0..E-1.

    Raises:
        ConfigError: a name that is not known.
        DataError: the log has no event types, no times, or nothing about what was liked.
    """
    names = tuple(events)
    check_events(log, names)
    make = {"action": _actions, "gap": _gaps, "positive": _positives}
    return {name: make[name](log, places) for name in names}


def padded_event_inputs(
    log: Interactions, events: Iterable[str], *, starts: Int64Array, ends: Int64Array
) -> dict[str, Int32Array]:
    """Name -> (N, W) values of the slices `starts[n]:ends[n]`, laid out as by `padded`, UNKNOWN after the end."""
    lengths = ends - starts
    inside = np.arange(max(1, int(lengths.max(initial=0)))) < lengths[:, None]
    found: dict[str, Int32Array] = {}
    for name, values in event_inputs(log, events, places=flat_positions(starts, ends)).items():
        found[name] = np.full(inside.shape, UNKNOWN, np.int32)
        found[name][inside] = values
    return found


def user_event_inputs(log: Interactions, events: Iterable[str], *, user: int) -> dict[str, Int32Array]:
    """Name -> values of all events of one user, aligned with `log.history(user)`."""
    return event_inputs(log, events, places=np.arange(log.offsets[user], log.offsets[user + 1], dtype=np.int64))


def refuse_unread(given: Iterable[str], *, read: Sequence[str]) -> None:
    """Raise ConfigError where something is told of events that a model does not read."""
    unread = sorted(set(given) - set(read))
    if unread:
        raise ConfigError(
            f"events has {unread}, which this model does not read",
            fix=f"give only {sorted(read)}" if read else "leave events out",
        )


def check_events(log: Interactions, events: Iterable[str]) -> None:
    """Refuse what `log` does not know of its events; errors as those of `event_inputs`."""
    for name in events:
        if name not in get_args(EventInput):
            raise ConfigError(
                f"events names {name!r}, which batches cannot hold", fix=did_you_mean(str(name), get_args(EventInput))
            )
        if name == "action" and _ACTION_COLUMN not in log.columns:
            raise DataError(
                f'events names "action", and these interactions have no column {_ACTION_COLUMN!r}, only '
                f"{sorted(log.columns) or 'no further ones'}",
                fix="name the column of your file that says what was done (event_type), or leave actions out",
            )
        if name == "positive" and not any(column in log.columns for column in _LIKED):
            raise DataError(
                f'events names "positive", and these interactions have neither of the columns {" and ".join(_LIKED)}, '
                f"only {sorted(log.columns) or 'no further ones'}",
                fix="name the column of your file that says what was liked (like), or leave it out",
            )
        if name == "gap" and log.timestamps is None:
            raise DataError(
                'events names "gap", and these interactions have no timestamps',
                fix="name the time column of your file, or leave gaps out",
            )


def count_actions(log: Interactions) -> int:
    """How many values "action" can take, UNKNOWN among them; 0 where the log has no event types."""
    codes = log.columns.get(_ACTION_COLUMN)
    if codes is None:
        return 0
    return 2 + max((int(codes[part].max()) for part in chunks(len(codes))), default=-1)


def count_gaps(log: Interactions) -> int:
    """How many values "gap" can take, UNKNOWN among them; 0 where the log has no times."""
    return 0 if log.timestamps is None else NUM_GAPS


def _actions(log: Interactions, places: Int64Array) -> Int32Array:
    # An unknown type has the code -1.
    codes: npt.NDArray[np.int64] = np.asarray(log.columns[_ACTION_COLUMN][places]).astype(np.int64)
    return np.maximum(codes + 1, UNKNOWN).astype(np.int32)


def _positives(log: Interactions, places: Int64Array) -> Int32Array:
    # An unknown flag is -1, so that the largest says whether anything is known, and whether it happened.
    flags = [np.asarray(log.columns[name][places]).astype(np.int64) for name in _LIKED if name in log.columns]
    known: Int32Array = np.maximum(np.max(flags, axis=0) + 1, UNKNOWN).astype(np.int32)
    return known


def _gaps(log: Interactions, places: Int64Array) -> Int32Array:
    assert log.timestamps is not None, "refused by check_events"
    # The last user to begin at or before a position owns it; users without events begin where the next one does.
    begins = log.offsets[np.searchsorted(log.offsets, places, side="right") - 1]
    now, before = log.timestamps[places], log.timestamps[np.maximum(places - 1, 0)]
    known = (places > begins) & (now >= 0) & (before >= 0)
    doublings = np.searchsorted(_EDGES_MS, np.where(known, now - before, 0), side="right")
    return np.where(known, 1 + doublings, UNKNOWN).astype(np.int32)
