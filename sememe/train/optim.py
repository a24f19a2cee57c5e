"""Optimiser and learning-rate schedule parts.

AdamW: Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (2019).  Kept: decoupled decay.  Changed: biases,
norms and (by default) embedding tables are not decayed, because most embedding rows get no gradient in a step and
decay alone would shrink the rare ones.
Inverse square root: Vaswani et al. (2017) with a linear warm-up, Raffel et al. (T5, 2020) with a flat one.
Cosine: Loshchilov and Hutter, "SGDR" (2017), one cycle.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from sememe.core.errors import ConfigError


def require(*, holds: bool, name: str, value: object, rule: str) -> None:
    """Raise a ConfigError that names the setting, its value and the rule, unless the rule `holds`."""
    if not holds:
        raise ConfigError(f"{name} is {value!r}, but it must be {rule}", fix=f"set {name} to a value that is {rule}")


@dataclass(frozen=True)
class AdamW:
    """AdamW with the usual exceptions from weight decay."""

    lr: float = 1e-3
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    decay_embeddings: bool = False
    """Decay the tables of nn.Embedding modules too."""

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimiser over all parameters of `model` that want gradients, in the order of `named_parameters`."""
        require(holds=self.lr > 0, name="lr", value=self.lr, rule="above 0")
        require(holds=self.weight_decay >= 0, name="weight_decay", value=self.weight_decay, rule="0 or more")
        require(holds=0 <= self.beta1 < 1, name="beta1", value=self.beta1, rule="at least 0 and below 1")
        require(holds=0 <= self.beta2 < 1, name="beta2", value=self.beta2, rule="at least 0 and below 1")
        groups = self._groups(model)
        # The fused kernel is 2-4 times faster than the plain loop over tensors on CPU as well.
        return torch.optim.AdamW(groups, lr=self.lr, betas=(self.beta1, self.beta2), eps=self.eps, fused=True)

    def _groups(self, model: nn.Module) -> list[dict[str, object]]:
        tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        decayed: list[nn.Parameter] = []
        plain: list[nn.Parameter] = []
        for parameter in model.parameters():
            if not parameter.requires_grad:
                continue
            exempt = parameter.ndim < 2 or (id(parameter) in tables and not self.decay_embeddings)
            (plain if exempt else decayed).append(parameter)
        if not decayed and not plain:
            raise ConfigError("the model has no parameter to train", fix="check that it is not frozen")
        groups: list[dict[str, object]] = [
            {"params": decayed, "weight_decay": self.weight_decay, "initial_lr": self.lr},
            {"params": plain, "weight_decay": 0.0, "initial_lr": self.lr},
        ]
        return [group for group in groups if group["params"]]


@dataclass(frozen=True)
class Constant:
    """The same learning rate at every step, after an optional linear warm-up."""

    warmup_steps: int = 0

    def factor(self, step: int, *, total_steps: int) -> float:
        """What multiplies the learning rate at 0-based `step`."""
        return min(1.0, (step + 1) / (self.warmup_steps + 1))


@dataclass(frozen=True)
class WarmupInverseSqrt:
    """1 at `warmup_steps`, then falling with the inverse square root of the step."""

    warmup_steps: int = 10_000
    start: Literal["linear", "flat"] = "linear"
    """linear: rise from 0 (Vaswani); flat: stay at 1 until `warmup_steps` (T5, TIGER)."""

    def factor(self, step: int, *, total_steps: int) -> float:
        """What multiplies the learning rate at 0-based `step`."""
        warmup = max(1, self.warmup_steps)
        rising = 1.0 if self.start == "flat" else (step + 1) / warmup
        return min(rising, math.sqrt(warmup / max(warmup, step + 1)))


@dataclass(frozen=True)
class WarmupCosine:
    """A linear rise to 1 over `warmup_steps`, then half a cosine down to `final` at the last step."""

    warmup_steps: int = 0
    """At most a tenth of all steps is spent on the rise, so that a short training gets somewhere."""
    final: float = 0.0
    """Share of the learning rate that is left at the end."""

    def factor(self, step: int, *, total_steps: int) -> float:
        """What multiplies the learning rate at 0-based `step`."""
        rise = min(self.warmup_steps, total_steps // 10)
        if step < rise:
            return (step + 1) / (rise + 1)
        share = (step - rise) / max(1, total_steps - rise)
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))


Schedule = Constant | WarmupInverseSqrt | WarmupCosine


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Scale every group's starting learning rate by `factor`; returns the first group's."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    return float(optimizer.param_groups[0]["lr"])


@dataclass(frozen=True)
class Ema:
    """Exponential moving average of the weights; validation and the saved weights use the average.

    The decay is ramped up as min(decay, (1 + step) / (10 + step)), so that the first weights are soon forgotten.
    """

    decay: float = 0.999

    def start(self, model: nn.Module) -> "AveragedWeights":
        """An average that begins at the model's present weights."""
        require(holds=0 < self.decay < 1, name="decay", value=self.decay, rule="between 0 and 1")
        return AveragedWeights(model, decay=self.decay)


class AveragedWeights:
    """The running average of a model's parameters and the means to put it in their place for a while."""

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, *, step: int) -> None:
        """Move the average towards the weights after 0-based `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in model.named_parameters():
            self.weights[name].lerp_(value.detach(), 1.0 - decay)

    @torch.no_grad()
    def exchange(self, model: nn.Module) -> None:
        """Swap the average and the model's weights; a second call swaps them back, bit for bit."""
        for name, value in model.named_parameters():
            held = value.detach().clone()
            value.copy_(self.weights[name])
            self.weights[name].copy_(held)
