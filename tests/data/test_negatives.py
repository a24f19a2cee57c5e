"""Shared negatives: which items a batch offers, where its targets are among them, how likely each was to be there."""

import numpy as np
import polars as pl
import pytest

from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import PAD, Interactions
from sememe.data.batches import SequenceBatches
from sememe.data.negatives import NegativesSource, SharedNegatives


def log_of(histories: list[list[int]], *, items: int) -> Interactions:
    lengths = [len(history) for history in histories]
    return Interactions(
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=np.concatenate(histories).astype(np.int32),
        user_ids=pl.Series(range(len(histories))),
        item_ids=pl.Series(range(items)),
    )


HISTORIES = [[0, 1, 2, 3], [4, 0], [5, 1, 7], [2, 2, 9, 0, 1], [6]]
"""Item 8 of 10 has no event; item 6 is no target."""


def source_of(*, negatives: int = 3, seed: int = 0, batch_size: int = 2) -> NegativesSource:
    part = SharedNegatives(SequenceBatches(batch_size=batch_size, max_history=6), negatives=negatives)
    return part.source(log_of(HISTORIES, items=10), seed=seed)


def test_a_batch_is_a_pure_function_of_the_step() -> None:
    source, again = source_of(), source_of()
    for step in (5, 0, 3, 5):
        first, second = source(step), again(step)
        assert first.keys() == second.keys()
        assert all(np.array_equal(first[name], second[name]) for name in first)
    others = [source_of(seed=seed)(5)["candidates"].tolist() for seed in range(4)]
    assert len({tuple(candidates) for candidates in others}) > 1
    assert len({tuple(source(step)["candidates"].tolist()) for step in range(10)}) > 1


def test_targets_are_candidates_and_places_say_where() -> None:
    source = source_of()
    plain = SequenceBatches(batch_size=2, max_history=6).source(log_of(HISTORIES, items=10), seed=0)
    assert source.steps_per_epoch == plain.steps_per_epoch == 2
    for step in range(20):
        batch, inner = source(step), plain(step)
        assert all(np.array_equal(batch[name], inner[name]) for name in inner)
        candidates, places, targets = batch["candidates"], batch["target_places"], batch["targets"]
        assert candidates.dtype == places.dtype == np.int32 and batch["candidate_log_prob"].dtype == np.float32
        assert candidates.tolist() == sorted(set(candidates.tolist()))
        assert places.shape == targets.shape and np.array_equal(places == PAD, targets == PAD)
        assert np.array_equal(candidates[places[places != PAD]], targets[targets != PAD])
        beyond = set(candidates.tolist()) - set(targets.ravel().tolist())
        assert len(beyond) <= 3 and 8 not in beyond
        assert len(batch["candidate_log_prob"]) == len(candidates) and (batch["candidate_log_prob"] <= 0).all()


def test_the_probability_of_a_candidate_by_hand() -> None:
    """Events per item 3 3 3 1 1 1 1 1 0 1 of 15; 3 of the 9 items are drawn."""
    shares = np.array([3, 3, 3, 1, 1, 1, 1, 1, 0, 1]) / 15
    for step in range(4):
        batch = source_of()(step)
        targets = int((batch["targets"] != PAD).sum())
        expected = [np.log(1 - (1 - 3 / 9) * (1 - shares[item]) ** targets) for item in batch["candidates"]]
        np.testing.assert_allclose(batch["candidate_log_prob"], expected, rtol=1e-5)


def test_items_are_candidates_as_often_as_is_said() -> None:
    """For positions whose own target is another item: the own target is there for certain."""
    rng = np.random.default_rng(0)
    popularity = np.array([8, 4, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1]) / 23
    histories = [rng.choice(12, size=6, p=popularity).tolist() for _ in range(400)]
    part = SharedNegatives(SequenceBatches(batch_size=4, max_history=6), negatives=3)
    source = part.source(log_of(histories, items=12), seed=1)
    met, asked, said = np.zeros(12), np.zeros(12), np.full(12, np.nan)
    for step in range(1500):
        batch = source(step)
        there = np.isin(np.arange(12), batch["candidates"])
        others = batch["targets"].size - np.bincount(batch["targets"].ravel(), minlength=12)
        met, asked = met + there * others, asked + others
        # 4 rows of 5 targets in every batch, so the number is the same in all of them.
        said[batch["candidates"]] = np.exp(batch["candidate_log_prob"])
    # A batch's targets are no independent draws from all events, so the formula is near the truth and not the truth.
    np.testing.assert_allclose(met / asked, said, atol=0.04)
    assert abs((met / asked - said).mean()) < 0.02
    assert said.max() > 0.99 and said.min() < 0.7


@pytest.mark.parametrize("negatives", [9, 10, 10_000])
def test_enough_negatives_are_all_trained_items(negatives: int) -> None:
    source = source_of(negatives=negatives)
    for step in range(4):
        batch = source(step)
        assert batch["candidates"].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 9]
        assert batch["candidate_log_prob"].tolist() == [0.0] * 9


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="negatives must be at least 1, got 0"):
        source_of(negatives=0)
    with pytest.raises(ConfigError, match="batch_size must be at least 1"):
        source_of(batch_size=0)
    with pytest.raises(DataError, match="no user has two events"):
        SharedNegatives().source(log_of([[1], [2]], items=3), seed=0)
    assert SharedNegatives(SequenceBatches(max_history=7)).max_history == 7
