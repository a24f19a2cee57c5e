"""Six ways to hold semantic vectors to collaborative ones: what belongs together scores higher than the batch does.

Source: the alignment module (MDAM) of DAS, arXiv 2508.10584.
Kept: the six contrasts, with in-batch negatives.
Not stated there, so ours:
- cosines over a temperature, and no candidate as a negative that belongs to the row, too;
- scores are freed from how often candidates stand in batches (logQ).  By itself that makes a score log p(candidate |
  row), in which popularity stands; so, where popularity is to be kept out, rows weigh by the inverse chance of what
  belongs to them, too, as if all candidates were taken equally often, and popularity cancels.

Shape legend: n rows, N pairs, latent the width of every vector.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from sememe.nn.contrast import info_nce, info_nce_of_pairs

View = Literal["user_item", "item_user", "user_user", "item_item", "users_together", "items_together"]
"""Codes of a user with the properties of an item taken; of an item with the interest of a user who took it; of a user
with its own interest; of an item with its own properties; of users, or items, met together."""
VIEWS: tuple[View, ...] = ("user_item", "item_user", "user_user", "item_item", "users_together", "items_together")
HEAVIEST = 10.0
"""A row weighs at most so many times the mean of its batch: else one rare item would be the whole of it."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """What a contrast chooses from: column k belongs to row k, or to row k + N and back."""

    belong: Tensor
    """bool (n, n): columns that are no negatives of a row."""
    log_q: Tensor | None = None
    """(n,) log of the chance that a place in the batch holds what this column holds; None: all count alike."""
    balanced: bool = False
    """Whether rows weigh by the inverse chance of what belongs to them."""


def contrast(anchors: Tensor, vectors: Tensor, candidates: Candidates, *, temperature: float) -> Tensor:
    """InfoNCE of row k with column k, by cosine; scalar.  anchors, vectors: (n, latent)."""
    scores = functional.normalize(anchors, dim=1) @ functional.normalize(vectors, dim=1).T / temperature
    weights = balancing_weights(candidates.log_q) if candidates.balanced and candidates.log_q is not None else None
    return info_nce(
        scores, torch.arange(len(anchors)), left_out=candidates.belong, log_q=candidates.log_q, weights=weights
    )


def contrast_pairs(vectors: Tensor, candidates: Candidates, *, temperature: float) -> Tensor:
    """InfoNCE of row k with row k + N, both ways, by cosine; scalar.  vectors: (2 N, latent)."""
    units = functional.normalize(vectors, dim=1)
    weights = None
    if candidates.balanced and candidates.log_q is not None:
        weights = balancing_weights(candidates.log_q.roll(len(vectors) // 2))
    return info_nce_of_pairs(
        units @ units.T / temperature, belong=candidates.belong, log_q=candidates.log_q, weights=weights
    )


def balancing_weights(log_q: Tensor) -> Tensor:
    """(n,): weights of rows that make up for the chances of what belongs to them, given the logs (n,) of those."""
    weights = (log_q.min() - log_q).exp()
    return weights.clamp(max=HEAVIEST * float(weights.mean()))
