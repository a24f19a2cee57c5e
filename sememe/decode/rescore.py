"""Retrieve by codes, rank by items: the beam's candidates in the order of the model's own item scores and code scores.

Shape legend: N rows, C candidates, I items, k listed items.
"""

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from sememe.core.errors import ConfigError
from sememe.core.schema import PAD, Ranked
from sememe.decode.allowed import Allowed
from sememe.decode.beam import BeamSearch, Found, search
from sememe.decode.protocol import ItemScorer, Seen, StepModel, TensorBatch
from sememe.decode.trie import Trie
from sememe.nn.select import rank_best

NEVER = float("-inf")


class TwoHeaded(StepModel, ItemScorer, Protocol):
    """A model that writes codes and scores items."""


@dataclass(frozen=True)
class Rescored:
    """Score of a candidate: code_weight * log p(codes) + (1 - code_weight) * log p(item)."""

    search: BeamSearch = field(default_factory=lambda: BeamSearch(width=100))
    """Finds as many candidates as it is wide."""
    code_weight: float = 0.3

    def recommend(
        self, model: TwoHeaded, batch: TensorBatch, *, k: int, trie: Trie, seen: Seen = None, allowed: Allowed = None
    ) -> Ranked:
        """Up to k items per row that the beam finds, that `allowed` holds and that are not among `seen` (N, S)."""
        if not 0.0 <= self.code_weight <= 1.0:
            raise ConfigError(f"code_weight is {self.code_weight}, outside 0..1", fix="set it to 0.3, say")
        count = max(k, self.search.width)
        first = self.search.first_width
        found = search(model, batch, width=count, k=count, trie=trie, seen=seen, allowed=allowed, first_width=first)
        with torch.inference_mode():
            item_scores = torch.as_tensor(model.score_items(batch)).log_softmax(1)
        scores = self._mix(found, item_scores)
        best = rank_best(scores, k=min(k, count))
        listed, last = found.items.gather(1, best.columns), best.values[:, -1:]
        tied = (scores == last).sum(dim=1) - (best.values == last).sum(dim=1)
        return Found(
            items=listed.masked_fill(best.values == NEVER, PAD),
            scores=best.values,
            tied_beyond=torch.where(last.squeeze(1) == NEVER, 0, tied),
            eligible=found.eligible,
        ).to_ranked(source="beam:rescored")

    def describe(self) -> str:
        """How lists come about, in a line."""
        weights = f"{self.code_weight:g} code + {1 - self.code_weight:g} item log-probability"
        return f"{self.search.describe().removesuffix(' by code score')}, {weights}"

    def _mix(self, found: Found, item_scores: Tensor) -> Tensor:
        """(N, C); -inf where the beam found fewer."""
        of_items = item_scores.gather(1, found.items.clamp(min=0))
        mixed = self.code_weight * found.scores + (1.0 - self.code_weight) * of_items
        return mixed.masked_fill(found.items == PAD, NEVER)
