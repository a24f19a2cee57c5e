"""Signals against loops over rows, items and history places."""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import pytest

from sememe.core.errors import ConfigError
from sememe.core.schema import PAD, Batch, FloatArray, Int32Array, Interactions
from sememe.models.counting import ItemKnn, Popularity
from sememe.rerank.signals import LEAST_SHARE, CoOccurrence, Evidence, Likeness

ITEMS = 7
HISTORIES = [[3, 1, 4], [2], [5, 0, 5, 1]]
LOG = Interactions(
    offsets=np.array([0, 4, 6, 9]),
    items=np.array([3, 1, 4, 2, 0, 1, 1, 3, 1], np.int32),
    user_ids=pl.Series([0, 1, 2]),
    item_ids=pl.Series(range(ITEMS)),
)
RNG = np.random.default_rng(0)
VECTORS = np.concatenate([RNG.standard_normal((ITEMS, 3)) + 1, RNG.standard_normal((ITEMS, 2))], 1).astype(np.float32)
VECTORS[4, :3] = 0
"""The first part knows nothing of item 4."""
EVIDENCE = Evidence(train=LOG, vectors=VECTORS, vector_widths=(3, 2))


def batch_of(histories: list[list[int]], *, extra: int = 0) -> Batch:
    width = max(map(len, histories)) + extra
    return {
        "history": np.array([row + [PAD] * (width - len(row)) for row in histories], np.int32),
        "lengths": np.array([len(row) for row in histories], np.int32),
        "user": np.full(len(histories), PAD, np.int32),
    }


def unit(vector: FloatArray) -> FloatArray:
    length = np.linalg.norm(vector)
    return vector / length if length > 0 else vector


def centered(start: int, end: int) -> FloatArray:
    """Unit vectors of one part, their mean over the items that it knows taken away; zeros stay zeros."""
    part = VECTORS[:, start:end].astype(np.float64)
    known = [item for item in range(ITEMS) if part[item].any()]
    mean = sum(part[item] for item in known) / len(known)
    return np.stack([unit(part[item] - mean) if item in known else part[item] for item in range(ITEMS)])


@dataclass(frozen=True)
class FixedScores:
    """A counting model that gives the same scores for every row."""

    scores: tuple[float, ...]

    def fit(self, train: Interactions) -> "FixedScores":
        return self

    def score_items(self, batch: Batch) -> FloatArray:
        return np.tile(np.array(self.scores, np.float32), (len(batch["history"]), 1))


def test_shares_by_hand() -> None:
    """What scores below 0 has no share; where nothing scores, all shares are 0."""
    fitted = CoOccurrence(FixedScores((3.0, -2.0, 0.0, 1.0))).fit(EVIDENCE)
    share, log = fitted.features(batch_of([[1], [2]]))
    np.testing.assert_allclose(share, [[0.75, 0, 0, 0.25]] * 2)
    np.testing.assert_allclose(log, np.log(np.array([[0.75, 0, 0, 0.25]] * 2) + 1e-4), rtol=1e-6)
    assert fitted.names == ("co_occurrence", "log_co_occurrence") and LEAST_SHARE == 1e-4
    nothing, log = CoOccurrence(FixedScores((-1.0, 0.0))).fit(EVIDENCE).features(batch_of([[1]]))
    assert nothing.tolist() == [[0.0, 0.0]] and np.isfinite(log).all()


@pytest.mark.parametrize("fill", ["popularity", "none"])
def test_shares_are_those_of_the_counting_model(fill: str) -> None:
    model = ItemKnn(fill=fill)  # type: ignore[arg-type]
    counted = model.fit(LOG)
    fitted = CoOccurrence(model).fit(EVIDENCE)
    batch = batch_of(HISTORIES)
    share, _ = fitted.features(batch)
    for row, history in enumerate(HISTORIES):
        points = np.zeros(ITEMS)
        for age, item in enumerate(reversed(history)):
            points += 0.6**age * counted.similarity.toarray()[item]
        total = points.sum()
        np.testing.assert_allclose(share[row], points / total if total else points, rtol=1e-5)
    assert share.shape == (3, ITEMS) and share.dtype == np.float32
    again = CoOccurrence(model).load(fitted.state(), EVIDENCE)
    for ours, theirs in zip(again.features(batch), fitted.features(batch), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("part", "span"), [(0, (0, 3)), (1, (3, 5))])
@pytest.mark.parametrize("recency", [0.7, 1.0])
def test_cosines_are_those_of_a_loop(part: int, span: tuple[int, int], recency: float) -> None:
    fitted = Likeness(embedder=part, recency=recency).fit(EVIDENCE)
    vectors = centered(*span)
    last, mean = fitted.features(batch_of(HISTORIES))
    assert fitted.names == (f"like_last_{part}", f"like_history_{part}")
    for row, history in enumerate(HISTORIES):
        weights = [recency**age for age in range(len(history))][::-1]
        read = sum(weight * vectors[item] for weight, item in zip(weights, history, strict=True)) / sum(weights)
        for item in range(ITEMS):
            assert last[row, item] == pytest.approx(vectors[history[-1]] @ vectors[item], abs=1e-5)
            assert mean[row, item] == pytest.approx(read @ vectors[item], abs=1e-5)


def test_a_history_of_one_item_is_its_own_mean() -> None:
    last, mean = Likeness(embedder=1).fit(EVIDENCE).features(batch_of([[2], [6]], extra=2))
    np.testing.assert_allclose(last, mean, rtol=1e-5)
    np.testing.assert_allclose(last[[0, 1], [2, 6]], 1, rtol=1e-5)


def test_an_item_without_a_vector_is_like_nothing() -> None:
    last, mean = Likeness(embedder=0).fit(EVIDENCE).features(batch_of([[3, 4], [4], [4, 3]]))
    assert not last[:, 4].any() and not mean[:, 4].any()
    assert not last[:2].any() and not mean[1].any()
    # It takes its share of the mean all the same: what is known counts for less.
    vectors = centered(0, 3)
    np.testing.assert_allclose(mean[0], 0.7 / 1.7 * vectors @ vectors[3], atol=1e-5)
    np.testing.assert_allclose(mean[2], 1 / 1.7 * vectors @ vectors[3], atol=1e-5)


def test_no_history_and_no_known_vector_give_zeros() -> None:
    empty = {"history": np.full((1, 2), PAD, np.int32), "lengths": np.zeros(1, np.int32)}
    assert not any(feature.any() for feature in Likeness().fit(EVIDENCE).features(empty))
    blank = Evidence(train=LOG, vectors=np.zeros((ITEMS, 2), np.float32), vector_widths=(2,))
    assert not any(feature.any() for feature in Likeness().fit(blank).features(batch_of(HISTORIES)))


@pytest.mark.parametrize("signal", [CoOccurrence(ItemKnn()), Likeness(embedder=0), Likeness(embedder=1, recency=0.5)])
def test_padding_and_other_rows_change_nothing(signal: CoOccurrence | Likeness) -> None:
    fitted = signal.fit(EVIDENCE)
    together = fitted.features(batch_of(HISTORIES))
    for wide, plain in zip(fitted.features(batch_of(HISTORIES, extra=3)), together, strict=True):
        np.testing.assert_allclose(wide, plain, rtol=1e-6, atol=1e-7)
    for row, history in enumerate(HISTORIES):
        for alone, feature in zip(fitted.features(batch_of([history])), together, strict=True):
            np.testing.assert_allclose(alone[0], feature[row], rtol=1e-5, atol=1e-6)


def test_likeness_keeps_nothing_but_its_settings() -> None:
    fitted = Likeness(embedder=1, recency=0.4).fit(EVIDENCE)
    assert dict(fitted.state()) == {}
    loaded = Likeness(embedder=1, recency=0.4).load({}, EVIDENCE)
    for ours, theirs in zip(loaded.features(batch_of(HISTORIES)), fitted.features(batch_of(HISTORIES)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("signal", "evidence", "message"),
    [
        (Likeness(embedder=2), EVIDENCE, "reads part 2 of the item vectors, and there are 2"),
        (Likeness(embedder=-1), EVIDENCE, "reads part -1"),
        (
            Likeness(),
            Evidence(LOG, vectors=None, vector_widths=()),
            "reads part 0 of the item vectors, and there are 0",
        ),
        (Likeness(recency=0.0), EVIDENCE, r"recency of Likeness lies in \(0, 1\], not 0.0"),
        (Likeness(recency=1.1), EVIDENCE, "recency of Likeness"),
        (CoOccurrence(ItemKnn(window=0)), EVIDENCE, "window of ItemKnn"),
    ],
)
def test_signals_that_cannot_be_are_refused(signal: CoOccurrence | Likeness, evidence: Evidence, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        signal.fit(evidence)


@pytest.mark.parametrize(
    ("signal", "message"),
    [
        (CoOccurrence(ItemKnn(decay=0.0)), "decay of ItemKnn"),
        (Likeness(embedder=2), "reads part 2 of the item vectors, and there are 2"),
        (Likeness(recency=0.0), "recency of Likeness"),
    ],
)
def test_settings_are_checked_before_there_is_any_evidence(signal: CoOccurrence | Likeness, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        signal.check(parts=2)


def test_settings_that_can_be_pass_and_fit() -> None:
    """Also of a counting model that has no settings."""
    for signal in (CoOccurrence(ItemKnn()), CoOccurrence(Popularity()), Likeness(embedder=1)):
        signal.check(parts=2)
        fitted = signal.fit(EVIDENCE)
        assert len(fitted.features(batch_of(HISTORIES))) == len(fitted.names) == 2


def test_evidence_without_items_leaves_the_rest() -> None:
    """Vectors that do not read the log stay; others are asked for anew."""
    new = np.array([1, 5], np.int32)
    plain = EVIDENCE.without(new)
    assert EVIDENCE.known_items().tolist() == [True, True, True, True, True, False, False]
    assert plain.known_items().tolist() == [True, False, True, True, True, False, False]
    assert plain.train.items.tolist() == [3, 4, 2, 0, 3] and plain.train.offsets.tolist() == [0, 3, 4, 5]
    assert plain.vectors is VECTORS and plain.vector_widths == (3, 2)
    asked: list[list[int]] = []

    def without_log(items: Int32Array) -> FloatArray:
        asked.append(items.tolist())
        return VECTORS + 1

    told = replace(EVIDENCE, without_log=without_log).without(new)
    assert asked == [[1, 5]] and np.array_equal(told.vectors, VECTORS + 1)


def test_a_batch_of_empty_histories_is_like_nothing() -> None:
    features = Likeness().fit(EVIDENCE).features(batch_of([[], []]))
    assert [feature.shape for feature in features] == [(2, ITEMS)] * 2
    assert not any(feature.any() for feature in features)
