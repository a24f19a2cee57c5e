"""Checkpoints of a training in progress: written whole or not at all, the last two kept, resumed exactly.

Layout of the training directory: `checkpoints/step-*.safetensors` (weights, average, optimiser; the RunState as JSON
in the header), `checkpoints/best-*.safetensors` (weights at the best validation), `train.jsonl`, and at the end
`final.safetensors` and `result.json`, which replace the checkpoints.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sememe.core.errors import ArtifactError, ConfigError, did_you_mean
from sememe.train.checkpoint import (
    copy_into,
    load_module,
    module_tensors,
    read_tensors,
    save_module,
    write_tensors,
    write_text,
)
from sememe.train.device import Precision
from sememe.train.optim import AveragedWeights
from sememe.train.plan import TrainPlan, TrainResult, not_finite

KEEP = 2


@dataclass
class RunState:
    """Where a training stands, beside its weights.  All of it is JSON."""

    settings: dict[str, str]
    """Plan, seed, model and source, as text: a checkpoint is refused where they differ."""
    step: int = 0
    """Optimiser steps done."""
    precision: Precision = "auto"
    best_step: int = 0
    best_value: float | None = None
    bad_validations: int = 0
    seconds: float = 0.0
    stopped: str = ""
    """"" while in progress, "finished" or "patience"."""
    losses: list[float] = field(default_factory=list)
    """Losses since the last log line, so that a resumed interval has the same mean."""
    history: list[dict[str, Any]] = field(default_factory=list)

    def take(self, loss: float, *, norm: float, step: int) -> None:
        """Note the loss and gradient norm of 0-based `step`; raises TrainingError where one is not finite."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise not_finite(f"step {step}: loss {loss}, gradient norm {norm}")
        self.losses.append(loss)

    def is_over(self, total: int) -> bool:
        """Whether nothing is left to do; noted as finished once `total` steps are done."""
        if self.step >= total and not self.stopped:
            self.stopped = "finished"
        return bool(self.stopped)

    def judge(self, values: Mapping[str, float], *, plan: TrainPlan) -> bool:
        """Note a validation at `step`: whether it is the best so far, and whether patience has run out."""
        if plan.monitor not in values:
            raise ConfigError(
                f"no validation number is called {plan.monitor!r}", fix=did_you_mean(plan.monitor, values)
            )
        value = values[plan.monitor]
        if not math.isfinite(value):
            raise not_finite(f"step {self.step}: the validation number {plan.monitor} is {value}")
        self.history.append({"step": self.step, **values})
        better = plan.better(value, self.best_value)
        if better:
            self.best_step, self.best_value, self.bad_validations = self.step, value, 0
        else:
            self.bad_validations += 1
            if self.bad_validations == plan.patience:
                self.stopped = "patience"
        return better


@dataclass(frozen=True)
class Trainee:
    """The tensors of a training in progress."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedWeights | None

    def update_average(self, *, step: int) -> None:
        """Let the average, where there is one, follow the weights after 0-based `step`."""
        if self.average is not None:
            self.average.update(self.model, step=step)

    @contextmanager
    def for_use(self) -> Iterator[nn.Module]:
        """The model in eval mode, with averaged weights where there is an average."""
        self.model.eval()
        if self.average is not None:
            self.average.exchange(self.model)
        try:
            yield self.model
        finally:
            if self.average is not None:
                self.average.exchange(self.model)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, under flat names."""
        tensors = {f"model/{name}": value for name, value in module_tensors(self.model).items()}
        if self.average is not None:
            tensors |= {f"average/{name}": value for name, value in self.average.weights.items()}
        for index, entries in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{name}": value for name, value in entries.items()}
        return tensors

    def restore(self, tensors: Mapping[str, Tensor], *, path: Path) -> None:
        """Put back what `tensors` gave."""
        copy_into(self.model, _below("model/", tensors), path=path)
        if self.average is not None:
            for name, value in _below("average/", tensors).items():
                self.average.weights[name].copy_(value)
        state: dict[int, dict[str, Tensor]] = {}
        for place, value in _below("optimizer/", tensors).items():
            index, name = place.split("/", 1)
            state.setdefault(int(index), {})[name] = value.clone()  # the file's memory map goes
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})


class CheckpointStore:
    """The checkpoints of one training directory."""

    def __init__(self, out: Path, *, report: Callable[[str], None]) -> None:
        self.folder = out / "checkpoints"
        self.report = report
        self.folder.mkdir(parents=True, exist_ok=True)
        self._saved_at = time.monotonic()

    def is_due(self, every_seconds: float) -> bool:
        """Whether the last checkpoint of this process is older than that."""
        return time.monotonic() - self._saved_at >= every_seconds

    def save(self, trainee: Trainee, state: RunState) -> None:
        """Write a checkpoint of `state.step` and drop what is older than the last two."""
        now = time.monotonic()
        state.seconds += now - self._saved_at
        self._saved_at = now
        write_tensors(self._path("step", state.step), trainee.tensors(), facts=asdict(state))
        kept = self._steps("step")[-KEEP:]
        for step in self._steps("step"):
            if step not in kept:
                self._path("step", step).unlink()
        self._drop_old_bests(oldest=kept[0], best=state.best_step)

    def resume(self, trainee: Trainee, *, settings: dict[str, str]) -> RunState:
        """Continue from the newest readable checkpoint, or a fresh state where there is none.

        A damaged one is reported and passed over.  Raises ConfigError where the training in this directory had other
        settings.
        """
        for step in reversed(self._steps("step")):
            path = self._path("step", step)
            try:
                tensors, facts = read_tensors(path)
            except ArtifactError as error:
                self.report(f"{error.problem}; going back to the checkpoint before it")
                path.unlink()
                continue
            state = RunState(**facts)
            refuse_other_settings(state.settings, settings, place=self.folder.parent)
            trainee.restore(tensors, path=path)
            self._drop_bests_after(step)
            self.report(f"resuming at step {state.step} from {path}")
            return state
        return RunState(settings=settings)

    def save_best(self, model: nn.Module, *, step: int) -> None:
        """Keep the weights of the best validation so far, taken after `step` steps."""
        save_module(self._path("best", step), model, facts={"step": step})

    def load_best(self, model: nn.Module, *, step: int) -> None:
        """Put the weights of `save_best` back."""
        load_module(self._path("best", step), model)

    def newest(self) -> Path | None:
        """The newest checkpoint on disk."""
        steps = self._steps("step")
        return self._path("step", steps[-1]) if steps else None

    def clear(self) -> None:
        """Remove all checkpoints, once the final weights are safe."""
        for path in self.folder.iterdir():
            path.unlink()
        self.folder.rmdir()

    def _drop_old_bests(self, *, oldest: int, best: int) -> None:
        # The older kept checkpoint may point at any best up to its own step: keep the newest of those, and all later.
        early = [step for step in self._steps("best") if step <= oldest]
        for step in early[:-1]:
            if step != best:
                self._path("best", step).unlink()

    def _drop_bests_after(self, step: int) -> None:
        for later in self._steps("best"):
            if later > step:
                self._path("best", later).unlink()

    def _path(self, kind: str, step: int) -> Path:
        return self.folder / f"{kind}-{step:09d}.safetensors"

    def _steps(self, kind: str) -> list[int]:
        return sorted(int(path.stem.split("-")[1]) for path in self.folder.glob(f"{kind}-*.safetensors"))


def settings_of(plan: TrainPlan, model: nn.Module, *, seed: int, steps_per_epoch: int) -> dict[str, str]:
    """What must stay the same for a training to be continued: plan, seed, shapes of the model, length of the source."""
    shapes = [(name, tuple(value.shape)) for name, value in module_tensors(model).items()]
    return {
        **plan.fingerprint(),
        "seed": str(seed),
        "steps_per_epoch": str(steps_per_epoch),
        "model shapes": hashlib.sha256(repr(shapes).encode()).hexdigest()[:16],
    }


def finish(out: Path, trainee: Trainee, state: RunState, store: CheckpointStore) -> TrainResult:
    """Leave the best weights in the model, write them and the result, then drop the checkpoints."""
    model = trainee.model
    if state.best_value is not None:
        store.load_best(model, step=state.best_step)
    elif trainee.average is not None:
        trainee.average.exchange(model)
    model.eval()
    result = TrainResult(
        weights=out / "final.safetensors",
        log=out / "train.jsonl",
        steps=state.step,
        best_step=state.best_step or state.step,
        best_value=state.best_value,
        stopped="patience" if state.stopped == "patience" else "finished",
        precision=state.precision,
        seconds=state.seconds,
        history=tuple(state.history),
    )
    save_module(result.weights, model, facts={"step": result.best_step})
    plain = asdict(replace(result, weights=Path(result.weights.name), log=Path(result.log.name)))
    write_text(out / "result.json", json.dumps({"settings": state.settings, "result": plain}, indent=1, default=str))
    store.clear()
    return result


def finished_result(out: Path, model: nn.Module, *, settings: dict[str, str]) -> TrainResult | None:
    """The result of a training that was finished in `out`, its weights put into `model`; None if there is none."""
    path = out / "result.json"
    if not path.exists():
        return None
    saved = json.loads(path.read_text(encoding="utf-8"))
    refuse_other_settings(saved["settings"], settings, place=out)
    facts = {**saved["result"], "weights": out / saved["result"]["weights"], "log": out / saved["result"]["log"]}
    result = TrainResult(**{**facts, "history": tuple(facts["history"])})
    load_module(result.weights, model)
    model.eval()
    return result


def refuse_other_settings(before: dict[str, str], now: dict[str, str], *, place: Path) -> None:
    """Raise ConfigError naming the first setting that changed since the training in `place` was begun."""
    for name in sorted(set(before) | set(now)):
        if before.get(name) != now.get(name):
            raise ConfigError(
                f"{place} holds a training with {name} = {before.get(name)}, and now it is {now.get(name)}",
                fix=f"use another output directory, or delete {place} to start over",
            )


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
