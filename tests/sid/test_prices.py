"""Prices make the clusters' masses even, also far from all rows, from a part of the rows, and for equal vectors."""

import numpy as np
import pytest

from sememe.sid import prices
from sememe.sid.prices import transport_prices


def affinities(rows: np.ndarray, centers: np.ndarray) -> np.ndarray:
    return np.asarray(rows @ centers.T - 0.5 * np.square(centers).sum(axis=1), np.float32)


def cloud(rows: int, dim: int = 4, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)


def ones(rows: np.ndarray) -> np.ndarray:
    return np.ones(len(rows), np.int64)


def masses(affinity: np.ndarray, found: np.ndarray, *, temperature: float) -> np.ndarray:
    """How much of all rows each cluster gets at a temperature, over all cells."""
    value = (affinity.astype(float) + found) / temperature
    shares = np.exp(value - value.max(axis=1, keepdims=True))
    return np.asarray((shares / shares.sum(axis=1, keepdims=True)).sum(axis=0))


@pytest.mark.parametrize("seed", range(3))
def test_masses_are_even_at_a_stage_temperature(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all cells, though only near ones were looked at."""
    monkeypatch.setattr(prices, "MOST_SCANS", 1)
    affinity = affinities(cloud(3000, 8, seed=seed), cloud(20, 8, seed=seed + 50))
    lead = float((affinity.max(axis=1) - affinity.mean(axis=1)).mean())
    temperature = prices.FIRST_TEMPERATURE * lead / 3**prices.ROUGH_STAGES
    before = masses(affinity, np.zeros(20), temperature=temperature)
    after = masses(affinity, transport_prices(affinity, ones(affinity)), temperature=temperature)
    assert before.min() < 100 and before.max() > 200
    np.testing.assert_allclose(after, 150, rtol=0.05)


def test_scans_follow_until_few_rows_are_in_the_wrong_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clumps of rows, narrow beside the ways between them, flip as one while the temperature is high."""
    places = 5 * cloud(12, 8, seed=1)
    draws = np.random.default_rng(2).choice(12, 3000, p=np.arange(1, 13) / 78)
    affinity = affinities(places[draws] + 0.05 * cloud(3000, 8), places[draws[:40]] + 0.05 * cloud(40, 8, seed=3))

    def surplus() -> int:
        demand = np.bincount((affinity + transport_prices(affinity, ones(affinity))).argmax(axis=1), minlength=40)
        return int(np.maximum(demand - 75, 0).sum())

    in_the_end = surplus()
    monkeypatch.setattr(prices, "MOST_SCANS", 1)
    assert in_the_end < 100 and surplus() > 1000


def test_a_cluster_far_from_all_rows_is_reached() -> None:
    affinity = affinities(cloud(600), np.concatenate([cloud(5, seed=1), np.full((1, 4), 30, np.float32)]))
    assert np.bincount(affinity.argmax(axis=1), minlength=6)[5] == 0
    demand = np.bincount((affinity + transport_prices(affinity, ones(affinity))).argmax(axis=1), minlength=6)
    assert demand.min() >= 80 and demand.max() <= 120


def test_sinkhorn_goes_on_where_newton_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some clusters stand so far off that no row is near them at the rough prices."""
    rows = cloud(2000, 16)
    rows[:5] *= 300
    affinity = affinities(rows, np.concatenate([rows[:5], cloud(60, 16, seed=1)]))
    found = transport_prices(affinity, ones(affinity))
    assert found[:5].min() > 10 * np.abs(found[5:]).max()
    monkeypatch.setattr(prices, "_fine_prices", lambda *_, **__: None)
    np.testing.assert_array_equal(found, transport_prices(affinity, ones(affinity)))


def test_every_so_many_th_row_does_where_there_are_too_many_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    affinity = affinities(cloud(4000), cloud(10, seed=1))
    full = transport_prices(affinity, ones(affinity))
    monkeypatch.setattr(prices, "NEAR_CELLS", 4000)
    part = transport_prices(affinity, ones(affinity))
    assert not np.array_equal(full, part)
    demand = np.bincount((affinity + part).argmax(axis=1), minlength=10)
    assert demand.min() >= 340 and demand.max() <= 460


def test_counts_stand_for_equal_rows() -> None:
    counts = np.random.default_rng(0).integers(1, 5, 60)
    affinity = affinities(cloud(60), cloud(8, seed=1))
    repeated = affinity.repeat(counts, axis=0)
    ours, theirs = transport_prices(affinity, counts), transport_prices(repeated, ones(repeated))
    np.testing.assert_allclose(ours - ours.mean(), theirs - theirs.mean(), atol=0.05)


def test_no_prices_where_nothing_has_to_be_filled_or_nothing_is_nearer() -> None:
    affinity = affinities(cloud(5), cloud(8, seed=1))
    assert not transport_prices(affinity, ones(affinity)).any()
    assert not transport_prices(np.ones((30, 4), np.float32), np.ones(30, np.int64)).any()
