"""Equal sizes: exact, at the optimum, free of any order; and the turns of OneRec against a slow twin."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from sememe.sid import assignment, prices, transport
from sememe.sid.assignment import Fill, Shares, fill_by_prices, fill_in_turn

every_fill = pytest.mark.parametrize("fill", [fill_by_prices, fill_in_turn])


def cloud(rows: int, dim: int = 3, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)


def ones(rows: np.ndarray) -> np.ndarray:
    return np.ones(len(rows), np.int64)


def squared(rows: np.ndarray, centers: np.ndarray) -> np.ndarray:
    return np.asarray(np.square(rows[:, None].astype(float) - centers[None].astype(float)).sum(axis=2))


def error(rows: np.ndarray, centers: np.ndarray, shares: Shares) -> float:
    return float((squared(rows, centers)[shares.rows, shares.clusters] * shares.counts).sum())


def optimum(rows: np.ndarray, centers: np.ndarray, sizes: np.ndarray) -> float:
    """The least error with these sizes: each cluster stands in the matrix once per place it has."""
    cost = squared(rows, centers)[:, np.repeat(np.arange(len(centers)), sizes)]
    return float(cost[linear_sum_assignment(cost)].sum())


def even_optimum(rows: np.ndarray, centers: np.ndarray) -> float:
    """The least error of all ways to choose the clusters that get one more."""
    base, extra = divmod(len(rows), len(centers))
    return min(
        optimum(rows, centers, base + np.isin(np.arange(len(centers)), larger))
        for larger in combinations(range(len(centers)), extra)
    )


def no_refinement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assignment, "MOST_CLUSTERS", 0)


@every_fill
@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=20), clusters=st.integers(1, 12), seed=st.integers(0, 9))
def test_sizes_are_exact_and_every_vector_is_dealt_out_once(
    fill: Fill, counts: list[int], clusters: int, seed: int
) -> None:
    rows, centers = cloud(len(counts), seed=seed), cloud(clusters, seed=seed + 1)
    shares = fill(rows, np.array(counts), centers)
    sizes = np.bincount(shares.clusters, weights=shares.counts, minlength=clusters)
    assert set(sizes) <= {sum(counts) // clusters, -(-sum(counts) // clusters)}
    assert np.bincount(shares.rows, weights=shares.counts, minlength=len(counts)).tolist() == counts
    assert shares.counts.min() >= 1
    pairs = list(zip(shares.rows.tolist(), shares.clusters.tolist(), strict=True))
    assert pairs == sorted(set(pairs))


@given(rows=st.integers(1, 30), clusters=st.integers(1, 8), seed=st.integers(0, 99))
def test_turns_equal_the_slow_twin(rows: int, clusters: int, seed: int) -> None:
    vectors, centers = cloud(rows, seed=seed), cloud(clusters, seed=seed + 1)
    distances, free, expected = squared(vectors, centers), set(range(rows)), {}
    for cluster in range(clusters):
        size = rows // clusters + (cluster < rows % clusters)
        for row in sorted(free, key=lambda row: distances[row, cluster])[:size]:
            expected[row] = cluster
            free.remove(row)
    shares = fill_in_turn(vectors, ones(vectors), centers)
    assert dict(zip(shares.rows.tolist(), shares.clusters.tolist(), strict=True)) == expected


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, centers = cloud(50), cloud(8, seed=1)
    whole = [fill(rows, ones(rows), centers) for fill in (fill_in_turn, fill_by_prices)]
    monkeypatch.setattr(assignment, "CHUNK_CELLS", 120)
    for module in (prices, transport):
        monkeypatch.setattr(module, "BLOCK_CELLS", 120)
    for fill, before in zip((fill_in_turn, fill_by_prices), whole, strict=True):
        np.testing.assert_array_equal(fill(rows, ones(rows), centers).clusters, before.clusters)


@given(
    rows=st.integers(1, 24), clusters=st.integers(1, 6), spread=st.sampled_from([0.01, 1, 30]), seed=st.integers(0, 99)
)
def test_prices_find_the_optimum_of_all_equal_sizes(rows: int, clusters: int, spread: float, seed: int) -> None:
    vectors, centers = cloud(rows, seed=seed), spread * cloud(clusters, seed=seed + 1)
    shares = fill_by_prices(vectors, ones(vectors), centers.astype(np.float32))
    assert error(vectors, centers, shares) == pytest.approx(even_optimum(vectors, centers), rel=1e-5)


@pytest.mark.parametrize("rows", [400, 407])
def test_turns_and_rounds_miss_the_optimum(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, centers = cloud(rows, 8), cloud(16, 8, seed=50)
    best = fill_by_prices(vectors, ones(vectors), centers)
    sizes = np.bincount(best.clusters, minlength=16)
    least = error(vectors, centers, best)
    assert least == pytest.approx(optimum(vectors, centers, sizes), rel=1e-6)
    no_refinement(monkeypatch)
    in_rounds = error(vectors, centers, fill_by_prices(vectors, ones(vectors), centers))
    assert least < in_rounds < 1.02 * least
    assert error(vectors, centers, fill_in_turn(vectors, ones(vectors), centers)) > 1.05 * least


@given(counts=st.lists(st.integers(1, 3), min_size=1, max_size=40), clusters=st.integers(1, 8), seed=st.integers(0, 99))
def test_never_worse_than_rounds_where_some_vectors_are_equal(counts: list[int], clusters: int, seed: int) -> None:
    rows, centers = cloud(len(counts), seed=seed), cloud(clusters, seed=seed + 1)
    ours = fill_by_prices(rows, np.array(counts), centers)
    with pytest.MonkeyPatch.context() as patch:
        no_refinement(patch)
        in_rounds = fill_by_prices(rows, np.array(counts), centers)
    assert error(rows, centers, ours) <= error(rows, centers, in_rounds) * (1 + 1e-6)
    several = np.array(counts)[ours.rows] > 1
    kept = np.array(counts)[in_rounds.rows] > 1
    np.testing.assert_array_equal(ours.clusters[several], in_rounds.clusters[kept])


@pytest.mark.parametrize("step", [0.0, 0.5])
def test_vectors_that_tie_are_dealt_out_all_the_same(step: float) -> None:
    """Rows on a grid, told apart only by a coordinate in which all centres are equal."""
    rows = np.random.default_rng(0).integers(0, 3, (300, 2)).astype(np.float32) * np.float32(step)
    rows = np.column_stack([rows, np.arange(300, dtype=np.float32)])
    centers = np.column_stack([cloud(12, 2), np.full(12, 150, np.float32)])
    first, second = (fill_by_prices(rows, ones(rows), centers) for _ in range(2))
    np.testing.assert_array_equal(first.clusters, second.clusters)
    assert set(np.bincount(first.clusters).tolist()) == {25}
    plane = (rows[:, :2], centers[:, :2])
    assert error(*plane, first) == pytest.approx(optimum(*plane, np.full(12, 25)), rel=1e-4)


def test_the_order_of_rows_changes_nothing() -> None:
    rows, centers = cloud(500, 4), cloud(13, 4, seed=1)
    order = np.random.default_rng(2).permutation(500)
    shares, permuted = (fill_by_prices(chosen, ones(rows), centers) for chosen in (rows, rows[order]))
    np.testing.assert_array_equal(permuted.clusters, shares.clusters[order])


def test_prices_from_a_part_of_the_rows_are_nearly_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, centers = cloud(800, 8), cloud(16, 8, seed=1)
    full = error(rows, centers, fill_by_prices(rows, ones(rows), centers))
    monkeypatch.setattr(assignment, "PRICE_CELLS", 400 * 16)
    sampled = fill_by_prices(rows, ones(rows), centers)
    assert set(np.bincount(sampled.clusters).tolist()) == {50}
    assert full < error(rows, centers, sampled) < 1.03 * full


def test_no_cluster_comes_first() -> None:
    rows, centers = cloud(120, 4), cloud(10, 4, seed=1)
    order = np.random.default_rng(2).permutation(10)
    shares, permuted = (fill_by_prices(rows, ones(rows), chosen) for chosen in (centers, centers[order]))
    np.testing.assert_array_equal(order[permuted.clusters], shares.clusters)
    turns, turned = (fill_in_turn(rows, ones(rows), chosen) for chosen in (centers, centers[order]))
    assert not np.array_equal(order[turned.clusters], turns.clusters), "turns do depend on it"


def test_regret_decides_who_stays() -> None:
    # All prefer the cluster at 0; the row at -4 has the longest way to the other one.
    rows = np.array([[-4.0], [0.0], [0.5], [1.0]], np.float32)
    shares = fill_by_prices(rows, ones(rows), np.array([[0.0], [3.0]], np.float32))
    assert shares.clusters.tolist() == [0, 0, 1, 1]


@every_fill
def test_one_row_of_many_equal_vectors_is_shared_out(fill: Fill) -> None:
    shares = fill(np.ones((1, 2), np.float32), np.array([11]), cloud(4, 2))
    assert shares.rows.tolist() == [0, 0, 0, 0]
    assert sorted(shares.counts.tolist()) == [2, 3, 3, 3]
