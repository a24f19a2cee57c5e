"""One level of a search down the trie: from the live hypotheses to their children, and the best of these.

Shared by the searches, which differ in how they score a child.

Shape legend: N rows, B live beams, W widest child range among them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sememe.decode.seen import SeenPositions
from sememe.decode.trie import Trie
from sememe.nn.select import select_best

NEVER = float("-inf")


@dataclass(frozen=True, eq=False)
class Beams:
    """Live hypotheses of one depth."""

    nodes: Tensor
    """(N, B) int64 trie nodes; any node where the score is -inf.  Ascending among the others."""
    scores: Tensor
    """(N, B) fp32; -inf where a row has fewer hypotheses."""

    @classmethod
    def at_root(cls, rows: int, *, device: torch.device) -> "Beams":
        """One hypothesis per row that has written nothing."""
        scores = torch.zeros(rows, 1, device=device)
        return cls(nodes=scores.long(), scores=scores)


@dataclass(frozen=True, eq=False)
class Children:
    """The nodes below live hypotheses, in node order."""

    codes: Tensor
    """(N, B, W) int64; any code where `missing`."""
    missing: Tensor
    """(N, B, W) bool: the beam has fewer than W children."""


@dataclass(frozen=True, eq=False)
class Kept:
    """The hypotheses that a step keeps."""

    beams: Beams
    parents: Tensor
    """(N, B) int64: the beam of the last step that each continues."""
    columns: Tensor
    """(N, B) int64: where each stands among its row's candidates, flattened."""


def level_widths(levels: int, *, width: int, first_width: int) -> list[int]:
    """How many hypotheses of a row each level keeps: `first_width` at the first one where that is more, unless it is
    the last one too."""
    return [max(width, first_width)] * (levels > 1) + [width] * max(1, levels - 1)


def children_of(beams: Beams, *, depth: int, trie: Trie) -> Children:
    """The children of every live beam; a dead one has none."""
    starts = trie.child_starts[depth]
    first = starts[beams.nodes].long()
    count = torch.where(beams.scores > NEVER, starts[beams.nodes + 1] - first, 0)
    offset = torch.arange(max(1, int(count.max())), device=trie.device)
    child = (first.unsqueeze(2) + offset).clamp_(max=len(trie.child_codes[depth]) - 1)
    codes = trie.child_codes[depth].index_select(0, child.flatten()).view_as(child)
    return Children(codes=codes.long(), missing=offset >= count.unsqueeze(2))


def scores_of_children(log_probs: Tensor, beams: Beams, *, depth: int, trie: Trie) -> Tensor:
    """(N, B, W): the score of every child in node order, -inf where a beam has fewer; log_probs (N, B, K) by code."""
    scores, num_nodes = beams.scores.unsqueeze(2), len(trie.child_starts[depth]) - 1
    if len(trie.child_codes[depth]) == num_nodes * trie.codebook_sizes[depth]:
        return log_probs + scores  # every node has a child for every code, as the root often has
    below = children_of(beams, depth=depth, trie=trie)
    return log_probs.gather(2, below.codes).add_(scores).masked_fill_(below.missing, NEVER)


def close_seen(candidates: Tensor, beams: Beams, seen: SeenPositions, *, depth: int, trie: Trie) -> Tensor:
    """The candidates (N, B, W) with those set to -inf that hold no item that is not seen."""
    rows, num_beams, widest = candidates.shape
    at = seen.positions.clamp(max=trie.num_items - 1)
    parent, node = trie.node_at(at, depth=depth), trie.node_at(at, depth=depth + 1)
    # Find the beam that stands on each seen item's parent; dead beams stand nowhere.
    live_nodes, order = beams.nodes.masked_fill(beams.scores == NEVER, trie.num_items).sort(dim=1)
    place = torch.searchsorted(live_nodes, parent).clamp_(max=num_beams - 1)
    hit = seen.closed(trie, depth=depth + 1) & (live_nodes.gather(1, place) == parent)
    slot = order.gather(1, place) * widest + node - trie.child_starts[depth][parent]
    # Misses go to one extra column that is thrown away, so that no row needs a loop.
    mask = torch.zeros(rows, num_beams * widest + 1, dtype=torch.bool, device=trie.device)
    mask.scatter_(1, torch.where(hit, slot, num_beams * widest), True)
    return candidates.masked_fill(mask[:, :-1].view_as(candidates), NEVER)


def keep_best(candidates: Tensor, beams: Beams, *, width: int, depth: int, trie: Trie) -> Kept:
    """The best `width` of the candidates (N, B, W), children of `beams`, as the beams of the next depth."""
    _, num_beams, widest = candidates.shape
    # Candidates lie in node order, which `select_best` keeps: the next beams are in node order again.
    chosen = select_best(candidates.flatten(1), k=min(width, num_beams * widest))
    parents = chosen.columns // widest
    first = trie.child_starts[depth][beams.nodes.gather(1, parents)]
    nodes = (first + chosen.columns % widest).clamp_(max=len(trie.child_codes[depth]) - 1)
    return Kept(beams=Beams(nodes=nodes, scores=chosen.values), parents=parents, columns=chosen.columns)
