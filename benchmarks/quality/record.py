"""Write what a finished run measured to a file that can be committed, with the machine, the commit and the date.

    sememe run tiger@small --data amazon2014_beauty --out runs/tiger_beauty
    python -m benchmarks.quality.record runs/tiger_beauty --name tiger_small_beauty

writes tiger_small_beauty.json (command, settings, table, paired comparison, seconds per stage, learning curve) and,
where a network was trained, tiger_small_beauty.svg (the learning curves) beside this file.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot

from benchmarks.header import header, run_command, write_output
from sememe.core.artifact import MANIFEST

HERE = Path(__file__).resolve().parent
OF_ITEMS = ("vectors", "codes")
"""Stages whose names do not tell which model they belong to."""


def record(run: Path, *, name: str, note: str) -> None:
    """Collect the run directory `run` into `name`.json and `name`.svg; `note` says what the command does not."""
    description = json.loads((run / "run.json").read_text())
    metrics = json.loads((run / "metrics.json").read_text())
    curves = {}
    seconds = {}
    peaks = {}
    resumed = []
    for entry in description["models"]:
        for stage in (*entry["stages"].values(), *entry.get("views", {}).values()):
            # Seeds share some stages; the others are told apart by their seed.
            kind = stage.rpartition("-")[0]
            # Recipes of one run may differ in what their items are made of.
            told = f"{kind} of {entry['name']}" if kind in OF_ITEMS else kind
            label = f"{told}, seed {entry['seed']}"
            seconds[label] = stage_seconds(run / "stages" / stage)
            meta = stage_meta(run / "stages" / stage)
            # Absent in runs of earlier versions.
            if meta.get("peak_memory_mib") is not None:
                peaks[label] = meta["peak_memory_mib"]
            if meta.get("resumed"):
                resumed.append(label)
        label = f"{entry['name']}, seed {entry['seed']}"
        log = run / "stages" / entry["stages"]["model"] / "logs" / "train.jsonl"
        if log.is_file():
            curves[label] = learning_curve(log)
    command = run_command(description)
    content = {
        **header("torch", "numpy", "polars"),
        "command": command,
        "note": note,
        "recipe_hash": description["recipe_hash"],
        "seconds_per_stage": seconds,
        "peak_memory_mib_until_stage": peaks,
        "resumed_stages": resumed,
        "protocol": metrics["protocol"],
        "rows": metrics["rows"],
        "means": metrics.get("means", []),
        "slices": metrics.get("slices", []),
        "comparisons": metrics["comparisons"],
        "learning_curves": curves,
        "recipe": description["recipe"],
    }
    write_output(HERE / f"{name}.json", content)
    if curves:
        plot(curves, HERE / f"{name}.svg", title=command)


def stage_meta(stage: Path) -> dict[str, Any]:
    """What the stage's manifest says of how it was made."""
    meta: dict[str, Any] = json.loads((stage / MANIFEST).read_text(encoding="utf-8"))["meta"]
    return meta


def stage_seconds(stage: Path) -> float:
    """Wall-clock seconds that the stage took; of one that was resumed, those of its last process."""
    return float(stage_meta(stage)["seconds"])


def learning_curve(log: Path) -> list[dict[str, Any]]:
    """One line per validation: step and its numbers, with the training loss before it."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    curve = []
    loss = None
    for line in lines:
        loss = line.get("loss", loss)
        watched = {name: value for name, value in line.items() if name.endswith("@10")}
        if watched:
            curve.append({"step": line["step"], "loss": loss} | watched)
    return curve


def plot(curves: dict[str, list[dict[str, Any]]], path: Path, *, title: str) -> None:
    """Validation Recall@10 and NDCG@10 by share of the training, one line per model."""
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "sememe"
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for axis, metric in zip(axes, ("recall@10", "ndcg@10"), strict=True):
        for label, curve in curves.items():
            masked = any(f"masked_{metric}" in point for point in curve)
            values = [point[f"masked_{metric}" if masked else metric] for point in curve]
            told = f"{label}, seen items left out" if masked else label
            axis.plot([point["step"] for point in curve], values, marker=".", label=told)
        axis.set(xlabel="training steps", ylabel=f"validation {metric}", ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--note", default="")
    arguments = parser.parse_args()
    record(arguments.run, name=arguments.name, note=arguments.note)
