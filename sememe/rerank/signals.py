"""What can be said of an item for a history besides the model's own scores: how often the two meet, how alike they are.

Shape legend: N rows, T history positions, I items, V width of the item vectors.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sememe.core.errors import ConfigError
from sememe.core.schema import Batch, BoolArray, FloatArray, Int32Array, Interactions

State = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What signals are made from."""

    train: Interactions
    vectors: FloatArray | None
    """(I, V) item vectors of the recipe."""
    vector_widths: Sequence[int]
    """Widths of the parts that `vectors` was joined from; they add up to V."""
    without_log: Callable[[Int32Array], FloatArray] | None = None
    """The vectors as they would be, had the log held no event of some items (n,); None: they do not read the log."""

    def known_items(self) -> BoolArray:
        """(I,) whether the training part holds an event of each item."""
        return np.bincount(self.train.items, minlength=self.train.num_items) > 0

    def without(self, items: Int32Array) -> "Evidence":
        """What there would be to go by, were `items` (n,) new."""
        vectors = self.vectors if self.without_log is None else self.without_log(items)
        return replace(self, train=self.train.without_items(items), vectors=vectors)


class FittedSignal(Protocol):
    """Says something of every item for a batch of histories."""

    @property
    def names(self) -> tuple[str, ...]: ...
    def features(self, batch: Batch) -> list[FloatArray]:
        """One (N, I) array per name."""

    def state(self) -> State: ...


class Signal(Protocol):
    """The description of a signal."""

    def check(self, *, parts: int) -> None:
        """Raise ConfigError for a setting that cannot be, where the item vectors have so many `parts`."""

    def fit(self, evidence: Evidence) -> FittedSignal: ...
    def load(self, state: State, evidence: Evidence) -> FittedSignal: ...


class ItemCounter(Protocol):
    """A model that counts the training part and then scores items, such as the item-kNN."""

    def fit(self, train: Interactions) -> Any: ...
    def load(self, state: State) -> Any: ...


LEAST_SHARE = 1e-4
"""Stands for a share of 0 where its logarithm is taken: an item that the history never leads to."""


@dataclass(frozen=True)
class CoOccurrence:
    """The share of an item among all that the history leads to, by a counting model, and the share's logarithm."""

    model: ItemCounter

    def check(self, *, parts: int) -> None:
        """Raise ConfigError for a setting of the model that cannot be."""
        del parts
        # A counting model without settings has nothing to check.
        check = getattr(self.model, "check", None)
        if check is not None:
            check()

    def fit(self, evidence: Evidence) -> "FittedCoOccurrence":
        """Count the training part."""
        return FittedCoOccurrence(self.model.fit(evidence.train))

    def load(self, state: State, evidence: Evidence) -> "FittedCoOccurrence":
        """The fitted signal whose `state()` this is."""
        del evidence  # the counts are in the state
        return FittedCoOccurrence(self.model.load(state))


@dataclass(frozen=True, eq=False)
class FittedCoOccurrence:
    """Built by `CoOccurrence.fit`."""

    model: Any

    @property
    def names(self) -> tuple[str, ...]:
        return ("co_occurrence", "log_co_occurrence")

    def features(self, batch: Batch) -> list[FloatArray]:
        """Shares in 0..1 that add up to 1 per row (or to 0), and their logarithms."""
        scores = np.maximum(self.model.score_items(batch), 0.0)
        share = scores / np.maximum(scores.sum(1, keepdims=True), 1e-9)
        return [share, np.log(share + np.float32(LEAST_SHARE))]

    def state(self) -> State:
        """Arrays from which `CoOccurrence.load` rebuilds this."""
        state: State = self.model.state()
        return state


@dataclass(frozen=True)
class Likeness:
    """Cosine of an item's vector with the last item's, and with the recency-weighted mean of the history."""

    embedder: int = 0
    """Whose part of the recipe's joined vectors is compared: 0 is the first embedder."""
    recency: float = 0.7
    """Weight of an item per step back from the last one, in (0, 1]."""

    def check(self, *, parts: int) -> None:
        """Raise ConfigError for a recency that cannot be, or where there is no such part."""
        if not 0 < self.recency <= 1:
            raise ConfigError(f"recency of Likeness lies in (0, 1], not {self.recency}", fix="set it to 0.7, say")
        if not 0 <= self.embedder < parts:
            raise ConfigError(
                f"Likeness reads part {self.embedder} of the item vectors, and there are {parts}",
                fix="choose an embedder that the recipe's `embed` has, or leave the signal out",
            )

    def fit(self, evidence: Evidence) -> "FittedLikeness":
        """Take the part out of the vectors."""
        self.check(parts=0 if evidence.vectors is None else len(evidence.vector_widths))
        assert evidence.vectors is not None, "there is at least one part"
        start = sum(evidence.vector_widths[: self.embedder])
        part = evidence.vectors[:, start : start + evidence.vector_widths[self.embedder]].astype(np.float32)
        known = np.asarray(part.any(axis=1))[:, None]
        # What all items share says nothing about any of them.
        centered = (part - part[known[:, 0]].mean(axis=0)) * known if known.any() else part
        return FittedLikeness(self, centered / np.maximum(np.linalg.norm(centered, axis=1, keepdims=True), 1e-6))

    def load(self, state: State, evidence: Evidence) -> "FittedLikeness":
        """The same as `fit`: nothing is learned here."""
        del state
        return self.fit(evidence)


@dataclass(frozen=True, eq=False)
class FittedLikeness:
    """Built by `Likeness.fit`."""

    config: Likeness
    vectors: FloatArray
    """(I, V) rows of length 1, or 0 where nothing is known."""

    @property
    def names(self) -> tuple[str, ...]:
        return (f"like_last_{self.config.embedder}", f"like_history_{self.config.embedder}")

    def features(self, batch: Batch) -> list[FloatArray]:
        """Cosines; that of the mean is taken with a mean of unit vectors, so it is smaller for a mixed history."""
        history, lengths = batch["history"].astype(np.int64), batch["lengths"].astype(np.int64)
        if history.shape[1] == 0:
            return [np.zeros((len(history), len(self.vectors)), np.float32) for _ in self.names]
        age = lengths[:, None] - 1 - np.arange(history.shape[1])
        weight = np.where(age >= 0, self.config.recency ** np.maximum(age, 0), 0.0).astype(np.float32)
        read = self.vectors[np.maximum(history, 0)]
        mean = np.einsum("nt,ntv->nv", weight, read) / np.maximum(weight.sum(1, keepdims=True), 1e-6)
        last = read[np.arange(len(history)), np.maximum(lengths - 1, 0)] * (lengths > 0)[:, None]
        return [last @ self.vectors.T, mean @ self.vectors.T]

    def state(self) -> State:
        """Nothing: the vectors are an artifact of their own."""
        return {}
