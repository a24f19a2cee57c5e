"""Calibration: by hand, against a slow twin, and on outcomes that were drawn by known probabilities."""

import numpy as np
import pytest
from scipy.stats import binomtest

from sememe.metrics.calibration import Reliability, reliability, wilson_interval


def drawn_world(*, rows: int, seed: int, truth: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """(N, 5) probabilities and outcomes, whose real probabilities are `truth` times what is said."""
    random = np.random.default_rng(seed)
    said = np.sort(random.dirichlet([0.3] * 8, size=rows) * 0.5, axis=1)[:, :2:-1]
    reached = (said * truth).cumsum(axis=1)
    column = (random.random((rows, 1)) >= reached).sum(axis=1)
    return said, np.arange(said.shape[1]) == column[:, None]


def measured(said: np.ndarray, came_true: np.ndarray, *, bins: int = 10) -> Reliability:
    return reliability(said, came_true, listed=np.ones(said.shape, bool), seed=0, bins=bins)


def test_by_hand() -> None:
    said = np.array([[0.5, 0.1], [0.5, 0.1], [0.3, 0.1], [0.3, 0.9]])
    came_true = np.array([[True, False], [False, False], [False, True], [False, False]])
    listed = np.array([[True, True], [True, True], [True, True], [True, False]])
    found = reliability(said, came_true, listed=listed, seed=0, bins=2)
    assert found.pairs == 7 and found.predicted == pytest.approx(1.9 / 7) and found.observed == pytest.approx(2 / 7)
    low, high = found.bins
    # Seven pairs in two bins: the three of .1 are the first bin, since equal probabilities stay together.
    assert (low.pairs, low.least, low.most) == (3, 0.1, 0.1) and low.observed == pytest.approx(1 / 3)
    assert (high.pairs, high.least, high.most) == (4, 0.3, 0.5) and high.observed == 0.25
    assert high.predicted == pytest.approx(0.4)
    assert found.error == pytest.approx(3 / 7 * abs(1 / 3 - 0.1) + 4 / 7 * abs(0.25 - 0.4))


def test_intervals_are_wilsons() -> None:
    for successes, trials in ((0, 10), (1, 10), (5, 10), (10, 10), (3, 20_000)):
        wanted = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
        assert wilson_interval(successes, trials) == pytest.approx((wanted.low, wanted.high), abs=1e-12)
    assert wilson_interval(0, 7)[0] == 0.0 and wilson_interval(7, 7)[1] == 1.0


def test_bins_are_those_of_a_slow_twin() -> None:
    said, came_true = drawn_world(rows=400, seed=1)
    found = measured(said, came_true)
    pairs = sorted(zip(said.ravel().tolist(), came_true.ravel().tolist(), strict=True))
    assert len(found.bins) == 10 and sum(one.pairs for one in found.bins) == len(pairs)
    error, start = 0.0, 0
    for one in found.bins:
        part = pairs[start : start + one.pairs]
        start += one.pairs
        predicted, observed = (sum(values) / len(part) for values in zip(*part, strict=True))
        assert (one.predicted, one.observed) == pytest.approx((predicted, observed))
        assert (one.least, one.most) == (part[0][0], part[-1][0]) and one.low <= one.observed <= one.high
        error += len(part) / len(pairs) * abs(predicted - observed)
    assert found.error == pytest.approx(error)
    assert {one.pairs for one in found.bins} == {200}


def test_chance_is_told_from_what_is_wrong() -> None:
    right = [measured(*drawn_world(rows=1500, seed=seed)) for seed in range(40)]
    # 19 of 20 lie below, give or take three standard deviations.
    assert 32 <= sum(one.error <= one.error_by_chance for one in right) <= 40
    covered = np.mean([one.low <= one.predicted <= one.high for found in right for one in found.bins])
    assert covered >= 0.93
    bold = measured(*drawn_world(rows=1500, seed=0, truth=0.5))
    assert bold.error > 3 * bold.error_by_chance and bold.predicted == pytest.approx(2 * bold.observed, rel=0.15)
    assert all(one.observed <= one.predicted for one in bold.bins[-3:])


def test_equal_probabilities_share_a_bin_and_draws_are_repeatable() -> None:
    same = np.full((30, 2), 0.25)
    came_true = np.zeros((30, 2), bool)
    came_true[:15, 0] = True
    found = measured(same, came_true)
    assert len(found.bins) == 1 and found.error == pytest.approx(0.0)
    assert found == measured(same, came_true)


def test_what_are_no_probabilities_is_refused() -> None:
    yes = np.ones((1, 2), bool)
    for said, came_true, listed in (
        (np.array([[0.9, 0.9]]), ~yes, yes),
        (np.array([[0.1, -0.1]]), ~yes, yes),
        (np.array([[0.1, 0.1]]), yes, yes),
        (np.array([[0.1, 0.1]]), ~yes, ~yes),
    ):
        with pytest.raises(AssertionError):
            reliability(said, came_true, listed=listed, seed=0)
