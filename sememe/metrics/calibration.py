"""Whether probabilities mean what they say: does one in twenty come true of all that was given a chance of 5 %?

Reliability in bins, and the expected calibration error over them: Naeini, Cooper and Hauskrecht, "Obtaining Well
Calibrated Probabilities Using Bayesian Binning", AAAI 2015; Guo et al., "On Calibration of Modern Neural Networks",
ICML 2017, arXiv 1706.04599.  Changed: bins hold equally many pairs instead of being equally wide (Nguyen and O'Connor,
"Posterior calibration and exploratory analysis for natural language processing models", EMNLP 2015, arXiv 1508.05154),
since among thousands of items nearly all probabilities are small.

Intervals are Wilson's ("Probable Inference, the Law of Succession, and Statistical Inference", JASA 22, 1927), which
hold where nothing came true.  Rows are independent and at most one item of a row comes true, so that they are rather
too wide than too narrow.  An error is never 0, however good the probabilities are, so the one that chance alone
explains stands beside it: outcomes drawn by the probabilities themselves (Broecker and Smith, "Increasing the
Reliability of Reliability Diagrams", Weather and Forecasting 22, 2007).  Changed: one item or none is drawn for a row.

Shape legend: N rows, K items of a list, P listed pairs of a row and an item, B bins, R resamples.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from sememe.core.schema import BoolArray, Int64Array
from sememe.core.seeding import generator

Float64Array = npt.NDArray[np.float64]

CHANCE = 0.95
"""Of calibrated probabilities, so many have an error of at most `error_by_chance`."""


@dataclass(frozen=True)
class Bin:
    """Pairs that were given about the same probability."""

    pairs: int
    least: float
    most: float
    """The smallest and the largest probability among them."""
    predicted: float
    """Their mean probability."""
    observed: float
    """The share of them that came true."""
    low: float
    high: float
    """The 95 % interval of `observed`."""


@dataclass(frozen=True)
class Reliability:
    """Predicted probabilities beside what happened."""

    pairs: int
    predicted: float
    observed: float
    error: float
    """Expected calibration error: mean over the pairs of |predicted - observed| of their bin."""
    error_by_chance: float
    """What `error` stays below 19 times in 20 where the probabilities are right."""
    bins: tuple[Bin, ...]
    """By probability, the smallest first."""


def reliability(
    probabilities: npt.ArrayLike,
    came_true: BoolArray,
    *,
    listed: BoolArray,
    seed: int,
    bins: int = 10,
    resamples: int = 200,
) -> Reliability:
    """Compare probabilities with outcomes.

    Args:
        probabilities: (N, K) of each listed item to be the one that comes next; a row's sum is at most 1.
        came_true: (N, K) whether it was; at most one of a row.
        listed: (N, K) which entries count; at least one does.
        seed: of the outcomes that are drawn.
        bins: at most so many, with equally many pairs each.
        resamples: how often outcomes are drawn.
    """
    chances = np.where(listed, np.asarray(probabilities, np.float64), 0.0)
    hits = came_true & listed
    assert bool(listed.any()) and bins >= 1 and resamples >= 1, "nothing to compare"
    assert bool((chances >= 0).all()) and bool((chances.sum(axis=1) <= 1 + 1e-4).all()), "these are no probabilities"
    assert int(hits.sum(axis=1).max()) <= 1, "one item of a row comes next"
    places = _bins(chances, listed=listed, bins=bins)
    pairs = np.bincount(places[listed])
    predicted = np.bincount(places[listed], weights=chances[listed]) / pairs
    found = np.bincount(places[hits], minlength=len(pairs))
    drawn = _drawn(chances, places, num_bins=len(pairs), random=generator(seed, "calibration"), resamples=resamples)
    share = pairs / pairs.sum()
    errors = (share * np.abs(drawn / pairs - predicted)).sum(axis=1)
    return Reliability(
        pairs=int(pairs.sum()),
        predicted=float(chances.sum() / pairs.sum()),
        observed=float(found.sum() / pairs.sum()),
        error=float((share * np.abs(found / pairs - predicted)).sum()),
        error_by_chance=float(np.quantile(errors, CHANCE)),
        bins=tuple(
            _bin(chances[listed & (places == place)], hits=int(found[place]), predicted=float(predicted[place]))
            for place in range(len(pairs))
        ),
    )


def wilson_interval(successes: int, trials: int, *, level: float = 0.95) -> tuple[float, float]:
    """The interval of a share of which `successes` of `trials` were seen."""
    assert 0 <= successes <= trials and trials > 0, "a share needs trials"
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, shrink = successes / trials, 1 + z * z / trials
    middle = (share + z * z / (2 * trials)) / shrink
    half = z / shrink * float(np.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)))
    # Exactly so by the formula, but for rounding.
    low, high = (0.0 if successes == 0 else middle - half), (1.0 if successes == trials else middle + half)
    return low, high


def _bins(chances: Float64Array, *, listed: BoolArray, bins: int) -> Int64Array:
    """(N, K) the bin of each entry, the same one for equal probabilities; 0 where nothing is listed."""
    values = np.sort(chances[listed])
    # The first value of each bin; equal ones would leave a bin empty.
    starts = np.unique(values[np.arange(1, bins) * len(values) // bins])
    places: Int64Array = np.searchsorted(starts[starts > values[0]], chances, side="right").astype(np.int64)
    return np.where(listed, places, 0)


def _drawn(
    chances: Float64Array, places: Int64Array, *, num_bins: int, random: np.random.Generator, resamples: int
) -> Int64Array:
    """(R, B) how many of each bin come true where the probabilities are right."""
    reached = chances.cumsum(axis=1)
    # One more column: none of the listed items comes next.
    of_none = np.concatenate([places, np.full((len(places), 1), num_bins)], axis=1)
    found = np.empty((resamples, num_bins), np.int64)
    for draw in range(resamples):
        column = (random.random((len(chances), 1)) >= reached).sum(axis=1)
        found[draw] = np.bincount(of_none[np.arange(len(places)), column], minlength=num_bins + 1)[:num_bins]
    return found


def _bin(chances: Float64Array, *, hits: int, predicted: float) -> Bin:
    low, high = wilson_interval(hits, len(chances))
    return Bin(
        pairs=len(chances),
        least=float(chances.min()),
        most=float(chances.max()),
        predicted=predicted,
        observed=hits / len(chances),
        low=low,
        high=high,
    )
