"""Whom a recommender serves: every metric of a run on slices of its rows, for metrics.json and for the terminal.

Two slicings: by training events of the target, where "cold" are the targets that training never saw, and by how many
events of the user are known when asked.  A row with several targets counts by its first one, the event that comes next:
its popularity is a number of one item then, and not of a mixture.

Legend: N rows, I items.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from sememe.core.schema import Int64Array
from sememe.core.seeding import derive_seed
from sememe.data.splits import Split
from sememe.metrics.slices import Slicing, by_history, by_popularity, slice_means
from sememe.pipeline.evaluate import Judged, Label, SplitName, short_share
from sememe.pipeline.recipe import EvaluationPlan

SLICED = ("recall", "ndcg")
"""The metrics that slices have, at every k."""
WHAT_IS_COUNTED = {"popularity": "training events of the target", "history": "known events of the user"}


def slice_rows(
    judged: Judged, label: Label, plan: EvaluationPlan, *, split: Split, train_counts: Int64Array
) -> list[dict[str, Any]]:
    """The lines of metrics.json's "slices" for one model, split and masking rule.

    Args:
        judged: of the examples that `label.split` names.
        label: which lines these are.
        plan: where the slices begin, which k, how many resamples.
        split: of the run.
        train_counts: (I,) training events of each item.

    Returns:
        One object per slice that has rows: the label, "by", "slice", "users", and recall and NDCG at each k with their
        95 % bootstrap intervals.
    """
    per_row = {f"{metric}@{k}": judged.per_row[f"{metric}@{k}"] for metric in SLICED for k in plan.ks}
    rows = []
    for slicing in _slicings(split, label.split, plan, train_counts=train_counts):
        for part in slice_means(per_row, slicing, seed=derive_seed(0, "bootstrap"), resamples=plan.resamples):
            row: dict[str, Any] = {
                "model": label.model,
                "seed": label.seed,
                "split": label.split,
                "mask_seen": label.mask_seen,
                "by": slicing.by,
                "slice": part.name,
                "users": part.rows,
            }
            for name, interval in part.metrics.items():
                row |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
            rows.append(row)
    return rows


def _slicings(
    split: Split, name: SplitName, plan: EvaluationPlan, *, train_counts: Int64Array
) -> tuple[Slicing, Slicing]:
    examples = split.valid if name == "valid" else split.test
    log = split.interactions
    first_targets = log.items[log.offsets[examples.users] + examples.starts]
    return (
        by_popularity(train_counts[first_targets], begins=plan.popularity_slices),
        # The whole known history, also where a model reads only the end of it.
        by_history(examples.starts, begins=plan.history_slices),
    )


def slice_tables(metrics: Mapping[str, Any], *, split: SplitName = "test") -> list[Table]:
    """One table per slicing for the terminal, seen items left out: a line per slice, Recall@k of each model at the
    largest k, the mean over seeds.  Intervals, NDCG and the other rows stand in metrics.json; runs without slices give
    no table."""
    rows = [row for row in metrics.get("slices", []) if row["split"] == split and row["mask_seen"]]
    return [
        _slice_table([row for row in rows if row["by"] == by], by=by, split=split)
        for by in dict.fromkeys(row["by"] for row in rows)
    ]


def _slice_table(rows: Sequence[Mapping[str, Any]], *, by: str, split: SplitName) -> Table:
    depth = max(int(name.removeprefix("recall@")) for name in rows[0] if name.removeprefix("recall@").isdigit())
    models = list(dict.fromkeys(row["model"] for row in rows))
    counted = WHAT_IS_COUNTED[by]
    table = Table(title=f"{split}, recall@{depth} by {counted}, seen left out")
    table.add_column("events", no_wrap=True)
    for name in ("users", *models):
        table.add_column(name, justify="right")
    for name in dict.fromkeys(row["slice"] for row in rows):
        chosen = [row for row in rows if row["slice"] == name]
        found = {row["model"]: [r[f"recall@{depth}"] for r in chosen if r["model"] == row["model"]] for row in chosen}
        cells = [short_share(float(np.mean(found[model]))) for model in models]
        table.add_row(name, f"{chosen[0]['users']:,}", *cells)
    return table
