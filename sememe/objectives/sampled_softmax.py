"""Cross-entropy of the next item against its own target and a sample of the catalogue, shared by all positions.

eSASRec's loss (Tikhonovich et al. 2025, arXiv 2508.06450) with the mixed negatives of its ablation, which are those of
Yang et al., "Mixed Negative Sampling for Learning Two-tower Neural Networks in Recommendations" (WWW 2020): targets of
the batch, which are popular items mostly, and uniform draws, which every item has a chance in.  Kept: both sources, the
logQ correction (Bengio and Senecal 2008; Yi et al., "Sampling-Bias-Corrected Neural Modeling", RecSys 2019), own
targets never as negatives.  Changed: candidates are distinct, drawn without replacement, and one set serves all
positions, so that scores are one matrix product.  Given the batch, its targets are certain to be candidates and every
other item is one with the same known chance, so the correction needs no count of how popular items are:

    Z of a position = e^(own score) + sum over candidates c other than its target of e^(score of c) / q(c),
    q(c) = 1 for targets of the batch, (draws) / (items that can be drawn) for the others;  loss = log Z - own score.

Over the draws, Z has the mean of the full softmax, for every batch; with enough draws it is the full softmax.

Shape legend: N rows, T positions, P positions with a target, C candidates, I items, D model width.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sememe.core.errors import ConfigError
from sememe.core.schema import PAD
from sememe.objectives.full_softmax import Aims, find_aims


@dataclass(frozen=True)
class SampledSoftmax:
    """Mean over positions of -log p(next item), with an estimate of p's denominator; scalar, in nats, float32.

    Draws come from torch's global generator, which the training loop sets at every step.
    """

    uniform_negatives: int = 256
    """Items drawn per batch, each as likely as any other; more than there are means all of them."""
    in_batch: bool = True
    """Take the targets of the whole batch as candidates too."""
    log_q: bool = True
    """Correct for the chance of being a candidate; without it the loss is smaller, and draws weigh like batch items."""

    def __call__(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """outputs and batch: as `FullSoftmax` takes them."""
        if self.uniform_negatives < 1:
            raise ConfigError(
                f"uniform_negatives is {self.uniform_negatives}, so that items outside the batch are never negatives",
                fix="set it to 1 or more, e.g. 256",
            )
        aims, weights = find_aims(outputs, batch), outputs["item_weights"]
        candidates = self._draw(aims.targets, items=len(weights))
        exact = torch.promote_types(weights.dtype, torch.float32)
        own = (aims.hidden * weights.index_select(0, aims.targets)).sum(1).to(exact)
        scores = (aims.hidden @ weights.index_select(0, candidates.items).T).to(exact)
        if aims.read is not None:
            bias = outputs["repeat_bias"].to(exact)
            own = own + bias * (aims.read == aims.targets.unsqueeze(1)).any(1)
            scores = scores + bias * _read_candidates(aims, candidates.items, items=len(weights))
        if self.log_q:
            scores = scores - candidates.log_q
        others = scores.masked_fill(candidates.items == aims.targets.unsqueeze(1), -torch.inf)
        normalizer = torch.cat([own.unsqueeze(1), others], dim=1).logsumexp(1)
        return (normalizer - own).mean()

    def _draw(self, targets: Tensor, *, items: int) -> "_Candidates":
        certain: Tensor = targets[:0]
        if self.in_batch:
            certain = targets.unique()  # type: ignore[no-untyped-call]
        # The largest of independent random numbers lie anywhere alike; what is certain already gets none of them.
        lots = torch.rand(items, device=targets.device).index_fill(0, certain, -1.0)
        rest = items - len(certain)
        draws = min(self.uniform_negatives, rest)
        log_q = torch.zeros(len(certain) + draws, device=targets.device)
        log_q[len(certain) :] = math.log(draws / rest) if draws else 0.0
        return _Candidates(torch.cat([certain, lots.topk(draws).indices]), log_q)


@dataclass(frozen=True, eq=False)
class _Candidates:
    items: Tensor
    """(C,) distinct items."""
    log_q: Tensor
    """(C,) log of each one's chance to be there, given the batch."""


def _read_candidates(aims: Aims, candidates: Tensor, *, items: int) -> Tensor:
    """(P, C) float32: 1 where the position's row has read the candidate up to there."""
    assert aims.read is not None, "only asked with a repeat bias"
    column = torch.full((items,), PAD, device=candidates.device)
    column[candidates] = torch.arange(len(candidates), device=candidates.device)
    position, place = (aims.read != PAD).nonzero(as_tuple=True)
    found = column[aims.read[position, place]]
    met = torch.zeros(len(aims.targets), len(candidates), device=candidates.device)
    met[position[found != PAD], found[found != PAD]] = 1.0
    return met
