"""The judge of other packages: the lists of a finished run, handed over as a peer's, come to the run's own numbers."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from benchmarks.peers.exchange import ExportedSplit, both_lists, join_lists, targets_per_epoch, write_rankings
from benchmarks.peers.export_split import export
from benchmarks.peers.judge import judge_peer, record
from sememe.core.errors import DataError
from sememe.core.schema import PAD
from sememe.pipeline.evaluate import judge
from sememe.pipeline.opened import open_run, read_metrics
from sememe.pipeline.recipe import EvaluationPlan

DEPTH = 10


@dataclass(frozen=True)
class Handed:
    """What a peer would have left behind."""

    folder: Path
    split: ExportedSplit

    @property
    def rankings(self) -> pl.DataFrame:
        return pl.read_parquet(self.folder / "rankings.parquet")


@pytest.fixture(scope="module")
def handed(finished: Path, world_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Handed:
    """The lists of the finished run's model `tiny`, as deep as the run judged them, written as a peer writes them."""
    root = tmp_path_factory.mktemp("peers")
    (root / "split").mkdir()
    export(str(world_files), root / "split", vectors="provided")
    split = ExportedSplit.read(root / "split")
    run = open_run(finished)
    test = run.world.split.test
    tables = []
    for mask_seen in (False, True):
        plan = EvaluationPlan(ks=(DEPTH,))
        ranked = judge(run.recommender, run.world.split, plan, examples=test, mask_seen=mask_seen).ranked
        frame = pl.DataFrame(
            {
                "user": np.repeat(test.users, DEPTH),
                "rank": np.tile(np.arange(1, DEPTH + 1), len(test)),
                "item": ranked.items.ravel(),
                "score": ranked.scores.ravel(),
            }
        )
        tables.append(frame.filter(pl.col("item") != PAD).with_columns(mask_seen=pl.lit(mask_seen)))
    write_rankings(root / "peer", pl.concat(tables))
    (root / "peer" / "measures.json").write_text(json.dumps({"seed": 0, "targets_per_second": 1.0}))
    return Handed(root / "peer", split)


def rows_of(run: Path, model: str) -> list[dict[str, Any]]:
    return [row for row in read_metrics(run)["rows"] if row["model"] == model and row["split"] == "test"]


def test_the_judge_agrees_with_the_evaluation(handed: Handed, finished: Path) -> None:
    judged = judge_peer(handed.split, handed.rankings, name="tiny")
    for ours, theirs in zip(rows_of(finished, "tiny"), judged.rows, strict=True):
        # The run's own plan draws fewer resamples, so only the intervals may differ.
        names = [name for name in ours if not name.endswith(("_low", "_high"))]
        assert {name: theirs[name] for name in names} == pytest.approx({name: ours[name] for name in names})
    # Lists no deeper than the metrics read could all end in a tie that goes on.
    assert judged.empty == 0 and judged.cut_ties == 2 * handed.split.part("test").height


def test_the_record_compares_user_by_user(handed: Handed, finished: Path) -> None:
    name, content = record(handed.folder, handed.split.folder, against=finished, name=None)
    assert name == f"peer_{content['data']}".replace("-", "_")
    assert {"machine", "commit", "date", "peer", "rows", "protocol", "against"} < set(content)
    differences = {(each["model"], each["mask_seen"], each["metric"]): each for each in content["comparisons"]}
    for mask_seen in (False, True):
        same = differences["tiny", mask_seen, "ndcg@10"]
        assert (same["difference"], same["low"], same["high"]) == (0, 0, 0) and same["against"] == "peer"
        ours = {row["model"]: row["ndcg@10"] for row in read_metrics(finished)["rows"] if row["mask_seen"] is mask_seen}
        found = differences["popularity", mask_seen, "ndcg@10"]["difference"]
        assert found == pytest.approx(ours["popularity"] - ours["tiny"])


def test_another_split_is_no_comparison(finished: Path, world_files: Path, tmp_path: Path) -> None:
    export(str(world_files), tmp_path, users=60, vectors="none")
    split = ExportedSplit.read(tmp_path)
    assert split.meta["first_users"] == 60 and split.part("test").height == 60
    scores = np.zeros(split.num_items)
    write_rankings(
        tmp_path / "peer", join_lists([each for user in range(60) for each in both_lists(user, scores, seen=[])])
    )
    (tmp_path / "peer" / "measures.json").write_text('{"seed": 0}')
    with pytest.raises(DataError, match="another split"):
        record(tmp_path / "peer", tmp_path, against=finished, name=None)


def test_broken_rankings_are_refused_by_rule(handed: Handed) -> None:
    good = handed.rankings
    first = (pl.col("user") == 0) & (pl.col("rank") == 1)
    broken = {
        "every user is a test user": good.with_columns(user=pl.col("user") + 1000),
        "every item is in the catalogue": good.with_columns(item=pl.col("item") + 1000),
        "1, 2, 3": good.filter(~first),
        "twice": good.with_columns(item=pl.lit(3, pl.Int32)),
        "do not increase": good.with_columns(score=pl.when(first).then(-1e6).otherwise(pl.col("score"))),
    }
    for rule, rankings in broken.items():
        with pytest.raises(DataError, match=rule):
            judge_peer(handed.split, rankings, name="peer")


def test_a_user_without_a_list_is_a_miss(handed: Handed) -> None:
    whole = judge_peer(handed.split, handed.rankings, name="peer")
    hit = whole.per_row.filter(~pl.col("mask_seen") & (pl.col("recall@10") > 0))["user"][0]
    less = judge_peer(handed.split, handed.rankings.filter(pl.col("user") != hit), name="peer")
    users = handed.split.part("test").height
    assert less.empty == 2
    assert whole.rows[0]["recall@10"] - less.rows[0]["recall@10"] == pytest.approx(1 / users)


def test_the_export_is_the_split(handed: Handed, finished: Path) -> None:
    split = open_run(finished).world.split
    log = split.interactions
    sequences = handed.split.sequences("train", "valid", "test")
    assert all(sequences[user] == log.history(user).tolist() for user in range(log.num_users))
    asked = handed.split.part("test")["item"].to_numpy()
    assert np.array_equal(asked, log.items[log.offsets[split.test.users] + split.test.starts])
    assert handed.split.vectors().shape == (log.num_items, 16)
    train = handed.split.sequences("train").values()
    assert targets_per_epoch(handed.split) == sum(len(items) - 1 for items in train)
    assert targets_per_epoch(handed.split, longest=3) == sum(min(len(items) - 1, 3) for items in train)


def test_lists_from_scores() -> None:
    scores = np.full(30, -np.inf)
    scores[[4, 7, 9, 11]] = [1.0, 3.0, 3.0, 2.0]
    table = join_lists(both_lists(5, scores, seen=[7, 7, 20]))
    assert table.filter(~pl.col("mask_seen"))["item"].to_list() == [7, 9, 11, 4]
    left_out = table.filter("mask_seen")
    assert left_out["item"].to_list() == [9, 11, 4] and left_out["rank"].to_list() == [1, 2, 3]
    assert set(table["user"]) == {5} and scores[7] == 3.0
