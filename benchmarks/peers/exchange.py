"""What passes between Sememe and a peer's environment: the split one way, rankings and measures the other.

A peer's environment has numpy, polars and the peer, and not Sememe; this file needs no more than that.

    SPLIT/split.json      name and digest of the split, protocol, counts
    SPLIT/events.parquet  user, item, part ("train", "valid" or "test"), timestamp (ms; null where the data has none);
                          grouped by user, in the order in which things happened
    SPLIT/items.parquet   item, item_id, text
    SPLIT/vectors.npy     float32 (I, dim): what the items are about, for peers that read content
    OUT/rankings.parquet  user, mask_seen, rank (from 1), item, score: each test user's list, seen items left in and out
    OUT/measures.json     settings, seconds, memory, machine

Users and items are Sememe's indices throughout.  A test user's history is the training part and the validation event.

Shape legend: U users, I items, E events, K list places.
"""

import argparse
import json
import os
import resource
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from benchmarks.header import header

DEPTH = 20
"""List length that every peer writes; the metrics read the first 10."""
RANKING_SCHEMA = {
    "user": pl.Int32, "mask_seen": pl.Boolean, "rank": pl.Int32, "item": pl.Int32, "score": pl.Float32
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class ExportedSplit:
    """A split as `export_split` wrote it."""

    meta: Mapping[str, Any]
    events: pl.DataFrame
    items: pl.DataFrame
    folder: Path

    @classmethod
    def read(cls, folder: Path) -> "ExportedSplit":
        """The split in `folder`."""
        return cls(
            meta=json.loads((folder / "split.json").read_text(encoding="utf-8")),
            events=pl.read_parquet(folder / "events.parquet"),
            items=pl.read_parquet(folder / "items.parquet"),
            folder=folder,
        )

    @property
    def num_items(self) -> int:
        return self.items.height

    def part(self, *names: str) -> pl.DataFrame:
        """The events of the named parts."""
        return self.events.filter(pl.col("part").is_in(names))

    def sequences(self, *names: str) -> dict[int, list[int]]:
        """User -> items of the named parts, oldest first."""
        grouped = self.part(*names).group_by("user", maintain_order=True).agg("item")
        return dict(zip(grouped["user"].to_list(), grouped["item"].to_list(), strict=True))

    @cached_property
    def histories(self) -> dict[int, list[int]]:
        """Test user -> all that is known when the test event is asked for."""
        known = self.sequences("train", "valid")
        return {user: known[user] for user in self.part("test")["user"].to_list()}

    def vectors(self) -> npt.NDArray[np.float32]:
        """float32 (I, dim).  Ends the program where the split was exported without."""
        path = self.folder / "vectors.npy"
        if not path.is_file():
            raise SystemExit(f"{path} is not there, and this peer reads content: export with --vectors text")
        vectors: npt.NDArray[np.float32] = np.load(path)
        return vectors


def targets_per_epoch(split: ExportedSplit, *, longest: int | None = None) -> int:
    """Events that an epoch learns to name: all but each user's first, of the last `longest` + 1 where that is set."""
    lengths = split.part("train").group_by("user").len()["len"].to_numpy().astype(np.int64) - 1
    return int((lengths if longest is None else np.minimum(lengths, longest)).sum())


@dataclass
class Stopwatch:
    """Wall-clock seconds by name, and the processor's: on a busy machine the two differ."""

    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Add the time of the block to `name`."""
        started, started_cpu = time.monotonic(), time.process_time()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started
            self.cpu_seconds[name] = self.cpu_seconds.get(name, 0.0) + time.process_time() - started_cpu

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, whose time goes to `name`."""

        def timed_call(*args: Any, **kwargs: Any) -> Any:
            with self.time(name):
                return call(*args, **kwargs)

        return timed_call


def list_frame(
    user: int, scores: npt.NDArray[np.floating[Any]], *, mask_seen: bool, leave_out: Sequence[int] = ()
) -> dict[str, Any]:
    """The DEPTH best items of one user from the scores of all items (I,), as columns; -inf is not recommended."""
    if len(leave_out):
        scores = scores.copy()
        scores[np.asarray(leave_out)] = -np.inf
    width = min(DEPTH, len(scores))
    best = np.argpartition(-scores, width - 1)[:width]
    best = best[np.lexsort((best, -scores[best]))]
    best = best[scores[best] > -np.inf]
    return {
        "user": np.full(len(best), user, np.int32),
        "mask_seen": np.full(len(best), mask_seen),
        "rank": np.arange(1, len(best) + 1, dtype=np.int32),
        "item": best.astype(np.int32),
        "score": scores[best].astype(np.float32),
    }


def both_lists(
    user: int, scores: npt.NDArray[np.floating[Any]], *, seen: Sequence[int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`list_frame` with seen items left in, and left out."""
    return list_frame(user, scores, mask_seen=False), list_frame(user, scores, mask_seen=True, leave_out=seen)


def join_lists(lists: Sequence[Mapping[str, npt.NDArray[Any]]]) -> pl.DataFrame:
    """Many `list_frame`s as one table."""
    columns = {name: np.concatenate([each[name] for each in lists]) for name in RANKING_SCHEMA}
    return pl.DataFrame(columns, schema_overrides=RANKING_SCHEMA)


def write_rankings(out: Path, rankings: pl.DataFrame) -> None:
    """Write OUT/rankings.parquet."""
    out.mkdir(parents=True, exist_ok=True)
    table = rankings.select(pl.col(name).cast(kind) for name, kind in RANKING_SCHEMA.items())
    table.sort("mask_seen", "user", "rank").write_parquet(out / "rankings.parquet", compression="zstd")


@dataclass(frozen=True)
class Training:
    """What a peer's training did, for its speed."""

    epochs: int
    targets_per_epoch: int
    parameters: int
    notes: tuple[str, ...] = ()
    """What the settings do not say, for the reader of the numbers."""


def write_measures(
    out: Path,
    options: argparse.Namespace,
    *,
    package: str,
    settings: Mapping[str, Any],
    training: Training,
    watch: Stopwatch,
) -> None:
    """Write OUT/measures.json: machine, settings, seconds, memory, targets and requests per second.

    Targets per second leaves out what is timed apart inside the training: tokenizing and validation.
    """
    import torch

    targets = training.targets_per_epoch * training.epochs
    content = {
        **header(package, "torch", "numpy"),
        "command": command_line(options),
        "seed": options.seed,
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "settings": {name: _plain(value) for name, value in settings.items()},
        "notes": list(training.notes),
        "epochs": training.epochs,
        "parameters": training.parameters,
        "seconds": {name: round(value, 2) for name, value in watch.seconds.items()},
        "cpu_seconds": {name: round(value, 2) for name, value in watch.cpu_seconds.items()},
        "targets_per_epoch": training.targets_per_epoch,
        "targets_per_second": round(targets / _learning(watch.seconds), 1),
        "targets_per_cpu_second": round(targets / _learning(watch.cpu_seconds), 1),
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    if options.device == "cuda":
        content["peak_gpu_memory_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
    out.mkdir(parents=True, exist_ok=True)
    (out / "measures.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({name: content[name] for name in ("seconds", "targets_per_second", "peak_memory_mib")}))


def _learning(seconds: Mapping[str, float]) -> float:
    """The time of the training itself."""
    return max(seconds["fit"] - seconds.get("validation", 0.0) - seconds.get("tokenizer", 0.0), 1e-9)


def command_line(options: argparse.Namespace) -> str:
    """The command as somebody else would give it: module, options, and names in place of paths."""
    places = {str(options.split): "SPLIT", str(options.out): "OUT"}
    words = [places.get(word, word) for word in sys.argv[1:]]
    return shlex.join(["python", "-m", f"benchmarks.peers.{Path(sys.argv[0]).stem}", *words])


def peer_parser(description: str | None, *, epochs: int | None) -> argparse.ArgumentParser:
    """The options that all peers have; `epochs` is how many the authors train, None where a configuration says it."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("split", type=Path, help="folder that export_split wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for rankings.parquet and measures.json")
    parser.add_argument("--epochs", type=int, default=epochs, help="the authors' number where not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=JSON", help="change a setting of the model; again and again"
    )
    return parser


def parse_options(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options, with `device` settled and `set` as a mapping."""
    import torch

    options = parser.parse_args()
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    pairs = [setting.split("=", 1) for setting in options.set]
    if any(len(pair) != 2 for pair in pairs):
        parser.error("--set takes NAME=JSON, for instance --set n_factors=64")
    options.set = {name: _json(text) for name, text in pairs}
    # Two threads on two busy cores are slower than one: say OMP_NUM_THREADS=1 there.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    return options


def _json(text: str) -> Any:
    """`text` as JSON, or as the string that it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _plain(value: Any) -> Any:
    """`value` as JSON can hold it; a class by its name."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, type):
        return value.__name__
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
