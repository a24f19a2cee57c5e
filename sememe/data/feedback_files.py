"""A simulated service as a data directory, and the way back from the directory to the truth.

interactions.parquet   one row per item shown; the columns of the log under Sememe's names
items.parquet          item_id, title, categories, duration, vector
data.toml              says that the data is simulated, which every run on it repeats
simulated.json         the plan and the seed, from which `read_truth` draws the same world again, and a few sums by
                       which it knows that it is the same
"""

import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from sememe.core.errors import DataError
from sememe.core.schema import Interactions
from sememe.data.data_toml import FILE_NAME, DataToml, render_data_toml
from sememe.data.feedback_columns import COLUMN_TYPES
from sememe.data.feedback_simulator import EVENT_TYPES, FeedbackSimulator, LoggingPolicy, SimulatedFeedback
from sememe.data.feedback_world import FeedbackRules

PLAN_FILE = "simulated.json"
SIMULATED = FeedbackSimulator()
"""What the data set "simulated" is made by, with seed 0."""


def write_feedback(plan: FeedbackSimulator, folder: Path, *, seed: int) -> SimulatedFeedback:
    """Generate `plan` and write it to `folder`, which is made where it is not there.

    Returns:
        What was written.
    """
    made = plan.generate(seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    _events(made.interactions).write_parquet(folder / "interactions.parquet")
    assert made.catalog.vectors is not None, "planted items have vectors"
    vectors = pl.Series("vector", made.catalog.vectors.tolist(), dtype=pl.List(pl.Float32))
    made.catalog.frame.with_columns(vectors).write_parquet(folder / "items.parquet")
    settings = DataToml(events=("interactions.parquet",), items=("items.parquet",), time_unit="ms", simulated=True)
    (folder / FILE_NAME).write_text(render_data_toml(settings), encoding="utf-8")
    told = json.dumps({"seed": seed, "plan": asdict(plan), "sums": _sums(made)}, indent=2)
    (folder / PLAN_FILE).write_text(told + "\n", encoding="utf-8")
    return made


def make_simulated(target: Path) -> tuple[str, ...]:
    """Put the data set "simulated" into the directory `target`, whole or not at all; returns what happened."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        write_feedback(SIMULATED, folder, seed=0)
        # mkdtemp makes a folder for its owner alone.
        folder.chmod(0o755)
        # Where another process was faster, its copy is as good.
        if not target.exists():
            folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return (f"simulated data was generated and is kept in {target}",)


def read_truth(folder: Path) -> SimulatedFeedback:
    """The service that was written to `folder`; `world.after(log)` has the users and items of a log that was read.

    Raises:
        DataError: there is no simulated.json, it is not one of this version, or this version draws another world from
            it.
    """
    path = folder / PLAN_FILE
    if not path.is_file():
        raise DataError(
            f"{folder} holds no {PLAN_FILE}, so that its truth is not known", fix="give a folder of simulated data"
        )
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        made = _plan(told["plan"]).generate(seed=int(told["seed"]))
        # Older versions kept no sums, but the lengths stand in the items' table.
        kept = told.get("sums") or {"lengths": _weighed(_durations(folder))}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no plan that this version knows: {error}", fix="write the data again") from error
    drawn = _sums(made)
    for name, value in kept.items():
        if not np.isclose(drawn.get(name, np.nan), value, rtol=1e-9):
            raise DataError(
                f"this version draws another world from {path} than the one that was written: its {name} add up to "
                f"{drawn.get(name)}, not to {value}",
                fix="write the data again, or read it by the version that wrote it",
            )
    return made


def _sums(made: SimulatedFeedback) -> dict[str, float]:
    """What tells one world from another, and its log from another."""
    world, log = made.world, made.interactions
    parts: dict[str, npt.NDArray[Any]] = {"taste": world.taste, "quality": world.quality, "lengths": world.lengths}
    return {name: _weighed(values) for name, values in parts.items()} | {"events": _weighed(log.items)}


def _weighed(values: npt.NDArray[Any]) -> float:
    """A sum that also tells the order: each value counts by its place."""
    flat = np.asarray(values, np.float64).ravel()
    return float(flat @ np.arange(1, len(flat) + 1))


def _durations(folder: Path) -> npt.NDArray[Any]:
    return pl.read_parquet(folder / "items.parquet", columns=["duration"])["duration"].to_numpy()


def _plan(told: dict[str, Any]) -> FeedbackSimulator:
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}
    values |= {"rules": FeedbackRules(**told["rules"]), "logging": LoggingPolicy(**told["logging"])}
    return FeedbackSimulator(**values)


def _events(log: Interactions) -> pl.DataFrame:
    """The log as a table in the order of time, as logs are."""
    columns = log.columns
    kinds = pl.Series("event_type", np.array(EVENT_TYPES)[columns["event_type"]])
    frame = pl.DataFrame(
        {
            "user_id": log.user_ids.gather(log.users()),
            "item_id": log.item_ids.gather(log.items),
            "timestamp": log.timestamps,
            "session_id": columns["session"],
            "event_type": kinds,
            "rating": columns["rating"],
            **{name: columns[name] for name in COLUMN_TYPES},
        }
    )
    return frame.sort("timestamp", maintain_order=True)
