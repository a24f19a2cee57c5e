"""Clusters of a history: planted groups are found, and each is spoken for by a member of its own."""

import numpy as np
import pytest

from sememe.data.lifelong import _cube_root, representatives


def planted(groups: int, *, events: int, seed: int, noise: float = 0.01) -> tuple[np.ndarray, np.ndarray]:
    """(events, 8) vectors around far-apart centres in random order, and the group of each."""
    rng = np.random.default_rng(seed)
    owner = rng.permutation(np.arange(events) % groups)
    vectors = 10 * rng.standard_normal((groups, 8))[owner] + noise * rng.standard_normal((events, 8))
    return vectors.astype(np.float32), owner


@pytest.mark.parametrize("seed", range(5))
def test_planted_groups_have_one_representative_each(seed: int) -> None:
    vectors, owner = planted(8, events=64, seed=seed)
    found = representatives(vectors, members=8)
    # A group may be split where a start was unlucky, but none is joined with another, nor lost.
    assert sorted(set(owner[found])) == list(range(8))
    assert len(found) <= 16


def test_a_representative_is_the_member_nearest_the_mean() -> None:
    vectors = np.array([[0, 0], [1, 0], [2.2, 0], [50, 50]], np.float32)
    # Two clusters: the mean of the first is 1.07, next to its second member.
    assert representatives(vectors, members=3).tolist() == [1, 3]


def test_no_cluster_is_larger_than_asked_for_and_all_come_in_the_order_of_time() -> None:
    vectors = np.random.default_rng(0).standard_normal((500, 6)).astype(np.float32)
    for members in (1, 3, 20):
        found = representatives(vectors, members=members)
        assert np.all(np.diff(found) > 0)
        assert 500 / members <= len(found) <= 500
    assert representatives(vectors, members=1).tolist() == list(range(500))


def test_equal_events_are_one_cluster_and_short_histories_are_what_they_are() -> None:
    assert len(representatives(np.ones((100, 3), np.float32), members=4)) == 1
    mostly = np.ones((100, 3), np.float32)
    mostly[37] = 2.0
    assert sorted(representatives(mostly, members=4).tolist()) == [0, 37]
    assert representatives(np.ones((1, 3), np.float32), members=1).tolist() == [0]
    assert representatives(np.empty((0, 3), np.float32), members=1).tolist() == []


def test_cube_roots_are_exact() -> None:
    for root in range(1, 200):
        assert [_cube_root(root**3 + step) for step in (-1, 0, 1)] == [root - 1, root, root]


def test_the_history_alone_decides() -> None:
    vectors, _ = planted(5, events=90, seed=3, noise=1.0)
    assert np.array_equal(representatives(vectors, members=4), representatives(vectors.copy(), members=4))
