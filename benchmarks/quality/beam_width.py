"""How much of the exact top 10 a beam finds: the generator of a finished run, every item scored against beams.

    python -m benchmarks.quality.beam_width runs/itemwise_beauty --name beam_width_beauty

draws test users, scores the codes of every item of the catalogue for each, leaves out what the user has read, and
counts which of the exact ten best a beam of each width lists.  20:40 is a beam of 20 that keeps 40 prefixes at the
first level.  Writes NAME.json.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.header import header, run_command, write_output
from sememe.core.errors import ConfigError
from sememe.core.schema import PAD, Int32Array
from sememe.core.seeding import generator
from sememe.data.ranges import padded_rows
from sememe.decode.beam import BeamSearch
from sememe.decode.exact import mask_seen
from sememe.metrics.significance import bootstrap_mean
from sememe.models.itemwise import ItemWiseModel
from sememe.nn.select import rank_best
from sememe.pipeline.opened import Run, open_run, read_json
from sememe.train.device import to_tensors

HERE = Path(__file__).resolve().parent
TOP, ROWS = 10, 16


def exact_top(model: ItemWiseModel, batch: Mapping[str, torch.Tensor], seen: Int32Array, *, items: int) -> Int32Array:
    """(N, TOP) the items with the highest code log-probability of all that are not seen."""
    every = torch.arange(items).expand(len(batch["lengths"]), -1)
    with torch.inference_mode():
        scores = mask_seen(model.code_log_prob(batch, every), seen)
    best: Int32Array = rank_best(scores, k=TOP).columns.numpy().astype(np.int32)
    return best


def measure(run: Run, *, beams: list[BeamSearch], users: int) -> list[dict[str, Any]]:
    """Per beam the mean share of the exact top found, and of users for whom all of it is."""
    recommender, split = run.recommender, run.world.split
    model = recommender.model
    if not isinstance(model, ItemWiseModel):
        raise ConfigError("only the item-wise generator scores all codes here", fix="name a run of itemwise")
    model.eval()
    chosen = np.sort(generator(0, "beam width").permutation(len(split.test))[:users])
    found: list[list[np.ndarray]] = [[] for _ in beams]
    for start in range(0, len(chosen), ROWS):
        rows = chosen[start : start + ROWS]
        log = split.interactions
        histories = [
            np.asarray(log.history(user)[:known])
            for user, known in zip(split.test.users[rows], split.test.starts[rows], strict=True)
        ]
        recent = [history[-recommender.max_history :] for history in histories]
        arrays = {"history": padded_rows(recent), "lengths": np.array([len(one) for one in recent], np.int32)}
        batch, seen = to_tensors(arrays, recommender.device), padded_rows(histories)
        exact = exact_top(model, batch, seen, items=log.num_items)
        for beam, shares in zip(beams, found, strict=True):
            ranked = beam.recommend(model, batch, k=TOP, trie=recommender.trie, seen=seen)
            listed = np.where(ranked.items == PAD, -2, ranked.items)
            shares.append((exact[:, :, None] == listed[:, None, :]).any(axis=2).mean(axis=1))
    lines = []
    for beam, shares in zip(beams, found, strict=True):
        share = np.concatenate(shares)
        interval = bootstrap_mean(share, seed=0)
        lines.append(
            {
                "beam": beam.describe(),
                "users": len(share),
                "found": interval.mean,
                "low": interval.low,
                "high": interval.high,
                "users_with_all": float((share == 1).mean()),
            }
        )
    return lines


def main() -> None:
    """Measure the run named on the command line and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument(
        "--beams", nargs="+", default=["10", "20", "20:30", "20:40", "50", "100"], help="WIDTH or WIDTH:FIRST"
    )
    parser.add_argument("--out", type=Path, default=HERE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    beams = [BeamSearch(*map(int, beam.split(":"))) for beam in arguments.beams]
    lines = measure(open_run(arguments.run), beams=beams, users=arguments.users)
    table = Table("beam", f"found of the exact {TOP}", "users with all of them")
    for line in lines:
        table.add_row(
            line["beam"],
            f"{line['found']:.4f} [{line['low']:.4f}, {line['high']:.4f}]",
            f"{line['users_with_all']:.3f}",
        )
    Console(width=120).print(table)
    description = read_json(arguments.run / "run.json")
    content = {
        **header("torch", "numpy"),
        "command": run_command(description),
        "then": f"python -m benchmarks.quality.beam_width RUN --name {arguments.name} --users {arguments.users}",
        "recipe_hash": description["recipe_hash"],
        "mask_seen": True,
        "rows": lines,
    }
    write_output(arguments.out / f"{arguments.name}.json", content)


if __name__ == "__main__":
    main()
