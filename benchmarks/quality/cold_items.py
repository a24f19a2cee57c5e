"""New items: what each way to read a finished run finds of them, beside the nearest neighbours by content.

    sememe run itemwise --data amazon2014_beauty --set data.split.withhold_items=0.05 --out runs/cold_beauty
    python -m benchmarks.quality.cold_items runs/cold_beauty --name cold_items_beauty

judges all models of the run on the test requests whose target was withheld from training (and on the others), lists of
10 from the full catalogue, seen items left out; and the nearest neighbours of the last item and of the history by the
text vectors, which know nothing of use.  Writes NAME.json beside this file.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.header import header, run_command, write_output
from sememe.core.errors import ConfigError
from sememe.data.splits import Examples, target_items
from sememe.decode.exact import ExactItems
from sememe.metrics.significance import bootstrap_means
from sememe.pipeline.evaluate import judge
from sememe.pipeline.opened import Run, open_run, read_json
from sememe.pipeline.recipe import EvaluationPlan
from sememe.pipeline.recommend import Recommender
from sememe.rerank.blend import FittedBlend
from sememe.rerank.signals import FittedLikeness

HERE = Path(__file__).resolve().parent
PLAN = EvaluationPlan(ks=(10,))
METRICS = ("recall@10", "ndcg@10")


class Neighbors(nn.Module):
    """Scores by one of the cosines of `Likeness`."""

    def __init__(self, likeness: FittedLikeness, *, feature: int) -> None:
        super().__init__()
        self.likeness = likeness
        self.feature = feature

    def score_items(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(N, I)"""
        arrays = {name: tensor.numpy() for name, tensor in batch.items()}
        return torch.from_numpy(self.likeness.features(arrays)[self.feature])


@dataclass(frozen=True)
class Part:
    """Some of the test requests."""

    name: str
    examples: Examples


def parts(run: Run) -> list[Part]:
    """Requests for a withheld item, and the others.

    Raises:
        ConfigError: the run withholds nothing.
    """
    split = run.world.split
    if len(split.withheld) == 0:
        raise ConfigError("this run withholds no item", fix="run with --set data.split.withhold_items=0.05")
    # Leave-one-out: one target per request.
    asked = np.isin(target_items(split.interactions, split.test), split.withheld)
    test = split.test
    assert len(asked) == len(test), "each test request asks for one item"
    return [
        Part(name, Examples(users=test.users[rows], starts=test.starts[rows], ends=test.ends[rows]))
        for name, rows in (("withheld", np.flatnonzero(asked)), ("others", np.flatnonzero(~asked)))
    ]


def recommenders(directory: Path) -> dict[str, Recommender]:
    """Every model of the run and its views, and the neighbours by content."""
    names = [
        name
        for entry in read_json(directory / "run.json")["models"]
        for name in (*entry.get("views", {}), entry["name"])
    ]
    found = {name: open_run(directory, model=name) for name in dict.fromkeys(names)}
    blend = open_run(directory).recommender.rerank
    assert isinstance(blend, FittedBlend), "the run's recipe has a Blend"
    likeness = next(
        signal for signal in blend.signals if isinstance(signal, FittedLikeness) and signal.config.embedder == 0
    )
    neighbors = {
        name: Recommender(
            model=Neighbors(likeness, feature=feature),
            decode=ExactItems(),
            trie=None,
            max_history=50,
            device=torch.device("cpu"),
        )
        for feature, name in enumerate(("text neighbours of the last item", "text neighbours of the history"))
    }
    return {name: opened.recommender for name, opened in found.items()} | neighbors


def measure(directory: Path) -> list[dict[str, Any]]:
    """One line per model and part of the requests."""
    run = open_run(directory)
    rows: list[dict[str, Any]] = []
    for name, recommender in recommenders(directory).items():
        for part in parts(run):
            judged = judge(recommender, run.world.split, PLAN, examples=part.examples, mask_seen=True)
            intervals = bootstrap_means(
                {metric: judged.per_row[metric] for metric in METRICS}, seed=0, resamples=PLAN.resamples
            )
            row: dict[str, Any] = {"model": name, "targets": part.name, "users": len(part.examples)}
            for metric, interval in intervals.items():
                row |= {metric: interval.mean, f"{metric}_low": interval.low, f"{metric}_high": interval.high}
            # How often new items are listed at all, whether or not they were asked for.
            row["withheld_share"] = float(np.isin(judged.ranked.items, run.world.split.withheld).mean())
            rows.append(row)
    return rows


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the table."""
    table = Table("model", "targets", "users", *METRICS, "withheld among the listed")
    for row in rows:
        cells = [f"{row[m]:.4f} [{row[f'{m}_low']:.4f}, {row[f'{m}_high']:.4f}]" for m in METRICS]
        table.add_row(row["model"], row["targets"], f"{row['users']:,}", *cells, f"{row['withheld_share']:.4f}")
    Console(width=140).print(table)


def main() -> None:
    """Measure the run named on the command line and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--name", required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(arguments.run)
    show(rows)
    description = read_json(arguments.run / "run.json")
    content = {
        **header("torch", "numpy", "polars"),
        "command": run_command(description),
        "then": f"python -m benchmarks.quality.cold_items RUN --name {arguments.name}",
        "recipe_hash": description["recipe_hash"],
        "mask_seen": True,
        "rows": rows,
    }
    write_output(HERE / f"{arguments.name}.json", content)


if __name__ == "__main__":
    main()
