"""Cross-entropy of the next item over the whole catalogue, at every position that has a next item.

The plain formula is `F.cross_entropy(hidden @ item_weights.T, targets)`.  Kept: the value and the gradient.  Changed:
logits of a few positions at a time, and their gradient is taken while they are in the cache (as in the fused losses of
Hsu et al., "Liger Kernel", 2024), so that the (positions, items) matrix never exists.

Shape legend: N rows, T positions, P positions with a target, C positions of a chunk, I items, D model width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sememe.core.errors import ConfigError
from sememe.core.schema import PAD

CHUNK_LOGITS = 2_000_000
"""Logits worked on at a time, 8 MB in fp32, which a core can hope to keep in its cache."""


@dataclass(frozen=True)
class FullSoftmax:
    """Mean over positions of -log p(next item); scalar, in nats, float32."""

    label_smoothing: float = 0.0
    """Share of the target spread evenly over all items, 0 <= share < 1."""

    def __call__(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """outputs: "hidden" (N, T, D), "item_weights" (I, D); batch: "targets" (N, T) item indices, PAD where none."""
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ConfigError(
                f"label_smoothing is {self.label_smoothing}, and must be at least 0 and below 1",
                fix="choose a share such as 0.1, or 0 to switch it off",
            )
        targets = batch["targets"].flatten()
        places = (targets != PAD).nonzero().squeeze(1)
        hidden = outputs["hidden"].flatten(0, 1).index_select(0, places)
        return cross_entropy(
            hidden, outputs["item_weights"], targets.index_select(0, places), smoothing=self.label_smoothing
        )


def cross_entropy(hidden: Tensor, weights: Tensor, targets: Tensor, *, smoothing: float) -> Tensor:
    """Mean cross-entropy of the softmax over hidden @ weights.T.

    hidden: (P, D), P >= 1; weights: (I, D); targets: (P,) in 0..I-1.
    """
    assert len(targets), "a batch has at least one target"
    loss: Tensor = _ChunkedCrossEntropy.apply(hidden, weights, targets, smoothing)  # type: ignore[no-untyped-call]
    return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Takes both gradients in the forward pass, for a loss whose own gradient is a number.

    With e = exp(logits - max) and z = sum(e), d loss / d logits is e / z - (1 - s) onehot(target) - s / I.  Only e is
    as large as the logits; 1 / z, the one-hot and the constant are applied to its products with the vectors.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weights: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        positions, items = len(hidden), len(weights)
        chunk = max(1, CHUNK_LOGITS // items)
        even = weights.mean(0)
        total = torch.zeros((), dtype=torch.promote_types(weights.dtype, torch.float32), device=hidden.device)
        hidden_grad, weights_grad = torch.empty_like(hidden), torch.zeros_like(weights)
        for start in range(0, positions, chunk):
            states, wanted = hidden[start : start + chunk], targets[start : start + chunk]
            logits = (states @ weights.T).to(total.dtype)
            right = logits.gather(1, wanted.unsqueeze(1)).squeeze(1)
            largest = logits.amax(1, keepdim=True)
            powers = logits.sub_(largest).exp_()
            sums = powers.sum(1, keepdim=True)
            normalizer = (largest + sums.log()).squeeze(1)
            total += (normalizer - (1.0 - smoothing) * right - smoothing * (states @ even)).sum()
            powers = powers.to(states.dtype)
            pull = (1.0 - smoothing) * weights[wanted] + smoothing * even
            hidden_grad[start : start + chunk] = (powers @ weights) / sums - pull
            weights_grad += powers.T @ (states / sums).to(states.dtype)
        weights_grad.index_add_(0, targets, hidden.to(weights.dtype), alpha=smoothing - 1.0)
        weights_grad -= (smoothing / items) * hidden.sum(0)
        ctx.save_for_backward(hidden_grad.div_(positions), weights_grad.div_(positions))
        return total / positions

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden_grad, weights_grad = ctx.saved_tensors
        return hidden_grad * grad.to(hidden_grad.dtype), weights_grad * grad.to(weights_grad.dtype), None, None
