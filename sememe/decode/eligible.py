"""What each row may get: the items that its rules allow and that it has not seen, so that the search meets no others.

A node below which nothing is left is closed; a leaf that keeps some of its items stays open and gives only those.  The
search is then the search over a tree that never held the others, without building such a tree per row.

With rules, everything is counted among the allowed items: the rank of a position is the number of them before it, and
seen items that are allowed are held by their ranks.  Without, a position is its own rank.

Shape legend: N rows, B live beams, W widest child range among them, X queries of a row, S seen items of a row.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sememe.decode.allowed import Allowed, RowSets
from sememe.decode.frontier import NEVER, Beams, close_seen
from sememe.decode.protocol import Seen
from sememe.decode.seen import SeenPositions
from sememe.decode.trie import Trie


@dataclass(frozen=True, eq=False)
class Eligible:
    """The items of a tree that each row of a batch may get."""

    trie: Trie
    seen: SeenPositions | None
    """By rank among the allowed items."""
    allowed: RowSets | None

    @classmethod
    def build(cls, trie: Trie, *, seen: Seen, allowed: Allowed, num_rows: int) -> "Eligible":
        """seen: (N, S) item indices in any order, repeats allowed, PAD where a row has fewer.

        Raises:
            DataError: a set of `allowed` is of another tree, or there is not one for each row.
        """
        of_rows = None if allowed is None else RowSets.build(allowed, trie, num_rows=num_rows)
        positions = None if seen is None else SeenPositions.build(seen, trie)
        if positions is not None and of_rows is not None:
            positions = positions.among(of_rows)
        return cls(trie=trie, seen=positions, allowed=of_rows)

    def counts(self) -> Tensor | None:
        """(N,) int64: how many items each row may get; None where no rules say so."""
        if self.allowed is None:
            return None
        counts = self.allowed.counts()
        return counts if self.seen is None else counts - self.seen.counts()

    def before(self, nodes: Tensor, *, depth: int) -> Tensor:
        """Eligible items before those below each node, 0..V of its `depth`; (N, X) integers, as `nodes`."""
        positions = self.trie.first_position(nodes, depth=depth)
        ranks = positions if self.allowed is None else self.allowed.rank(positions)
        return ranks if self.seen is None else ranks - self.seen.count_before(ranks)

    def position(self, number: Tensor, *, leaves: Tensor) -> Tensor:
        """Position of the number-th (from 0) eligible item of the row, which is below the leaf; (N, X), all of them.

        Where there is no such item, any number.
        """
        if self.trie.num_leaves == self.trie.num_items:
            return leaves
        rank = number if self.seen is None else self.seen.open_position(number)
        return rank if self.allowed is None else self.allowed.select(rank)

    def mask_forbidden(self, scores: Tensor, *, positions: Tensor | None = None) -> Tensor:
        """`scores` (N, C) with -inf where the row's rules do not allow the item; what is seen stays.

        positions: (C,) int64 the position of each column's item; None: column c is position c.
        """
        if self.allowed is None:
            return scores
        flags = self.allowed.flags()
        return scores.masked_fill(~(flags if positions is None else flags[:, positions]), NEVER)

    def close(self, candidates: Tensor, beams: Beams, *, depth: int) -> Tensor:
        """Candidates (N, B, W), the children of `beams`, with -inf where nothing below is eligible; may be in place."""
        if self.allowed is not None:
            return candidates.masked_fill_(self._none_below(beams, depth=depth, widest=candidates.shape[2]), NEVER)
        if self.seen is not None:
            return close_seen(candidates, beams, self.seen, depth=depth, trie=self.trie)
        return candidates

    def _none_below(self, beams: Beams, *, depth: int, widest: int) -> Tensor:
        """(N, B, W) bool: no item below the child is eligible; anything where a beam is dead or has fewer children."""
        # Siblings are neighbours: each ends where the next one starts.
        offset = torch.arange(widest + 1, dtype=torch.int32, device=self.trie.device)
        bounds = self.trie.child_starts[depth][beams.nodes].unsqueeze(2) + offset
        inside = bounds.flatten(1).clamp_(max=len(self.trie.child_codes[depth]))
        before = self.before(inside, depth=depth + 1).view_as(bounds)
        return before[..., 1:] == before[..., :-1]
