"""What the alignment objectives read: log-probabilities of sampled code tuples, and what the rollout said of each.

A row of the batch is a user, with a group of G sampled tuples.  An objective works on *actions*: the model gives one
log-probability per tuple, (N, G), and a tuple is one action, as OneRec writes it; or one per code, (N, G, L), and each
code is an action with the advantage of its tuple, as GRPO and MiniOneRec write it.  Losses are means over actions, so
that three levels do not mean three times the learning rate.

Batch keys, all optional but those that an objective says it needs:
    advantages             (N, G) how much better than its group; see `group_advantages`
    rollout_log_probs      like the model's, under the policy that sampled, at temperature 1; without it the model is
                           taken to be that policy, and every ratio is 1 in value
    reference_log_probs    like the model's, under the policy that drift is measured from
    counted                (N, G) bool, False where a row holds no sample, or one that is left out

Shape legend: N rows, G samples of a row, L code levels.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sememe.core.errors import ConfigError, DataError

LOG_PROBS = "sample_log_probs"
"""Model output that all alignment objectives read."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Actions of a batch, all (N, G) or all (N, G, L); float32 or wider.  Zeros stand where nothing is counted."""

    log_probs: Tensor
    """Under the policy in training; carries the gradient."""
    rollout: Tensor
    """Under the policy that sampled; no gradient."""
    advantages: Tensor
    counted: Tensor
    """bool"""

    @property
    def ratios(self) -> Tensor:
        """pi / pi_old of each action."""
        return (self.log_probs - self.rollout).exp()

    def mean(self, values: Tensor) -> Tensor:
        """Scalar: the mean over counted actions, and 0 without gradient where there is none."""
        return values.masked_fill(~self.counted, 0.0).sum() / self.counted.sum().clamp(min=1)


def read_samples(outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Samples:
    """The actions of a batch: outputs["sample_log_probs"], batch["advantages"], and the optional keys.

    Raises:
        ConfigError: an array is missing, or not of the shape of the log-probabilities.
        DataError: something counted is not finite.
    """
    log_probs, counted = read_log_probs(outputs, batch)
    advantages = need(batch, "advantages", purpose="policy gradients weigh samples by them")
    advantages = per_action(advantages.to(log_probs.dtype), log_probs, name="advantages")
    return Samples(
        log_probs,
        read_beside(batch, "rollout_log_probs", log_probs=log_probs, counted=counted),
        fill_uncounted(advantages, counted, name="advantages"),
        counted,
    )


def read_log_probs(outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The model's log-probabilities, and a bool tensor of their shape: which actions are counted.

    Raises:
        ConfigError: the model gives none, or their shape or that of "counted" is wrong.
        DataError: a counted log-probability is not finite: the model gives the tuple no chance.
    """
    log_probs = need(outputs, LOG_PROBS, purpose="alignment needs the probability of each sampled tuple")
    if log_probs.ndim not in (2, 3):
        raise ConfigError(
            f"{LOG_PROBS} has shape {tuple(log_probs.shape)}, and must be (rows, samples) or (rows, samples, levels)",
            fix="give one log-probability per sampled tuple, or one per code of it",
        )
    log_probs = log_probs.to(torch.promote_types(log_probs.dtype, torch.float32))
    counted = torch.ones_like(log_probs, dtype=torch.bool)
    if "counted" in batch:
        counted = per_action(batch["counted"].bool(), log_probs, name="counted")
    return fill_uncounted(log_probs, counted, name=LOG_PROBS), counted


def read_beside(batch: Mapping[str, Tensor], name: str, *, log_probs: Tensor, counted: Tensor) -> Tensor:
    """batch[name], of another policy, beside the model's `log_probs`; without it, those themselves, detached.

    Raises:
        ConfigError: the shapes differ.
        DataError: a counted one is not finite.
    """
    if name not in batch:
        return log_probs.detach()
    return fill_uncounted(like(batch[name], log_probs, name=name).to(log_probs.dtype), counted, name=name).detach()


def need(arrays: Mapping[str, Tensor], name: str, *, purpose: str) -> Tensor:
    """arrays[name], or a ConfigError that says what it is for."""
    if name not in arrays:
        raise ConfigError(
            f"there is no {name!r} among {', '.join(sorted(arrays)) or 'no arrays at all'}: {purpose}",
            fix=f"use a model and batches for alignment, which give {name!r}, or another objective",
        )
    return arrays[name]


def per_action(values: Tensor, log_probs: Tensor, *, name: str) -> Tensor:
    """`values` (N, G) of the tuples, in the shape of `log_probs`; ConfigError where they are not (N, G)."""
    values = like(values, log_probs[:, :, 0] if log_probs.ndim == 3 else log_probs, name=name)
    return values.unsqueeze(2).expand_as(log_probs) if log_probs.ndim == 3 else values


def like(values: Tensor, other: Tensor, *, name: str) -> Tensor:
    """`values`, or a ConfigError where their shape is not that of `other`."""
    if values.shape != other.shape:
        raise ConfigError(
            f"{name} has shape {tuple(values.shape)}, and must be {tuple(other.shape)} as the samples are",
            fix="give log-probabilities per tuple (rows, samples) or per code (rows, samples, levels), all the same "
            "way; advantages, rewards and marks are per tuple",
        )
    return values


def fill_uncounted(values: Tensor, counted: Tensor, *, name: str) -> Tensor:
    """`values` with 0 where not `counted`; DataError where a counted one is not finite."""
    values = values.masked_fill(~counted, 0.0)
    if not bool(values.isfinite().all()):
        wrong = int((~values.isfinite()).sum())
        raise DataError(
            f"{wrong} of {values.numel()} numbers in {name} are infinite or not a number",
            fix="leave these samples out (counted=False), and look at the reward or the policy that made them",
        )
    return values
