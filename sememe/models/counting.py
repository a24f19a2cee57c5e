"""Baselines that count instead of learn: popularity, repeat-last and a sequential item-kNN.

ItemKnn is item-based collaborative filtering (Deshpande and Karypis, "Item-Based Top-N Recommendation Algorithms",
TOIS 2004) with the order-aware weights of session-based neighbourhood methods (Ludewig and Jannach, "Evaluation of
Session-based Recommendation Algorithms", UMUAI 2018).  Kept: similarity from co-occurrence, damped by the popularity
of both items (cosine is power 1/2; .3 here), recent history counts more.  Changed: a pair's weight falls
geometrically with the distance of its positions, and the backward direction counts for less.  For j after i at
distance d in some user's training sequence,

    count[i, j] += decay ** (d - 1)        count[j, i] += backward * decay ** (d - 1)
    similarity[i, j] = count[i, j] / (popularity[i] * popularity[j]) ** popularity_power
    score[j] = sum over history items i, the last one of age 0, of recency ** age * similarity[i, j]

Counts and popularity come from the training part only, also for the final test; the history that is scored may hold
later items (leave-one-out: the validation item).

All three score items the same way: `.fit(train)` gives a fitted scorer whose `score_items(batch)` returns (N, I)
float32.  Scores tie often (items nobody bought together all score the same); metrics count ties as ties.

Shapes: U users, I items, E events, N rows of a batch, T history places (left-aligned, PAD after the last item),
S places of "seen" (PAD-filled).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from sememe.core.errors import ConfigError
from sememe.core.schema import Batch, FloatArray, Int32Array, Int64Array, Interactions
from sememe.metrics.ranking import mask_items

State = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Popularity:
    """Recommend what most training events are about."""

    def fit(self, train: Interactions) -> "FittedPopularity":
        """Count the events of every item."""
        return FittedPopularity(_event_counts(train))

    def load(self, state: Mapping[str, npt.NDArray[np.generic]]) -> "FittedPopularity":
        """The fitted model whose `state()` this is."""
        return FittedPopularity.from_state(state)


@dataclass(frozen=True, eq=False)
class FittedPopularity:
    """Every row gets the same scores: the number of training events of each item."""

    counts: Int64Array
    """(I,)"""

    def score_items(self, batch: Batch) -> FloatArray:
        """(N, I) scores; a "seen" array in the batch is masked with -inf."""
        rows = len(batch["history"])
        return _without_seen(np.tile(self.counts.astype(np.float32), (rows, 1)), batch)

    def state(self) -> State:
        """Numeric arrays from which `from_state` rebuilds this."""
        return {"counts": self.counts}

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray[np.generic]]) -> "FittedPopularity":
        """The scorer whose `state()` this is."""
        return cls(np.asarray(state["counts"], dtype=np.int64))


@dataclass(frozen=True)
class RepeatLast:
    """Recommend the last item again, then the history from new to old, then what is popular.

    On data without repeats its unmasked recall is 0; where people come back to the same things it is hard to beat.
    """

    def fit(self, train: Interactions) -> "FittedRepeatLast":
        """Count the events of every item; the rest is in the request."""
        return FittedRepeatLast(_event_counts(train))

    def load(self, state: Mapping[str, npt.NDArray[np.generic]]) -> "FittedRepeatLast":
        """The fitted model whose `state()` this is."""
        return FittedRepeatLast.from_state(state)


@dataclass(frozen=True, eq=False)
class FittedRepeatLast:
    """History items score 1 / (1 + age) by their latest occurrence, all others their popularity below 0."""

    counts: Int64Array
    """(I,) training events per item."""

    def score_items(self, batch: Batch) -> FloatArray:
        """(N, I) scores; a "seen" array in the batch is masked with -inf."""
        rows, items, ages = _history_entries(batch)
        scores = np.tile(_below_zero(self.counts), (len(batch["history"]), 1))
        np.maximum.at(scores, (rows, items), (1.0 / (1.0 + ages)).astype(np.float32))
        return _without_seen(scores, batch)

    def state(self) -> State:
        """Numeric arrays from which `from_state` rebuilds this."""
        return {"counts": self.counts}

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray[np.generic]]) -> "FittedRepeatLast":
        """The scorer whose `state()` this is."""
        return cls(np.asarray(state["counts"], dtype=np.int64))


@dataclass(frozen=True)
class ItemKnn:
    """Sequential item-kNN without training; the module's docstring has the formula."""

    decay: float = 0.7
    """Weight of a pair per further position between its items, in (0, 1]; best on Amazon Beauty .7, Sports 1.0."""
    backward: float = 0.5
    """Weight of the direction from a later item to an earlier one, >= 0."""
    popularity_power: float = 0.3
    """How strongly popularity damps a similarity, >= 0; cosine would be 0.5."""
    recency: float = 0.6
    """Weight of a history item per step back from the last one, in (0, 1]; best on Amazon Beauty .6, Sports .8."""
    window: int = 20
    """Pairs further apart than this many positions are not counted, which bounds similarities to 2 * window * E."""
    fill: Literal["popularity", "none"] = "popularity"
    """Items that no history item leads to: ordered by popularity, all below 0, or all equal at 0."""

    def fit(self, train: Interactions) -> "FittedItemKnn":
        """Count co-occurrences within each user's training sequence."""
        self.check()
        counts = _event_counts(train)
        forward = _decayed_pairs(train, decay=self.decay, window=self.window)
        both = (forward + self.backward * forward.T).tocsr()
        damping = sp.diags_array(np.maximum(counts, 1).astype(np.float64) ** -self.popularity_power)
        similarity = (damping @ both @ damping).tocsr().astype(np.float32)
        similarity.sort_indices()
        return FittedItemKnn(similarity, counts, recency=self.recency, fill=self.fill)

    def check(self) -> None:
        """Raise ConfigError for a setting that cannot be."""
        for name, value in (("decay", self.decay), ("recency", self.recency)):
            if not 0 < value <= 1:
                raise ConfigError(f"{name} of ItemKnn lies in (0, 1], not {value}", fix=f"set {name} to 0.7, say")
        for name, value in (("backward", self.backward), ("popularity_power", self.popularity_power)):
            if value < 0:
                raise ConfigError(
                    f"{name} of ItemKnn is at least 0, not {value}", fix=f"set {name} to 0 to switch it off"
                )
        if self.window < 1:
            raise ConfigError(f"window of ItemKnn is at least 1, not {self.window}", fix="set window to 20, say")
        if self.fill not in ("popularity", "none"):
            raise ConfigError(f"fill of ItemKnn is {self.fill!r}", fix="set fill to 'popularity' or 'none'")

    def load(self, state: Mapping[str, npt.NDArray[np.generic]]) -> "FittedItemKnn":
        """The fitted model whose `state()` this is."""
        return FittedItemKnn.from_state(state)


@dataclass(frozen=True, eq=False)
class FittedItemKnn:
    """Item similarities, ready to score histories."""

    similarity: sp.csr_array
    """(I, I) float32, row = history item, column = candidate."""
    counts: Int64Array
    """(I,) training events per item."""
    recency: float
    fill: Literal["popularity", "none"]

    def score_items(self, batch: Batch) -> FloatArray:
        """(N, I) scores; a "seen" array in the batch is masked with -inf."""
        rows, items, ages = _history_entries(batch)
        weights = (self.recency**ages).astype(np.float32)
        shape = (len(batch["history"]), len(self.counts))
        history = sp.coo_array((weights, (rows, items)), shape=shape).tocsr()
        scores: FloatArray = (history @ self.similarity).toarray()
        if self.fill == "popularity":
            scores = np.where(scores > 0, scores, _below_zero(self.counts))
        return _without_seen(scores, batch)

    def state(self) -> State:
        """Numeric arrays from which `from_state` rebuilds this."""
        return {
            "data": self.similarity.data,
            "indices": self.similarity.indices,
            "indptr": self.similarity.indptr,
            "counts": self.counts,
            "recency": np.array([self.recency], dtype=np.float64),
            "fill_popularity": np.array([self.fill == "popularity"]),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray[np.generic]]) -> "FittedItemKnn":
        """The scorer whose `state()` this is."""
        counts = np.asarray(state["counts"], dtype=np.int64)
        parts = (state["data"], state["indices"], state["indptr"])
        return cls(
            sp.csr_array(parts, shape=(len(counts), len(counts))),
            counts,
            recency=float(np.asarray(state["recency"])[0]),
            fill="popularity" if bool(np.asarray(state["fill_popularity"])[0]) else "none",
        )


def _event_counts(train: Interactions) -> Int64Array:
    """(I,) training events per item."""
    return np.bincount(train.items, minlength=train.num_items).astype(np.int64)


def _decayed_pairs(train: Interactions, *, decay: float, window: int) -> sp.csr_array:
    """(I, I) float64: for i before j at distance d <= window in one sequence, the sum of decay ** (d - 1).

    One distance at a time, as whole counts: the memory is one pass over the events plus the result, and no rounding
    depends on the order of the users.
    """
    shape = (train.num_items, train.num_items)
    users, items = train.users(), np.asarray(train.items)
    longest = int(train.lengths().max(initial=0))
    total = sp.csr_array(shape, dtype=np.float64)
    for distance in range(1, min(window, longest - 1) + 1):
        same = users[:-distance] == users[distance:]
        before, after = items[:-distance][same], items[distance:][same]
        ones = np.ones(len(before), dtype=np.float64)
        pairs = sp.coo_array((ones, (before, after)), shape=shape).tocsr()
        total = total + pairs * decay ** (distance - 1)
    return total


def _history_entries(batch: Batch) -> tuple[Int64Array, Int32Array, Int64Array]:
    """Row, item and age of every history entry of a batch; the last item of a row has age 0."""
    history = np.asarray(batch["history"], dtype=np.int32)
    lengths = np.asarray(batch["lengths"], dtype=np.int64)
    ages = lengths[:, None] - 1 - np.arange(history.shape[1])
    rows, places = np.nonzero(ages >= 0)
    items = history[rows, places]
    assert bool(np.all(items >= 0)), "a history is left-aligned: PAD stands only after its last item"
    return rows, items, ages[rows, places]


def _below_zero(counts: Int64Array) -> FloatArray:
    """(I,) the order of popularity as scores in [-1, 0): below everything that scores above 0."""
    below: FloatArray = (counts / (counts.max(initial=0) + 1) - 1).astype(np.float32)
    return below


def _without_seen(scores: FloatArray, batch: Batch) -> FloatArray:
    """Scores with -inf at the batch's "seen" items, where it has any."""
    if "seen" not in batch:
        return scores
    return mask_items(scores, np.asarray(batch["seen"], dtype=np.int32))
