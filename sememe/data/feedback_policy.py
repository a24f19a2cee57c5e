"""Policies that fill a list place by place, and know the chance of all that they show.

At each place the item is drawn with probability (1 - explore) * softmax(scores) + explore / (number of items), both
over the items that are not barred and do not stand above: no repeats, and every item has a chance where explore > 0.

Shape legend: U users, I items, N lists, S places.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import PAD, BoolArray, Int32Array

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DrawnLists:
    """Lists, and the chance of each item at its place given those above."""

    items: Int32Array
    """(N, S)"""
    propensities: Float64Array
    """(N, S)"""


@dataclass(frozen=True, eq=False)
class SoftmaxPolicy:
    """A policy by scores."""

    scores: Float64Array
    """(U, I); larger is likelier."""
    explore: float = 0.0
    """Share of each choice that is uniform."""

    def __post_init__(self) -> None:
        if not 0 <= self.explore <= 1:
            raise ConfigError(f"explore is a share, got {self.explore}", fix="give a number from 0 to 1")

    @classmethod
    def uniform(cls, *, users: int, items: int) -> "SoftmaxPolicy":
        """Every item alike."""
        return cls(np.zeros((users, items)))

    def probabilities(self, users: npt.ArrayLike, *, barred: BoolArray) -> Float64Array:
        """(N, I) chance of each item at a place; 0 for those `barred` (N, I), of which a row may not have all.

        Raises:
            DataError: a row in which everything is barred.
        """
        free = ~barred
        counts = free.sum(axis=1, keepdims=True)
        if len(counts) and int(counts.min()) == 0:
            raise DataError(
                f"row {int(counts.argmin())} has no item left to show", fix="make shorter lists, or more items"
            )
        scores = np.where(free, self.scores[np.asarray(users)], -np.inf)
        chances = np.exp(scores - scores.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        mixed: Float64Array = (1 - self.explore) * chances + self.explore * free / counts
        return mixed

    def draw(self, users: npt.ArrayLike, *, length: int, barred: BoolArray, random: np.random.Generator) -> DrawnLists:
        """A list of `length` items for each of `users` (N,); `barred` (N, I) items are never in it."""
        rows, taken = np.arange(len(barred)), barred.copy()
        items: Int32Array = np.empty((len(barred), length), np.int32)
        propensities = np.empty((len(barred), length))
        for place in range(length):
            chances = self.probabilities(users, barred=taken)
            drawn = _draw(chances, random)
            items[:, place], propensities[:, place] = drawn, chances[rows, drawn]
            taken[rows, drawn] = True
        return DrawnLists(items, propensities)

    def list_probabilities(self, users: npt.ArrayLike, lists: Int32Array, *, barred: BoolArray) -> Float64Array:
        """(N, S) chance of each item of `lists` at its place given those above; 1 at PAD, 0 for what is never shown."""
        rows, taken = np.arange(len(lists)), barred.copy()
        found = np.ones(lists.shape)
        for place, items in enumerate(lists.T):
            there = items != PAD
            chances = self.probabilities(users, barred=taken)[rows, items]
            found[there, place] = chances[there]
            taken[rows[there], items[there]] = True
        return found


def _draw(chances: Float64Array, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """(N,) one column for each row of `chances` (N, I)."""
    upto = np.cumsum(chances, axis=1)
    wanted = random.random(len(chances)) * upto[:, -1]
    drawn: npt.NDArray[np.int64] = (upto <= wanted[:, None]).sum(axis=1)
    return drawn
