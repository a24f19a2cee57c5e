"""Lists whose items are unlike each other: maximal marginal relevance.

Carbonell and Goldstein, "The Use of MMR, Diversity-Based Reranking" (SIGIR 1998): the next item is the one with the
highest lambda * relevance - (1 - lambda) * likeness to the most similar item listed so far.  Kept: that choice, item
after item.  Changed: the formula is divided by lambda, and likeness is measured in spreads of the row's scores (highest
less lowest candidate), so that lambda means the same for log-probabilities and for products of vectors, and a listed
item's number is its score less a penalty; with lambda 1 it is its score.  A likeness below 0 counts as 0: a list is not
rewarded for opposites, and numbers never rise along a list.

Shape legend: N rows, C candidates of a row, I items, dim the width of vectors, M categories of an item.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sememe.core.errors import ConfigError
from sememe.core.schema import PAD, FloatArray, Int32Array, Int64Array, Ranked

DoubleArray = npt.NDArray[np.float64]


class Likeness(Protocol):
    """How alike items are: 1 for an item and itself, 0 or less for items that share nothing."""

    def between(self, items: Int32Array, others: Int32Array) -> DoubleArray:
        """(N, C) likeness of each of `items` (N,) to the row's `others` (N, C); all are real items."""
        ...


@dataclass(frozen=True, eq=False)
class VectorLikeness:
    """Cosine of item vectors; an item with a vector of zeros is like nothing."""

    vectors: FloatArray
    """(I, dim)"""

    def between(self, items: Int32Array, others: Int32Array) -> DoubleArray:
        """(N, C)"""
        one, many = self._unit(items), self._unit(others)
        product: DoubleArray = np.einsum("nd,ncd->nc", one, many)
        return product

    def _unit(self, items: Int32Array) -> DoubleArray:
        vectors = self.vectors[items].astype(np.float64)
        length = np.linalg.norm(vectors, axis=-1, keepdims=True)
        return vectors / np.where(length > 0, length, 1.0)


@dataclass(frozen=True, eq=False)
class CategoryLikeness:
    """Share of two items' categories that both have (Jaccard); an item without any is like nothing."""

    categories: Int32Array
    """(I, M) numbers of categories, distinct in a row, PAD where an item has fewer."""

    def between(self, items: Int32Array, others: Int32Array) -> DoubleArray:
        """(N, C)"""
        one, many = self.categories[items][:, np.newaxis], self.categories[others]
        same = one[..., :, np.newaxis] == many[..., np.newaxis, :]
        both = (same & (many != PAD)[..., np.newaxis, :]).sum(axis=(-1, -2))
        either = (one != PAD).sum(axis=-1) + (many != PAD).sum(axis=-1) - both
        share: DoubleArray = both / np.maximum(either, 1)
        return share


@dataclass(frozen=True, eq=False)
class Diversity:
    """Reorder candidates by maximal marginal relevance."""

    likeness: Likeness
    relevance: float = 0.7
    """The paper's lambda, above 0: 1 leaves lists as they are, less trades score for items that are unlike."""

    def rerank(self, ranked: Ranked, *, k: int) -> Ranked:
        """The k items of each row's candidates that are chosen one after the other; of equal ones, the one before.

        An item's score in the new list is what it was chosen for: its score less the penalty for likeness.  Nothing is
        tied beyond a list, since the order of candidates settles ties.

        Raises:
            ConfigError: `relevance` is not above 0 and at most 1.
        """
        if not 0.0 < self.relevance <= 1.0:
            raise ConfigError(
                f"relevance is {self.relevance}, and must be above 0 and at most 1", fix="set it to 0.7, say"
            )
        assert k >= 1, "a list has a place at least"
        rows, width = np.arange(len(ranked.items)), min(k, ranked.items.shape[1])
        scores = np.where(ranked.items == PAD, -np.inf, ranked.scores.astype(np.float64))
        weight = (1.0 / self.relevance - 1.0) * _spread(scores)
        likest, left = np.zeros_like(scores), scores.copy()
        chosen, worth = np.empty((len(rows), width), np.int64), np.empty((len(rows), width))
        others = ranked.items.clip(min=0)
        for place in range(width):
            # argmax takes the first of equal ones.
            value = left - weight * likest
            best = value.argmax(axis=1)
            chosen[:, place], worth[:, place] = best, value[rows, best]
            left[rows, best] = -np.inf
            likest = np.maximum(likest, self.likeness.between(others[rows, best], others))
        return _listed(ranked, chosen, worth, k=k)


def _spread(scores: DoubleArray) -> DoubleArray:
    """(N, 1) highest less lowest score of each row's candidates; 1 where they all score the same, or there are none."""
    real = scores > -np.inf
    highest = scores.max(axis=1, keepdims=True, initial=-np.inf)
    lowest = np.where(real, scores, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    spread = np.where(real.any(axis=1, keepdims=True), highest - lowest, 0.0)
    widened: DoubleArray = np.where(spread > 0, spread, 1.0)
    return widened


def _listed(ranked: Ranked, chosen: Int64Array, worth: DoubleArray, *, k: int) -> Ranked:
    """The `chosen` columns (N, at most k) as lists of k."""
    rows = len(chosen)
    items, scores = np.full((rows, k), PAD, np.int32), np.full((rows, k), -np.inf, np.float32)
    real = worth > -np.inf
    items[:, : chosen.shape[1]] = np.where(real, np.take_along_axis(ranked.items, chosen, axis=1), PAD)
    scores[:, : chosen.shape[1]] = worth
    return Ranked(items=items, scores=scores, source=f"{ranked.source}+mmr", eligible=ranked.eligible)
