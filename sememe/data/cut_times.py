"""The two moments of a global time split, and where they cut each user's events.

Shape legend: U users, E events.
"""

from dataclasses import dataclass

import numpy as np

from sememe.core.errors import DataError
from sememe.core.schema import Int64Array, Interactions
from sememe.data.ranges import chunks

BY_ORDER = "use LeaveOneOut, which needs the order only: --set data.split.rule=leave_one_out"


@dataclass(frozen=True)
class Cuts:
    """Two times in ms; `valid_from` is the smaller one."""

    valid_from: int
    test_from: int


def cut_times(times: Int64Array, *, valid_share: float, test_share: float) -> Cuts:
    """The two times in ms at which validation and test begin: event quantiles, made distinct where many events tie."""
    count = len(times)
    if count == 0:
        raise DataError("there are no events to split", fix="check the data and the filters before the split")
    # Which event opens each period, if all were sorted by time.
    places = [min(round(count * share), count - 1) for share in (1 - valid_share - test_share, 1 - test_share)]
    cuts = np.partition(np.asarray(times), places)[places]
    valid_from, test_from = int(cuts[0]), int(cuts[1])
    later = _smallest_above(times, valid_from) if test_from == valid_from else test_from
    if later is None:
        tied = int(np.sum(times == valid_from))
        raise DataError(
            "a global time split needs a time at which validation begins and a later one for the test, and both fall "
            f"on the last of all times, {valid_from} ms, at which {tied} of {count} events happen",
            fix=f"use more events, finer timestamps or larger shares, or {BY_ORDER}",
        )
    return Cuts(valid_from=valid_from, test_from=later)


def first_at_or_after(interactions: Interactions, times: Int64Array, moment: int) -> Int64Array:
    """(U,) for each user, how many events come before the first one that is not older than `moment` (ms)."""
    late = [part.start + np.flatnonzero(times[part] >= moment) for part in chunks(len(times))]
    places = np.concatenate([*late, np.array([interactions.num_events])]).astype(np.int64)
    first = places[np.searchsorted(places, interactions.offsets[:-1])]
    return np.minimum(first, interactions.offsets[1:]) - interactions.offsets[:-1]


def _smallest_above(times: Int64Array, bound: int) -> int | None:
    above = times[times > bound]
    return int(above.min()) if len(above) else None
