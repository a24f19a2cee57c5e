"""Clusters of a history: planted groups are found, and each is spoken for by a member of its own."""

import numpy as np
import pytest

from sememe.data.lifelong import ITERATIONS, NEARLY, _cube_roots, represent


def representatives(vectors: np.ndarray, *, members: int) -> np.ndarray:
    return np.flatnonzero(represent(vectors, np.array([len(vectors)]), members=members))


def one_by_one(vectors: np.ndarray, *, members: int) -> list[int]:
    """The same by recursion, cluster after cluster."""

    def split(events: list[int]) -> list[list[int]]:
        rows = vectors[events]
        count = max(2, int(_cube_roots(np.array([len(events)]))[0]))
        centers = rows[[part * (len(events) - 1) // (count - 1) for part in range(count)]]
        for _ in range(ITERATIONS + 1):
            owner = np.array([int(((centers - row) ** 2).sum(1).argmin()) for row in rows])
            centers = np.array(
                [rows[owner == part].mean(0) if part in owner else centers[part] for part in range(count)]
            )
        if len(set(owner.tolist())) == 1:
            owner = (rows != rows[0]).any(1).astype(int)
        return [[event for event, own in zip(events, owner, strict=True) if own == part] for part in sorted(set(owner))]

    found, waiting = [], [list(range(len(vectors)))] if len(vectors) else []
    while waiting:
        events = waiting.pop()
        parts = split(events) if len(events) > members else [events]
        if len(parts) > 1:
            waiting += parts
        else:
            rows = vectors[events]
            away = ((rows - rows.mean(0)) ** 2).sum(1)
            found.append(
                max(event for event, far in zip(events, away, strict=True) if far <= away.min() * (1 + NEARLY))
            )
    return sorted(found)


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


def test_of_two_members_the_later_one_speaks_however_the_world_is_turned() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((2, 6)).astype(np.float32)
    for seed in range(20):
        turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((6, 6)))[0]
        assert representatives((vectors @ turn + seed).astype(np.float32), members=2).tolist() == [1]


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
    assert sorted(representatives(mostly, members=4).tolist()) == [37, 99]
    assert representatives(np.ones((1, 3), np.float32), members=1).tolist() == [0]
    assert representatives(np.empty((0, 3), np.float32), members=1).tolist() == []


def test_cube_roots_are_exact() -> None:
    roots = np.arange(1, 200)
    for step, floors in ((-1, roots - 1), (0, roots), (1, roots)):
        assert np.array_equal(_cube_roots(roots**3 + step), floors)


@pytest.mark.parametrize("members", [1, 2, 5])
def test_histories_of_a_batch_are_clustered_as_each_would_be_alone(members: int) -> None:
    rng = np.random.default_rng(3)
    lengths = np.array([40, 0, 1, 300, members, members + 1, 0, 7])
    vectors = rng.standard_normal((lengths.sum(), 5)).astype(np.float32)
    vectors[45:60] = vectors[44]
    together = represent(vectors, lengths, members=members)
    ends = np.cumsum(lengths)
    for begin, end in zip(ends - lengths, ends, strict=True):
        found = np.flatnonzero(together[begin:end]).tolist()
        assert found == one_by_one(vectors[begin:end], members=members)
