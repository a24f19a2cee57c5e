import json
import multiprocessing
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from tiny_training import TinySource, objective, tiny_model, tiny_plan, train_in_process, validate
from torch import Tensor, nn

from sememe.core.errors import ConfigError, MissingExtraError
from sememe.core.seeding import derive_seed
from sememe.train.checkpoint import load_module, read_tensors
from sememe.train.interrupt import TrainingInterrupted
from sememe.train.loop import fit
from sememe.train.optim import Constant
from sememe.train.plan import TrainingError

TIMINGS = ("examples_per_second",)


def train(out: Path, **changes: object):
    options = {name: changes.pop(name) for name in ("source", "validate", "report", "objective") if name in changes}
    settings = {"source": TinySource(), "objective": objective, "validate": validate, "report": lambda line: None}
    settings |= options
    model = tiny_model()
    result = fit(
        model, settings.pop("source"), settings.pop("objective"), tiny_plan(**changes), out=out, seed=5, **settings
    )
    return model, result


def log_lines(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMINGS} for line in lines]


def start(out: Path, *, pause: float) -> multiprocessing.Process:
    """A process of its own; a fork, where that is safe, does not load torch again."""
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    process = context.Process(target=train_in_process, args=(out, pause))
    with warnings.catch_warnings():  # newer Pythons warn of threads in the parent; those of the test runner only wait
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    return process


def steps_on_disk(out: Path) -> int:
    return max((int(path.stem.split("-")[1]) for path in out.glob("checkpoints/step-*.safetensors")), default=0)


def wait_for_step(out: Path, step: int, process: multiprocessing.Process) -> None:
    until = time.monotonic() + 120
    while steps_on_disk(out) < step and process.is_alive():
        assert time.monotonic() < until, "the training does not get on"
        time.sleep(0.01)


def test_training_killed_at_random_moments_ends_with_the_same_bytes(tmp_path):
    _, whole = train(tmp_path / "whole")
    broken, moments = tmp_path / "broken", random.Random(11)
    for step in (1, 17):
        process = start(broken, pause=0.03)
        wait_for_step(broken, step, process)
        time.sleep(moments.uniform(0, 0.06))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    process = start(broken, pause=0)
    process.join()
    assert process.exitcode == 0
    assert (broken / "final.safetensors").read_bytes() == whole.weights.read_bytes()
    assert log_lines(broken) == log_lines(tmp_path / "whole")
    assert not (broken / "checkpoints").exists()


def test_sigterm_saves_the_step_and_says_how_to_go_on(tmp_path):
    process = start(tmp_path / "run", pause=0.05)
    wait_for_step(tmp_path / "run", 2, process)
    process.terminate()
    process.join()
    assert process.exitcode == 130
    printed = (tmp_path / "run.txt").read_text()
    assert f"stopped and saved at step {steps_on_disk(tmp_path / 'run')} of 40; run it again to go on" in printed


class StopAfter(TinySource):
    """Interrupts its own process at one step, as Ctrl-C would, or breaks."""

    def __init__(self, step: int, *, with_signal: bool = True) -> None:
        super().__init__()
        self.step = step
        self.with_signal = with_signal

    def __call__(self, step: int):
        if step == self.step and self.with_signal:
            os.kill(os.getpid(), signal.SIGINT)
        elif step == self.step:
            raise OSError("the disk is gone")
        return super().__call__(step)


def test_ctrl_c_finishes_the_step_and_a_new_call_continues_after_it(tmp_path):
    _, whole = train(tmp_path / "whole")
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(TrainingInterrupted, match="stopped and saved at step 13 of 40"):
        train(tmp_path / "run", source=StopAfter(12))
    assert signal.getsignal(signal.SIGINT) is handler
    source = TinySource()
    _, result = train(tmp_path / "run", source=source)
    assert source.asked == list(range(13, 40))
    assert result.weights.read_bytes() == whole.weights.read_bytes()


def test_losses_of_an_interval_that_was_cut_in_two_have_the_same_mean(tmp_path):
    train(tmp_path / "whole", validate=None, log_every=10)
    with pytest.raises(OSError, match="the disk is gone"):
        source = StopAfter(17, with_signal=False)
        train(tmp_path / "run", validate=None, log_every=10, checkpoint_every_seconds=0, source=source)
    assert log_lines(tmp_path / "run")[-1]["step"] == 10
    train(tmp_path / "run", validate=None, log_every=10)
    assert log_lines(tmp_path / "run") == log_lines(tmp_path / "whole")


def test_every_step_matches_a_plain_loop_written_out(tmp_path):
    """The slow twin: clip, schedule, AdamW and the dropout of each step, one after the other."""
    model, result = train(tmp_path, average=None, validate=None, schedule=Constant(warmup_steps=9), clip_norm=0.5)
    twin, source = tiny_model(), TinySource()
    decayed = [value for name, value in twin.named_parameters() if name == "mix.weight"]
    plain = [value for name, value in twin.named_parameters() if name != "mix.weight"]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.02, foreach=False)
    losses = []
    for step in range(40):
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * min(1.0, (step + 1) / 10)
        torch.manual_seed(derive_seed(5, "step", step))
        batch = {name: torch.from_numpy(value).long() for name, value in source(step).items()}
        loss = objective(twin(batch), batch)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.stack([value.grad.square().sum() for value in twin.parameters()]).sum().sqrt()
        for value in twin.parameters():
            value.grad *= min(1.0, 0.5 / (norm + 1e-6))
        optimizer.step()
        losses.append(loss.item())
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    lines = log_lines(tmp_path)
    assert [line["step"] for line in lines] == [5, 10, 15, 20, 25, 30, 35, 40]
    assert lines[1]["loss"] == pytest.approx(sum(losses[5:10]) / 5, rel=1e-5)
    assert lines[0]["lr"] == pytest.approx(0.02 * 0.5)
    assert lines[1]["epoch"] == 1.0
    assert result.best_step == 40
    assert result.best_value is None


class Scripted:
    """Validation that gives set numbers and remembers the weights it saw."""

    def __init__(self, *values: float) -> None:
        self.values = list(values)
        self.weights: list[Tensor] = []

    def __call__(self, model: nn.Module) -> dict[str, float]:
        self.weights.append(model.items.weight.detach().clone())
        return {"score": self.values[len(self.weights) - 1], "other": 1.0}


def test_the_best_validated_weights_are_what_remains(tmp_path):
    scores = Scripted(0.1, 0.3, 0.2, 0.3, 0.0)
    model, result = train(tmp_path, validate=scores)
    assert (result.best_step, result.best_value, result.stopped) == (16, 0.3, "finished")
    assert torch.equal(model.items.weight, scores.weights[1])
    fresh = tiny_model()
    assert load_module(result.weights, fresh) == {"step": 16}
    assert torch.equal(fresh.items.weight, scores.weights[1])
    assert [entry["step"] for entry in result.history] == [8, 16, 24, 32, 40]
    assert not model.training


def test_training_stops_when_patience_runs_out(tmp_path):
    _, result = train(tmp_path, validate=Scripted(0.3, 0.1, 0.31, 0.3, 0.31), patience=2)
    assert (result.steps, result.best_step, result.stopped) == (40, 24, "patience")
    _, result = train(tmp_path / "less", validate=Scripted(0.3, 0.1, 0.2), patience=2)
    assert (result.steps, result.best_step, result.stopped) == (24, 8, "patience")


def test_a_goal_of_min_keeps_the_smallest(tmp_path):
    _, result = train(tmp_path, validate=Scripted(0.3, 0.1, 0.2, 0.4, 0.4), goal="min")
    assert (result.best_step, result.best_value) == (16, 0.1)


def test_a_finished_training_is_returned_without_training(tmp_path):
    model, first = train(tmp_path)
    source = TinySource()
    again, second = train(tmp_path, source=source)
    assert source.asked == []
    assert second == first
    assert torch.equal(again.items.weight, model.items.weight)


def test_a_training_with_other_settings_is_not_continued(tmp_path):
    with pytest.raises(TrainingInterrupted):
        train(tmp_path, source=StopAfter(3))
    with pytest.raises(ConfigError, match=r"holds a training with clip_norm = 1\.0, and now it is 2\.0"):
        train(tmp_path, clip_norm=2.0)
    train(tmp_path)
    with pytest.raises(ConfigError, match=r"holds a training with epochs = 4, and now it is 5"):
        train(tmp_path, epochs=5)


def test_a_truncated_checkpoint_falls_back_to_the_one_before(tmp_path):
    _, whole = train(tmp_path / "whole")
    with pytest.raises(TrainingInterrupted):
        train(tmp_path / "run", source=StopAfter(20), checkpoint_every_seconds=0)
    paths = sorted((tmp_path / "run" / "checkpoints").glob("step-*.safetensors"))
    assert [path.stem for path in paths] == ["step-000000020", "step-000000021"]
    paths[1].write_bytes(paths[1].read_bytes()[:-100])
    said: list[str] = []
    source = TinySource()
    _, result = train(tmp_path / "run", source=source, report=said.append)
    assert "step-000000021.safetensors is truncated or damaged" in said[0]
    assert "going back to the checkpoint before it" in said[0]
    assert said[1].startswith("resuming at step 20 from")
    assert source.asked[0] == 20
    assert result.weights.read_bytes() == whole.weights.read_bytes()


def test_a_loss_that_is_not_finite_stops_at_its_step_and_keeps_the_last_checkpoint(tmp_path):
    def breaks(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        breaks.calls += 1
        return objective(outputs, batch) * (float("nan") if breaks.calls == 8 else 1.0)

    breaks.calls = 0
    with pytest.raises(TrainingError, match=r"step 7: loss nan.*(.|\n)*lower optimizer\.lr"):
        train(tmp_path, objective=breaks, checkpoint_every_seconds=0)
    assert steps_on_disk(tmp_path) == 7
    kept, _ = read_tensors(tmp_path / "checkpoints" / "step-000000007.safetensors")
    assert all(bool(value.isfinite().all()) for value in kept.values())


def test_a_gradient_that_is_not_finite_stops_too(tmp_path):
    def breaks(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return objective(outputs, batch) + (outputs * 0).sum().abs().sqrt()

    with pytest.raises(TrainingError, match="step 0: loss .*, gradient norm nan"):
        train(tmp_path, objective=breaks)


def test_a_monitor_that_is_not_measured_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no validation number is called 'scor'(.|\n)*did you mean 'score'\?"):
        train(tmp_path, monitor="scor")
    with pytest.raises(TrainingError, match="the validation number score is nan"):
        train(tmp_path / "nan", validate=Scripted(float("nan")))


def test_plain_lines_and_tensorboard_events_tell_the_progress(tmp_path, monkeypatch, capsys):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setattr("sememe.train.journal.LINE_EVERY_SECONDS", 0.0)
    train(tmp_path, tensorboard=True, report=None)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("step 1/40  loss 4.9")
    assert printed[0].endswith("left")
    assert any(line.startswith("step 8: score -") and line.endswith("(best so far)") for line in printed)
    shown = events.EventAccumulator(str(tmp_path / "tensorboard"))
    shown.Reload()
    assert [event.step for event in shown.Scalars("validation/score")] == [8, 16, 24, 32, 40]
    written = [line["loss"] for line in log_lines(tmp_path) if line["kind"] == "train"]
    assert [event.value for event in shown.Scalars("train/loss")] == pytest.approx(written, rel=1e-6)


def test_tensorboard_that_is_not_installed_is_an_error_with_the_extra_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"pip install \"sememe\[tensorboard\]\""):
        train(tmp_path, tensorboard=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 2, "steps": 3}, "exactly one of them"),
        ({"epochs": None}, "exactly one of them"),
        ({"epochs": 0}, "epochs is 0, but it must be 1 or more"),
        ({"log_every": 0}, "log_every is 0, but it must be 1 or more"),
        ({"clip_norm": -1.0}, "clip_norm is -1.0, but it must be 0 or more"),
        ({"device": "cuda:99"}, "device 'cuda:99' does not exist"),
        ({"precision": "fp16"}, "precision is 'fp16'"),
    ],
)
def test_a_plan_that_cannot_work_is_refused(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        train(tmp_path, **changes)
