"""What a training tells: train.jsonl, TensorBoard events, and a progress bar or plain lines."""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sememe.core.errors import MissingExtraError
from sememe.train.checkpoint import write_text

LINE_EVERY_SECONDS = 30.0


class _EventWriter(Protocol):
    """The part of torch's SummaryWriter that is used here."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...

    def close(self) -> None: ...


class Journal:
    """A context manager that records the training in `out` and shows it.

    step: steps done when this process starts; later lines of an earlier, broken process are cut off, because they will
    be written again.
    """

    def __init__(
        self, out: Path, *, step: int, total: int, tensorboard: bool, report: Callable[[str], None] | None
    ) -> None:
        self.path = out / "train.jsonl"
        self.total = total
        self._begun = self._shown = time.monotonic()
        self._first = step
        _keep_until(self.path, step=step)
        self._events = _event_writer(out / "tensorboard", step=step) if tensorboard else None
        self._bar = _progress_bar() if report is None and sys.stdout.isatty() else None
        self._print = report or (self._bar.console.print if self._bar else write_line)

    def __enter__(self) -> "Journal":
        self._file = self.path.open("a", encoding="utf-8")
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task("training", total=self.total, completed=self._first, note="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._events:
            self._events.close()
        if self._bar:
            self._bar.stop()

    def record(self, kind: str, *, step: int, values: Mapping[str, Any]) -> None:
        """Append one line to train.jsonl, and every number of it to TensorBoard."""
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._file.flush()
        if self._events:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self._events.add_scalar(f"{kind}/{name}", value, step)

    def validation(self, values: Mapping[str, float], *, step: int, better: bool) -> None:
        """Record and print what a validation gave."""
        self.record("validation", step=step, values=values)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
        self.say(f"step {step}: {shown}{'  (best so far)' if better else ''}")

    def advance(self, *, step: int, losses: Sequence[float]) -> None:
        """Show where the training is: the bar moves at every step, a plain line comes every half minute."""
        if self._bar:
            note = f"loss {losses[-1]:.4f}" if losses else ""
            self._bar.update(self._task, completed=step, note=note)
        elif time.monotonic() - self._shown >= LINE_EVERY_SECONDS:
            self._shown = time.monotonic()
            pace = (self._shown - self._begun) / max(1, step - self._first)
            text = f"  loss {losses[-1]:.4f}" if losses else ""
            self._print(f"step {step}/{self.total}{text}  about {_duration(pace * (self.total - step))} left")

    def say(self, text: str) -> None:
        """Print one line."""
        self._print(text)


def _keep_until(path: Path, *, step: int) -> None:
    """Drop the lines after `step` and a last line that was cut in the middle."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    if len(kept) < len(lines):
        write_text(path, "".join(kept))


def _event_writer(folder: Path, *, step: int) -> _EventWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter  # needs a package of its own
    except ImportError as error:
        raise MissingExtraError("tensorboard", extra="tensorboard", purpose="tensorboard=true") from error
    writer: _EventWriter = SummaryWriter(str(folder), purge_step=step + 1)
    return writer


def _progress_bar() -> Progress:
    columns = (
        TextColumn("{task.description} {task.completed}/{task.total}"),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
    )
    return Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())


def write_line(text: str) -> None:
    """Print one line at once, also where the output is a pipe."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"
