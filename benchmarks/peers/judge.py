"""Judge a peer's rankings with Sememe's own metrics, and compare them user by user with a finished run.

    python -m benchmarks.peers.judge runs/peers/beauty/cornac_sasrec --against runs/itemwise_beauty

reads rankings.parquet and measures.json from the folder and the split from the folder `split` beside it (or --split),
prints the table, and writes cornac_sasrec_DATA.json beside this file: quality as `sememe run` reports it (full
catalogue, item level, ties averaged, 95 % bootstrap intervals, seen items left in and left out), the peer's settings,
time and memory, and, for every model of the run, its paired difference to the peer.

Shape legend: N test users, K list places.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console

from benchmarks.header import header, run_command, write_output
from benchmarks.peers.exchange import ExportedSplit
from benchmarks.peers.export_split import split_digest
from sememe.core.artifact import read_artifact
from sememe.core.errors import DataError
from sememe.core.schema import PAD, Int32Array, Int64Array, Ranked
from sememe.metrics.ranking import cut_ties, rank_metrics
from sememe.pipeline.evaluate import Judged, Label, compare_models, comparison_lines, metrics_row, metrics_tables
from sememe.pipeline.opened import read_json
from sememe.pipeline.prepare import open_world
from sememe.pipeline.recipe import EvaluationPlan

HERE = Path(__file__).resolve().parent
PLAN = EvaluationPlan()


@dataclass(frozen=True, eq=False)
class JudgedPeer:
    """What a peer's lists came to."""

    rows: list[dict[str, Any]]
    """One per masking rule, as in metrics.json."""
    per_row: pl.DataFrame
    """As `Judged.to_frame` gives it."""
    cut_ties: int
    """Lists whose last score, if items beyond the list shared it, could have cost a target its chance."""
    empty: int
    """Test users without a list; they count as misses."""


def judge_peer(split: ExportedSplit, rankings: pl.DataFrame, *, name: str, seed: int = 0) -> JudgedPeer:
    """Apply Sememe's metrics to the lists of every test user.

    Raises:
        DataError: an item or a user is not in the split, a place is missing or given twice, or scores increase.
    """
    test = split.part("test").sort("user")
    users = test["user"].to_numpy().astype(np.int32)
    targets = test["item"].to_numpy().astype(np.int32)[:, None]
    counts: Int64Array = np.bincount(split.part("train")["item"].to_numpy(), minlength=split.num_items)
    again = sum(target in split.histories[user] for user, target in zip(users, targets[:, 0], strict=True))
    rows, frames, cut, empty = [], [], 0, 0
    for mask_seen in (False, True):
        ranked = ranked_of(rankings.filter(pl.col("mask_seen") == mask_seen), users, num_items=split.num_items)
        cut += int(cut_ties(replace(ranked, tied_beyond=np.ones(len(users), np.int64)), ks=PLAN.ks).sum())
        empty += int((ranked.items[:, 0] == PAD).sum())
        judged = Judged(
            per_row=rank_metrics(ranked, targets, ks=PLAN.ks),
            ranked=_first(ranked, max(PLAN.ks)),
            seen_targets=again,
        )
        label = Label(model=name, seed=seed, split="test", mask_seen=mask_seen)
        rows.append(metrics_row(judged, label, PLAN, train_counts=counts))
        frames.append(judged.to_frame(label, users=users))
    return JudgedPeer(rows=rows, per_row=pl.concat(frames), cut_ties=cut, empty=empty)


def ranked_of(lists: pl.DataFrame, users: Int32Array, *, num_items: int) -> Ranked:
    """(user, rank, item, score) lines as a Ranked whose rows are `users`, ascending.

    Raises:
        DataError: see judge_peer.
    """
    lists = lists.sort("user", "rank")
    row = np.searchsorted(users, lists["user"].to_numpy())
    item, place = lists["item"].to_numpy(), lists["rank"].to_numpy().astype(np.int64) - 1
    known = users[np.minimum(row, len(users) - 1)] == lists["user"].to_numpy()
    _require("every user is a test user", holds=bool(known.all()))
    _require("every item is in the catalogue", holds=bool(np.all((item >= 0) & (item < num_items))))
    first = np.searchsorted(row, row)
    _require("the ranks of a user are 1, 2, 3, ...", holds=bool(np.all(place == np.arange(len(row)) - first)))
    _require("no list names an item twice", holds=not bool(lists.select("user", "item").is_duplicated().any()))
    width = int(place.max(initial=0)) + 1
    items = np.full((len(users), width), PAD, np.int32)
    scores = np.full((len(users), width), -np.inf, np.float32)
    items[row, place], scores[row, place] = item, lists["score"].to_numpy()
    _require("scores are numbers and do not increase", holds=bool(np.all(scores[:, 1:] <= scores[:, :-1])))
    return Ranked(items=items, scores=scores, source="peer")


def _first(ranked: Ranked, depth: int) -> Ranked:
    """The first `depth` places, which coverage and its like are told of in a run too."""
    return replace(ranked, items=ranked.items[:, :depth], scores=ranked.scores[:, :depth])


def _require(rule: str, *, holds: bool) -> None:
    if not holds:
        raise DataError(
            f"the rankings break the rule {rule!r}", fix="write them with benchmarks/peers/exchange.py, from this split"
        )


def differences(run: Path, peer: JudgedPeer, *, split: ExportedSplit, name: str) -> list[dict[str, Any]]:
    """Every model of the finished run against the peer, paired by user; see `compare_models`.

    Raises:
        DataError: the run was judged on another split, or has a model of the peer's name.
    """
    description = read_json(run / "run.json")
    stages = {
        stage: read_artifact(run / "stages" / folder, kind=stage) for stage, folder in description["stages"].items()
    }
    if split_digest(open_world(stages["data"], stages["split"]).split) != split.meta["digest"]:
        raise DataError(
            f"{run} was judged on another split than {split.folder} holds",
            fix="export the split from the data of the run, which must be split leave-one-out",
        )
    found = []
    for model, evaluations in _by_model(description["models"]).items():
        if model == name:
            raise DataError(f"the peer and a model of {run} are both called {name!r}", fix="rename the peer's folder")
        ours = pl.concat([pl.read_parquet(run / "stages" / folder / "per_row.parquet") for folder in evaluations])
        shared = [column for column in ours.columns if column in peer.per_row.columns]
        both = pl.concat([ours.select(shared), peer.per_row.select(shared)], how="vertical_relaxed")
        found += compare_models(both, main=model, resamples=PLAN.resamples)
    return found


def _by_model(entries: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Row name -> folders of its evaluations, one per seed."""
    folders: dict[str, list[str]] = {}
    for entry in entries:
        for name, folder in {entry["name"]: entry["stages"]["evaluation"], **entry["views"]}.items():
            folders.setdefault(name, []).append(folder)
    return folders


def record(folder: Path, split_folder: Path, *, against: Path | None, name: str | None) -> tuple[str, dict[str, Any]]:
    """Name and content of the file that is written."""
    split = ExportedSplit.read(split_folder)
    measures = json.loads((folder / "measures.json").read_text(encoding="utf-8"))
    peer = judge_peer(split, pl.read_parquet(folder / "rankings.parquet"), name=folder.name, seed=measures["seed"])
    content: dict[str, Any] = {
        **header("numpy", "polars"),
        "data": split.meta["data"],
        "first_users": split.meta["first_users"],
        "vectors": split.meta["vectors"],
        "protocol": split.meta["protocol"] | {"catalogue": "full", "level": "item", "ties": "averaged"},
        "peer": measures,
        "users_without_list": peer.empty,
        "lists_with_a_cut_tie": peer.cut_ties,
        "rows": peer.rows,
    }
    if against is not None:
        content["against"] = run_command(read_json(against / "run.json"))
        content["comparisons"] = differences(against, peer, split=split, name=folder.name)
    return name or f"{folder.name}_{split.meta['data']}".replace("-", "_"), content


def main() -> None:
    """Judge, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what a peer wrote with --out")
    parser.add_argument("--split", type=Path, help="what export_split wrote; the folder `split` beside it otherwise")
    parser.add_argument("--against", type=Path, help="directory of a finished run on the same split")
    parser.add_argument("--name", help="of the file")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the file")
    options = parser.parse_args()
    split = options.split or options.folder.parent / "split"
    name, content = record(options.folder, split, against=options.against, name=options.name)
    write_output(options.out / f"{name}.json", content)
    console = Console(width=130)
    for table in metrics_tables(content):
        console.print(table)
    for line in comparison_lines({"comparisons": content.get("comparisons", [])}):
        console.print(line, highlight=False)


if __name__ == "__main__":
    main()
