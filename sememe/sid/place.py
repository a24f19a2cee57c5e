"""Full codes for items that come to a catalogue in which all other codes must stay as they are.

What an item gets where its semantic codes are taken depends on how the catalogue tells items apart: the smallest free
number of their tuple, the free last code that reconstructs it best, or nothing, where equal codes are left tied.

Shape legend: n items that come, T codes that are taken, D levels that the tokenizer gives, L levels in all (D or D+1).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sememe.core.code_keys import pack_codes
from sememe.core.errors import DataError
from sememe.core.schema import BoolArray, Codes, FloatArray, Int32Array, Int64Array
from sememe.sid.collisions import rank_in_group, tuple_groups
from sememe.sid.fitted import FittedTokenizer
from sememe.sid.reassign import deal_last

WAY_OUT = (
    "release() retired codes where nothing refers to them any more, or fit the tokenizer anew with more levels or codes"
)


@dataclass(frozen=True, eq=False)
class Arrivals:
    """Items that ask for codes."""

    vectors: FloatArray
    """(n, dim)"""
    semantic: Int32Array
    """(n, D) what the tokenizer says of them."""
    own: Int32Array
    """(n, L) the code that the item has had so far and nobody else has; -1 where there is none."""

    @property
    def has_own(self) -> BoolArray:
        """(n,)"""
        owned: BoolArray = self.own[:, 0] >= 0
        return owned


def place(arrivals: Arrivals, *, taken: Int32Array, codes: Codes, tokenizer: FittedTokenizer) -> Int32Array:
    """(n, L) codes for `arrivals`: an item whose semantic codes are what they were keeps its code.

    taken: (T, L) different codes that others have, or that must not be given again.

    Raises:
        DataError: a tuple or a prefix has no code left; nothing is placed then.
    """
    depth = arrivals.semantic.shape[1]
    if codes.collisions == "tied":
        return arrivals.semantic
    held = np.concatenate([taken, arrivals.own[arrivals.has_own]])
    if codes.num_levels > depth:
        return np.column_stack([arrivals.semantic, _numbers(arrivals, held, codes.codebook_sizes)])
    return _last_codes(arrivals, held, tokenizer)


def joint_keys(matrices: Sequence[Int32Array], sizes: tuple[int, ...]) -> list[Int64Array]:
    """A number per row of each matrix (any, L): equal rows have equal numbers, whichever matrix they stand in."""
    packed = [pack_codes(matrix, sizes) for matrix in matrices]
    if all(keys is not None for keys in packed):
        return [keys for keys in packed if keys is not None]
    bounds = np.cumsum([len(matrix) for matrix in matrices])[:-1]
    return np.split(tuple_groups(np.concatenate(matrices), sizes), bounds)


def is_among(keys: Int64Array, others: Int64Array) -> BoolArray:
    """(len(keys),) whether each of the keys is among `others`; fast where `keys` are few and `others` many."""
    distinct, group = np.unique(keys, return_inverse=True)
    met = np.zeros(len(distinct), np.bool_)
    met[_places(distinct, others).hit] = True
    return met[group]


@dataclass(frozen=True, eq=False)
class _Hits:
    rows: Int64Array
    """Those of the others that are among the distinct keys, ..."""
    hit: Int64Array
    """... and at which place there."""


def _places(distinct: Int64Array, others: Int64Array) -> _Hits:
    if len(distinct) == 0:
        return _Hits(np.empty(0, np.int64), np.empty(0, np.int64))
    place = np.minimum(np.searchsorted(distinct, others), len(distinct) - 1)
    rows = np.flatnonzero(distinct[place] == others)
    return _Hits(rows, place[rows])


def _numbers(arrivals: Arrivals, held: Int32Array, sizes: tuple[int, ...]) -> Int32Array:
    """(n,) the item's own number where its tuple is the old one, else the smallest free ones in the order of asking."""
    depth, size = len(sizes) - 1, sizes[-1]
    stays = arrivals.has_own & (arrivals.own[:, :depth] == arrivals.semantic).all(axis=1)
    numbers = arrivals.own[:, -1].copy()
    coming = np.flatnonzero(~stays)
    asked, known = joint_keys([arrivals.semantic[coming], held[:, :depth]], sizes[:depth])
    given = smallest_free(asked, known, held[:, depth], size=size)
    over = np.flatnonzero(given >= size)
    if len(over):
        worst = asked == asked[over[0]]
        sid = tuple(int(code) for code in arrivals.semantic[coming[over[0]]])
        in_use = int((known == asked[over[0]]).sum())
        raise DataError(
            f"the semantic codes {sid} have {size} numbers to tell items apart, {in_use} of them are given or retired, "
            f"and {int(worst.sum())} more are needed",
            fix=WAY_OUT,
        )
    numbers[coming] = given
    return numbers


def smallest_free(asked: Int64Array, known: Int64Array, numbers: Int32Array, *, size: int) -> Int64Array:
    """(n,) different numbers for each group of equal `asked` (n,), the smallest that its group does not use.

    known, numbers: (T,) each the groups and the numbers in use, none twice.  An answer of `size` or more is none.
    """
    distinct, group = np.unique(asked, return_inverse=True)
    hits = _places(distinct, known)
    used = np.sort(hits.hit * size + numbers[hits.rows])
    used_group = used // size
    starts = np.searchsorted(used_group, np.arange(len(distinct)))
    # Below the j-th number in use of its group, so many are free: it counts against the k-th free one if at most k.
    free_below = used % size - (np.arange(len(used)) - starts[used_group])
    rank = np.minimum(rank_in_group(group), size)
    below = np.searchsorted(used_group * (size + 1) + free_below, group * (size + 1) + rank, side="right")
    return rank + below - starts[group]


def _last_codes(arrivals: Arrivals, held: Int32Array, tokenizer: FittedTokenizer) -> Int32Array:
    """(n, L) the semantic codes where they are free and wanted once; else another last code, the own one rather."""
    placed = arrivals.semantic.copy()
    asked, known = joint_keys([placed, held], tokenizer.codebook_sizes)
    _, group, counts = np.unique(asked, return_inverse=True, return_counts=True)
    same = arrivals.has_own & (arrivals.own == placed).all(axis=1)
    direct = same | (~is_among(asked, known) & (counts[group] == 1))
    stays = ~direct & arrivals.has_own & (arrivals.own[:, :-1] == placed[:, :-1]).all(axis=1)
    placed[stays] = arrivals.own[stays]
    done = direct | stays
    _deal_rest(placed, np.flatnonzero(~done), held=np.concatenate([held, placed[done]]), of=(arrivals, tokenizer))
    return placed


def _deal_rest(placed: Int32Array, rest: Int64Array, *, held: Int32Array, of: tuple[Arrivals, FittedTokenizer]) -> None:
    """Write other last codes into the rows `rest` of `placed`: prefix by prefix, those that `held` leaves free."""
    if len(rest) == 0:
        return
    arrivals, tokenizer = of
    size = tokenizer.codebook_sizes[-1]
    mine, theirs = joint_keys([placed[rest, :-1], held[:, :-1]], tokenizer.codebook_sizes[:-1])
    distinct, group = np.unique(mine, return_inverse=True)
    hits = _places(distinct, theirs)
    for rows, others in zip(_split(rest, group), _split(hits.rows, hits.hit, groups=len(distinct)), strict=True):
        free = np.ones(size, np.bool_)
        free[held[others, -1]] = False
        if len(rows) > free.sum():
            raise _full(placed[rows[0]], coming=len(rows), free=int(free.sum()), size=size)
        placed[rows, -1] = deal_last(
            arrivals.vectors[rows],
            arrivals.semantic[rows],
            free=np.flatnonzero(free).astype(np.int32),
            tokenizer=tokenizer,
        )


def _split(values: Int64Array, group: Int64Array, *, groups: int | None = None) -> list[Int64Array]:
    """`values` (n,) of group 0, of group 1, ..., each in order."""
    counts = np.bincount(group, minlength=groups or 0)
    return np.split(values[np.argsort(group, kind="stable")], np.cumsum(counts)[:-1])


def _full(codes: Int32Array, *, coming: int, free: int, size: int) -> DataError:
    prefix = tuple(int(code) for code in codes[:-1])
    return DataError(
        f"below the codes {prefix}, {free} of the {size} last codes are neither given nor retired, and {coming} more "
        "are needed",
        fix=WAY_OUT,
    )
