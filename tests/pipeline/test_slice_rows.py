"""Slices in a run: rows worked by hand, what metrics.json and the terminal say, and items withheld from training."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

import sememe
from sememe.cli.main import evaluate
from sememe.core.config import set_path
from sememe.core.errors import ConfigError
from sememe.core.schema import Interactions, Ranked
from sememe.data.splits import LastSession, LeaveOneOut, check_no_leak
from sememe.data.withhold import withhold_items
from sememe.metrics.coverage import entropy
from sememe.pipeline.checks import check_recipe
from sememe.pipeline.evaluate import Judged, Label, protocol_line
from sememe.pipeline.opened import read_metrics
from sememe.pipeline.recipe import EvaluationPlan, Recipe
from sememe.pipeline.run import run_recipe
from sememe.pipeline.slices import slice_rows, slice_tables

PLAN = EvaluationPlan(ks=(1, 2), resamples=20, popularity_slices=(2, 3), history_slices=(3,))


def two_targets() -> Interactions:
    """Three users; the last two sessions of each ask for two items each, but for the third user's last one."""
    histories = [[0, 1, 2, 0, 3, 1], [0, 1, 2, 3, 1], [0, 0, 0, 2, 0]]
    sessions = [[0, 0, 1, 1, 2, 2], [3, 4, 4, 5, 5], [6, 6, 6, 7, 8]]
    return Interactions(
        offsets=np.array([0, 6, 11, 16]),
        items=np.concatenate(histories).astype(np.int32),
        user_ids=pl.Series([0, 1, 2]),
        item_ids=pl.Series([0, 1, 2, 3]),
        columns={"session": np.concatenate(sessions).astype(np.int64)},
    )


def test_slice_rows_by_hand() -> None:
    split = LastSession().split(two_targets())
    # Trained on 0 1 | 0 | 0 0 0: events per item 5, 1, 0, 0.
    counts = np.bincount(split.train().items, minlength=4)
    assert counts.tolist() == [5, 1, 0, 0]
    # Test targets (3, 1), (3, 1), (0): cold, cold and 3+ by the first of them, after 4, 3 and 4 known events.
    names = [f"{metric}@{k}" for metric in ("recall", "ndcg", "hit", "mrr") for k in (1, 2)]
    per_row = dict.fromkeys(names, np.array([1.0, 0.0, 0.5])) | {"ndcg@2": np.array([0.25, 0.75, 0.5])}
    lists = Ranked(np.zeros((3, 2), np.int32), np.zeros((3, 2), np.float32), "test")
    judged = Judged(per_row=per_row, ranked=lists, seen_targets=0)
    label = Label(model="mine", seed=3, split="test", mask_seen=True)
    rows = slice_rows(judged, label, PLAN, split=split, train_counts=counts)
    assert [(row["by"], row["slice"], row["users"]) for row in rows] == [
        ("popularity", "cold", 2),
        ("popularity", "3+", 1),
        ("history", "3+", 3),
    ]
    assert [row["recall@1"] for row in rows] == pytest.approx([0.5, 0.5, 0.5])
    assert [row["ndcg@2"] for row in rows] == pytest.approx([0.5, 0.5, 0.5])
    assert (rows[0]["ndcg@2_low"], rows[0]["ndcg@2_high"]) == (0.25, 0.75)
    assert list(rows[0])[:7] == ["model", "seed", "split", "mask_seen", "by", "slice", "users"]
    metrics = {name for name in rows[0] if "@" in name and not name.endswith(("_low", "_high"))}
    assert metrics == {"recall@1", "recall@2", "ndcg@1", "ndcg@2"}
    # The validation rows of the same split: targets (2, 0), (1, 2), (2), after 2, 1 and 3 known events.
    valid = slice_rows(judged, replace(label, split="valid"), PLAN, split=split, train_counts=counts)
    assert [(row["slice"], row["users"]) for row in valid] == [("cold", 2), ("1", 1), ("1-2", 2), ("3+", 1)]
    assert valid[1]["recall@2"] == 0


def test_metrics_json_holds_slices_of_every_row(finished: Path) -> None:
    metrics = read_metrics(finished)
    assert list(metrics) == ["protocol", "rows", "means", "slices", "calibration", "comparisons"]
    names = ("model", "seed", "split", "mask_seen")
    for row in metrics["rows"]:
        for by in ("popularity", "history"):
            parts = [s for s in metrics["slices"] if s["by"] == by and all(s[name] == row[name] for name in names)]
            assert sum(part["users"] for part in parts) == row["users"]
            for metric in ("recall@5", "recall@10", "ndcg@5", "ndcg@10"):
                whole = sum(part["users"] * part[metric] for part in parts) / row["users"]
                assert whole == pytest.approx(row[metric])
                assert all(part[f"{metric}_low"] <= part[metric] <= part[f"{metric}_high"] for part in parts)


def test_rows_say_how_even_the_recommendations_are(finished: Path) -> None:
    run = sememe.open_run(finished)
    split = run.world.split
    histories = [
        run.world.interactions.history(int(user))[: int(start)]
        for user, start in zip(split.test.users, split.test.starts, strict=True)
    ]
    ranked = run.recommender.recommend(histories, users=split.test.users, k=10, leave_out=histories)
    rows = read_metrics(finished)["rows"]
    row = next(r for r in rows if r["model"] == "tiny" and r["split"] == "test" and r["mask_seen"])
    assert row["entropy@10"] == pytest.approx(entropy(np.bincount(ranked.items.ravel())))
    # The same ten items for everybody.
    popular = next(r for r in rows if r["model"] == "popularity" and not r["mask_seen"])
    assert popular["entropy@10"] == pytest.approx(np.log2(10))


def printed(metrics: dict[str, object]) -> str:
    console = Console(width=80, file=io.StringIO())
    with console.capture() as capture:
        for table in slice_tables(metrics):
            console.print(table)
    return capture.get()


def test_the_terminal_shows_slices_by_model() -> None:
    """Two seeds of one model are averaged, (.2 + .4) / 2; only the test rows with seen items left out are shown."""

    def line(model: str, seed: int, name: str, recall: float, **other: object) -> dict[str, object]:
        row = {"model": model, "seed": seed, "split": "test", "mask_seen": True, "by": "popularity", "slice": name}
        return {**row, "users": 1234, "recall@5": 0.9, "recall@10": recall, "recall@10_low": 0.8, **other}

    slices = [
        line("knn", 0, "cold", 0.0),
        line("tiger", 0, "cold", 0.2),
        line("tiger", 1, "cold", 0.4),
        line("knn", 0, "30+", 1.0),
        line("knn", 0, "cold", 0.7, split="valid"),
        line("knn", 0, "cold", 0.7, mask_seen=False),
        line("knn", 0, "20+", 0.6, by="history"),
    ]
    slices[3:3] = [line("tiger", seed, "30+", 0.5) for seed in (0, 1)]
    text = printed({"slices": slices})
    # Titles are folded to the width of their tables.
    assert "test, recall@10 by training events of the target, seen left out" in " ".join(text.split())
    assert "test, recall@10 by known events of the user" in " ".join(text.split())
    lines = [" ".join(cells.replace("│", " ").split()) for cells in text.splitlines() if "1,234" in cells]
    assert lines == ["cold 1,234 .0000 .3000", "30+ 1,234 1.0000 .5000", "20+ 1,234 .6000"]
    assert slice_tables({"rows": []}) == []


def test_evaluate_prints_slices_in_80_columns(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    evaluate(finished)
    out = capsys.readouterr().out
    flat = " ".join(out.split())
    assert "by known events of the user" in flat
    assert flat.index("full catalogue") < flat.index("by training events of the target")
    tables = [line for line in out.splitlines() if "│" in line]
    assert tables and max(len(line) for line in tables) <= 80


@pytest.mark.parametrize("begins", [(5, 5), (10, 5), (1, 5), (0,)])
def test_slices_that_do_not_ascend_are_refused(tiny: Recipe, begins: tuple[int, ...]) -> None:
    for name in ("popularity_slices", "history_slices"):
        plan = replace(tiny.evaluation, **{name: begins})
        with pytest.raises(ConfigError, match=f"evaluation.{name} is"):
            check_recipe(replace(tiny, evaluation=plan))


def test_withheld_items_are_new_to_every_model_and_asked_for(world_files: Path, tiny: Recipe, tmp_path: Path) -> None:
    recipe = set_path(tiny, "data.split.withhold_items", "0.1")
    lines: list[str] = []
    run_recipe(recipe, data=world_files, out=tmp_path, say=lines.append)
    run, metrics = sememe.open_run(tmp_path), read_metrics(tmp_path)
    split, item_ids = run.world.split, run.world.interactions.item_ids
    check_no_leak(split)
    # The split that was read back is the one that was made: 4 of 36 items.
    made = withhold_items(LeaveOneOut().split(run.world.interactions), share=0.1)
    assert len(made.withheld) == 4
    for name in ("withheld", "train_ends"):
        assert getattr(split, name).tolist() == getattr(made, name).tolist()
    assert split.valid.users.tolist() == made.valid.users.tolist()
    assert split.protocol == made.protocol
    assert (run.world.train_counts()[split.withheld] == 0).all()

    counts = metrics["protocol"]["counts"]
    assert any("training events of withheld items" in line for line in lines)
    assert f"never occur in training; {len(split.withheld)} items withheld from training; " in protocol_line(metrics)
    assert f"  item-knn: counted {counts['train_events']:,} events" in lines
    cold = [part for part in metrics["slices"] if part["slice"] == "cold"]
    # Validation asks for none of them.
    asked = {(part["model"], part["split"]) for part in cold}
    assert asked == {(name, "test") for name in ("popularity", "item-knn", "tiny")}
    assert {part["users"] for part in cold} == {counts["test_withheld_targets"]} == {counts["test_cold_targets"]}
    assert [part["recall@10"] for part in cold if part["model"] == "popularity"] == [0, 0]
    # Codes come from content, so the generator can write what it never saw.
    seen = next(item for item in range(36) if item not in split.withheld)
    found = run.recommend(history=[item_ids[seen]], k=35)["item"]
    assert set(item_ids.gather(split.withheld)) <= set(found)
