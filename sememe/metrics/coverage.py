"""What a recommender shows as a whole: how much of the catalogue, how evenly, how popular.

These read the lists alone; only `target_popularity` compares with what users took.  Popularity is a percentile, not a
count, so that one best-seller does not decide it: the share of the catalogue with fewer training events, plus half of
those with equally many.  Over the whole catalogue it averages exactly 0.5.

Where no list holds anything (everybody has seen the whole catalogue, say), coverage, entropy and Gini coefficient are 0
and popularity is the catalogue's 0.5.

Shapes: N rows, K list places, M target places (PAD-filled), I items.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sememe.core.schema import PAD, Int32Array, Int64Array, Ranked

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CoverageReport:
    """The lists of all users taken together, cut at k."""

    k: int
    coverage: float
    """Share of the catalogue that is recommended to anyone."""
    gini: float
    """0: all items are recommended equally often; towards 1: a few items take all places."""
    entropy: float
    """Bits of the distribution of recommendations over items; log2(I) at most."""
    popularity: float
    """Mean popularity percentile of the recommended places; 0.5 is the catalogue's mean."""
    target_popularity: float | None
    """The same for what the users took; None where no targets were given."""


def coverage_report(
    ranked: Ranked, *, train_counts: npt.NDArray[np.integer], k: int | None = None, targets: Int32Array | None = None
) -> CoverageReport:
    """All measures of this module.

    Args:
        ranked: N lists.
        train_counts: (I,) training events of each item.
        k: look at the first k places; None means the whole lists.
        targets: (N, M) what the users took, PAD-filled, to compare popularity with.
    """
    counts = recommendation_counts(ranked, num_items=len(train_counts), k=k)
    percentiles = popularity_percentiles(train_counts)
    taken = None if targets is None else float(percentiles[targets[targets != PAD]].mean())
    return CoverageReport(
        k=ranked.items.shape[1] if k is None else k,
        coverage=float((counts > 0).mean()),
        gini=gini(counts),
        entropy=entropy(counts),
        popularity=popularity_bias(ranked, train_counts=train_counts, k=k),
        target_popularity=taken,
    )


def catalogue_coverage(ranked: Ranked, *, num_items: int, k: int | None = None) -> float:
    """Share of the catalogue that stands within the first k places of at least one list."""
    return float((recommendation_counts(ranked, num_items=num_items, k=k) > 0).mean())


def popularity_bias(ranked: Ranked, *, train_counts: npt.NDArray[np.integer], k: int | None = None) -> float:
    """Mean popularity percentile over all recommended places; above 0.5 leans to popular items.

    Args:
        ranked: N lists.
        train_counts: (I,) training events of each item.
        k: look at the first k places; None means the whole lists.
    """
    counts = recommendation_counts(ranked, num_items=len(train_counts), k=k)
    if not counts.any():
        return 0.5
    return float(counts @ popularity_percentiles(train_counts) / counts.sum())


def recommendation_counts(ranked: Ranked, *, num_items: int, k: int | None = None) -> Int64Array:
    """(I,) in how many places each item stands; PAD and entries scored -inf are none."""
    listed = (ranked.items != PAD) & (ranked.scores > -np.inf)
    return np.bincount(ranked.items[:, :k][listed[:, :k]], minlength=num_items).astype(np.int64)


def popularity_percentiles(train_counts: npt.NDArray[np.integer]) -> Float64Array:
    """(I,) share of items with fewer training events plus half of those with equally many, the item itself included."""
    _, place, equal = np.unique(train_counts, return_inverse=True, return_counts=True)
    percentiles: Float64Array = (np.cumsum(equal) - equal / 2)[place] / len(train_counts)
    return percentiles


def gini(counts: npt.NDArray[np.integer]) -> float:
    """Gini coefficient of (I,) counts: half the mean absolute difference of two items, in units of the mean."""
    if not counts.any():
        return 0.0
    ordered = np.sort(counts).astype(np.float64)
    ranks = np.arange(1, len(ordered) + 1)
    return float((2 * ranks - len(ordered) - 1) @ ordered / (len(ordered) * ordered.sum()))


def entropy(counts: npt.NDArray[np.integer]) -> float:
    """Entropy in bits of (I,) counts taken as shares; 2 ** entropy is the effective number of items."""
    if not counts.any():
        return 0.0
    shares = counts[counts > 0] / counts.sum()
    # + 0.0 turns the -0.0 of a single item into 0.
    return float(-(shares * np.log2(shares)).sum() + 0.0)
