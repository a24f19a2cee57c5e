"""Who is met with whom, by hand and against a slow twin; and the log turned round."""

import numpy as np
import polars as pl
import pytest

from sememe.core.schema import Interactions
from sememe.data import cooccurrence as module
from sememe.data.cooccurrence import cooccurrence, turned


def log(*histories: list[int], num_items: int, times: list[int] | None = None) -> Interactions:
    lengths = [len(history) for history in histories]
    return Interactions(
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=np.concatenate([np.array(history, np.int32) for history in histories]),
        user_ids=pl.Series(list(range(len(histories)))),
        item_ids=pl.Series(list(range(num_items))),
        timestamps=None if times is None else np.array(times, np.int64),
    )


def slow_cooccurrence(train: Interactions, *, window: int, decay: float) -> np.ndarray:
    counts = np.zeros((train.num_items, train.num_items))
    for user in range(train.num_users):
        history = train.history(user).tolist()
        for i, a in enumerate(history):
            for j, b in enumerate(history):
                if a != b and 0 < abs(i - j) <= window:
                    counts[a, b] += decay ** (abs(i - j) - 1)
    return counts


def test_cooccurrence_by_hand() -> None:
    counts = cooccurrence(log([0, 1, 2, 1], [2, 0], num_items=4), window=2, decay=0.5).toarray()
    # (0,1) at distance 1; (1,2) twice at distance 1; (0,2) at distance 2 and, from the second user, at 1.
    assert counts.tolist() == [[0, 1, 1.5, 0], [1, 0, 2, 0], [1.5, 2, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("block", [7, 1_000_000])
def test_cooccurrence_equals_the_slow_twin(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(module, "BLOCK_EVENTS", block)
    rng = np.random.default_rng(0)
    histories = [(rng.integers(0, 20, 8) + 20 * (user % 2)).tolist() for user in range(20)]
    train = log(*histories, num_items=40)
    fast = cooccurrence(train, window=3, decay=0.7).toarray()
    np.testing.assert_allclose(fast, slow_cooccurrence(train, window=3, decay=0.7))


def test_the_log_turned_round_by_hand() -> None:
    train = log([1, 0, 1], [1, 2], [1], num_items=4, times=[50, 60, 70, 50, 80, 40])
    users = turned(train)
    assert [users.history(item).tolist() for item in range(4)] == [[0], [2, 0, 1, 0], [1], []]
    assert users.timestamps is not None and users.timestamps.tolist() == [60, 40, 50, 50, 70, 80]
    assert (users.num_users, users.num_items) == (4, 3)
    # Without times, users stand in their own order.
    timeless = turned(log([1, 0, 1], [1, 2], [1], num_items=4))
    assert timeless.history(1).tolist() == [0, 0, 1, 2] and timeless.timestamps is None
    assert turned(users).history(0).tolist() == train.history(0).tolist()
