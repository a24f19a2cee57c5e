"""Bootstrap intervals: against a plain loop, against theory, and how often they hold the truth."""

import numpy as np
import pytest

from sememe.core.seeding import generator
from sememe.metrics import significance
from sememe.metrics.significance import (
    Interval,
    bootstrap_mean,
    bootstrap_means,
    paired_difference,
    paired_differences,
)

RNG = np.random.default_rng(5)
HITS = (RNG.random(400) < 0.2).astype(float)


def test_resampling_equals_a_plain_loop():
    random = generator(3, "bootstrap")
    means = [HITS[random.integers(0, len(HITS), len(HITS))].mean() for _ in range(200)]
    interval = bootstrap_mean(HITS, seed=3, resamples=200, level=0.9)
    assert interval.mean == pytest.approx(HITS.mean())
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(means, [0.05, 0.95])))


def test_chunks_change_nothing(monkeypatch):
    whole = bootstrap_mean(HITS, seed=3, resamples=50)
    monkeypatch.setattr(significance, "CHUNK_DRAWS", 7 * len(HITS))
    chunked = bootstrap_mean(HITS, seed=3, resamples=50)
    assert (chunked.low, chunked.high) == pytest.approx((whole.low, whole.high), abs=1e-12)


def test_metrics_of_one_call_share_their_resamples():
    together = bootstrap_means({"a": HITS, "double": 2 * HITS, "minus": -HITS}, seed=1)
    assert together["a"].low == pytest.approx(bootstrap_mean(HITS, seed=1).low)
    assert together["double"].low == pytest.approx(2 * together["a"].low)
    assert together["minus"].low == pytest.approx(-together["a"].high)


def test_width_is_that_of_the_normal_approximation():
    interval = bootstrap_mean(HITS, seed=0, resamples=4000)
    half = 1.96 * HITS.std() / np.sqrt(len(HITS))
    assert (interval.high - interval.low) / 2 == pytest.approx(half, rel=0.06)


def test_nominal_coverage_on_a_world_with_a_known_mean():
    truth, worlds = 0.3, 500
    rng = np.random.default_rng(11)
    held = 0
    for world in range(worlds):
        interval = bootstrap_mean((rng.random(200) < truth).astype(float), seed=world, resamples=200, level=0.9)
        held += interval.low <= truth <= interval.high
    # Standard error of the share: 1.3 %.
    assert 0.86 <= held / worlds <= 0.94


def test_equal_seeds_draw_equal_intervals_and_others_do_not():
    assert bootstrap_mean(HITS, seed=4) == bootstrap_mean(HITS, seed=4)
    assert bootstrap_mean(HITS, seed=4) != bootstrap_mean(HITS, seed=5)


def test_a_constant_has_no_width():
    assert bootstrap_mean(np.full(10, 0.5), seed=0) == Interval(0.5, 0.5, 0.5)


def test_pairing_finds_a_small_gain_that_separate_intervals_hide():
    rng = np.random.default_rng(0)
    hard = rng.random(2000)
    first, second = hard + 0.01 + 0.02 * rng.standard_normal(2000), hard
    apart = bootstrap_means({"first": first, "second": second}, seed=0)
    assert apart["first"].low < apart["second"].high
    paired = paired_difference(first, second, seed=0)
    assert paired.better == "first" and paired.p_value < 0.01
    assert paired.low <= paired.mean <= paired.high
    assert paired.mean == pytest.approx((first - second).mean())
    assert paired_difference(second, first, seed=0).better == "second"


def test_equal_systems_are_not_told_apart():
    same = paired_difference(HITS, HITS, seed=0)
    assert (same.mean, same.low, same.high, same.p_value, same.better) == (0.0, 0.0, 0.0, 1.0, "neither")


def test_p_value_rejects_as_often_as_it_says_when_nothing_differs():
    rng = np.random.default_rng(2)
    rejected = sum(
        paired_difference(rng.standard_normal(100), rng.standard_normal(100), seed=world, resamples=200).p_value < 0.1
        for world in range(400)
    )
    assert 0.06 <= rejected / 400 <= 0.145


def test_pairing_covers_the_metrics_that_both_have():
    result = paired_differences({"a": HITS, "b": HITS}, {"b": 0 * HITS, "c": HITS}, seed=0)
    assert list(result) == ["b"]
    assert result["b"].mean == pytest.approx(HITS.mean())


def test_other_users_cannot_be_paired():
    with pytest.raises(AssertionError, match="same users"):
        paired_difference(HITS, HITS[:-1], seed=0)
    with pytest.raises(AssertionError, match="not finite"):
        bootstrap_mean([0.1, np.nan], seed=0)
