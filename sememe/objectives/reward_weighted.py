"""Likelihood of good samples: the plain baseline that alignment has to beat.

One step of the cross-entropy method (Rubinstein 1999; de Boer et al. 2005, "A Tutorial on the Cross-Entropy Method"):
sample, keep the best share, fit the policy to them; or, with weights e^(r / temperature), of reward-weighted regression
(Peters and Schaal 2007).  Training on good sessions only, as OneRec does, is the first of the two with the log as the
sampler.

    loss = -mean over rows of sum over samples of v log pi,   v >= 0, sum of v in a row = 1

Kept: both weightings, which can be combined.  Changed: the best are sought in each group rather than in the whole
sample, since users differ in what they can be given.  There is no ratio to the sampler: on a fixed log the fit ends at
the log's policy times the weights, not at the best action; only sampling anew each round gets there.  There is no
baseline either: in a group of equal rewards every sample is imitated, which is 0 on average only; `skip_equal` leaves
such groups out.

Shape legend: N rows, G samples of a row, L code levels.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sememe.core.errors import ConfigError
from sememe.objectives.samples import fill_uncounted, like, need, read_log_probs


@dataclass(frozen=True)
class RewardWeighted:
    """Scalar, in nats, float32; with codes as actions the mean over levels."""

    elite_share: float = 0.25
    """Share of each group that is kept, the best ones, at least one; 1 keeps all.  Ties with the last one are kept."""
    temperature: float | None = None
    """Kept samples weigh e^(reward / temperature); None: all the same."""
    skip_equal: bool = False
    """Leave out groups whose rewards are all the same, of which every sample would be imitated; for rewards that most
    groups have none of, such as those of a hit."""

    def __call__(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """The loss of one batch.

        outputs: "sample_log_probs" (N, G) or (N, G, L).  batch: "rewards" (N, G), finite; optionally "counted" (N, G).
        """
        log_probs, counted = read_log_probs(outputs, batch)
        if log_probs.ndim == 3:
            log_probs, counted = log_probs.mean(2), counted[:, :, 0]
        rewards = like(need(batch, "rewards", purpose="samples are weighed by them"), log_probs, name="rewards")
        if self.skip_equal:
            counted = counted & _differ(rewards, counted)
        weights = reward_weights(
            rewards, counted=counted, elite_share=self.elite_share, temperature=self.temperature
        ).to(log_probs.dtype)
        return -(weights * log_probs).sum() / counted.any(1).sum().clamp(min=1)


def _differ(rewards: Tensor, counted: Tensor) -> Tensor:
    """(N, 1) whether the counted rewards of a row are not all the same."""
    most = rewards.masked_fill(~counted, -math.inf).amax(1, keepdim=True)
    least = rewards.masked_fill(~counted, math.inf).amin(1, keepdim=True)
    return most > least


def reward_weights(
    rewards: Tensor, *, counted: Tensor | None = None, elite_share: float = 1.0, temperature: float | None = None
) -> Tensor:
    """(N, G) float64 weights, sum 1 in each row that counts a sample and 0 in others; arguments as the fields above.

    Raises:
        ConfigError: a share outside (0, 1], or a temperature that is not above 0.
        DataError: a counted reward is not finite.
    """
    if not 0.0 < elite_share <= 1.0:
        raise ConfigError(
            f"elite_share is {elite_share}, and must be above 0 and at most 1", fix="choose one like 0.25"
        )
    if temperature is not None and not temperature > 0:
        raise ConfigError(f"temperature is {temperature}, and must be above 0", fix="choose one like 1, or None")
    counted = torch.ones_like(rewards, dtype=torch.bool) if counted is None else like(counted, rewards, name="counted")
    # Rewards that are not counted stand below all others.
    rewards = fill_uncounted(rewards.double(), counted, name="rewards").masked_fill(~counted, -math.inf)
    # A share of 0.1 of 10 is 1, whatever the product is in floating point.
    kept = (elite_share * counted.sum(1, keepdim=True) - 1e-9).ceil().clamp(min=1).long()
    threshold = rewards.sort(1, descending=True).values.gather(1, kept - 1)
    elite = counted & (rewards >= threshold)
    scores = torch.zeros_like(rewards) if temperature is None else rewards / temperature
    # Softmax over a row of nothing would be no number; such a row weighs nothing.
    return scores.masked_fill(~elite, -math.inf).softmax(1).masked_fill(~elite, 0.0)
