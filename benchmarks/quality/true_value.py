"""What the lists of every row of a run on simulated data are really worth, and how far they are from the best lists.

    python -m benchmarks.quality.true_value RUN --k 5

SIMULATED data.  Values are expected ones from the world that made the data, for the test users; rows are compared with
the first one given by --against, user by user.  Writes NAME.json beside this file where --name is given.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.header import header, run_command, write_output
from sememe.data.datasets import resolve_dataset
from sememe.data.feedback_files import read_truth
from sememe.metrics.significance import bootstrap_mean, paired_difference
from sememe.pipeline.opened import open_run
from sememe.pipeline.true_value import TrueValues, true_values

HERE = Path(__file__).resolve().parent


def rows_of(description: Mapping[str, Any]) -> list[tuple[str, int]]:
    """(row, seed) of everything in run.json that makes lists."""
    return [(row, entry["seed"]) for entry in description["models"] for row in (entry["name"], *entry["views"])]


def judged(folder: Path, *, k: int, modules: Sequence[str] = ()) -> dict[tuple[str, int], TrueValues]:
    """(row, seed) -> what its lists are worth."""
    description = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    world = read_truth(resolve_dataset(description["data"]).path).world
    return {
        (row, seed): true_values(open_run(folder, model=row, seed=seed, modules=modules), world, k=k)
        for row, seed in rows_of(description)
    }


def table_of(found: Mapping[tuple[str, int], TrueValues], *, against: str) -> list[dict[str, Any]]:
    """One line per row and seed; compared with the row `against` of the same seed, or of its only one."""
    lines = []
    for (row, seed), of_row in found.items():
        mean, best = (bootstrap_mean(values, seed=0) for values in (of_row.values, of_row.best))
        line: dict[str, Any] = {
            "row": row,
            "seed": seed,
            "users": len(of_row.values),
            "value": {"mean": mean.mean, "low": mean.low, "high": mean.high},
            "best": best.mean,
            "share_of_best": mean.mean / best.mean,
        }
        others = {each: values for (name, each), values in found.items() if name == against}
        if row != against and others:
            other = others[seed] if seed in others else next(iter(others.values()))
            apart = paired_difference(of_row.values, other.values, seed=0)
            line["minus"] = {"row": against, "mean": apart.mean, "low": apart.low, "high": apart.high}
        lines.append(line)
    return lines


def show(lines: Sequence[Mapping[str, Any]]) -> None:
    """Print the table."""
    table = Table("row", "seed", "value of a list", "of the best", "difference")
    for line in lines:
        value = "{mean:.3f} [{low:.3f}, {high:.3f}]".format(**line["value"])
        apart = "{mean:+.3f} [{low:+.3f}, {high:+.3f}] to {row}".format(**line["minus"]) if "minus" in line else ""
        table.add_row(line["row"], str(line["seed"]), value, f"{line['share_of_best']:.1%}", apart)
    Console(width=130).print(table)


def main() -> None:
    """Judge a run, print, and write the file if it is to have a name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--k", type=int, default=5, help="items of a list")
    parser.add_argument("--against", default="popularity", help="row that the others are compared with")
    parser.add_argument("--import", dest="modules", nargs="*", default=[], help="modules with parts of your own")
    parser.add_argument("--name", default=None)
    arguments = parser.parse_args()
    lines = table_of(judged(arguments.run, k=arguments.k, modules=arguments.modules), against=arguments.against)
    show(lines)
    if arguments.name:
        description = json.loads((arguments.run / "run.json").read_text(encoding="utf-8"))
        content = {
            **header("numpy", "polars", "torch"),
            "command": f"{run_command(description)}; python -m benchmarks.quality.true_value RUN --k {arguments.k} "
            f"--against {arguments.against} --name {arguments.name}",
            "simulated": True,
            "note": f"expected value of a list of {arguments.k} items for the test users, by the world of the data",
            "users": lines[0]["users"],
            "rows": lines,
        }
        write_output(HERE / f"{arguments.name}.json", content)


if __name__ == "__main__":
    main()
