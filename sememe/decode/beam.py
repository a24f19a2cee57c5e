"""Beam search over the trie of semantic IDs, batched over rows and beams; the only Python loop is over the levels.

TIGER (Rajput et al., 2023, arXiv 2305.05065, section 3.2) searches freely and drops tuples that name no item.  Kept:
the score of an item is the sum of its codes' log-probabilities, each normalised over its level's codebook.  Changed:
only children that exist are ever candidates, so that every hypothesis is an item and no beam is lost to a dead end.

Order among equal scores: lexicographic by semantic ID (lower node first); items that share one by index.

Shape legend: N rows, B live beams, K codes of a level, k listed items.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sememe.core.schema import PAD, Ranked
from sememe.decode.allowed import Allowed
from sememe.decode.eligible import Eligible
from sememe.decode.frontier import NEVER, Beams, keep_best, level_widths, scores_of_children
from sememe.decode.parts import in_parts
from sememe.decode.protocol import Seen, StepModel, TensorBatch
from sememe.decode.trie import Trie
from sememe.nn.select import rank_best


@dataclass(frozen=True, eq=False)
class Found:
    """Items found for each row, best first, as tensors."""

    items: Tensor
    """(N, k) int64; PAD after the last one."""
    scores: Tensor
    """(N, k) fp32; -inf where `items` is PAD."""
    tied_beyond: Tensor
    """(N,) int64: found items beyond the list that score like its last entry."""
    eligible: Tensor | None = None
    """(N,) int64, as in `Ranked`."""

    def to_ranked(self, *, source: str) -> Ranked:
        """The same lists as numpy arrays."""
        return Ranked(
            items=self.items.int().cpu().numpy(),
            scores=self.scores.float().cpu().numpy(),
            source=source,
            tied_beyond=self.tied_beyond.long().cpu().numpy(),
            eligible=None if self.eligible is None else self.eligible.cpu().numpy(),
        )


@dataclass(frozen=True)
class BeamSearch:
    """Recommend by writing semantic IDs level by level, keeping the `width` best prefixes of each row."""

    width: int = 20
    first_width: int = 0
    """Prefixes kept at the first level, where that is more: what a narrow beam misses, it mostly misses there."""

    def recommend(
        self, model: StepModel, batch: TensorBatch, *, k: int, trie: Trie, seen: Seen = None, allowed: Allowed = None
    ) -> Ranked:
        """Up to k items per row that `allowed` holds and `seen` (N, S) does not, as if the trie had never held others.

        All items that share a listed semantic ID are found, with equal scores; where they spill over k, `tied_beyond`
        counts the rest.  A row with fewer to offer has a shorter list, and no other: the beam is at least k wide.
        """
        wide = {"width": max(self.width, k), "first_width": self.first_width}
        found = search(model, batch, **wide, k=k, trie=trie, seen=seen, allowed=allowed)
        return found.to_ranked(source="beam:code_log_prob")

    def describe(self) -> str:
        """How lists come about, in a line."""
        first = f" ({self.first_width} at the first level)" if self.first_width > self.width else ""
        return f"beam of {self.width}{first} by code score"


@in_parts
@torch.inference_mode()
def search(
    model: StepModel,
    batch: TensorBatch,
    *,
    width: int,
    k: int,
    trie: Trie,
    seen: Seen = None,
    allowed: Allowed = None,
    first_width: int = 0,
) -> Found:
    """`BeamSearch.recommend` in tensors, on the trie's device."""
    assert width >= 1 and k >= 1, "a search keeps and lists at least one"
    assert not getattr(model, "training", False), "dropout is on: call model.eval() before searching"
    assert tuple(model.codebook_sizes) == trie.codebook_sizes, "the trie and the model come from different codes"
    root = Beams.at_root(len(next(iter(batch.values()))), device=trie.device)
    eligible = Eligible.build(trie, seen=seen, allowed=allowed, num_rows=len(root.nodes))
    widths = level_widths(trie.num_levels, width=width, first_width=first_width)
    beams = _walk(model, model.encode(batch), root, widths=widths, trie=trie, eligible=eligible)
    return list_items(beams, k=k, trie=trie, eligible=eligible)


def _walk(model: StepModel, state: Any, beams: Beams, *, widths: list[int], trie: Trie, eligible: Eligible) -> Beams:
    """The best leaves of each row, (N, B) with B <= widths[-1]."""
    codes: Tensor | None = None
    parents: Tensor | None = None
    for depth, width in enumerate(widths):
        candidates = scores_of_children(model.step(state, codes, parents), beams, depth=depth, trie=trie)
        candidates = eligible.close(candidates, beams, depth=depth)
        kept = keep_best(candidates, beams, width=width, depth=depth, trie=trie)
        beams, parents = kept.beams, kept.parents
        codes = trie.child_codes[depth][beams.nodes].long()
    return beams


def list_items(beams: Beams, *, k: int, trie: Trie, eligible: Eligible) -> Found:
    """The first k items of the ranked leaves: leaves by score, then node; items of a leaf by index."""
    ranked = rank_best(beams.scores, k=beams.scores.shape[1])
    leaves = Beams(nodes=beams.nodes.gather(1, ranked.columns), scores=ranked.values)
    before, end = eligible.before(torch.cat([leaves.nodes, leaves.nodes + 1], 1), depth=trie.num_levels).chunk(2, 1)
    count = torch.where(leaves.scores > NEVER, end - before, 0)
    assert bool(((leaves.scores == NEVER) == (count == 0)).all()), "the search followed a prefix that leads to no item"
    total = count.cumsum(dim=1)
    # Entry j of a list lies in the first leaf whose running total exceeds j.
    entry = torch.arange(k, device=trie.device).expand(len(total), k).contiguous()
    leaf = torch.searchsorted(total, entry, right=True).clamp_(max=total.shape[1] - 1)
    position = eligible.position((before + count - total).gather(1, leaf) + entry, leaves=leaves.nodes.gather(1, leaf))
    listed = entry < total[:, -1:]
    items = torch.where(listed, trie.items[position.clamp(0, trie.num_items - 1)], PAD)
    scores = leaves.scores.gather(1, leaf).masked_fill(~listed, NEVER)
    tied = torch.where(leaves.scores == scores[:, -1:], count, 0).sum(dim=1) - (scores == scores[:, -1:]).sum(dim=1)
    return Found(items, scores, tied_beyond=torch.where(listed[:, -1], tied, 0), eligible=eligible.counts())
