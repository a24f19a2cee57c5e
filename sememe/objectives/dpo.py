"""Direct preference optimisation: raise what was preferred over what was not, relative to a reference policy.

Rafailov et al. 2023 (2305.18290), with several rejected samples as in S-DPO (Chen et al. 2024, 2406.09215):

    loss = mean log(1 + sum over rejected l of exp(m_l - m_w)),   m = beta * (log pi - log pi_ref)

With one rejected sample this is DPO's -log sigmoid(m_w - m_l), ln 2 while the policy is the reference; with R it starts
at ln(1 + R).  Kept: both formulas; the log-probability of a tuple is the sum over its codes.  Changed: rows may have
different numbers of rejected samples.  OneRec (2502.18965) takes best and worst of a beam by reward, the model of the
round before as reference, and adds next-item prediction (`sememe.align.policy.Steering`).  It states no beta; 0.1 is
DPO's.

If preferences are drawn by Bradley and Terry's rule from rewards r, the minimum is pi_ref e^(r / beta) / Z; where one
action always wins, there is none, and its probability creeps towards 1.

Shape legend: N rows, G samples of a row, L code levels.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sememe.core.errors import ConfigError
from sememe.objectives.samples import need, read_beside, read_log_probs


@dataclass(frozen=True)
class DPO:
    """Mean over rows, scalar, in nats, float32; rows without a chosen or a rejected sample are left out."""

    beta: float = 0.1
    """How dear drift from the reference is, above 0."""

    def __call__(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """The loss of one batch.

        outputs: "sample_log_probs" (N, G) or (N, G, L), the chosen tuple first and the rejected ones after it.
        batch: "reference_log_probs" of that shape; optionally "counted" (N, G).
        """
        if not self.beta > 0:
            raise ConfigError(f"beta is {self.beta}, and must be above 0", fix="choose a beta such as 0.1")
        log_probs, counted = read_log_probs(outputs, batch)
        if log_probs.shape[1] < 2:
            raise ConfigError(
                f"rows hold {log_probs.shape[1]} samples, and a preference needs a chosen and a rejected one",
                fix="put the chosen tuple first and at least one rejected tuple after it",
            )
        need(batch, "reference_log_probs", purpose="DPO measures preferences from a reference policy")
        reference = read_beside(batch, "reference_log_probs", log_probs=log_probs, counted=counted)
        margins = self.beta * (log_probs - reference)
        if margins.ndim == 3:
            margins, counted = margins.sum(2), counted[:, :, 0]
        losses = preference_losses(margins, counted=counted)
        complete = counted[:, 0] & counted[:, 1:].any(1)
        return losses.masked_fill(~complete, 0.0).sum() / complete.sum().clamp(min=1)


def preference_losses(margins: Tensor, *, counted: Tensor) -> Tensor:
    """(N,) log(1 + sum of exp(rejected - chosen)) of margins (N, G), the chosen one first."""
    excess = (margins[:, 1:] - margins[:, :1]).masked_fill(~counted[:, 1:], -torch.inf)
    return torch.cat([torch.zeros_like(margins[:, :1]), excess], dim=1).logsumexp(1)
