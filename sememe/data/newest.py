"""The split by which a running model is judged: learned from what was, asked about the newest hours.

Shape legend: U users.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import Int64Array, Interactions
from sememe.data.cut_times import BY_ORDER, first_at_or_after
from sememe.data.splits import Examples, Split, part_counts

HOUR_MS = 3_600_000


@dataclass(frozen=True)
class NewestPeriod:
    """Two moments for everybody: the newest `hours` are for the test, as many before them for validation.

    A user's example is the first event of a period; all earlier events are known.  Users without an earlier event
    cannot be asked.
    """

    hours: float = 24.0

    def split(self, interactions: Interactions, *, benchmark: bool = False) -> Split:
        """Split before the newest event.  Raises DataError without times, or where a part would be empty."""
        del benchmark  # whatever the data is, the newest hours are asked about
        if self.hours <= 0:
            raise ConfigError(f"hours is {self.hours}, and a period has some", fix="give more than 0")
        times = interactions.timestamps
        if times is None or not len(times):
            raise DataError(
                "the newest events cannot be told, since these have no times",
                fix=f"name the time column, or {BY_ORDER}",
            )
        test_from = int(np.max(times)) - round(self.hours * HOUR_MS) + 1
        valid_from = test_from - round(self.hours * HOUR_MS)
        first_valid = first_at_or_after(interactions, times, valid_from)
        first_test = first_at_or_after(interactions, times, test_from)
        lengths = interactions.lengths()
        split = Split(
            interactions,
            first_valid.astype(np.int64),
            _examples(first_valid, first_test),
            _examples(first_test, lengths),
        )
        protocol: dict[str, Any] = {
            "name": "newest_period",
            "parameters": {"hours": self.hours, "valid_from_ms": valid_from, "test_from_ms": test_from},
            "counts": part_counts(split),
            "left_out": {"users new in the newest period": int(np.sum((first_test == 0) & (lengths > 0)))},
            "notes": [],
        }
        return replace(split, protocol=protocol)


def _examples(starts: Int64Array, period_ends: Int64Array) -> Examples:
    users = np.flatnonzero((starts > 0) & (period_ends > starts)).astype(np.int32)
    return Examples(users, starts[users], starts[users] + 1)
