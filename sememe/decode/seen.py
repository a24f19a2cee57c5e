"""The items that a row must not get, arranged so that the search can leave them out exactly.

A node all of whose items are seen is closed; a leaf that keeps some of its items stays open and gives only those.  The
search is then the search over a tree that never held the seen items, without building such a tree per row.

Shape legend: N rows, S seen items of a row (padded), X queries of a row.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sememe.core.errors import DataError
from sememe.core.schema import PAD
from sememe.decode.allowed import RowSets
from sememe.decode.protocol import ItemArray
from sememe.decode.trie import Trie


@dataclass(frozen=True, eq=False)
class SeenPositions:
    """Distinct trie positions of each row's seen items, ascending."""

    positions: Tensor
    """(N, S) int32; the number of items where a row has fewer."""
    num_items: int

    @classmethod
    def build(cls, seen: ItemArray, trie: Trie) -> "SeenPositions":
        """seen: (N, S) item indices in any order, repeats allowed, PAD where a row has fewer.

        Raises DataError for an item that the tree does not know of.
        """
        items = torch.as_tensor(seen, device=trie.device)
        assert items.ndim == 2, "one row of seen items per request"
        known = len(trie.positions)
        # Asked on a CPU only: elsewhere asking would wait.
        if items.device.type == "cpu" and items.numel() and not PAD <= int(items.min()) <= int(items.max()) < known:
            worst = int(items.min()) if int(items.min()) < PAD else int(items.max())
            raise DataError(
                f"a list of seen items names item {worst}, outside 0..{known - 1}",
                fix="look ids up in the run's item_ids first",
            )
        positions = torch.where(items == PAD, PAD, trie.positions[items.clamp(min=0).long()])
        # Items that the tree does not hold need no leaving out.
        positions = torch.where(positions == PAD, trie.num_items, positions).sort(dim=1).values
        repeats = torch.zeros_like(positions, dtype=torch.bool)
        repeats[:, 1:] = positions[:, 1:] == positions[:, :-1]
        return cls(positions.masked_fill(repeats, trie.num_items).sort(dim=1).values.contiguous(), trie.num_items)

    def among(self, allowed: RowSets) -> "SeenPositions":
        """The same by rank among each row's allowed items; seen items that are not allowed need no leaving out."""
        inside = self.positions.clamp(max=self.num_items - 1)
        kept = allowed.contains(inside) & (self.positions < self.num_items)
        ranks = torch.where(kept, allowed.rank(inside), self.num_items)
        # No rank reaches the number of items, so that it still marks where a row has fewer.
        return SeenPositions(ranks.sort(dim=1).values.contiguous(), self.num_items)

    def counts(self) -> Tensor:
        """(N,) int64: seen items of each row."""
        return (self.positions < self.num_items).sum(dim=1)

    def count_before(self, positions: Tensor) -> Tensor:
        """How many seen items of the row lie before each of its positions; (N, X) int32 -> (N, X) int64."""
        return torch.searchsorted(self.positions, positions.contiguous())

    def open_position(self, open_rank: Tensor) -> Tensor:
        """Position of the open_rank-th (from 0) item of the row that is not seen; (N, X) int64 -> (N, X) int64."""
        # Before seen item i there are positions[i] - i open ones; the padding has to stay out of reach.
        index = torch.arange(self.positions.shape[1], device=self.positions.device)
        opens_before = self.positions - index
        opens_before = opens_before.masked_fill(self.positions == self.num_items, 2 * self.num_items)
        return open_rank + torch.searchsorted(opens_before.contiguous(), open_rank.contiguous(), right=True)

    def closed(self, trie: Trie, *, depth: int) -> Tensor:
        """(N, S) bool: is the node of `depth` above each seen item closed, having no other items?"""
        real = self.positions < self.num_items
        node = trie.node_at(self.positions.clamp(max=self.num_items - 1), depth=depth)
        first, end = (trie.first_position(nodes, depth=depth) for nodes in (node, node + 1))
        return real & (self.count_before(end) - self.count_before(first) == end - first)
