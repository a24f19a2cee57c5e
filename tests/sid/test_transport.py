"""The best assignment with given sizes: against the assignment problem written out, from any prices, with ties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from sememe.sid import transport
from sememe.sid.transport import affinity_table, deal_evenly, deal_out


def most(affinity: np.ndarray, room: np.ndarray) -> float:
    """The largest sum, with each cluster once per place it has."""
    value = affinity.astype(float)[:, np.repeat(np.arange(len(room)), room)]
    return float(value[linear_sum_assignment(value, maximize=True)].sum())


def cloud(rows: int, dim: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)


@given(
    room=st.lists(st.integers(0, 7), min_size=1, max_size=6).filter(any),
    price=st.sampled_from([0.0, 0.3, 10.0]),
    whole=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_optimum_from_any_prices(room: list[int], price: float, whole: bool, seed: int) -> None:
    affinity = 2 * cloud(sum(room), len(room), seed=seed)
    if whole:
        # Few values, many ties.
        affinity = affinity.round()
    labels = deal_out(affinity, price * cloud(1, len(room), seed=seed + 1)[0], room=np.array(room))
    assert labels is not None
    assert np.bincount(labels, minlength=len(room)).tolist() == room
    got = affinity[np.arange(len(labels)), labels].sum(dtype=float)
    assert got == pytest.approx(most(affinity, np.array(room)), abs=1e-4)


@pytest.mark.parametrize("rows", [300, 311])
def test_all_start_in_one_cluster(rows: int) -> None:
    affinity, room = cloud(rows, 10), np.full(10, 30)
    room[3] += rows - 300
    labels = deal_out(affinity, np.r_[np.zeros(9), 100.0].astype(np.float32), room=room)
    assert labels is not None
    assert affinity[np.arange(rows), labels].sum(dtype=float) == pytest.approx(most(affinity, room), rel=1e-6)


def test_a_barred_cluster_gets_no_one_and_chains_go_around() -> None:
    # All want cluster 0; the first two may not go to 2, so the third has to.
    affinity = np.array([[5, 1, -np.inf], [5, 2, -np.inf], [5, 4, 0]], np.float32)
    labels = deal_out(affinity, np.zeros(3, np.float32), room=np.array([1, 1, 1]))
    assert labels is not None and labels.tolist() == [0, 1, 2]


def test_prices_too_far_off_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    affinity, room = cloud(300, 3), np.full(3, 100)
    monkeypatch.setattr(transport, "MOST_SURPLUS", 50)
    assert deal_out(affinity, np.array([50, 0, 0], np.float32), room=room) is None
    assert deal_out(affinity, np.zeros(3, np.float32), room=room) is not None


def test_vectors_that_are_there_already_count() -> None:
    rows, centers = cloud(20, 3), cloud(4, 3, seed=1)
    table = affinity_table(rows, centers)
    np.testing.assert_allclose(table[:20, :4], rows @ centers.T - 0.5 * np.square(centers).sum(axis=1), atol=1e-5)
    taken = np.array([7, 0, 3, 1])
    labels = deal_evenly(table, np.zeros(4, np.float32), taken=taken)
    assert labels is not None
    sizes = np.bincount(labels, minlength=4)
    assert sorted((sizes + taken).tolist()) == [7, 8, 8, 8]
    best = max(most(table[:20, :4], 8 - taken - (np.arange(4) == smaller)) for smaller in range(4))
    assert table[np.arange(20), labels].sum(dtype=float) == pytest.approx(best, rel=1e-5)
