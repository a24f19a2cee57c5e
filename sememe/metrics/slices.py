"""Slices: the same metrics on parts of the rows, each part with a bootstrap interval of its own.

A mean over all rows is mostly a mean over popular targets and over users who did little; slices show who pays for it.
Each slicing puts every row into exactly one slice, so the means of its slices, weighted by rows, give the whole mean.
An interval says how much the mean would change with other rows of the same slice; that of a single row has no width.

Shapes: N rows, S slices of a slicing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sememe.core.schema import Int64Array
from sememe.metrics.significance import Interval, bootstrap_means

COLD = "cold"
"""Rows whose target has no training event."""


@dataclass(frozen=True, eq=False)
class Slicing:
    """One way to cut the rows."""

    by: str
    names: tuple[str, ...]
    """(S,) in ascending order of what the rows are cut by."""
    member: Int64Array
    """(N,) the slice of each row, 0..S-1."""


@dataclass(frozen=True)
class SliceMeans:
    """The metrics of one slice."""

    name: str
    rows: int
    metrics: Mapping[str, Interval]


def by_popularity(train_events: npt.NDArray[np.integer], *, begins: Sequence[int]) -> Slicing:
    """Rows by the training events of their target: "cold" (none), then from 1, then from each of `begins`.

    Args:
        train_events: (N,) of each row's target.
        begins: ascending, above 1; (5, 10, 30) gives cold, 1-4, 5-9, 10-29, 30+.
    """
    edges = (1, *begins)
    return Slicing("popularity", (COLD, *_names(edges)), np.searchsorted(edges, train_events, side="right"))


def by_history(known_events: npt.NDArray[np.integer], *, begins: Sequence[int]) -> Slicing:
    """Rows by what is known of their user: from 1 event, then from each of `begins`.

    Args:
        known_events: (N,) of each row's user when asked, at least 1.
        begins: ascending, above 1; (5, 10, 20) gives 1-4, 5-9, 10-19, 20+.
    """
    assert bool(np.all(known_events >= 1)), "a request knows at least one event"
    edges = (1, *begins)
    return Slicing("history", _names(edges), np.searchsorted(edges, known_events, side="right") - 1)


def slice_means(
    per_row: Mapping[str, npt.NDArray[np.float64]], slicing: Slicing, *, seed: int, resamples: int
) -> list[SliceMeans]:
    """The metrics of every slice that has rows.

    Args:
        per_row: metric -> (N,) one value per row.
        slicing: of the same rows.
        seed: of the resampling; equal for all models, so that their intervals come from the same resamples.
        resamples: how many.
    """
    found = []
    for place, name in enumerate(slicing.names):
        chosen = slicing.member == place
        if chosen.any():
            values = {metric: column[chosen] for metric, column in per_row.items()}
            means = bootstrap_means(values, seed=seed, resamples=resamples)
            found.append(SliceMeans(name=name, rows=int(chosen.sum()), metrics=means))
    return found


def _names(edges: Sequence[int]) -> tuple[str, ...]:
    """(1, 5, 6) -> 1-4, 5, 6+."""
    closed = [
        str(low) if after == low + 1 else f"{low}-{after - 1}" for low, after in zip(edges[:-1], edges[1:], strict=True)
    ]
    return (*closed, f"{edges[-1]}+")
