"""The only training loop.  It knows no model, data or objective type: a source of batches, a model, a scalar loss.

Dropout and batches are functions of (seed, step), so weights, optimiser state and the step are all that a resumed
training needs to end, on a CPU, with the same bytes as an unbroken one.
"""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from sememe.core.seeding import derive_seed
from sememe.train.device import autocast, choose_precision, reproducible, resolve_device, to_tensors
from sememe.train.interrupt import StopRequest, TrainingInterrupted
from sememe.train.journal import Journal, write_line
from sememe.train.optim import set_learning_rate
from sememe.train.plan import BatchSource, Objective, Report, TrainPlan, TrainResult, Validate
from sememe.train.resume import CheckpointStore, RunState, Trainee, finish, finished_result, settings_of


def fit(
    model: nn.Module,
    source: BatchSource,
    objective: Objective,
    plan: TrainPlan,
    *,
    out: Path,
    seed: int,
    validate: Validate | None = None,
    report: Report | None = None,
) -> TrainResult:
    """Train `model` in place; at the end it holds the best weights, and `out`/final.safetensors does.

    objective: (outputs, batch of tensors) -> scalar.  validate: model in eval mode -> numbers by name.  report: gets
    each line of text; by default a progress bar on a terminal, else printed lines.
    Run again, it continues where it was stopped, or returns the finished result at once.  Raises TrainingError on a
    loss that is not finite, TrainingInterrupted on Ctrl-C or SIGTERM after saving.
    """
    total, look_every = plan.total_steps(source.steps_per_epoch), plan.look_every(source.steps_per_epoch)
    device = resolve_device(plan.device)
    model.to(device)
    settings = settings_of(plan, model, seed=seed, steps_per_epoch=source.steps_per_epoch)
    if done := finished_result(out, model, settings=settings):
        return done
    trainee = Trainee(model, plan.optimizer.build(model), plan.average.start(model) if plan.average else None)
    store = CheckpointStore(out, report=report or write_line)
    state = store.resume(trainee, settings=settings)
    journal = Journal(out, step=state.step, total=total, tensorboard=plan.tensorboard, report=report)
    run = _Run(trainee, source, objective, plan, seed, device, state, journal, total)
    with reproducible(device, threads=plan.threads), StopRequest() as stop, journal:
        over = bool(state.stopped)
        while not over:
            run.train_step()
            if run.is_due(plan.log_every):
                run.log()
            look = run.is_due(look_every)
            if look and validate is not None:
                run.look(validate, store)
            over = state.is_over(total)
            if over or stop.wanted or (look and validate) or store.is_due(plan.checkpoint_every_seconds):
                run.settle()
                store.save(trainee, state)
            if stop.wanted and not over:
                raise TrainingInterrupted(f"stopped and saved at step {state.step} of {total}; run it again to go on")
    return finish(out, trainee, state, store)


@dataclass
class _Run:
    """One process's share of a training."""

    trainee: Trainee
    source: BatchSource
    objective: Objective
    plan: TrainPlan
    seed: int
    device: torch.device
    state: RunState
    journal: Journal
    total: int
    unread: list[Tensor] = field(default_factory=list)
    """(loss, gradient norm) of the steps since the device was last waited for."""
    norm: float = 0.0
    rows: int = 0
    rows_since: float = field(default_factory=time.monotonic)

    def is_due(self, every: int) -> bool:
        """Whether what is done every so many steps, and at the end, is to be done now."""
        return self.state.step % every == 0 or self.state.step == self.total

    def train_step(self) -> None:
        """One forward, backward and optimiser step."""
        state, model, optimizer = self.state, self.trainee.model, self.trainee.optimizer
        torch.manual_seed(derive_seed(self.seed, "step", state.step))
        batch = to_tensors(self.source(state.step), self.device)
        rows = len(next(iter(batch.values())))
        if state.precision == "auto":
            state.precision = choose_precision(self.plan.precision, device=self.device, rows=rows)
        model.train()
        with autocast(self.device, rows=rows, precision=state.precision):
            loss = self.objective(model(batch), batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(model.parameters(), self.plan.clip_norm or math.inf)
        set_learning_rate(optimizer, self.plan.schedule.factor(state.step, total_steps=self.total))
        optimizer.step()
        self.trainee.update_average(step=state.step)
        state.step, self.rows = state.step + 1, self.rows + rows
        self.unread.append(torch.stack([loss.detach().float(), norm.float()]))
        if self.device.type == "cpu":  # waiting is free here; on a GPU it would leave the device idle each step
            self.settle()
        self.journal.advance(step=state.step, losses=state.losses)

    def settle(self) -> None:
        """Read the losses of the steps since the last time, and stop at the first that is not finite."""
        pairs = torch.stack(self.unread).tolist() if self.unread else []
        for step, (loss, norm) in enumerate(pairs, start=self.state.step - len(pairs)):
            self.state.take(loss, norm=norm, step=step)
            self.norm = norm
        self.unread.clear()

    def log(self) -> None:
        """Write the mean over the steps since the last line."""
        self.settle()
        now = time.monotonic()
        values = {
            "epoch": self.state.step / self.source.steps_per_epoch,
            "loss": math.fsum(self.state.losses) / len(self.state.losses),
            "lr": self.trainee.optimizer.param_groups[0]["lr"],
            "grad_norm": self.norm,
            "examples_per_second": round(self.rows / max(1e-9, now - self.rows_since), 1),
        }
        self.journal.record("train", step=self.state.step, values=values)
        self.rows, self.rows_since, self.state.losses = 0, now, []

    def look(self, validate: Validate, store: CheckpointStore) -> None:
        """Validate, keep the weights if they are the best so far, and decide whether to stop for lack of progress."""
        self.settle()
        state, began = self.state, time.monotonic()
        with self.trainee.for_use() as model, torch.no_grad():
            values = {name: float(value) for name, value in validate(model).items()}
            better = state.judge(values, plan=self.plan)
            if better:
                store.save_best(model, step=state.step)
        self.journal.validation(values, step=state.step, better=better)
        self.rows_since += time.monotonic() - began
