"""Intervals and comparisons over users: the percentile bootstrap, paired where two systems saw the same users.

Users are resampled with replacement (Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979); an interval is
read off the resampled means.  The same resamples serve every metric of one call, and two calls with equal seed and
number of users draw the same ones, so differences between metrics are not noise of the drawing.

Shapes: N users, C metrics, R resamples.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from sememe.core.seeding import generator

Float64Array = npt.NDArray[np.float64]

CHUNK_DRAWS = 4_000_000
"""Draws held at a time: bounds the memory at about 32 MB whatever N and R are."""


@dataclass(frozen=True)
class Interval:
    """A mean over users and the interval that holds the true mean with the chosen confidence."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """Mean of first - second over users, with its interval."""

    mean: float
    low: float
    high: float
    p_value: float
    """Two-sided, from the same resamples: twice the smaller share of means beyond 0, at least 2 / (R + 1)."""
    better: Literal["first", "second", "neither"]
    """"neither" where the interval holds 0."""


def bootstrap_mean(values: npt.ArrayLike, *, seed: int, resamples: int = 1000, level: float = 0.95) -> Interval:
    """The mean of (N,) per-user values with its bootstrap interval."""
    return bootstrap_means({"value": values}, seed=seed, resamples=resamples, level=level)["value"]


def bootstrap_means(
    metrics: Mapping[str, npt.ArrayLike], *, seed: int, resamples: int = 1000, level: float = 0.95
) -> dict[str, Interval]:
    """`bootstrap_mean` of several metrics of the same users, all on the same resamples.

    Args:
        metrics: name -> (N,) one finite value per user, users in the same order everywhere.
        seed: of the resampling.
        resamples: how many.
        level: confidence in (0, 1).
    """
    table = _table(metrics)
    means = resampled_means(table, random=generator(seed, "bootstrap"), resamples=resamples)
    low, high = _bounds(means, level=level)
    whole = table.mean(axis=0)
    return {
        name: Interval(float(whole[place]), float(low[place]), float(high[place])) for place, name in enumerate(metrics)
    }


def paired_difference(
    first: npt.ArrayLike, second: npt.ArrayLike, *, seed: int, resamples: int = 1000, level: float = 0.95
) -> PairedDifference:
    """How much better `first` is than `second` on the same users, (N,) values each."""
    result = paired_differences({"value": first}, {"value": second}, seed=seed, resamples=resamples, level=level)
    return result["value"]


def paired_differences(
    first: Mapping[str, npt.ArrayLike],
    second: Mapping[str, npt.ArrayLike],
    *,
    seed: int,
    resamples: int = 1000,
    level: float = 0.95,
) -> dict[str, PairedDifference]:
    """`paired_difference` for each metric that both have, all on the same resamples of users."""
    shared = [name for name in first if name in second]
    assert shared, "the two systems share no metric"
    ours, theirs = _table({n: first[n] for n in shared}), _table({n: second[n] for n in shared})
    assert ours.shape == theirs.shape, "a paired comparison needs the same users on both sides"
    table = ours - theirs
    means = resampled_means(table, random=generator(seed, "bootstrap"), resamples=resamples)
    low, high = _bounds(means, level=level)
    # The draw that was observed counts as one more resample, so that p is never 0.
    beyond = np.minimum((means <= 0).sum(axis=0), (means >= 0).sum(axis=0)) + 1
    p_values = np.minimum(2 * beyond / (resamples + 1), 1.0)
    whole = table.mean(axis=0)
    return {
        name: PairedDifference(
            float(whole[place]),
            float(low[place]),
            float(high[place]),
            float(p_values[place]),
            _verdict(float(low[place]), float(high[place])),
        )
        for place, name in enumerate(shared)
    }


def resampled_means(table: Float64Array, *, random: np.random.Generator, resamples: int) -> Float64Array:
    """(R, C) the column means of a table (N, C), over `resamples` draws of N rows with replacement."""
    assert resamples >= 1, "at least one resample"
    users = len(table)
    step = max(1, CHUNK_DRAWS // users)
    means = np.empty((resamples, table.shape[1]))
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = random.integers(0, users, size=(count, users))
        # How often each user was drawn turns the resampling into one matrix product for all metrics.
        drawn += np.arange(count)[:, None] * users
        weights = np.bincount(drawn.ravel(), minlength=count * users).reshape(count, users)
        means[start : start + count] = weights @ table / users
    return means


def _verdict(low: float, high: float) -> Literal["first", "second", "neither"]:
    if low > 0:
        return "first"
    return "second" if high < 0 else "neither"


def _table(metrics: Mapping[str, npt.ArrayLike]) -> Float64Array:
    """(N, C) the metrics side by side."""
    assert metrics, "at least one metric"
    table = np.stack([np.asarray(values, dtype=np.float64) for values in metrics.values()], axis=1)
    assert table.ndim == 2 and len(table) > 0, "one value per user, at least one user"
    assert bool(np.isfinite(table).all()), "a value is not finite"
    return table


def _bounds(means: Float64Array, *, level: float) -> tuple[Float64Array, Float64Array]:
    """(C,) each: the percentiles that cut off (1 - level) / 2 on either side."""
    assert 0 < level < 1, "a confidence level lies between 0 and 1"
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high
