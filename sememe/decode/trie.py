"""All semantic IDs of a catalogue as a prefix tree in flat arrays (CSR), so that a search only ever meets real items.

Nodes of one depth are numbered in lexicographic order of their prefixes.  The children of a node are therefore
neighbours, and so are the items below it: a node is two numbers in each of two arrays, and no node needs a pointer.

Shape legend: L levels, I items, V_d nodes at depth d (V_0 = 1: the root; V_L leaves), P positions (= I).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sememe.core.errors import DataError
from sememe.core.schema import Codes, Int32Array, Int64Array


@dataclass(frozen=True, eq=False)
class Trie:
    """Prefix tree of semantic IDs.  A "position" is an item's place in the order of semantic IDs, then of index."""

    codebook_sizes: tuple[int, ...]
    """(L,)"""
    child_starts: tuple[Tensor, ...]
    """One per depth 0..L-1, (V_d + 1,) int32: the children of node v are the nodes child_starts[v]:child_starts[v + 1]
    of depth d + 1."""
    child_codes: tuple[Tensor, ...]
    """One per depth 1..L, (V_d,): a node's last code, in the smallest of uint8, int16, int32 that holds the level's."""
    item_starts: tuple[Tensor, ...]
    """One per depth 0..L, (V_d + 1,) int32: the items below node v have positions item_starts[v]:item_starts[v + 1]."""
    items: Tensor
    """(P,) int32: the item at each position.  Items that share a semantic ID are neighbours, in order of index."""
    positions: Tensor
    """(I,) int32: the position of each item."""

    @classmethod
    def build(cls, codes: Codes) -> "Trie":
        """The tree of `codes`, on the CPU.

        Raises:
            DataError: there is no item, or a code lies outside its codebook.
        """
        _check(codes)
        order = _lexicographic_order(codes)
        levels = [codes.matrix[order, level] for level in range(codes.num_levels)]
        item_starts = _item_starts(levels)
        child_starts = [
            np.searchsorted(below, above) for above, below in zip(item_starts[:-1], item_starts[1:], strict=True)
        ]
        child_codes = [
            column[starts[:-1]].astype(_code_type(size))
            for column, starts, size in zip(levels, item_starts[1:], codes.codebook_sizes, strict=True)
        ]
        positions = np.empty(codes.num_items, np.int32)
        positions[order] = np.arange(codes.num_items, dtype=np.int32)
        return cls(
            codebook_sizes=codes.codebook_sizes,
            child_starts=tuple(_int32(starts) for starts in child_starts),
            child_codes=tuple(torch.from_numpy(column) for column in child_codes),
            item_starts=tuple(_int32(starts) for starts in item_starts),
            items=_int32(order),
            positions=torch.from_numpy(positions),
        )

    @property
    def num_levels(self) -> int:
        return len(self.codebook_sizes)

    @property
    def num_items(self) -> int:
        return len(self.items)

    @property
    def num_leaves(self) -> int:
        return len(self.child_codes[-1])

    @property
    def device(self) -> torch.device:
        return self.items.device

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays = (*self.child_starts, *self.child_codes, *self.item_starts, self.items, self.positions)
        return sum(array.nbytes for array in arrays)

    def to(self, device: torch.device | str) -> "Trie":
        """The same tree with its arrays on `device`."""
        return Trie(
            codebook_sizes=self.codebook_sizes,
            child_starts=tuple(array.to(device) for array in self.child_starts),
            child_codes=tuple(array.to(device) for array in self.child_codes),
            item_starts=tuple(array.to(device) for array in self.item_starts),
            items=self.items.to(device),
            positions=self.positions.to(device),
        )

    def node_at(self, positions: Tensor, *, depth: int) -> Tensor:
        """Node of `depth` above each position; int64, shaped like `positions`."""
        return torch.searchsorted(self.item_starts[depth], positions, right=True) - 1

    def leaf_codes(self) -> Tensor:
        """(V_L, L) int64: the semantic ID of each leaf."""
        first = self.item_starts[-1][:-1].contiguous()
        columns = [codes[self.node_at(first, depth=level + 1)] for level, codes in enumerate(self.child_codes)]
        return torch.stack([column.long() for column in columns], dim=1)


def _check(codes: Codes) -> None:
    if codes.num_items == 0:
        raise DataError(
            "the catalogue has no item, so there is nothing to search", fix="check the item table and filters"
        )
    assert codes.num_levels == len(codes.codebook_sizes) > 0, "one codebook size per level"
    outside = (codes.matrix < 0) | (codes.matrix >= np.asarray(codes.codebook_sizes))
    if outside.any():
        item, level = (int(axis[0]) for axis in np.nonzero(outside))
        raise DataError(
            f"item index {item} has code {codes.matrix[item, level]} at level {level}, "
            f"outside 0..{codes.codebook_sizes[level] - 1}",
            fix="make the codes anew with the tokenizer that they belong to",
        )


def _lexicographic_order(codes: Codes) -> Int64Array:
    """Items sorted by semantic ID, then by index."""
    span = 1
    for size in codes.codebook_sizes:
        span *= size
    if span < 2**63:  # One sort of packed keys is several times faster than a sort per level.
        key = np.zeros(codes.num_items, np.int64)
        for level, size in enumerate(codes.codebook_sizes):
            key = key * size + codes.matrix[:, level]
        return np.argsort(key, kind="stable")
    return np.lexsort(codes.matrix.T[::-1])


def _item_starts(levels: list[Int32Array]) -> list[Int64Array]:
    """Per depth 0..L the first position of each node, then the number of items; `levels` are sorted code columns."""
    count = len(levels[0])
    starts = [np.array([0, count])]
    is_first = np.zeros(count, np.bool_)
    is_first[0] = True
    for column in levels:
        is_first[1:] |= column[1:] != column[:-1]
        starts.append(np.append(np.flatnonzero(is_first), count))
    return starts


def _code_type(codebook_size: int) -> npt.DTypeLike:
    if codebook_size <= 2**8:
        return np.uint8
    return np.int16 if codebook_size <= 2**15 else np.int32


def _int32(values: Int64Array) -> Tensor:
    return torch.from_numpy(values.astype(np.int32))
