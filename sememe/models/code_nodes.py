"""Which codes may follow which: the nodes of the prefix tree of semantic IDs, as a model needs them.

`decode.trie` walks the same tree to search; a model that normalises over the codes that exist needs, for every item,
the nodes above it, and for every node its children.

Shape legend: I items, L levels, V_d nodes at depth d (V_0 = 1, the root), M hypotheses or positions, R their children.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sememe.core.schema import BoolArray, Codes


@dataclass(frozen=True, eq=False)
class Children:
    """The children of some nodes, one after the other."""

    owner: Tensor
    """(R,) int64: which of the nodes asked for; ascending in what `children_of` gives."""
    node: Tensor
    """(R,) int64: node of the next depth."""


class CodeNodes(nn.Module):
    """Nodes of one depth are numbered in lexicographic order of their prefixes, as in the search's tree.

    Held as buffers that are not saved: codes have an artifact of their own.
    """

    above: Tensor
    matrix: Tensor
    known_items: Tensor

    def __init__(self, codes: Codes, *, known_items: BoolArray | None = None) -> None:
        """known_items: (I,) whether the training part holds the item; None: all of them."""
        super().__init__()
        self.codebook_sizes = codes.codebook_sizes
        known = np.ones(codes.num_items, np.bool_) if known_items is None else known_items
        node = np.zeros(codes.num_items, np.int64)
        above = [node]
        count = 1
        for level, size in enumerate(codes.codebook_sizes):
            keys, node = np.unique(node * size + codes.matrix[:, level], return_inverse=True)
            node = node.reshape(-1).astype(np.int64)
            reached = np.zeros(len(keys), np.bool_)
            np.logical_or.at(reached, node, known)
            self._keep(f"keys_{level}", keys)
            self._keep(f"codes_{level}", keys % size)
            self._keep(f"starts_{level}", np.searchsorted(keys // size, np.arange(count + 1)))
            self._keep(f"known_{level}", reached)
            self._keep(f"first_{level}", np.unique(node, return_index=True)[1])
            above.append(node)
            count = len(keys)
        self._keep("above", np.stack(above))
        self._keep("matrix", codes.matrix.astype(np.int64))
        self._keep("known_items", known)

    def _keep(self, name: str, values: npt.NDArray[np.generic]) -> None:
        self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(values)), persistent=False)

    @property
    def num_levels(self) -> int:
        return len(self.codebook_sizes)

    def num_nodes(self, depth: int) -> int:
        """V_depth, for depth >= 1."""
        return len(self.node_codes(depth))

    def node_codes(self, depth: int) -> Tensor:
        """(V_depth,) int64: the last code of each node, for depth >= 1."""
        return self.get_buffer(f"codes_{depth - 1}")

    def is_known(self, depth: int) -> Tensor:
        """(V_depth,) bool: whether an item below was in the training part, for depth >= 1."""
        return self.get_buffer(f"known_{depth - 1}")

    def only_of(self, items: Tensor) -> list[Tensor]:
        """Per depth >= 1, (V_depth,) bool: nodes with no item of the training part but those of `items` (I,) bool."""
        remaining = (self.known_items & ~items).nonzero().squeeze(1)
        return [
            torch.ones(self.num_nodes(depth), dtype=torch.bool, device=items.device).index_fill_(
                0, self.above[depth][remaining], False
            )
            for depth in range(1, self.num_levels + 1)
        ]

    def of_items(self, items: Tensor, *, depth: int) -> Tensor:
        """The node of `depth` above each item; int64, shaped like `items`."""
        return self.above[depth][items]

    def item_codes(self, items: Tensor) -> Tensor:
        """(M, L) int64 codes of `items` (M,)."""
        return self.matrix[items]

    def any_item(self, nodes: Tensor, *, depth: int) -> Tensor:
        """One of the items below each node, (M,), always the same one; item 0 stands for the root."""
        return self.get_buffer(f"first_{depth - 1}")[nodes] if depth else torch.zeros_like(nodes)

    def child_counts(self, nodes: Tensor, *, depth: int) -> Tensor:
        """How many children each node of `depth` has; int64, shaped like `nodes`."""
        starts = self.get_buffer(f"starts_{depth}")
        return starts[nodes + 1] - starts[nodes]

    def first_child(self, nodes: Tensor, *, depth: int) -> Tensor:
        """The first child of each node of `depth`, whose siblings follow it; int64, shaped like `nodes`."""
        return self.get_buffer(f"starts_{depth}")[nodes]

    def most_children(self, depth: int) -> int:
        """Of any node of `depth`."""
        return int(self.get_buffer(f"starts_{depth}").diff().max())

    def children_of(self, nodes: Tensor, *, depth: int) -> Children:
        """All children of `nodes` (M,) of `depth`."""
        first = self.first_child(nodes, depth=depth)
        counts = self.child_counts(nodes, depth=depth)
        owner = torch.repeat_interleave(torch.arange(len(nodes), device=nodes.device), counts)
        # Within a run of equal owners, count up from the owner's first child.
        offset = torch.arange(len(owner), device=nodes.device) - (counts.cumsum(0) - counts)[owner]
        return Children(owner=owner, node=first[owner] + offset)

    def child(self, nodes: Tensor, codes: Tensor, *, depth: int) -> Tensor:
        """The child of each node of `depth` by its code; the pairs must exist.  Shaped like `nodes`."""
        keys = self.get_buffer(f"keys_{depth}")
        wanted = nodes * self.codebook_sizes[depth] + codes
        return torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)

    def find(self, prefixes: Tensor) -> Tensor:
        """The node of each of `prefixes` (M, depth), -1 where no item has the prefix; int64 (M,)."""
        nodes = torch.zeros(len(prefixes), dtype=torch.long, device=prefixes.device)
        there = torch.ones_like(nodes, dtype=torch.bool)
        for depth in range(prefixes.shape[1]):
            keys = self.get_buffer(f"keys_{depth}")
            wanted = nodes * self.codebook_sizes[depth] + prefixes[:, depth]
            nodes = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
            there &= keys[nodes] == wanted
        return nodes.masked_fill(~there, -1)
