"""Items that come after training: are their codes unique, does nobody else move, and can the generator return them?

    python -m benchmarks.quality.added_items amazon2014_beauty --out runs/added_beauty --name added_items_beauty

takes 5 % of the items out of the data, catalogue and log alike, and runs the item-wise generator on the rest: neither
tokenizer nor model ever hears of them.  Then they are embedded, coded and taken into the model, nothing is fitted, and
it is asked for users whose last event was with such an item, and for a sample of the others, before and after.  Lists
of 10 from the full catalogue, what was read left out.  Goes on after an interruption.  Writes NAME.json.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.header import header, write_output
from sememe.core.artifact import read_artifact
from sememe.core.errors import DataError, LimitError
from sememe.core.schema import Int32Array
from sememe.core.seeding import generator
from sememe.data.datasets import resolve_dataset
from sememe.metrics.ranking import rank_metrics
from sememe.metrics.significance import bootstrap_means
from sememe.pipeline.live import embed_new, follow, start_catalogue
from sememe.pipeline.opened import Run, open_run, read_json
from sememe.pipeline.prepare import ItemSpace, open_items
from sememe.pipeline.recipe import Recipe
from sememe.pipeline.recommend import Recommender
from sememe.pipeline.run import run_recipe
from sememe.recipes import itemwise
from sememe.sid.catalogue import LiveCatalogue

HERE = Path(__file__).resolve().parent
METRICS = ("recall@10", "ndcg@10")
RESAMPLES = 2000
BATCH = 256
OTHERS = 5_000
"""Users with another last event who are asked too."""


@dataclass(frozen=True, eq=False)
class Request:
    """What a user read before the last event, as item ids, and what that was with."""

    history: Sequence[Any]
    target: Any


@dataclass(frozen=True, eq=False)
class Parted:
    """The data, with some items apart."""

    new: pl.DataFrame
    """Their lines of the catalogue."""
    asked: Mapping[str, Sequence[Request]]
    """"new items" for users whose last event was with one of them, "others" for a sample of the rest."""


@dataclass(frozen=True, eq=False)
class Grown:
    """A run's recommenders before and after the new items."""

    before: LiveCatalogue
    after: LiveCatalogue
    recommenders: Mapping[tuple[str, str], Recommender]
    """By row and "before" or "after"."""
    seconds: Mapping[str, float]


def part_data(source: Path, folder: Path, *, share: float, seed: int) -> Parted:
    """Write the data without `share` of its items to `folder`; interactions.parquet and items.parquet of `source`.

    Raises:
        DataError: the share takes nothing, or everything.
    """
    events = pl.read_parquet(source / "interactions.parquet")
    items = pl.read_parquet(source / "items.parquet")
    count = round(share * items.height)
    if not 0 < count < items.height:
        raise DataError(f"a share of {share} is {count} of {items.height} items", fix="give a share such as 0.05")
    chosen = generator(seed, "added items").permutation(items.height)[:count]
    new = items[np.sort(chosen).tolist()]
    ids = new["item_id"].implode()
    folder.mkdir(parents=True, exist_ok=True)
    items.filter(~pl.col("item_id").is_in(ids)).write_parquet(folder / "items.parquet")
    kept = events.filter(~pl.col("item_id").is_in(ids))
    kept.write_parquet(folder / "interactions.parquet")
    # A user of whom nothing is left is nobody the run knows; a history of known and new items is what is asked with.
    order = [name for name in ("position", "timestamp") if name in events.columns][:1]
    events = events.sort(order, maintain_order=True) if order else events
    whole = events.group_by("user_id", maintain_order=True).agg("item_id").filter(pl.col("item_id").list.len() > 1)
    requests = [Request(row[:-1], row[-1]) for row in whole["item_id"].to_list()]
    fresh = set(new["item_id"].to_list())
    asked = {
        "new items": [request for request in requests if request.target in fresh],
        "others": [request for request in requests if request.target not in fresh],
    }
    sample = np.sort(generator(seed, "asked").permutation(len(asked["others"]))[:OTHERS])
    return Parted(new, {**asked, "others": [asked["others"][row] for row in sample.tolist()]})


def judged_recipe(recipe: Recipe, seeds: tuple[int, ...]) -> Recipe:
    """Without company and without a last word, whose statistics would know none of the new items."""
    return replace(recipe, rerank=None, baselines=(), seeds=seeds)


def grow(directory: Path, new: pl.DataFrame, *, seed: int) -> Grown:
    """Embed, code and take in the items `new`, and time each."""
    run = open_run(directory, seed=seed)
    items = items_of(directory, run, seed=seed)
    assert items.vectors is not None, "the recipe has an embedder"
    before = start_catalogue(run.world, items)
    clock = {"start": time.perf_counter()}
    vectors = embed_new(run.recipe, run.world, items, new)
    clock["embed"] = time.perf_counter()
    after = before.add(new["item_id"], vectors=vectors)
    clock["code"] = time.perf_counter()
    every = after.vectors(items.vectors)
    recommenders = {}
    for name in (run.recipe.name, *(f"{run.recipe.name}:{view.name}" for view in run.recipe.views)):
        known = open_run(directory, model=name, seed=seed).recommender
        clock["opened"] = time.perf_counter()
        recommenders[name, "before"] = known
        recommenders[name, "after"] = follow(known, before, after, vectors=every)
        clock["take in"] = time.perf_counter()
    seconds = {
        "embed": clock["embed"] - clock["start"],
        "code": clock["code"] - clock["embed"],
        "take in": clock["take in"] - clock["opened"],
    }
    return Grown(before, after, recommenders, seconds)


def items_of(directory: Path, run: Run, *, seed: int) -> ItemSpace:
    """Vectors and codes of the run at `seed`."""
    models = read_json(directory / "run.json")["models"]
    stages = next(entry["stages"] for entry in models if (entry["name"], entry["seed"]) == (run.recipe.name, seed))
    manifests = [read_artifact(directory / "stages" / stages[name], kind=name) for name in ("vectors", "codes")]
    return open_items(*manifests)


def check(grown: Grown) -> dict[str, Any]:
    """How many items there are, and what must hold of their codes, counted.

    Raises LimitError where it does not hold: numbers about lists would mean nothing then.
    """
    known = grown.before.codes.num_items
    matrix = grown.after.codes.matrix
    counts = {
        "items_before": known,
        "items_added": len(matrix) - known,
        "codes_that_two_items_share": int(len(matrix) - len(np.unique(matrix, axis=0))),
        "known_items_whose_code_changed": int((matrix[:known] != grown.before.codes.matrix).any(axis=1).sum()),
    }
    for name in ("codes_that_two_items_share", "known_items_whose_code_changed"):
        if counts[name]:
            raise LimitError(
                f"{name} is {counts[name]} after {counts['items_added']} items were added, and must be 0",
                fix="mend LiveCatalogue.add before anything is measured",
            )
    return counts


def ask(recommender: Recommender, requests: Sequence[Request], catalogue: LiveCatalogue) -> dict[str, np.ndarray]:
    """Metrics per request; items that `catalogue` does not have are not read, and no hit."""
    row_of = dict(zip(catalogue.item_ids.to_list(), range(len(catalogue.item_ids)), strict=True))
    histories = [_rows(request.history, row_of) for request in requests]
    targets = np.array([[row_of.get(request.target, len(row_of))] for request in requests], np.int32)
    found: dict[str, list[np.ndarray]] = {metric: [] for metric in METRICS}
    for start in range(0, len(requests), BATCH):
        rows = slice(start, start + BATCH)
        ranked = recommender.recommend(histories[rows], k=10, leave_out=histories[rows])
        judged = rank_metrics(ranked, targets[rows], ks=(10,))
        for metric in METRICS:
            found[metric].append(judged[metric])
    return {metric: np.concatenate(values) for metric, values in found.items()}


def _rows(ids: Sequence[Any], row_of: Mapping[Any, int]) -> Int32Array:
    return np.array([row_of[item] for item in ids if item in row_of], np.int32)


def measure(directory: Path, parted: Parted, *, seeds: Sequence[int]) -> dict[str, Any]:
    """Checks and times of each seed, and per row and kind of request the means over users of the mean over seeds."""
    metrics: dict[tuple[str, str, str], list[dict[str, np.ndarray]]] = {}
    per_seed = []
    for seed in seeds:
        grown = grow(directory, parted.new, seed=seed)
        per_seed.append({"seed": seed, **check(grown), "seconds": grown.seconds})
        catalogues = {"before": grown.before, "after": grown.after}
        known = set(grown.before.item_ids.to_list())
        for (row, when), recommender in grown.recommenders.items():
            for kind, requests in parted.asked.items():
                # Both are asked the same users: those of whom the run knew an item.
                usable = [request for request in requests if not known.isdisjoint(request.history)]
                found = ask(recommender, usable, catalogues[when])
                metrics.setdefault((row, when, kind), []).append(found)
    rows = []
    for (row, when, kind), seeds_of in metrics.items():
        mean = {metric: np.mean([found[metric] for found in seeds_of], axis=0) for metric in METRICS}
        line: dict[str, Any] = {"row": row, "when": when, "asked for": kind, "users": len(mean["recall@10"])}
        for metric, interval in bootstrap_means(mean, seed=0, resamples=RESAMPLES).items():
            line |= {metric: interval.mean, f"{metric}_low": interval.low, f"{metric}_high": interval.high}
        rows.append(line)
    return {"per_seed": per_seed, "rows": rows}


def show(result: Mapping[str, Any]) -> None:
    """Print checks and table."""
    console = Console(width=140)
    for line in result["per_seed"]:
        console.print(line)
    table = Table("row", "new items", "asked for", "users", *METRICS)
    for row in result["rows"]:
        cells = [f"{row[m]:.4f} [{row[f'{m}_low']:.4f}, {row[f'{m}_high']:.4f}]" for m in METRICS]
        table.add_row(row["row"], row["when"], row["asked for"], f"{row['users']:,}", *cells)
    console.print(table)


def main() -> None:
    """Run, grow, measure and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--size", choices=("debug", "demo", "full"), default="full", help="of the recipe itemwise")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    source = resolve_dataset(arguments.data).path
    parted = part_data(source, arguments.out / "data", share=arguments.share, seed=0)
    seeds = tuple(arguments.seeds)
    directory = run_recipe(
        judged_recipe(itemwise(arguments.size), seeds), data=arguments.out / "data", out=arguments.out / "run"
    )
    result = measure(directory, parted, seeds=seeds)
    show(result)
    command = f"python -m benchmarks.quality.added_items {Path(arguments.data).name} --out RUN --name {arguments.name}"
    settings = {"share": arguments.share, "seeds": arguments.seeds, "size": arguments.size}
    write_output(
        HERE / f"{arguments.name}.json",
        {**header("torch", "numpy", "polars"), "command": command, "settings": settings, "mask_seen": True, **result},
    )


if __name__ == "__main__":
    main()
