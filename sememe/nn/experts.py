"""A mixture of experts: each position is sent to a few of many feed-forward networks.

Shazeer et al., "Outrageously Large Neural Networks" (2017, arXiv 1701.06538), balanced as in Wang et al.,
"Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts" (2024, arXiv 2408.15664) and DeepSeek-V3 (2024,
arXiv 2412.19437).  Kept: a bias per expert decides with the router's score who is chosen, and never how much a chosen
expert counts; after each training step it goes up by 0.001 for experts with less than the mean load, and down for those
with more.  Changed: the score is the softmax over all experts, where both papers take sigmoids, and the weights are the
scores of those chosen, divided by their sum; there is no shared expert, no noise, and no limit to what an expert takes,
so that no position is dropped and what comes out for one does not depend on the others.

The load counts every position that comes in, those of padding too: the mixture does not know them apart.

Shape legend: M positions of all rows, X experts, K experts per position, D model width.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sememe.nn.blocks import BlockShape
from sememe.nn.dropout import Dropout
from sememe.nn.norm import RmsNorm

BALANCE_STEP = 0.001
"""What each bias moves by after a training forward; the rate of both papers."""


class ExpertMixture(nn.Module):
    """The weighted sum of the `per_token` experts that a router chooses at each position."""

    bias: Tensor
    """(X,) added to the scores when experts are chosen; a buffer, so that it is saved with the weights."""

    def __init__(self, experts: Iterable[nn.Module], *, d_model: int, per_token: int) -> None:
        """experts: networks (M, D) -> (M, D), at least `per_token` of them, which is 2 or more.

        With one expert its weight would always be 1, and the router would learn nothing.
        """
        super().__init__()
        self.experts = nn.ModuleList(experts)
        assert 2 <= per_token <= len(self.experts), "a choice of at least two experts"
        self.per_token = per_token
        self.router = nn.Linear(d_model, len(self.experts), bias=False)
        self.register_buffer("bias", torch.zeros(len(self.experts)))

    def forward(self, states: Tensor) -> Tensor:
        """(..., D) -> (..., D); in training the biases move afterwards."""
        positions = states.flatten(0, -2)
        chosen, weights = self.route(positions)
        loads = chosen.flatten().bincount(minlength=len(self.experts))
        # Sorted by expert, each of them has its positions in one piece.
        order = chosen.flatten().argsort(stable=True)
        pieces = positions.index_select(0, order // self.per_token).split_with_sizes(loads.tolist())
        results = torch.cat([expert(piece) for expert, piece in zip(self.experts, pieces, strict=True)])
        unsorted = results.index_select(0, order.argsort()).view(*chosen.shape, states.shape[-1])
        if self.training:
            self._balance(loads)
        return (unsorted * weights.unsqueeze(-1)).sum(1).view_as(states)

    def route(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(M, D) -> (M, K) int64 the experts chosen, and (M, K) what each counts, which sums to 1."""
        # In full precision: rounding would decide between experts of nearly equal scores.
        with torch.autocast(positions.device.type, enabled=False):
            logits = F.linear(positions.to(self.router.weight.dtype), self.router.weight)
        chosen = (logits.detach().softmax(-1) + self.bias).topk(self.per_token, dim=-1).indices
        # The same as dividing their scores by the sum, which would be 0 / 0 where the bias chose hopeless ones.
        return chosen, logits.gather(1, chosen).softmax(-1)

    @torch.no_grad()
    def _balance(self, loads: Tensor) -> None:
        """Make the experts with more positions than the mean less likely to be chosen, and the others more."""
        loads = loads.to(self.bias.dtype)
        self.bias += BALANCE_STEP * torch.sign(loads.mean() - loads)


class ExpertFeedForward(nn.Module):
    """T5's feed-forward (`sememe.nn.blocks`) with so many networks in place of one; added to the input."""

    def __init__(self, shape: BlockShape, *, experts: int, per_token: int) -> None:
        super().__init__()
        self.norm = RmsNorm(shape.d_model)
        networks = (_network(shape) for _ in range(experts))
        self.mixture = ExpertMixture(networks, d_model=shape.d_model, per_token=per_token)
        self.dropout = Dropout(shape.dropout)

    def forward(self, states: Tensor) -> Tensor:
        """(..., D) -> (..., D)"""
        change: Tensor = self.dropout(self.mixture(self.norm(states)))
        return states + change


def _network(shape: BlockShape) -> nn.Module:
    wide = nn.Linear(shape.d_model, shape.ff, bias=False)
    narrow = nn.Linear(shape.ff, shape.d_model, bias=False)
    nn.init.normal_(wide.weight, std=shape.d_model**-0.5)
    nn.init.normal_(narrow.weight, std=shape.ff**-0.5)
    return nn.Sequential(wide, nn.ReLU(), Dropout(shape.dropout), narrow)
