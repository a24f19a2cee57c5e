"""Item sets as a batch of requests meets them: one for all rows, or one for each, counted in on the trie's device.

On a CPU the counting is numpy's, which has an instruction for it; elsewhere it is the same in torch, over a copy of the
bitmaps that is made once per set and device.

Shape legend: N rows, X queries of a row, P items in the tree, W words.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sememe.core.errors import DataError
from sememe.decode.item_set import ItemSet
from sememe.decode.trie import Trie


@dataclass(frozen=True, eq=False)
class AllowedByRow:
    """What the rows of a batch are allowed where it mixes tenants."""

    sets: tuple[ItemSet, ...]
    set_of_row: npt.NDArray[np.integer[Any]]
    """(N,) which of `sets` each row goes by."""


Allowed = ItemSet | AllowedByRow | None
"""One set for all rows, one for each, or None: everything in the tree."""


@dataclass(frozen=True, eq=False)
class RowSets:
    """Item sets of the rows of a batch, of one tree."""

    sets: tuple[ItemSet, ...]
    rows: tuple[Tensor, ...] | None
    """Per set, the int64 rows that go by it; None where all go by the only one."""
    num_rows: int
    device: torch.device

    @classmethod
    def build(cls, allowed: ItemSet | AllowedByRow, trie: Trie, *, num_rows: int) -> "RowSets":
        """Raises DataError where a set is of another tree, or there is not one set for each row."""
        if isinstance(allowed, ItemSet):
            allowed.check(trie)
            return cls(sets=(allowed,), rows=None, num_rows=num_rows, device=trie.device)
        numbers = allowed.set_of_row
        if numbers.shape != (num_rows,) or bool(((numbers < 0) | (numbers >= len(allowed.sets))).any()):
            raise DataError(
                f"set_of_row has shape {numbers.shape} and numbers that should be in 0..{len(allowed.sets) - 1}, "
                f"for a batch of {num_rows} rows",
                fix="give the number of a set for each row",
            )
        used = np.unique(numbers).tolist()
        for number in used:
            allowed.sets[number].check(trie)
        return cls(
            sets=tuple(allowed.sets[number] for number in used),
            rows=tuple(torch.from_numpy(np.flatnonzero(numbers == number)).to(trie.device) for number in used),
            num_rows=num_rows,
            device=trie.device,
        )

    def counts(self) -> Tensor:
        """(N,) int64: members of each row's set."""
        if self.rows is None:
            return torch.full((self.num_rows,), self.sets[0].num_members, device=self.device)
        counts = torch.empty(self.num_rows, dtype=torch.int64, device=self.device)
        for item_set, rows in zip(self.sets, self.rows, strict=True):
            counts[rows] = item_set.num_members
        return counts

    def flags(self) -> Tensor:
        """(N, P) bool, or (1, P) where all rows go by one set: whether the item at each position is a member."""
        if self.rows is None:
            return torch.from_numpy(self.sets[0].flags()).to(self.device).unsqueeze(0)
        flags = torch.empty(self.num_rows, self.sets[0].num_positions, dtype=torch.bool, device=self.device)
        for item_set, rows in zip(self.sets, self.rows, strict=True):
            flags[rows] = torch.from_numpy(item_set.flags()).to(self.device)
        return flags

    def rank(self, positions: Tensor) -> Tensor:
        """Members before each of the row's positions, 0..P; (N, X) integers -> (N, X) int32."""
        return self._by_set(positions, rank_in)

    def contains(self, positions: Tensor) -> Tensor:
        """(N, X) bool: whether the row's set has the item at each position, 0..P-1."""
        return self.rank(positions + 1) > self.rank(positions)

    def select(self, ranks: Tensor) -> Tensor:
        """Position of the member before which so many stand; (N, X) -> (N, X) int64.  Where there is none, any."""
        return self._by_set(ranks, select_in)

    def _by_set(self, queries: Tensor, answer: Callable[[ItemSet, Tensor], Tensor]) -> Tensor:
        if self.rows is None:
            return answer(self.sets[0], queries)
        # Sets are not stacked: that would copy whole bitmaps, where a row asks for a few words of its own.
        parts = torch.cat(
            [answer(item_set, queries[rows]) for item_set, rows in zip(self.sets, self.rows, strict=True)]
        )
        return torch.empty_like(parts).index_copy_(0, torch.cat(self.rows), parts)


def rank_in(item_set: ItemSet, positions: Tensor) -> Tensor:
    """`ItemSet.rank` of a tensor; int32, shaped like `positions`."""
    if positions.device.type == "cpu":
        return torch.from_numpy(item_set.rank(positions.numpy()))
    return rank_in_torch(item_set, positions)


def select_in(item_set: ItemSet, ranks: Tensor) -> Tensor:
    """`ItemSet.select` of a tensor; int64, shaped like `ranks`."""
    if ranks.device.type == "cpu":
        return torch.from_numpy(item_set.select(ranks.numpy()))
    return select_in_torch(item_set, ranks)


def rank_in_torch(item_set: ItemSet, positions: Tensor) -> Tensor:
    """The same on any device."""
    words, ranks = _copies(item_set, positions.device)
    word = positions.long() >> 6
    before = (1 << (positions.long() & 63)) - 1
    return ranks[word] + _count_bits(words[word.clamp(max=len(words) - 1)] & before).int()


def select_in_torch(item_set: ItemSet, ranks: Tensor) -> Tensor:
    """The same on any device."""
    words, counts = _copies(item_set, ranks.device)
    wanted = ranks.int().contiguous()
    word = (torch.searchsorted(counts, wanted, right=True) - 1).clamp(0, len(words) - 1)
    bits = (words[word].unsqueeze(-1) >> torch.arange(64, device=ranks.device)) & 1
    short_of = bits.cumsum(-1) <= (wanted - counts[word]).unsqueeze(-1)
    return word * 64 + short_of.sum(-1)


def _count_bits(words: Tensor) -> Tensor:
    """Set bits of each int64, by sums of neighbours that grow from one bit to a byte (Warren, "Hacker's Delight" 5-1).

    Shifts of negative numbers bring ones in from the left; the masks take them out, and no sum reaches the sign.
    """
    words = words - ((words >> 1) & 0x5555555555555555)
    words = (words & 0x3333333333333333) + ((words >> 2) & 0x3333333333333333)
    words = (words + (words >> 4)) & 0x0F0F0F0F0F0F0F0F
    return (words * 0x0101010101010101) >> 56


_tensors: WeakKeyDictionary[ItemSet, dict[torch.device, tuple[Tensor, Tensor]]] = WeakKeyDictionary()


def _copies(item_set: ItemSet, device: torch.device) -> tuple[Tensor, Tensor]:
    """`words` as int64 and `ranks` as int32, copied to `device` once."""
    known = _tensors.setdefault(item_set, {})
    if device not in known:
        words, ranks = torch.tensor(item_set.words.view(np.int64)), torch.tensor(item_set.ranks)
        known[device] = (words.to(device), ranks.to(device))
    return known[device]
