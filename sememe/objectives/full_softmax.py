"""Cross-entropy of the next item over the whole catalogue, at every position that has a next item.

A model for `SequenceBatches` gives one vector per position of the history, one for `PrefixBatches` one vector per row;
`find_aims` pairs them with their targets, for this loss and for others over the same outputs.

The plain formula is `F.cross_entropy(hidden @ item_weights.T, targets)`.  Kept: the value and the gradient.  Changed:
logits of a few positions at a time, and their gradient is taken while they are in the cache (as in the fused losses of
Hsu et al., "Liger Kernel", 2024), so that the (positions, items) matrix never exists.

Added: a model may give one number, "repeat_bias", for its scores of items that the row has read up to the position.

Shape legend: N rows, T positions, P positions with a target, C positions of a chunk, I items, R pairs of a position and
an item read up to there, D model width.
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
        """The loss of one batch.

        outputs: "hidden" (N, T, D), or (N, 1, D) for one target per row; "item_weights" (I, D); optionally
        "repeat_bias" (1,).  batch: "targets" (N, T) item indices, PAD where none, or "target" (N,); with a repeat bias
        also "history" (N, T), the items read.
        """
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ConfigError(
                f"label_smoothing is {self.label_smoothing}, and must be at least 0 and below 1",
                fix="choose a share such as 0.1, or 0 to switch it off",
            )
        aims = find_aims(outputs, batch)
        loss: Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
            aims.hidden,
            outputs["item_weights"],
            aims.targets,
            self.label_smoothing,
            outputs.get("repeat_bias"),
            aims.read,
        )
        return loss


@dataclass(frozen=True, eq=False)
class Aims:
    """The positions of a batch that have a target."""

    hidden: Tensor
    """(P, D)"""
    targets: Tensor
    """(P,) item indices."""
    read: Tensor | None
    """(P, T) the items that the row has read up to the position, PAD in other places; None without a repeat bias."""


def find_aims(outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Aims:
    """Every vector that is to name an item, beside that item; outputs and batch as `FullSoftmax` takes them.

    Raises:
        ConfigError: the model gives a vector per position and the batch a target per row, or the other way round.
    """
    hidden, every = outputs["hidden"].flatten(0, 1), "targets" in batch
    targets = batch["targets"].flatten() if every else batch["target"]
    if len(hidden) != len(targets):
        raise ConfigError(
            f"the model gives {len(hidden)} vectors for the {len(targets)} targets of the batch",
            fix="train models of every position with SequenceBatches, models of the last position with PrefixBatches",
        )
    places = (targets != PAD).nonzero().squeeze(1)
    assert len(places), "a batch has at least one target"
    read = None
    if "repeat_bias" in outputs:
        read = items_read(batch["history"])
        read = (read.flatten(0, 1) if every else read[:, -1]).index_select(0, places)
    return Aims(hidden.index_select(0, places), targets.index_select(0, places), read)


def items_read(history: Tensor) -> Tensor:
    """(N, T, T): for every position the items up to and with its own, each once, and PAD in the other places.

    history: (N, T) item indices, PAD where none.
    """
    length = history.shape[1]
    up_to = torch.ones(length, length, dtype=torch.bool, device=history.device).tril()
    again = (history.unsqueeze(2) == history.unsqueeze(1)) & up_to.tril(-1)
    first_time = history.masked_fill(again.any(2), PAD)
    return first_time.unsqueeze(1).masked_fill(~up_to, PAD)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Takes all gradients in the forward pass, for a loss whose own gradient is a number.

    With e = exp(logits - max) and z = sum(e), d loss / d logits is e / z - (1 - s) onehot(target) - s / I.  Only e is
    as large as the logits; 1 / z, the one-hot and the constant are applied to its products with the vectors.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weights: Tensor,
        targets: Tensor,
        smoothing: float,
        bias: Tensor | None,
        read: Tensor | None,
    ) -> Tensor:
        """hidden: (P, D); weights: (I, D); targets: (P,); bias: (1,); read: (P, T) items, PAD where none."""
        positions, items = len(hidden), len(weights)
        chunk = max(1, CHUNK_LOGITS // items)
        even = weights.mean(0)
        total = torch.zeros((), dtype=torch.promote_types(weights.dtype, torch.float32), device=hidden.device)
        hidden_grad, weights_grad = torch.empty_like(hidden), torch.zeros_like(weights)
        bias_grad = torch.zeros_like(total)
        for start in range(0, positions, chunk):
            states, wanted = hidden[start : start + chunk], targets[start : start + chunk]
            logits = (states @ weights.T).to(total.dtype)
            pairs = None if read is None else _pairs(read[start : start + chunk])
            if bias is not None and pairs is not None:
                logits[pairs] += bias.to(logits.dtype)
                total -= smoothing * bias.squeeze().to(total.dtype) * (len(pairs[0]) / items)
            right = logits.gather(1, wanted.unsqueeze(1)).squeeze(1)
            largest = logits.amax(1, keepdim=True)
            powers = logits.sub_(largest).exp_()
            sums = powers.sum(1, keepdim=True)
            normalizer = (largest + sums.log()).squeeze(1)
            total += (normalizer - (1.0 - smoothing) * right - smoothing * (states @ even)).sum()
            if pairs is not None:
                hits = (pairs[1] == wanted[pairs[0]]).sum()
                share = (powers[pairs] / sums.squeeze(1)[pairs[0]]).sum()
                bias_grad += share - (1.0 - smoothing) * hits - smoothing * (len(pairs[0]) / items)
            powers = powers.to(states.dtype)
            pull = (1.0 - smoothing) * weights[wanted] + smoothing * even
            hidden_grad[start : start + chunk] = (powers @ weights) / sums - pull
            weights_grad += powers.T @ (states / sums).to(states.dtype)
        weights_grad.index_add_(0, targets, hidden.to(weights.dtype), alpha=smoothing - 1.0)
        weights_grad -= (smoothing / items) * hidden.sum(0)
        grads = [hidden_grad, weights_grad] if bias is None else [hidden_grad, weights_grad, bias_grad.to(bias).view(1)]
        ctx.save_for_backward(*(grad.div_(positions) for grad in grads))
        return total / positions

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads = [saved * grad.to(saved.dtype) for saved in ctx.saved_tensors]
        return grads[0], grads[1], None, None, grads[2] if len(grads) > 2 else None, None


def _pairs(read: Tensor) -> tuple[Tensor, Tensor]:
    """Row and item, (R,) each, of everything in (C, T) that is not PAD."""
    rows, places = (read != PAD).nonzero(as_tuple=True)
    return rows, read[rows, places]
