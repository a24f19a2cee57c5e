"""What variety costs: lists drawn from the generator of a finished run at several temperatures, judged like any other.

    sememe run itemwise --data amazon2014_beauty --out runs/itemwise_beauty
    python -m benchmarks.quality.diversity runs/itemwise_beauty --temperatures 0 0.25 0.5 1 1.5 2 --users 2000

prints a table and writes diversity_itemwise_amazon2014_beauty.json beside this file.  Lists of 10, for test users drawn
once, seen items left out; temperature 0 is the beam.  What a run recommends with may be a reranker on top, and the
lists here are the generator's own: compare the lines of one table with each other.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.header import header, run_command, write_output
from sememe.core.errors import ConfigError
from sememe.core.seeding import generator
from sememe.data.splits import Examples
from sememe.decode.sample import Sampled
from sememe.pipeline.evaluate import Label, judge, metrics_row, short_share
from sememe.pipeline.opened import Run, open_run
from sememe.pipeline.recipe import EvaluationPlan

HERE = Path(__file__).resolve().parent
PLAN = EvaluationPlan(ks=(10,))
ACCURACY = ("recall@10", "ndcg@10")
VARIETY = ("entropy@10", "coverage@10", "popularity@10")
"""All users' lists taken together: bits of evenness, share of the catalogue, mean popularity percentile."""

Row = dict[str, float | int]


def measure(run: Run, *, part: Sampled, temperatures: Sequence[float], users: int) -> list[Row]:
    """One line per temperature for the same `users` test users, or all where there are fewer.

    part: the other settings of the draw.

    Raises:
        ConfigError: the run's model does not write codes.
    """
    if run.recommender.trie is None:
        raise ConfigError("this model writes no semantic IDs to draw", fix="name one that does: --model itemwise")
    test = run.world.split.test
    chosen = generator(0, "diversity-users").permutation(len(test))[:users]
    chosen.sort()
    examples = Examples(users=test.users[chosen], starts=test.starts[chosen], ends=test.ends[chosen])
    counts = run.world.train_counts()
    label = Label(model="", seed=0, split="test", mask_seen=True)
    rows: list[Row] = []
    for temperature in temperatures:
        drawing = replace(run.recommender, decode=replace(part, temperature=temperature), rerank=None)
        judged = judge(drawing, run.world.split, PLAN, examples=examples, mask_seen=True)
        row: dict[str, Any] = metrics_row(judged, label, PLAN, train_counts=counts)
        names = [f"{name}{end}" for name in ACCURACY for end in ("", "_low", "_high")]
        rows.append({"temperature": temperature, "users": len(examples)} | {n: row[n] for n in (*names, *VARIETY)})
    return rows


def table(rows: Sequence[Row], *, title: str) -> Table:
    """The lines of `measure` for the terminal."""
    result = Table(title=title)
    for name in ("temperature", *ACCURACY, *VARIETY):
        result.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        accuracy = [
            f"{short_share(row[name])} [{short_share(row[f'{name}_low'])},{short_share(row[f'{name}_high'])}]"
            for name in ACCURACY
        ]
        entropy, *shares = (row[name] for name in VARIETY)
        result.add_row(f"{row['temperature']:g}", *accuracy, f"{entropy:.2f}", *map(short_share, shares))
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    options = _parser().parse_args(arguments)
    circumstances = header("torch", "numpy", "polars")
    run = open_run(options.run, model=options.model)
    description = json.loads((options.run / "run.json").read_text())
    model = options.model or run.recipe.name
    data = Path(description["data"]).name
    members = {member.name: member for member in (run.recipe, *run.recipe.baselines)}
    # The beam of the first line is as wide as the run's own.
    width = getattr(members[model].decode, "width", Sampled.width)
    part = Sampled(top_p=options.top_p, seed=options.seed, width=width)
    rows = measure(run, part=part, temperatures=options.temperatures, users=options.users)
    command = (
        f"python -m benchmarks.quality.diversity RUN --model {model} --users {options.users} --temperatures "
        f"{' '.join(f'{value:g}' for value in options.temperatures)} --top-p {options.top_p:g} --seed {options.seed}"
    )
    # A console as wide as the table, so that a pipe gets it whole.
    Console(width=130).print(table(rows, title=f"{model} on {data}, {rows[0]['users']:,} test users, lists of 10"))
    content = {
        **circumstances,
        "command": command,
        "run": run_command(description),
        "recipe_hash": description["recipe_hash"],
        "split": run.metrics["protocol"]["name"],
        "width": width,
        "mask_seen": True,
        "rows": rows,
    }
    name = options.name or f"diversity_{model}_{data}".replace("-", "_")
    write_output(options.out / f"{name}.json", content)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="directory of a finished run")
    parser.add_argument("--model", help="which of the run's models; its recipe's own where not given")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.25, 0.5, 1.0, 1.5, 2.0])
    parser.add_argument("--users", type=int, default=2000, help="at most so many test users")
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--name", help="of the file; made of model and data where not given")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the file")
    return parser


if __name__ == "__main__":
    main()
