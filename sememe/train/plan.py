"""What the loop is given and what it gives back: the callables by shape, the plan, the result."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from sememe.core.errors import ConfigError, SememeError
from sememe.core.schema import Batch
from sememe.train.device import Precision
from sememe.train.optim import AdamW, Constant, Ema, Schedule, require


class TrainingError(SememeError):
    """A training that cannot go on: the loss or a gradient is not finite."""


def not_finite(what: str) -> TrainingError:
    """The error for a number that is infinite or not a number."""
    fix = "lower optimizer.lr, set clip_norm, or use precision=fp32; the last good checkpoint is kept"
    return TrainingError(f"{what}; training cannot go on", fix=fix)


class BatchSource(Protocol):
    """Random access to batches: a pure function of the step."""

    @property
    def steps_per_epoch(self) -> int: ...

    def __call__(self, step: int, /) -> Batch: ...


Objective = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]
Validate = Callable[[nn.Module], Mapping[str, float]]
Report = Callable[[str], None]


@dataclass(frozen=True)
class TrainPlan:
    """How long, how fast, how often to look, and when to stop."""

    epochs: int | None = 20
    """Passes over the source; None where `steps` says how long."""
    steps: int | None = None
    """Optimiser steps; None where `epochs` says how long."""
    least_steps: int = 0
    """Where `epochs` make fewer optimiser steps than this, more passes are made: a small log needs its steps too."""
    optimizer: AdamW = field(default_factory=AdamW)
    schedule: Schedule = field(default_factory=Constant)
    clip_norm: float = 1.0
    """Largest norm of the gradient of all weights together; 0 does not clip."""
    precision: Precision = "auto"
    """auto: bf16 where the hardware has it and batches are large enough to gain, else fp32."""
    average: Ema | None = None
    """Validate and keep a moving average of the weights instead of the last ones."""
    validate_every: int = 0
    """Steps between validations; 0: once an epoch."""
    monitor: str = "ndcg@10"
    """The validation number that chooses the best weights; which there are, the caller that validates says."""
    goal: Literal["max", "min"] = "max"
    patience: int = 0
    """Stop after so many validations in a row that do not beat the best; 0: never."""
    checkpoint_every_seconds: float = 120.0
    log_every: int = 50
    """Steps between lines of train.jsonl."""
    device: str = "auto"
    threads: int = 0
    """torch threads; 0: OMP_NUM_THREADS, else all CPUs that the process may use.  Part of what fixes the last bits."""
    tensorboard: bool = False

    def total_steps(self, steps_per_epoch: int) -> int:
        """Steps of the whole training; checks the plan and raises ConfigError for values that cannot work."""
        if (self.epochs is None) == (self.steps is None):
            raise ConfigError(
                f"epochs is {self.epochs} and steps is {self.steps}, but exactly one of them must be set",
                fix="set the other one to none",
            )
        require(holds=self.least_steps >= 0, name="least_steps", value=self.least_steps, rule="0 or more")
        length = self.steps if self.steps is not None else (self.epochs or 0) * steps_per_epoch
        if self.steps is None and length > 0:
            # Whole passes, so that no event is met more often than another.
            length = max(length, -(-self.least_steps // steps_per_epoch) * steps_per_epoch)
        require(holds=length > 0, name="epochs" if self.steps is None else "steps", value=length, rule="1 or more")
        require(holds=self.clip_norm >= 0, name="clip_norm", value=self.clip_norm, rule="0 or more")
        require(holds=self.validate_every >= 0, name="validate_every", value=self.validate_every, rule="0 or more")
        require(holds=self.patience >= 0, name="patience", value=self.patience, rule="0 or more")
        require(holds=self.log_every > 0, name="log_every", value=self.log_every, rule="1 or more")
        require(holds=self.goal in ("max", "min"), name="goal", value=self.goal, rule="max or min")
        return length

    def look_every(self, steps_per_epoch: int) -> int:
        """Steps between validations."""
        if self.validate_every or self.steps is not None:
            return self.validate_every or steps_per_epoch
        # Where passes were added, no more looks than the epochs asked for: a small log's passes are a few steps each.
        return max(steps_per_epoch, self.total_steps(steps_per_epoch) // (self.epochs or 1))

    def better(self, value: float, best: float | None) -> bool:
        """Whether a validation number beats the best so far."""
        return best is None or (value > best if self.goal == "max" else value < best)

    def fingerprint(self) -> dict[str, str]:
        """The settings that change what is learned; a training is only continued where they are the same."""
        free = {"checkpoint_every_seconds", "log_every", "tensorboard", "threads", "device"}
        return {entry.name: repr(getattr(self, entry.name)) for entry in fields(self) if entry.name not in free}


@dataclass(frozen=True)
class TrainResult:
    """What a training came to.  The model passed to `fit` holds the weights of `weights`."""

    weights: Path
    """safetensors: the best weights by the monitor, or the last ones where nothing was validated."""
    log: Path
    """train.jsonl"""
    steps: int
    best_step: int
    """Steps done when the weights were taken."""
    best_value: float | None
    stopped: Literal["finished", "patience"]
    precision: str
    seconds: float
    """Time in training and validation, over all the times it was resumed."""
    history: tuple[dict[str, Any], ...]
    """One record per validation: step and its numbers."""
