"""All semantic IDs of a catalogue as a prefix tree in flat arrays (CSR), so that a search only ever meets real items.

Nodes of one depth are numbered in lexicographic order of their prefixes.  The children of a node are therefore
neighbours, and so are the items below it: a node is two numbers in each of two arrays, and no node needs a pointer.

The tree may leave items of the catalogue out: they keep their index, and no search meets them.

Shape legend: L levels, I items, P of them in the tree, V_d nodes at depth d (V_0 = 1: the root; V_L leaves).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sememe.core.code_keys import pack_codes
from sememe.core.errors import DataError
from sememe.core.schema import PAD, BoolArray, Codes, Int32Array, Int64Array

IntArray = npt.NDArray[np.integer[Any]]


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
    """One per depth 0..L, (V_d + 1,) int32: the items below node v have positions item_starts[v]:item_starts[v + 1].
    Where every leaf has one item, leaf v has position v: depth L is left out then, and the array of depth L-1 is the
    one in `child_starts`.  `first_position` and `node_at` know of that."""
    items: Tensor
    """(P,) int32: the item at each position.  Items that share a semantic ID are neighbours, in order of index."""
    positions: Tensor
    """(I,) int32: the position of each item; PAD for one that is not in the tree."""

    @classmethod
    def build(cls, codes: Codes, *, offered: BoolArray | None = None) -> "Trie":
        """The tree of `codes`, on the CPU.

        offered: (I,) whether the item is in the tree; None: all are.

        Raises:
            DataError: there is no item, or a code lies outside its codebook.
        """
        check_codes(codes, np.arange(codes.num_items))
        matrix = codes.matrix if offered is None else codes.matrix[offered]
        if len(matrix) == 0:
            raise DataError(
                "the catalogue has no item, so there is nothing to search", fix="check the item table and filters"
            )
        order = lexicographic_order(matrix, codes.codebook_sizes)
        levels = [matrix[order, level] for level in range(codes.num_levels)]
        item_starts = _item_starts(levels)
        child_starts = [
            np.searchsorted(below, above) for above, below in zip(item_starts[:-1], item_starts[1:], strict=True)
        ]
        child_codes = [
            column[starts[:-1]].astype(_code_type(size))
            for column, starts, size in zip(levels, item_starts[1:], codes.codebook_sizes, strict=True)
        ]
        return cls.of_arrays(
            codebook_sizes=codes.codebook_sizes,
            child_starts=child_starts,
            child_codes=child_codes,
            item_starts=item_starts,
            items=order if offered is None else np.flatnonzero(offered)[order],
            num_items=codes.num_items,
        )

    @classmethod
    def of_arrays(
        cls,
        *,
        codebook_sizes: tuple[int, ...],
        child_starts: Sequence[IntArray],
        child_codes: Sequence[IntArray],
        item_starts: Sequence[IntArray],
        items: IntArray,
        num_items: int,
    ) -> "Trie":
        """A tree of its arrays, with `item_starts` of all depths 0..L; what can be told from the others is dropped."""
        children = tuple(_int32(starts) for starts in child_starts)
        below = [_int32(starts) for starts in item_starts[:-2]]
        if len(child_codes[-1]) == len(items):
            below.append(children[-1])
        else:
            below += [_int32(starts) for starts in item_starts[-2:]]
        positions = np.full(num_items, PAD, np.int32)
        positions[items] = np.arange(len(items), dtype=np.int32)
        return cls(
            codebook_sizes=codebook_sizes,
            child_starts=children,
            child_codes=tuple(torch.from_numpy(column) for column in child_codes),
            item_starts=tuple(below),
            items=_int32(items),
            positions=torch.from_numpy(positions),
        )

    @property
    def num_levels(self) -> int:
        return len(self.codebook_sizes)

    @property
    def num_items(self) -> int:
        """P: items in the tree."""
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
        return sum({array.data_ptr(): array.nbytes for array in arrays}.values())

    def to(self, device: torch.device | str) -> "Trie":
        """The same tree with its arrays on `device`."""
        child_starts = tuple(array.to(device) for array in self.child_starts)
        item_starts = [array.to(device) for array in self.item_starts]
        if self.item_starts[-1] is self.child_starts[-1]:
            item_starts[-1] = child_starts[-1]
        return Trie(
            codebook_sizes=self.codebook_sizes,
            child_starts=child_starts,
            child_codes=tuple(array.to(device) for array in self.child_codes),
            item_starts=tuple(item_starts),
            items=self.items.to(device),
            positions=self.positions.to(device),
        )

    def first_position(self, nodes: Tensor, *, depth: int) -> Tensor:
        """Position of the first item below each node of `depth`; int32, shaped like `nodes`.  Node V_depth gives P."""
        return self.item_starts[depth][nodes] if depth < len(self.item_starts) else nodes.int()

    def node_at(self, positions: Tensor, *, depth: int) -> Tensor:
        """Node of `depth` above each position; int64, shaped like `positions`."""
        if depth == len(self.item_starts):
            return positions.long()
        return torch.searchsorted(self.item_starts[depth], positions, right=True) - 1

    def leaf_sizes(self) -> Tensor:
        """(V_L,) int32: how many items share each semantic ID."""
        ends = torch.arange(self.num_leaves + 1, device=self.device)
        return self.first_position(ends, depth=self.num_levels).diff()

    def leaf_codes(self) -> Tensor:
        """(V_L, L) int64: the semantic ID of each leaf."""
        first = self.first_position(torch.arange(self.num_leaves, device=self.device), depth=self.num_levels)
        columns = [codes[self.node_at(first, depth=level + 1)] for level, codes in enumerate(self.child_codes)]
        return torch.stack([column.long() for column in columns], dim=1)


def check_codes(codes: Codes, items: Int64Array) -> None:
    """Raise DataError where one of `items` has a code outside its codebook."""
    assert codes.num_levels == len(codes.codebook_sizes) > 0, "one codebook size per level"
    matrix, sizes = codes.matrix[items], codes.codebook_sizes
    outside = (matrix < 0) | (matrix >= np.asarray(sizes))
    if outside.any():
        row, level = (int(axis[0]) for axis in np.nonzero(outside))
        raise DataError(
            f"item index {items[row]} has code {matrix[row, level]} at level {level}, outside 0..{sizes[level] - 1}",
            fix="make the codes anew with the tokenizer that they belong to",
        )


def lexicographic_order(matrix: Int32Array, sizes: tuple[int, ...]) -> Int64Array:
    """Rows of `matrix` (M, L) sorted by semantic ID, then by number."""
    key = pack_codes(matrix, sizes)
    if key is not None:
        return np.argsort(key, kind="stable")
    return np.lexsort(matrix.T[::-1])


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


def _int32(values: IntArray) -> Tensor:
    return torch.from_numpy(values.astype(np.int32, copy=False))
