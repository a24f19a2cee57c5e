"""Cross-entropy of the next item's codes, mean over rows and levels, as in TIGER (Rajput et al. 2023, 2305.05065).

Added: label smoothing over the codes of the level, and a weight per level; both off unless asked for.

Shape legend: N rows, L code levels, K codes of the largest level.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sememe.core.errors import ConfigError


@dataclass(frozen=True)
class NextToken:
    """Mean over rows and levels of -log p(code); scalar, in nats, float32."""

    label_smoothing: float = 0.0
    """Share of the target spread evenly over all codes of the level, 0 <= share < 1."""
    level_weights: tuple[float, ...] | None = None
    """Weight of each level in the mean over levels; None: equal."""

    def __call__(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """outputs["code_logits"]: (N, L, K), -inf where a level has no such code; batch["target_codes"]: (N, L)."""
        logits, targets = outputs["code_logits"].float(), batch["target_codes"].long()
        if self.label_smoothing:
            loss = self._smoothed(logits, targets)
        else:
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
        if self.level_weights is None:
            return loss.mean()
        weights = self._weights(loss)
        return (loss * weights).sum() / (weights.sum() * len(loss))

    def _smoothed(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(N, L) cross-entropy against (1 - s) * target + s * uniform over the codes that the level has."""
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ConfigError(
                f"label_smoothing is {self.label_smoothing}, and must be at least 0 and below 1",
                fix="choose a share such as 0.1, or 0 to switch it off",
            )
        exists = logits.isfinite()
        log_probs = logits.log_softmax(-1)
        hit = log_probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        even = log_probs.masked_fill(~exists, 0.0).sum(-1) / exists.sum(-1)
        return -(1.0 - self.label_smoothing) * hit - self.label_smoothing * even

    def _weights(self, loss: Tensor) -> Tensor:
        """(L,) the level weights beside `loss` (N, L)."""
        weights = self.level_weights or ()
        if len(weights) != loss.shape[1] or min(weights) < 0 or sum(weights) <= 0:
            raise ConfigError(
                f"level_weights is {weights}, but needs {loss.shape[1]} numbers, none negative and not all 0",
                fix="give one weight per code level, or None for equal weights",
            )
        return torch.tensor(weights, dtype=loss.dtype, device=loss.device)
