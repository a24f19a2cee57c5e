"""How much better a sample is than the others of its group, as in GRPO (Shao et al. 2024, DeepSeekMath, 2402.03300).

    A = (r - mean of the group) / (standard deviation of the group + 1e-4)

Kept: the mean as the baseline, so that no value network is needed; the 1e-4 of MiniOneRec (2510.24431), which keeps a
group of almost equal rewards from being blown up.  Changed: the deviation is that of the group as it is (divided by G,
public code divides by G - 1; for 16 samples 3 % apart), so that a group of one is no special case; and a group of
equal rewards has advantages of exactly 0, where rounding of the mean would leave a trace.
Option: no division (`scale=False`; Liu et al. 2025, "Understanding R1-Zero-Like Training", 2503.20783), since
dividing gives a group in which all but one agree the largest steps.

Shape legend: N rows, G samples of a row.
"""

import torch
from torch import Tensor

from sememe.objectives.samples import fill_uncounted, like

SOFTENING = 1e-4


def group_advantages(
    rewards: Tensor, *, counted: Tensor | None = None, scale: bool = True, softening: float = SOFTENING
) -> Tensor:
    """(N, G) float32 advantages, sum 0 in every group; exactly 0 where the rewards of a group are equal.

    Args:
        rewards: (N, G), finite where counted.
        counted: (N, G) bool; the others have advantage 0 and no part in mean and deviation.
        scale: divide by the standard deviation of the group.
        softening: added to the deviation.

    Raises:
        ConfigError: `counted` has another shape.
        DataError: a counted reward is not finite.
    """
    assert rewards.ndim == 2 and softening >= 0, "rewards are (rows, samples), and softening is not negative"
    counted = torch.ones_like(rewards, dtype=torch.bool) if counted is None else like(counted, rewards, name="counted")
    # Differences of large rewards are what matters, so they are taken in double precision.
    rewards = fill_uncounted(rewards.double(), counted, name="rewards")
    count = counted.sum(1, keepdim=True).clamp(min=1)
    centred = (rewards - rewards.sum(1, keepdim=True) / count).masked_fill(~counted, 0.0)
    largest = rewards.masked_fill(~counted, -torch.inf).amax(1, keepdim=True)
    smallest = rewards.masked_fill(~counted, torch.inf).amin(1, keepdim=True)
    centred = centred.masked_fill(largest <= smallest, 0.0)
    if scale:
        centred = centred / (centred.square().sum(1, keepdim=True) / count).sqrt().add(softening)
    # Without softening, groups of equal rewards would be 0 / 0.
    return centred.masked_fill(largest <= smallest, 0.0).float()
