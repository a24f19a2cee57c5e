"""Group-relative policy optimisation: PPO's clipped ratio with advantages inside a group, and a KL to a reference.

Shao et al. 2024 (DeepSeekMath, 2402.03300), over the clipped surrogate of Schulman et al. 2017 (PPO, 1707.06347); in
recommendation MiniOneRec (2510.24431).

    loss = -mean min(w A, clip(w, 1 - clip, 1 + clip) A) + kl_weight * mean (e^d - d - 1)
    w = pi / pi_old,   d = log pi_ref - log pi        (Schulman's third estimator of KL(pi || pi_ref), never negative)

Kept: all of it; advantages come with the batch.  Changed: nothing in the formula.  With codes as actions, (N, G, L), it
is the papers' form; with tuples, (N, G), the ratio is that of the whole tuple (as GSPO's, without its root).
The estimator is one of the KL only for samples of pi itself.  Of candidates found by beam search, each weighs the same
whatever its probability: then both terms are what MiniOneRec does, not the gradient of an expectation under pi.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sememe.core.errors import ConfigError
from sememe.objectives.samples import Samples, need, read_beside, read_samples


@dataclass(frozen=True)
class GRPO:
    """Scalar loss, float32; its gradient is 0 where all advantages are and there is no KL."""

    clip: float = 0.2
    """How far a ratio may be from 1 before it gives no more gradient; PPO's 0.2, MiniOneRec has 0.3."""
    kl_weight: float = 0.0
    """Of the KL to the reference; MiniOneRec has 1e-3.  Above 0 the batch needs "reference_log_probs"."""

    def __call__(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """The loss of one batch; outputs["sample_log_probs"] and the batch as in `sememe.objectives.samples`."""
        check_clip(self.clip)
        if self.kl_weight < 0:
            raise ConfigError(f"kl_weight is {self.kl_weight}", fix="give a weight of at least 0")
        samples = read_samples(outputs, batch)
        loss = samples.mean(-clipped_surrogate(samples.ratios, samples.advantages, clip=self.clip))
        if self.kl_weight == 0:
            return loss
        return loss + self.kl_weight * samples.mean(_kl(samples, batch))


def clipped_surrogate(ratios: Tensor, advantages: Tensor, *, clip: float) -> Tensor:
    """min(w A, clip(w, 1 - clip, 1 + clip) A), elementwise: what PPO maximises."""
    return torch.minimum(ratios * advantages, ratios.clamp(1.0 - clip, 1.0 + clip) * advantages)


def kl_estimate(log_probs: Tensor, reference: Tensor) -> Tensor:
    """e^d - d - 1 with d = reference - log_probs, elementwise: 0 or more, with mean KL(pi || pi_ref) over pi."""
    drift = reference - log_probs
    return drift.expm1() - drift


def check_clip(clip: float) -> None:
    """Refuse a clip at which ratios could be negative, or never rise."""
    if not 0.0 < clip < 1.0:
        raise ConfigError(f"clip is {clip}, and must lie between 0 and 1", fix="choose a clip such as 0.2")


def _kl(samples: Samples, batch: Mapping[str, Tensor]) -> Tensor:
    need(batch, "reference_log_probs", purpose="kl_weight is above 0")
    reference = read_beside(batch, "reference_log_probs", log_probs=samples.log_probs, counted=samples.counted)
    return kl_estimate(samples.log_probs, reference)
