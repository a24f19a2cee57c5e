"""At most so many items of one category, creator or other group in a list.

Candidates are taken best first, and one whose group is full is passed over.  Where each item is in one group and there
is one quota, nothing does better: the lists that keep the quota are the independent sets of a partition matroid, on
which no list is longer than the greedy one, and none has a higher score at any place (Edmonds, "Matroids and the greedy
algorithm", 1971).  With several quotas at once (of categories and of creators) lists keep all of them, and are still
the greedy choice, which need not be the best one.

Shape legend: N rows, C candidates of a row, I items, G groups among the candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sememe.core.errors import ConfigError
from sememe.core.schema import PAD, BoolArray, Int32Array, Int64Array, Ranked

IndexArray = Int32Array | Int64Array


@dataclass(frozen=True, eq=False)
class Quota:
    """At most `most` items of each group."""

    groups: IndexArray
    """(I,) the group of each item; PAD for an item of none, which no quota holds back."""
    most: int


def keep_quotas(ranked: Ranked, quotas: Sequence[Quota], *, k: int) -> Ranked:
    """Up to k of each row's candidates, in their order and with their scores, among which every quota is kept.

    ranked: more candidates than k, so that others can take the places of those passed over; where there are none left,
    the list is shorter.  Ties stand as the candidates do, so that nothing is tied beyond a list.

    Raises:
        ConfigError: a quota is below 1.
    """
    assert k >= 1, "a list has a place at least"
    for quota in quotas:
        if quota.most < 1:
            raise ConfigError(
                f"a quota of {quota.most} items per group lists nothing",
                fix="set most to at least 1; to leave a group out altogether, forbid it in the search",
            )
    kept = _take(ranked.items, [_Filling.of(quota, ranked.items) for quota in quotas], k=k)
    # Kept candidates first, in their order: False sorts before True.
    order = np.argsort(~kept, axis=1, kind="stable")[:, :k]
    listed = np.take_along_axis(kept, order, axis=1)
    items = np.where(listed, np.take_along_axis(ranked.items, order, axis=1), PAD)
    scores = np.where(listed, np.take_along_axis(ranked.scores, order, axis=1), -np.inf)
    return Ranked(
        items=_widened(items, k=k, fill=PAD).astype(np.int32),
        scores=_widened(scores, k=k, fill=-np.inf).astype(np.float32),
        source=f"{ranked.source}+quota",
        eligible=ranked.eligible,
    )


@dataclass(frozen=True, eq=False)
class _Filling:
    """How full the groups of one quota are."""

    group: Int64Array
    """(N, C) number of each candidate's group, 0..G-1."""
    limited: BoolArray
    """(N, C)"""
    taken: Int64Array
    """(N, G)"""
    most: int

    @classmethod
    def of(cls, quota: Quota, items: Int32Array) -> "_Filling":
        groups = np.where(items == PAD, PAD, quota.groups[items.clip(min=0)])
        present, group = np.unique(groups, return_inverse=True)
        return cls(
            group=group.reshape(items.shape),
            limited=groups != PAD,
            taken=np.zeros((len(items), max(1, len(present))), np.int64),
            most=quota.most,
        )


def _take(items: Int32Array, fillings: list[_Filling], *, k: int) -> BoolArray:
    """(N, C) the candidates that are taken, best first, while there is room in the list and in all of their groups."""
    rows = np.arange(len(items))
    kept = np.zeros(items.shape, np.bool_)
    for place in range(items.shape[1]):
        fits = (items[:, place] != PAD) & (kept.sum(axis=1) < k)
        for filling in fillings:
            fits &= ~filling.limited[:, place] | (filling.taken[rows, filling.group[:, place]] < filling.most)
        for filling in fillings:
            filling.taken[rows, filling.group[:, place]] += fits
        kept[:, place] = fits
    return kept


def _widened(values: npt.NDArray[np.generic], *, k: int, fill: float) -> npt.NDArray[np.generic]:
    """(N, k): columns of `fill` behind where there are fewer."""
    return np.pad(values, ((0, 0), (0, k - values.shape[1])), constant_values=fill)
