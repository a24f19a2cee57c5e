"""k-means against a slow obvious twin, and what it promises about order, ties and empty clusters."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sememe.sid import kmeans
from sememe.sid.kmeans import (
    distinct_rows,
    equal_rows,
    halving_start,
    k_means,
    move_centers,
    nearest_centers,
    plus_plus_start,
)


def slow_nearest(vectors: np.ndarray, centers: np.ndarray) -> tuple[list[int], list[float]]:
    labels, distances = [], []
    for vector in vectors.astype(float):
        squared = [float(((vector - center) ** 2).sum()) for center in centers.astype(float)]
        labels.append(int(np.argmin(squared)))
        distances.append(min(squared))
    return labels, distances


def slow_lloyd(vectors: np.ndarray, centers: np.ndarray, *, steps: int) -> np.ndarray:
    for _ in range(steps):
        labels, _ = slow_nearest(vectors, centers)
        centers = np.array([vectors[np.array(labels) == k].mean(axis=0) for k in range(len(centers))])
    return centers


def cloud(rows: int, dim: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)


@given(rows=st.integers(1, 40), clusters=st.integers(1, 12), seed=st.integers(0, 99))
def test_assignment_equals_the_slow_twin(rows: int, clusters: int, seed: int) -> None:
    vectors, centers = cloud(rows, 3, seed=seed), cloud(clusters, 3, seed=seed + 1)
    labels, distances = nearest_centers(vectors, centers)
    slow_labels, slow_distances = slow_nearest(vectors, centers)
    assert labels.tolist() == slow_labels
    np.testing.assert_allclose(distances, slow_distances, atol=1e-5)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, centers = cloud(101, 5), cloud(7, 5, seed=1)
    whole, _ = nearest_centers(vectors, centers)
    monkeypatch.setattr(kmeans, "CHUNK_CELLS", 30)
    pieces, _ = nearest_centers(vectors, centers)
    np.testing.assert_array_equal(pieces, whole)


def test_lloyd_equals_the_slow_twin() -> None:
    vectors = cloud(200, 4)
    start = halving_start(vectors, np.ones(200, np.float32), num_clusters=8)
    found = k_means(vectors, num_clusters=8, rng=np.random.default_rng(0), max_iterations=3)
    expected = slow_lloyd(vectors, start, steps=3)
    # Two starts are run; on a cloud without clusters the even one is kept.
    np.testing.assert_allclose(np.sort(found.centers, axis=0), np.sort(expected, axis=0), atol=1e-5)
    labels, distances = slow_nearest(vectors, found.centers)
    assert found.labels.tolist() == labels
    assert found.inertia == pytest.approx(sum(distances), rel=1e-5)


def test_separated_clusters_of_very_different_size_are_found() -> None:
    middles = np.array([[0, 0], [50, 0], [0, 50], [50, 50], [99, 99]], np.float32)
    sizes = (300, 3, 40, 7, 1)
    vectors = np.repeat(middles, sizes, axis=0) + 0.1 * cloud(sum(sizes), 2)
    found = k_means(vectors, num_clusters=5, rng=np.random.default_rng(0))
    assert sorted(np.bincount(found.labels).tolist()) == sorted(sizes)


def test_clusters_stay_even_where_there_is_no_structure() -> None:
    found = k_means(cloud(1200, 64), num_clusters=128, rng=np.random.default_rng(0))
    share = np.bincount(found.labels, minlength=128) / 1200
    perplexity = np.exp(-(share[share > 0] * np.log(share[share > 0])).sum())
    assert perplexity > 100


def test_the_order_of_the_rows_does_not_matter() -> None:
    vectors = cloud(300, 6)
    vectors[10] = vectors[20]
    order = np.random.default_rng(1).permutation(300)
    one = k_means(vectors, num_clusters=20, rng=np.random.default_rng(5))
    other = k_means(vectors[order], num_clusters=20, rng=np.random.default_rng(5))
    np.testing.assert_array_equal(one.centers, other.centers)
    np.testing.assert_array_equal(one.labels[order], other.labels)
    assert one.labels[10] == one.labels[20]


def test_a_sample_is_fitted_and_everything_labelled() -> None:
    vectors = np.repeat(np.array([[0.0], [10.0], [30.0]], np.float32), 100, axis=0) + 0.01 * cloud(300, 1)
    found = k_means(vectors, num_clusters=3, rng=np.random.default_rng(0), max_fit_rows=50)
    np.testing.assert_allclose(np.sort(found.centers[:, 0]), [0, 10, 30], atol=0.1)
    assert np.bincount(found.labels).tolist() == [100, 100, 100]


def test_fewer_distinct_vectors_than_clusters() -> None:
    vectors = np.array([[1.0, 0], [0, 1], [1, 0], [-0.0, 1]], np.float32)
    found = k_means(vectors, num_clusters=5, rng=np.random.default_rng(0))
    assert found.centers.shape == (5, 2)
    assert found.inertia == 0
    assert found.labels[0] == found.labels[2] != found.labels[1] == found.labels[3]


def test_equal_rows_have_weight_in_the_means() -> None:
    vectors = np.array([[0.0], [0.0], [0.0], [4.0]], np.float32)
    found = k_means(vectors, num_clusters=1, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(found.centers, [[1.0]])
    assert found.inertia == 3 * 1 + 9


def test_an_empty_cluster_moves_to_the_farthest_row() -> None:
    rows = np.array([[0.0], [1.0], [9.0]], np.float32)
    centers = np.array([[0.5], [100.0]], np.float32)
    labels, distances = nearest_centers(rows, centers)
    moved = move_centers(rows, np.ones(3, np.float32), labels=labels, distances=distances, centers=centers)
    np.testing.assert_allclose(moved, [[10 / 3], [9.0]], rtol=1e-6)


def test_halving_cuts_the_largest_cell_at_its_median() -> None:
    rows = np.array([[0.0], [1], [2], [3], [4], [5], [6], [100]], np.float32)
    centers = halving_start(rows, np.ones(8, np.float32), num_clusters=3)
    # Halves {0..3} and {4, 5, 6, 100}; the older one is cut again into {0, 1} and {2, 3}.
    np.testing.assert_allclose(np.sort(centers[:, 0]), [0.5, 2.5, 28.75])


def test_plus_plus_draws_distinct_rows_even_where_all_distance_is_used_up() -> None:
    rows = np.array([[0.0], [1.0], [1.0 + 1e-7], [5.0]], np.float32)
    start = plus_plus_start(rows, np.ones(4, np.float32), num_clusters=4, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(start[:, 0]), np.sort(rows[:, 0]))


def test_distinct_rows_rebuild_the_input() -> None:
    vectors = np.array([[2.0, 1], [0.0, 3], [2, 1], [-0.0, 3]], np.float32)
    distinct = distinct_rows(vectors)
    assert len(distinct.rows) == 2
    assert distinct.counts.tolist() == [2, 2]
    np.testing.assert_array_equal(distinct.rows[distinct.inverse], vectors)


@pytest.mark.parametrize(
    ("rows", "width", "values"),
    [(1, 1, 2), (300, 1, 3), (300, 2, 3), (300, 3, 1), (300, 5, 2), (500, 40, 9), (9, 3, 0)],
)
def test_equal_rows_are_grouped_as_numpy_groups_their_bytes(rows: int, width: int, values: int) -> None:
    rng = np.random.default_rng(rows + width)
    vectors = rng.integers(-values, values, (rows, width), endpoint=True).astype(np.float32) * np.float32(0.37)
    # Rows whose first numbers are equal and whose last are not, and zeros of both signs.
    vectors[: rows // 3, : width - 1] = vectors[0, : width - 1]
    vectors[rng.random((rows, width)) < 0.2] = -0.0
    keys = (vectors + np.float32(0)).view(np.dtype((np.void, 4 * width))).ravel()
    _, first, inverse, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    equal, distinct = equal_rows(vectors), distinct_rows(vectors)
    assert equal.first.tolist() == first.tolist()
    for found in (equal, distinct):
        assert (found.inverse.tolist(), found.counts.tolist()) == (inverse.ravel().tolist(), counts.tolist())
    np.testing.assert_array_equal(distinct.rows[distinct.inverse], vectors)
    assert not np.signbit(distinct.rows[distinct.rows == 0]).any()
