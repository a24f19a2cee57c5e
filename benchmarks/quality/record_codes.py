"""Write what a run over several tokenizers found: health of the codes, time to fit, and what a generator makes of them.

    sememe run benchmarks.quality.recipes:tokenizers --data amazon2014_beauty --out RUN --set seeds=[0,1,2]
    python -m benchmarks.quality.record_codes RUN --name tokenizers_beauty

writes NAME.json, a row per tokenizer, means over seeds with their intervals, and the paired differences between rows
that the run reports.  Health is that of `sememe codes` (no tokenizer is fitted again for it); seconds are those of the
whole stage: fitting, coding all items, and telling colliding ones apart.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.header import header, run_command, write_output
from benchmarks.quality.record import HERE, stage_seconds
from sememe.pipeline.code_health import judge_run_codes
from sememe.pipeline.opened import read_json

METRICS = ("recall@10", "ndcg@10")
PROTOCOLS = {"left in": False, "left out": True}
"""What becomes of items that the user has read."""
PREFIX = 1
"""Codes that two items share where neighbours are told: with 256 codes and ten thousand items, few share more."""


def main() -> None:
    """Collect, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--note", default="")
    arguments = parser.parse_args()
    description = read_json(arguments.run / "run.json")
    metrics = read_json(arguments.run / "metrics.json")
    names = list(dict.fromkeys(entry["name"] for entry in description["models"]))
    rows = [row_of(arguments.run, name, description, metrics) for name in names]
    content = {
        **header("torch", "numpy", "polars"),
        "command": run_command(description),
        "note": arguments.note,
        "recipe_hash": description["recipe_hash"],
        "protocol": metrics["protocol"],
        "rows": rows,
        "comparisons": metrics["comparisons"],
    }
    write_output(HERE / f"{arguments.name}.json", content)
    show(rows)


def row_of(run: Path, name: str, description: dict[str, Any], metrics: dict[str, Any]) -> dict[str, Any]:
    """Codes of the first seed, seconds and metrics of all."""
    entries = [entry for entry in description["models"] if entry["name"] == name]
    stages = sorted({entry["stages"]["codes"] for entry in entries})
    judged = judge_run_codes(run, model=name, refit=False, say=lambda _: None)
    return {
        "tokenizer": name,
        "class": judged.tokenizer,
        "seeds": [entry["seed"] for entry in entries],
        "seconds": [stage_seconds(run / "stages" / stage) for stage in stages],
        "health": health_of(judged.health.to_json()),
        "test": {told: metrics_of(metrics, name, masked=masked) for told, masked in PROTOCOLS.items()},
    }


def health_of(health: dict[str, Any]) -> dict[str, Any]:
    """What the table tells of a report; None where it is absent."""
    at_prefix = {
        part: next((row for row in health[part].get("rows", []) if row["depth"] == PREFIX), None)
        for part in ("neighbours", "categories", "cooccurrence", "stability")
    }
    return {
        "unique_share": health["unique_share"],
        "largest_group": health["largest_group"],
        "used": [level["used"] for level in health["levels"]],
        "perplexity": [round(level["perplexity"], 1) for level in health["levels"]],
        "reconstruction": health["reconstruction"],
        **{f"{part}_at_{PREFIX}": row for part, row in at_prefix.items()},
    }


def metrics_of(metrics: dict[str, Any], name: str, *, masked: bool) -> dict[str, Any]:
    """The mean over seeds with its interval, as the run reports it, and each seed's value."""

    def chosen(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [row for row in rows if (row["model"], row["split"], row["mask_seen"]) == (name, "test", masked)]

    (mean,) = chosen(metrics["means"])
    found: dict[str, Any] = {}
    for metric in METRICS:
        found |= {key: mean[key] for key in (metric, f"{metric}_low", f"{metric}_high")}
        found[f"{metric}_seeds"] = [row[metric] for row in chosen(metrics["rows"])]
    return found


def show(rows: list[dict[str, Any]]) -> None:
    """The table of the documentation."""
    table = Table("tokenizer", "unique", "largest", "perplexity", "neighbours", "seconds", *METRICS, "left out")
    for row in rows:
        health, left_in, left_out = row["health"], row["test"]["left in"], row["test"]["left out"]
        near = health[f"neighbours_at_{PREFIX}"]
        table.add_row(
            row["tokenizer"],
            f"{health['unique_share']:.1%}",
            str(health["largest_group"]),
            ", ".join(f"{value:.0f}" for value in health["perplexity"]),
            "-" if near is None else f"{near['share']:.3f} ({near['by_chance']:.3f})",
            f"{statistics.median(row['seconds']):.0f}",
            *(f"{left_in[metric]:.4f}" for metric in METRICS),
            " / ".join(f"{left_out[metric]:.4f}" for metric in METRICS),
        )
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
