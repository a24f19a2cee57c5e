"""What the log says of its events, as numbers that rewards learn and read.

A label is a column of flags ("like"), another column, or one of two that are worked out: "watch_share", the watched
share of an item, and "watch_quantile", where its watch time stands among the same user's items of like duration, as
OneRec V2 has it (arXiv 2508.20900), whose authors saw long videos win by their length alone.  Labels stand in histories
too, so that each is made of what was known at its event.

Shape legend: E events.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict

import numpy as np
import numpy.typing as npt

from sememe.core.errors import DataError
from sememe.core.schema import FloatArray, Interactions
from sememe.data.feedback_columns import FLAGS, UNKNOWN_FLAG

Numbers = npt.NDArray[np.generic]
WATCH_SHARE, WATCH_QUANTILE = "watch_share", "watch_quantile"


def columns_of(label: str) -> tuple[str, ...]:
    """Columns of the log that a label is made of."""
    return ("watch_time", "duration") if label in (WATCH_SHARE, WATCH_QUANTILE) else (label,)


def check_labels(log: Interactions, labels: tuple[str, ...]) -> None:
    """Raise DataError where the log lacks a column of one of `labels`."""
    for name in dict.fromkeys(column for label in labels for column in columns_of(label)):
        if name not in log.columns:
            raise DataError(
                f"the reward reads the column {name!r}, and these interactions have "
                f"{sorted(log.columns) or 'no further columns'}",
                fix=f"name the column of your file that holds it ({name}), or use a reward that does not read it",
            )


def label_values(log: Interactions, label: str) -> FloatArray:
    """(E,) the label of each event, NaN where it is not known; flags, shares and quantiles lie in 0..1."""
    if label not in (WATCH_SHARE, WATCH_QUANTILE):
        values = np.array(log.columns[label], np.float32)
        if label in FLAGS:
            values[values == UNKNOWN_FLAG] = np.nan
        return values
    watched, duration = (np.asarray(log.columns[name], np.float64) for name in columns_of(label))
    known = np.isfinite(watched) & np.isfinite(duration) & (duration > 0)
    found = np.full(len(watched), np.nan, np.float32)
    if label == WATCH_SHARE:
        found[known] = np.clip(watched[known] / duration[known], 0.0, 1.0)
    else:
        found[known] = duration_quantiles(watched[known], duration[known], log.users()[known])
    return found


def duration_quantiles(
    watched: Numbers, durations: Numbers, users: Numbers, *, base: float = 2.0, eps: float = 1.0
) -> FloatArray:
    """(E,) the percentile, in (0, 1), of each event's watch time among the same user's events of like duration so far.

    Each user's events are in the order of time.  Durations are alike where floor(log_base(duration + eps)) is the same;
    ties share the mean of their ranks; the first of its kind has nothing beside it, and 0.5.  What is longer than
    others of its kind says that it was liked, whatever its kind's length.

    Later events have no say: percentiles of all of a user's events always have the mean 0.5, so that those of a history
    would tell those of what came after it.
    """
    bucket = np.floor(np.log(np.asarray(durations, np.float64) + eps) / np.log(base)).astype(np.int64)
    so_far: defaultdict[tuple[int, int], list[float]] = defaultdict(list)
    found = np.empty(len(bucket), np.float32)
    kinds = zip(np.asarray(users).tolist(), bucket.tolist(), strict=True)
    for event, (kind, seconds) in enumerate(zip(kinds, np.asarray(watched).tolist(), strict=True)):
        before = so_far[kind]
        least, most = bisect_left(before, seconds), bisect_right(before, seconds)
        # The mean of the first and the last place of what is equal, itself included, from 0.
        found[event] = ((least + most) / 2.0 + 0.5) / (len(before) + 1)
        before.insert(most, seconds)
    return found
