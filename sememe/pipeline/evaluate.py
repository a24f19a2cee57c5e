"""Judge a recommender on held-out events: full catalogue, item level, seen items left in and left out, intervals.

Legend: N rows (one per evaluated user), K list length.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from rich.table import Table

from sememe.core.schema import PAD, Int32Array, Int64Array, Ranked
from sememe.core.seeding import derive_seed, generator
from sememe.data.batches import EvalBatch, request_batches
from sememe.data.splits import Examples, Split
from sememe.metrics.coverage import catalogue_coverage, entropy, popularity_bias, recommendation_counts
from sememe.metrics.ranking import rank_metrics
from sememe.metrics.significance import bootstrap_means, paired_difference
from sememe.pipeline.recipe import MASKED, EvaluationPlan
from sememe.pipeline.recommend import Recommender

SplitName = Literal["valid", "test"]


@dataclass(frozen=True, eq=False)
class Judged:
    """What one model did on one split under one masking rule."""

    per_row: Mapping[str, npt.NDArray[np.float64]]
    """Metric -> (N,), in the order of the split's examples."""
    ranked: Ranked
    """(N, K) the lists themselves, in the same order."""
    seen_targets: int
    """Rows whose targets are all in their history already."""

    def to_frame(self, label: "Label", *, users: Int32Array) -> pl.DataFrame:
        """One line per row: label, user index and every metric; what paired comparisons read later."""
        return pl.DataFrame({"user": users, **self.per_row}).select(
            pl.lit(label.model).alias("model"),
            pl.lit(label.seed).alias("seed"),
            pl.lit(label.split).alias("split"),
            pl.lit(label.mask_seen).alias("mask_seen"),
            pl.all(),
        )


@dataclass(frozen=True)
class Label:
    """Which line of the table a result belongs to."""

    model: str
    seed: int
    split: SplitName
    mask_seen: bool


def judge(
    recommender: Recommender, split: Split, plan: EvaluationPlan, *, examples: Examples, mask_seen: bool
) -> Judged:
    """Rank the catalogue for every example and compare with what happened next."""
    depth = max(plan.ks)
    items = np.full((len(examples), depth), PAD, np.int32)
    scores = np.full((len(examples), depth), -np.inf, np.float32)
    per_row: dict[str, npt.NDArray[np.float64]] = {}
    seen_targets, source = 0, "evaluation"
    requests = request_batches(
        split.interactions,
        examples,
        max_history=recommender.max_history,
        batch_size=plan.batch_size,
        events=recommender.events,
    )
    for request in requests:
        ranked = _rank_whole_ties(recommender, request, depth=depth, mask_seen=mask_seen)
        for name, values in rank_metrics(ranked, request.targets, ks=plan.ks).items():
            per_row.setdefault(name, np.zeros(len(examples)))[request.rows] = values
        width = min(depth, ranked.items.shape[1])
        items[request.rows, :width], scores[request.rows, :width] = ranked.items[:, :width], ranked.scores[:, :width]
        seen_targets += _count_seen(request)
        source = ranked.source
    return Judged(per_row=per_row, ranked=Ranked(items=items, scores=scores, source=source), seen_targets=seen_targets)


def _rank_whole_ties(recommender: Recommender, request: EvalBatch, *, depth: int, mask_seen: bool) -> Ranked:
    """Lists of `depth` items and the rest of the tie that the last place cuts, so that ties are averaged exactly."""
    seen = request.seen if mask_seen else None
    ranked = recommender.rank(request.batch, k=depth, seen=seen)
    beyond = 0 if ranked.tied_beyond is None else int(ranked.tied_beyond.max(initial=0))
    return ranked if beyond == 0 else recommender.rank(request.batch, k=depth + beyond, seen=seen)


def _count_seen(request: EvalBatch) -> int:
    """Rows whose targets are all in the history: sure misses once seen items are left out."""
    again = np.ones(len(request.targets), dtype=bool)
    for targets in request.targets.T:
        again &= (targets == PAD) | (request.seen == targets[:, None]).any(axis=1)
    return int(again.sum())


def validation_score(
    recommender: Recommender, split: Split, plan: EvaluationPlan, *, monitor: str, seed: int
) -> dict[str, float]:
    """Mean metrics on at most `plan.validation_users` validation rows, for early stopping.

    Seen items are left in, or left out where the number to watch says so by its name; the names then all do.
    """
    examples = split.valid
    if len(examples) > plan.validation_users:
        rows = generator(seed, "validation-users").choice(len(examples), plan.validation_users, replace=False)
        rows.sort()
        examples = Examples(users=examples.users[rows], starts=examples.starts[rows], ends=examples.ends[rows])
    prefix = MASKED if monitor.startswith(MASKED) else ""
    judged = judge(recommender, split, plan, examples=examples, mask_seen=bool(prefix))
    return {prefix + name: float(values.mean()) for name, values in judged.per_row.items()}


def metrics_row(
    judged: Judged, label: Label, plan: EvaluationPlan, *, train_counts: Int64Array
) -> dict[str, float | int | str | bool]:
    """One line of metrics.json: the label, each metric with its 95 % bootstrap interval, and what was recommended.

    Args:
        train_counts: (I,) training events of each item, for coverage, popularity bias and entropy.
    """
    users = len(judged.ranked.items)
    row: dict[str, float | int | str | bool] = {
        "model": label.model,
        "seed": label.seed,
        "split": label.split,
        "mask_seen": label.mask_seen,
        "users": users,
        "seen_targets": judged.seen_targets,
    }
    # One stream for all models: their intervals come from the same resamples, so rows can be compared.
    intervals = bootstrap_means(judged.per_row, seed=derive_seed(0, "bootstrap"), resamples=plan.resamples)
    for name, interval in intervals.items():
        row |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
    depth = max(plan.ks)
    row[f"coverage@{depth}"] = catalogue_coverage(judged.ranked, num_items=len(train_counts))
    row[f"popularity@{depth}"] = popularity_bias(judged.ranked, train_counts=train_counts)
    row[f"entropy@{depth}"] = entropy(recommendation_counts(judged.ranked, num_items=len(train_counts)))
    return row


def compare_models(per_row: pl.DataFrame, *, main: str, resamples: int) -> list[dict[str, Any]]:
    """`main` against every other model on the test split, and each of its views ("main:view") against every model that
    is not its own; paired by user, whose metric is averaged over seeds first.

    Args:
        per_row: what `Judged.to_frame` gave, of all models.

    Returns:
        One object per pair, masking rule and metric: difference, its 95 % interval, p-value.
    """
    metrics = [name for name in per_row.columns if "@" in name]
    means = (
        per_row.filter(pl.col("split") == "test")
        .group_by("model", "mask_seen", "user")
        .agg(pl.col(metrics).mean())
        .sort("user")
    )
    models = per_row["model"].unique(maintain_order=True).to_list()
    views = [model for model in models if model.startswith(f"{main}:")]
    pairs = [(main, other) for other in models if other != main]
    pairs += [(view, other) for view in views for other in models if other not in (main, *views)]
    found = []
    for model, other in pairs:
        for mask_seen in (False, True):
            chosen = means.filter(pl.col("mask_seen") == mask_seen)
            ours, theirs = (chosen.filter(pl.col("model") == name) for name in (model, other))
            for metric in metrics:
                difference = paired_difference(
                    ours[metric].to_numpy(),
                    theirs[metric].to_numpy(),
                    seed=derive_seed(0, "bootstrap"),
                    resamples=resamples,
                )
                found.append(
                    {
                        "model": model,
                        "against": other,
                        "mask_seen": mask_seen,
                        "metric": metric,
                        "difference": difference.mean,
                        "low": difference.low,
                        "high": difference.high,
                        "p_value": difference.p_value,
                    }
                )
    return found


def seed_means(per_row: pl.DataFrame, *, resamples: int) -> list[dict[str, Any]]:
    """Each model's metrics averaged over its seeds, with 95 % bootstrap intervals over users of that average.

    Args:
        per_row: what `Judged.to_frame` gave, of all models.

    Returns:
        One object per model, split and masking rule: the label, how many seeds, and each metric with its interval.
    """
    metrics = [name for name in per_row.columns if "@" in name]
    found = []
    for (model, split, mask_seen), rows in per_row.group_by("model", "split", "mask_seen", maintain_order=True):
        users = rows.group_by("user").agg(pl.col(metrics).mean()).sort("user")
        row = {"model": model, "split": split, "mask_seen": mask_seen, "seeds": rows["seed"].n_unique()}
        intervals = bootstrap_means(
            {name: users[name].to_numpy() for name in metrics},
            seed=derive_seed(0, "bootstrap"),
            resamples=resamples,
        )
        for name, interval in intervals.items():
            row |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
        found.append(row)
    return found


def metrics_tables(metrics: Mapping[str, Any], *, split: SplitName = "test") -> list[Table]:
    """metrics.json as tables for the terminal: one per masking rule, a line per model and seed, longest list only."""
    tables = []
    for mask_seen in (False, True):
        rows = [row for row in metrics["rows"] if row["split"] == split and row["mask_seen"] is mask_seen]
        if not rows:
            continue
        # Only the longest list: with their intervals, more columns do not fit a terminal of 80 characters.
        depth = max(
            int(name.rpartition("@")[2]) for name in rows[0] if name.startswith("recall") and name[-1].isdigit()
        )
        names = [f"recall@{depth}", f"ndcg@{depth}"]
        treatment = "seen items left out" if mask_seen else "seen items left in"
        table = Table(title=f"{split}, {rows[0]['users']:,} users, full catalogue, {treatment} (95 % intervals)")
        table.add_column("model", no_wrap=True)
        table.add_column("seed", justify="right", min_width=4)
        for name in names:
            table.add_column(name, justify="right", no_wrap=True)
        for row in rows:
            table.add_row(row["model"], str(row["seed"]), *(_cell(row, name) for name in names))
        for mean in metrics.get("means", []):
            if (mean["split"], mean["mask_seen"]) == (split, mask_seen) and mean["seeds"] > 1:
                table.add_row(mean["model"], "mean", *(_cell(mean, name) for name in names))
        tables.append(table)
    return tables


def _cell(row: Mapping[str, Any], name: str) -> str:
    return f"{short_share(row[name])} [{short_share(row[f'{name}_low'])},{short_share(row[f'{name}_high'])}]"


def short_share(share: float) -> str:
    """0.0456 -> ".0456", as papers print it."""
    return f"{share:.4f}".removeprefix("0")


def protocol_line(metrics: Mapping[str, Any]) -> str:
    """How the numbers came about, in one line to stand beside them."""
    protocol = metrics["protocol"]
    cold = protocol["counts"].get("test_cold_targets", 0)
    withheld = protocol["counts"].get("withheld_items", 0)
    decode = "; ".join(f"{model}: {how}" for model, how in protocol["decode"].items())
    simulated = "SIMULATED data; " if protocol.get("simulated") else ""
    return (
        f"{simulated}split {protocol['name']}, full catalogue, item level, ties averaged; {cold} test targets never "
        f"occur in training; {f'{withheld} items withheld from training; ' if withheld else ''}{decode}"
    )


def comparison_lines(metrics: Mapping[str, Any]) -> list[str]:
    """The paired comparison of the recipe's own row in words, by NDCG at the longest list, losses as plainly as wins;
    those of its views are in metrics.json."""
    lines = []
    depths = [int(entry["metric"].rpartition("@")[2]) for entry in metrics["comparisons"]]
    metric = f"ndcg@{max(depths, default=0)}"
    for entry in metrics["comparisons"]:
        if entry["metric"] != metric or ":" in entry["model"]:
            continue
        verdict = "no clear difference" if entry["low"] <= 0 <= entry["high"] else None
        verdict = verdict or ("better" if entry["difference"] > 0 else "WORSE")
        seen = "left out" if entry["mask_seen"] else "left in"
        lines.append(
            f"{entry['model']} against {entry['against']}, {metric}, seen items {seen}: {entry['difference']:+.4f} "
            f"[{entry['low']:+.4f}, {entry['high']:+.4f}], {verdict}"
        )
    for entry in metrics.get("alignment", []):
        verdict = "promoted" if entry["promoted"] else "NOT PROMOTED, deployed is the model before"
        lines.append(f"alignment of {entry['model']}, seed {entry['seed']}: {verdict}; {entry['reason']}")
    return lines
