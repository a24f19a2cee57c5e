"""Preference pairs from a model's own samples: the best one over the worst ones, by reward.

OneRec (arXiv 2502.18965, section 3.3) beams 128 sessions from the model of the round before, takes best and worst by
its reward model, and trains DPO on them: the rejected one is hard, for the model itself thinks it likely.  Kept: that,
with as many rejected samples as wanted, the worst ones (S-DPO's form, arXiv 2406.09215).  Changed: a row whose samples
are all worth the same gives no pair.

Shape legend: N rows, G samples of a row, R rejected samples.
"""

from dataclasses import dataclass

import numpy as np
import torch

from sememe.align.protocol import Groups
from sememe.align.scores import Scored
from sememe.core.errors import ConfigError
from sememe.core.schema import FloatArray


@dataclass(frozen=True)
class BestAndWorst:
    """Groups of 1 + R samples: the chosen one first, then the rejected ones, worst first."""

    rejected: int = 1

    def score(self, groups: Groups, rewards: FloatArray, *, seed: int) -> Scored:
        """rewards (N, G); of equal ones, the sample that stands first is chosen, and the first ones are rejected: what
        the policy thinks likeliest is the hardest."""
        del seed
        group = rewards.shape[1]
        if not 1 <= self.rejected < group:
            raise ConfigError(
                f"rejected is {self.rejected}, and a group has {group} samples", fix="reject at least 1, and not all"
            )
        legal = groups.legal.cpu().numpy()
        best = np.where(legal, rewards, -np.inf).argmax(1)[:, None]
        worst = np.where(legal, rewards, np.inf).argsort(1, kind="stable")[:, : self.rejected]
        chosen = np.concatenate([best, worst], 1)
        values = np.take_along_axis(rewards, chosen, 1)
        counted = np.take_along_axis(legal, chosen, 1) & (values < values[:, :1])
        # The chosen one counts where something is worse than it.
        counted[:, 0] = counted[:, 1:].any(1)
        places = torch.from_numpy(chosen).to(groups.codes.device)
        codes = groups.codes.gather(1, places.unsqueeze(2).expand(-1, -1, groups.codes.shape[2]))
        # DPO reads no advantages; the monitor of a training reads all rewards alike.
        advantages = np.where(counted, np.sign(values - values.mean(1, keepdims=True)), 0.0)
        arrays = {"rewards": values, "advantages": advantages.astype(np.float32), "counted": counted}
        return Scored(codes=codes, arrays=arrays)
