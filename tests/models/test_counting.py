"""The counting baselines: formulas against plain loops, and what every item scorer must hold."""

from collections import defaultdict
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from sememe.core.errors import ConfigError
from sememe.core.schema import PAD, Interactions
from sememe.models.counting import (
    FittedItemKnn,
    FittedPopularity,
    FittedRepeatLast,
    ItemKnn,
    Popularity,
    RepeatLast,
)

NUM_ITEMS = 30
PARTS = [
    (Popularity(), FittedPopularity),
    (RepeatLast(), FittedRepeatLast),
    (ItemKnn(), FittedItemKnn),
    (ItemKnn(fill="none", window=2), FittedItemKnn),
]
each_part = pytest.mark.parametrize(("part", "fitted_class"), PARTS, ids=["popularity", "repeat", "knn", "knn-no-fill"])


def interactions_of(sequences, num_items=NUM_ITEMS):
    lengths = [len(sequence) for sequence in sequences]
    return Interactions(
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=np.array([item for sequence in sequences for item in sequence], np.int32),
        user_ids=pl.Series(range(len(sequences))),
        item_ids=pl.Series(range(num_items)),
    )


def batch_of(histories, width=None):
    width = max(map(len, histories)) if width is None else width
    history = np.full((len(histories), width), PAD, np.int32)
    for row, items in enumerate(histories):
        history[row, : len(items)] = items
    return {"history": history, "lengths": np.array([len(items) for items in histories], np.int32)}


def random_sequences(seed, users=40):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, NUM_ITEMS - 2, rng.integers(0, 12)).tolist() for _ in range(users)]


SEQUENCES = random_sequences(0)
TRAIN = interactions_of(SEQUENCES)
HISTORIES = [[3, 7, 3, 11], [5], [], [29, 1], [28, 29]]


def slow_knn_scores(part, sequences, history):
    """The docstring's formula, pair by pair."""
    popularity, count = defaultdict(int), defaultdict(float)
    for sequence in sequences:
        for i, before in enumerate(sequence):
            popularity[before] += 1
            for d, after in enumerate(sequence[i + 1 : i + 1 + part.window], start=1):
                count[before, after] += part.decay ** (d - 1)
                count[after, before] += part.backward * part.decay ** (d - 1)
    scores = np.zeros(NUM_ITEMS)
    for age, source in enumerate(reversed(history)):
        for item in range(NUM_ITEMS):
            damping = (max(popularity[source], 1) * max(popularity[item], 1)) ** part.popularity_power
            scores[item] += part.recency**age * count[source, item] / damping
    return scores


@pytest.mark.parametrize(
    "part",
    [
        ItemKnn(fill="none"),
        ItemKnn(fill="none", decay=1.0, backward=0.0, window=1),
        ItemKnn(fill="none", decay=0.4, backward=2.0, popularity_power=0.8, recency=1.0, window=3),
    ],
)
def test_knn_equals_the_plain_formula(part):
    scores = part.fit(TRAIN).score_items(batch_of(HISTORIES))
    for row, history in enumerate(HISTORIES):
        np.testing.assert_allclose(scores[row], slow_knn_scores(part, SEQUENCES, history), rtol=1e-5)


def test_knn_matches_numbers_worked_by_hand():
    # One user, a b c: popularity 1 each, so nothing is damped.
    fitted = ItemKnn(decay=0.7, backward=0.5, recency=0.6, fill="none").fit(interactions_of([[0, 1, 2]], num_items=4))
    expected = [[0, 1, 0.7, 0], [0.5, 0, 1, 0], [0.35, 0.5, 0, 0]]
    np.testing.assert_allclose(fitted.score_items(batch_of([[0], [1], [2]])), expected, rtol=1e-6)
    # The last item has age 0, the one before it age 1.
    np.testing.assert_allclose(fitted.score_items(batch_of([[0, 2]])), [[0.35, 0.5 + 0.6, 0.6 * 0.7, 0]], rtol=1e-6)


def test_knn_damps_by_the_popularity_of_both_items():
    fitted = ItemKnn(popularity_power=0.5, fill="none").fit(interactions_of([[0, 1], [0], [0], [0]], num_items=2))
    assert fitted.score_items(batch_of([[0]]))[0, 1] == pytest.approx(1 / np.sqrt(4 * 1))


def test_knn_never_pairs_items_of_different_users():
    fitted = ItemKnn(fill="none").fit(interactions_of([[0], [1], [], [2]], num_items=3))
    assert not fitted.score_items(batch_of([[0], [1], [2]])).any()


def test_knn_fill_orders_the_rest_by_popularity_and_below_all_else():
    part = ItemKnn()
    filled = part.fit(TRAIN).score_items(batch_of(HISTORIES))
    bare = replace(part, fill="none").fit(TRAIN).score_items(batch_of(HISTORIES))
    counts = np.bincount(TRAIN.items, minlength=NUM_ITEMS)
    for with_fill, without in zip(filled, bare, strict=True):
        reached = without > 0
        np.testing.assert_array_equal(with_fill[reached], without[reached])
        rest = np.flatnonzero(~reached)
        assert (with_fill[rest] < 0).all()
        np.testing.assert_array_equal(
            np.sign(np.subtract.outer(with_fill[rest], with_fill[rest])),
            np.sign(np.subtract.outer(counts[rest], counts[rest])),
        )


def test_popularity_scores_are_training_counts():
    scores = Popularity().fit(TRAIN).score_items(batch_of([[1], []]))
    for row in scores:
        assert row.tolist() == [sum(sequence.count(item) for sequence in SEQUENCES) for item in range(NUM_ITEMS)]


def test_repeat_last_goes_back_in_time_then_to_what_is_popular():
    fitted = RepeatLast().fit(interactions_of([[0, 0, 0, 1, 1, 2]], num_items=5))
    order = np.argsort(-fitted.score_items(batch_of([[4, 3, 4, 2]]))[0], kind="stable")
    # 4 counts by its latest occurrence, so it comes before 3.
    assert order.tolist() == [2, 4, 3, 0, 1]


@each_part
def test_fit_is_deterministic_and_blind_to_the_order_of_users(part, fitted_class):
    del fitted_class
    again, shuffled = TRAIN, interactions_of([SEQUENCES[user] for user in np.random.default_rng(1).permutation(40)])
    first = part.fit(TRAIN).state()
    for other in (part.fit(again).state(), part.fit(shuffled).state()):
        for name, values in first.items():
            np.testing.assert_array_equal(values, other[name])


@each_part
def test_a_batch_scores_like_its_rows_alone_and_whatever_the_padding(part, fitted_class):
    del fitted_class
    fitted = part.fit(TRAIN)
    together = fitted.score_items(batch_of(HISTORIES, width=9))
    assert together.shape == (len(HISTORIES), NUM_ITEMS) and together.dtype == np.float32
    for row, history in enumerate(HISTORIES):
        np.testing.assert_array_equal(fitted.score_items(batch_of([history]))[0], together[row])


@each_part
def test_state_rebuilds_the_same_scorer(part, fitted_class, tmp_path):
    fitted = part.fit(TRAIN)
    np.savez(tmp_path / "state.npz", **fitted.state())
    with np.load(tmp_path / "state.npz", allow_pickle=False) as state:
        loaded = fitted_class.from_state(dict(state))
    batch = batch_of(HISTORIES)
    np.testing.assert_array_equal(loaded.score_items(batch), fitted.score_items(batch))


@each_part
def test_seen_items_of_a_batch_are_masked_and_no_others(part, fitted_class):
    del fitted_class
    fitted, batch = part.fit(TRAIN), batch_of([[3, 7], [5]])
    open_scores = fitted.score_items(batch)
    masked = fitted.score_items({**batch, "seen": np.array([[3, 7], [5, PAD]], np.int32)})
    assert np.isneginf(masked[0, [3, 7]]).all() and np.isneginf(masked[1, 5])
    kept = ~np.isneginf(masked)
    assert kept.sum() == 2 * NUM_ITEMS - 3
    np.testing.assert_array_equal(masked[kept], open_scores[kept])


@each_part
def test_scores_are_finite_without_any_event(part, fitted_class):
    del fitted_class
    scores = part.fit(interactions_of([[], []], num_items=3)).score_items(batch_of([[], [1]], width=1))
    assert np.isfinite(scores).all() and scores.shape == (2, 3)


def test_knn_finds_the_next_item_of_a_planted_chain():
    rng = np.random.default_rng(3)
    starts = rng.integers(0, NUM_ITEMS, 200)
    train = interactions_of([[(start + step) % NUM_ITEMS for step in range(6)] for start in starts])
    scores = ItemKnn().fit(train).score_items(batch_of([[4, 5], [28, 29]]))
    assert scores.argmax(axis=1).tolist() == [6, 0]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (ItemKnn(decay=0.0), "decay of ItemKnn lies in"),
        (ItemKnn(recency=1.5), "recency of ItemKnn lies in"),
        (ItemKnn(backward=-1.0), "backward of ItemKnn is at least 0"),
        (ItemKnn(popularity_power=-0.1), "popularity_power of ItemKnn is at least 0"),
        (ItemKnn(window=0), "window of ItemKnn is at least 1"),
        (ItemKnn(fill="zeros"), "fill of ItemKnn is 'zeros'"),
    ],
)
def test_settings_outside_their_range_are_refused_at_fit(part, message):
    with pytest.raises(ConfigError, match=message):
        part.fit(TRAIN)


def test_a_history_with_holes_is_our_fault():
    with pytest.raises(AssertionError, match="left-aligned"):
        ItemKnn().fit(TRAIN).score_items({"history": np.array([[PAD, 3]]), "lengths": np.array([2])})
