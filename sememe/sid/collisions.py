"""What to do with items whose semantic codes are equal.

TIGER (arXiv 2305.05065, section 3.1) appends one more code that counts the items of a tuple: 0, 1, 2, ...  `KeepTied`
leaves the items tied; decoding then ranks them as ties, and metrics count them as ties.

Shape legend: I items, L semantic levels.
"""

import logging
from dataclasses import dataclass

import numpy as np

from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import Codes, Int32Array, Int64Array

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CollisionToken:
    """Append a level that numbers the items of each semantic tuple in the order of their item index, from 0."""

    size: int = 256
    """Codes of the added level.  More items than that in one tuple are an error, so that a collapse shows,"""
    most: int = 0
    """unless this is larger: then the level grows by what is needed and a quarter, for items that come later, with a
    warning, up to so many codes.  For catalogues with items of which nothing is known: those all have one tuple."""

    def resolve(self, matrix: Int32Array, sizes: tuple[int, ...]) -> Codes:
        """Codes (I, L + 1) whose rows are all different, from semantic codes int32 (I, L).

        Raises:
            ConfigError: size is below 1, or most below 0.
            DataError: more items share a tuple than can be told apart.
        """
        if self.size < 1 or self.most < 0:
            raise ConfigError(
                f"CollisionToken got size={self.size} and most={self.most}", fix="give size >= 1, most >= 0"
            )
        groups = tuple_groups(matrix, sizes)
        number = rank_in_group(groups).astype(np.int32)
        last = int(number.argmax())
        largest = int(number[last]) + 1
        size = self.size if largest <= self.size else self._grown(tuple(map(int, matrix[last])), largest)
        return Codes(
            matrix=np.ascontiguousarray(np.column_stack([matrix.astype(np.int32), number])),
            codebook_sizes=(*sizes, size),
            num_semantic_levels=len(sizes),
            collisions="token",
        )

    def _grown(self, sid: tuple[int, ...], items: int) -> int:
        """A size for so many items that share the tuple `sid`, told aloud; an error where they are too many."""
        limit = max(self.size, self.most)
        shared = f"{items} items share the semantic codes {sid}"
        mend = "give items a finer signal (more text fields, collaborative vectors), more levels or codes"
        if items > limit:
            raise DataError(
                f"{shared}, and the collision level tells at most {limit} apart",
                fix=f"{mend}, a collision size of {items}, or use KeepTied()",
            )
        size = max(items, min(self.most, items + items // 4))
        _log.warning("%s: the collision level grows from %d codes to %d; to mend it, %s", shared, self.size, size, mend)
        return size


@dataclass(frozen=True)
class KeepTied:
    """Leave items with equal semantic codes tied."""

    def resolve(self, matrix: Int32Array, sizes: tuple[int, ...]) -> Codes:
        """Codes (I, L), the semantic codes as they are."""
        tuple_groups(matrix, sizes)
        return Codes(
            matrix=np.ascontiguousarray(matrix, dtype=np.int32),
            codebook_sizes=tuple(sizes),
            num_semantic_levels=len(sizes),
            collisions="tied",
        )


def tuple_groups(matrix: Int32Array, sizes: tuple[int, ...]) -> Int64Array:
    """int64 (I,): a number per distinct row of `matrix`, numbered from 0 in lexicographic order of the rows."""
    assert matrix.ndim == 2 and matrix.shape[1] == len(sizes), "one codebook size per level"
    assert bool(((matrix >= 0) & (matrix < np.asarray(sizes))).all()), "a code lies outside its codebook"
    groups = np.zeros(len(matrix), np.int64)
    for level, size in enumerate(sizes):
        # Renumbering after each level keeps the key below items * size, whatever the number of levels.
        groups = np.unique(groups * size + matrix[:, level], return_inverse=True)[1].astype(np.int64)
    return groups


def rank_in_group(groups: Int64Array) -> Int64Array:
    """(I,) how many items with a smaller index are in the same group, given the group of each, int64 (I,)."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    rank = np.empty(len(groups), np.int64)
    rank[order] = np.arange(len(groups)) - np.repeat(starts, np.diff(np.r_[starts, len(groups)]))
    return rank
