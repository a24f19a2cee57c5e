"""Early-clipped policy optimisation, of the OneRec Technical Report (2506.13695).

PPO's clip leaves one side open: a sample with A < 0 whose ratio w has grown large gives a gradient as large as w, and
one such sample can undo a policy.  ECPO raises the old probability until the ratio is 1 + clip + margin at most:

    pi_old' = max(pi_old, sg(pi) / (1 + clip + margin)),   loss = -mean min(w' A, clip(w', 1 - clip, 1 + clip) A)

with w' = pi / pi_old' and sg the value without gradient.  Kept: the formula; margin 0.1 (the report's delta); no KL.
Not stated there: the clip itself, PPO's 0.2 here.  Where w <= 1 + clip + margin, it is PPO's loss.  With A > 0 a ratio
above 1 + clip is clipped in either, so the two differ for A < 0 only.
The report trains it together with next-item prediction: `sememe.align.policy.Steering`.  There a tuple is one action,
(N, G); codes as actions, (N, G, L), are bounded code by code.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sememe.core.errors import ConfigError
from sememe.objectives.grpo import check_clip, clipped_surrogate
from sememe.objectives.samples import read_samples


@dataclass(frozen=True)
class ECPO:
    """Scalar loss, float32; no action's gradient with respect to log pi is above (1 + clip + margin) |A|."""

    clip: float = 0.2
    margin: float = 0.1
    """How far beyond 1 + clip a ratio may be, at least 0."""

    def __call__(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """The loss of one batch; outputs["sample_log_probs"] and the batch as in `sememe.objectives.samples`."""
        check_clip(self.clip)
        if self.margin < 0:
            raise ConfigError(f"margin is {self.margin}", fix="give a margin of at least 0, such as 0.1")
        samples = read_samples(outputs, batch)
        rollout = raised_rollout(samples.log_probs, samples.rollout, largest=1.0 + self.clip + self.margin)
        ratios = replace(samples, rollout=rollout).ratios
        return samples.mean(-clipped_surrogate(ratios, samples.advantages, clip=self.clip))


def raised_rollout(log_probs: Tensor, rollout: Tensor, *, largest: float) -> Tensor:
    """log max(pi_old, sg(pi) / largest), elementwise."""
    return torch.maximum(rollout, log_probs.detach() - math.log(largest))
