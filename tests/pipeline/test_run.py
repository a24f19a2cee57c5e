import json
import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from safetensors.numpy import load_file

import sememe
import sememe.pipeline.opened
from sememe.core.artifact import only_writer
from sememe.core.config import from_tree, set_path
from sememe.core.errors import ArtifactError, ConfigError, DataError, SememeError
from sememe.pipeline.evaluate import metrics_tables
from sememe.pipeline.recipe import EvaluationPlan, Recipe
from sememe.pipeline.run import run_recipe


def run_again(recipe: Recipe, data: Path, out: Path) -> list[str]:
    lines: list[str] = []
    run_recipe(recipe, data=data, out=out, say=lines.append)
    return lines


def test_a_run_writes_rows_for_every_model_split_and_masking_rule(finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    found = {(row["model"], row["split"], row["mask_seen"]) for row in metrics["rows"]}
    models = ("popularity", "item-knn", "tiny")
    assert found == {(model, split, mask) for model in models for split in ("valid", "test") for mask in (False, True)}
    for row in metrics["rows"]:
        assert row["users"] == 150
        for name in ("recall@5", "recall@10", "ndcg@5", "ndcg@10"):
            assert 0 <= row[f"{name}_low"] <= row[name] <= row[f"{name}_high"] <= 1
    assert metrics["protocol"]["name"] == "leave_one_out"
    assert metrics["protocol"]["catalogue"] == "full"


def test_the_comparison_is_the_difference_of_the_rows(finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    rows = {(row["model"], row["mask_seen"]): row for row in metrics["rows"] if row["split"] == "test"}
    assert {entry["against"] for entry in metrics["comparisons"]} == {"popularity", "item-knn"}
    for entry in metrics["comparisons"]:
        ours, theirs = (rows[model, entry["mask_seen"]] for model in ("tiny", entry["against"]))
        difference = ours[entry["metric"]] - theirs[entry["metric"]]
        assert entry["difference"] == pytest.approx(difference, abs=1e-9)
        assert entry["low"] <= entry["difference"] <= entry["high"]


def test_the_mean_over_seeds_is_the_mean_of_the_rows(tiny: Recipe, world_files: Path, tmp_path: Path) -> None:
    run_recipe(replace(tiny, seeds=(0, 3), baselines=()), data=world_files, out=tmp_path, say=lambda _: None)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert [(mean["split"], mean["mask_seen"], mean["seeds"]) for mean in metrics["means"]] == [
        (split, mask_seen, 2) for split in ("valid", "test") for mask_seen in (False, True)
    ]
    for mean in metrics["means"]:
        rows = [r for r in metrics["rows"] if (r["split"], r["mask_seen"]) == (mean["split"], mean["mask_seen"])]
        assert [row["seed"] for row in rows] == [0, 3] and rows[0]["ndcg@10"] != rows[1]["ndcg@10"]
        assert mean["ndcg@10"] == pytest.approx((rows[0]["ndcg@10"] + rows[1]["ndcg@10"]) / 2)
        assert mean["ndcg@10_low"] < mean["ndcg@10"] < mean["ndcg@10_high"]
    table = metrics_tables(metrics)[1]
    assert list(table.columns[1].cells) == ["0", "3", "mean"]


def test_the_recipe_of_a_run_is_kept_whole(finished: Path, tiny: Recipe) -> None:
    assert from_tree(json.loads((finished / "run.json").read_text())["recipe"]) == tiny


def test_the_same_run_again_reuses_every_stage(finished: Path, world_files: Path, tiny: Recipe, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    before = (tmp_path / "run" / "metrics.json").read_bytes()
    lines = run_again(tiny, world_files, tmp_path / "run")
    assert [line for line in lines if "running" in line] == []
    assert sum("unchanged, reused" in line for line in lines) == 10
    assert (tmp_path / "run" / "metrics.json").read_bytes() == before


def test_a_changed_setting_reruns_only_what_depends_on_it_and_says_why(
    finished: Path, world_files: Path, tiny: Recipe, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    lines = run_again(set_path(tiny, "train.steps", "13"), world_files, tmp_path / "run")
    running = [line for line in lines if "running again" in line]
    assert len(running) == 2
    assert running[0].startswith("model-tiny: running again, since train.steps 12 -> 13")
    assert running[1].startswith("evaluation-tiny: running again, since input model changed")


def test_equal_runs_give_equal_weights_and_numbers(
    finished: Path, world_files: Path, tiny: Recipe, tmp_path: Path
) -> None:
    run_again(tiny, world_files, tmp_path / "run")
    ours, theirs = (next(path.glob("stages/model-tiny-*/model.safetensors")) for path in (finished, tmp_path / "run"))
    first, second = load_file(ours), load_file(theirs)
    assert first.keys() == second.keys()
    assert all((first[name] == second[name]).all() for name in first)
    assert (finished / "metrics.json").read_text() == (tmp_path / "run" / "metrics.json").read_text()


def test_every_seed_is_trained_and_counting_models_only_once(world_files: Path, tiny: Recipe, tmp_path: Path) -> None:
    run_again(replace(tiny, seeds=(0, 1)), world_files, tmp_path)
    rows = json.loads((tmp_path / "metrics.json").read_text())["rows"]
    seeds = [(row["model"], row["seed"]) for row in rows if row["split"] == "test" and not row["mask_seen"]]
    assert seeds == [("popularity", 0), ("item-knn", 0), ("tiny", 0), ("tiny", 1)]


def test_recommend_answers_for_a_user_and_for_a_history(finished: Path) -> None:
    run = sememe.open_run(finished)
    user = run.world.interactions.user_ids[3]
    seen = run.history(user)["item"].to_list()
    found = run.recommend(user=user, k=5)
    assert found.columns == ["rank", "item", "title", "score", "source"]
    assert found["rank"].to_list() == [1, 2, 3, 4, 5]
    assert not set(found["item"]) & set(seen)
    assert found["score"].is_sorted(descending=True)
    assert all(found["title"].str.len_chars() > 0)
    free = run.recommend(history=seen[:2], k=50, repeat_seen=True)
    assert free["item"].n_unique() == free.height


def test_offline_and_served_lists_are_the_same(finished: Path) -> None:
    """The rows that evaluation judged are those that recommend() gives for the same histories."""
    run = sememe.open_run(finished)
    split = run.world.split
    per_row = pl.read_parquet(next(finished.glob("stages/evaluation-tiny-*/per_row.parquet")))
    chosen = per_row.filter(pl.col("split") == "test", pl.col("mask_seen")).sort("user")
    histories = [
        run.world.interactions.history(int(user))[: int(start)]
        for user, start in zip(split.test.users, split.test.starts, strict=True)
    ]
    ranked = run.recommender.recommend(histories, users=split.test.users, k=10, leave_out=histories)
    targets = run.world.interactions.items[run.world.interactions.offsets[1:] - 1]
    hits = (ranked.items == targets[:, None]).any(axis=1)
    assert hits.astype(float).tolist() == chosen["recall@10"].to_list()


def test_a_baseline_of_the_run_can_be_asked_too(finished: Path) -> None:
    run = sememe.pipeline.opened.open_run(finished, model="popularity")
    items = run.recommend(history=[run.world.interactions.item_ids[0]], k=3)
    assert items["source"][0].startswith("exact")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ConfigError, "of user and history"),
        ({"user": "u000", "history": ["i000"]}, ConfigError, "of user and history"),
        ({"user": "nobody"}, DataError, "no user 'nobody'"),
        ({"history": ["nothing"]}, DataError, "no item 'nothing'"),
        ({"history": []}, DataError, "history is empty"),
        ({"history": ["i000"], "k": 0}, ConfigError, "k is 0"),
    ],
)
def test_a_request_that_cannot_be_answered_says_why(
    finished: Path, arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        sememe.open_run(finished).recommend(**arguments)  # type: ignore[arg-type]


def test_an_unfinished_run_says_how_to_finish_it(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no finished run"):
        sememe.open_run(tmp_path)


def test_a_damaged_stage_is_refused_by_name(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    weights = next((tmp_path / "run").glob("stages/model-tiny-*/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ArtifactError, match="model.safetensors has .* it was truncated"):
        sememe.open_run(tmp_path / "run")


def test_changed_test_items_are_judged_anew(world_files: Path, tiny: Recipe, tmp_path: Path) -> None:
    """A stage reads all that goes into its hash: the split's arrays alone do not say which items were taken."""
    alone = replace(tiny.baselines[0], data=tiny.data)
    shutil.copytree(world_files, tmp_path / "world")
    run_again(alone, tmp_path / "world", tmp_path / "run")
    events = pl.read_parquet(tmp_path / "world" / "interactions.parquet")
    last = pl.col("timestamp") == pl.col("timestamp").max().over("user_id")
    other = events["item_id"].unique().sort()[0]
    events.with_columns(pl.when(last).then(pl.lit(other)).otherwise("item_id").alias("item_id")).write_parquet(
        tmp_path / "world" / "interactions.parquet"
    )
    lines = run_again(alone, tmp_path / "world", tmp_path / "run")
    assert any(line.startswith("evaluation-popularity: running again") for line in lines)
    run_again(alone, tmp_path / "world", tmp_path / "fresh")
    assert (tmp_path / "run" / "metrics.json").read_text() == (tmp_path / "fresh" / "metrics.json").read_text()


def test_settings_of_the_machine_do_not_train_again(
    finished: Path, world_files: Path, tiny: Recipe, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    changed = set_path(set_path(tiny, "train.log_every", "7"), "train.checkpoint_every_seconds", "9")
    assert [line for line in run_again(changed, world_files, tmp_path / "run") if "running" in line] == []


def test_what_picks_the_best_step_trains_again(finished: Path, world_files: Path, tiny: Recipe, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    lines = run_again(set_path(tiny, "evaluation.validation_users", "30"), world_files, tmp_path / "run")
    assert any(line.startswith("model-tiny: running again, since validation.users 40 -> 30") for line in lines)
    # What is not trained is not judged again either.
    assert "evaluation-popularity: unchanged, reused" in lines


def test_filters_are_settings(world_files: Path, tiny: Recipe, tmp_path: Path) -> None:
    alone = set_path(replace(tiny.baselines[0], data=tiny.data), "data.filters.min_length", "12")
    lines = run_again(alone, world_files, tmp_path)
    assert any("left out" in line for line in lines)
    assert json.loads((tmp_path / "metrics.json").read_text())["rows"][0]["users"] < 150


def test_a_list_longer_than_the_beam_is_full(finished: Path) -> None:
    run = sememe.open_run(finished)
    assert run.recommend(history=[run.world.interactions.item_ids[0]], k=30).height == 30


def test_a_catalogue_that_everybody_has_seen_is_judged(tiny: Recipe, tmp_path: Path) -> None:
    events = [(f"u{user}", "ab"[(user + time) % 2], time) for user in range(6) for time in range(4)]
    table = pl.DataFrame(events, schema=["user_id", "item_id", "timestamp"], orient="row")
    run_recipe(replace(tiny.baselines[0], data=tiny.data), data=table, out=tmp_path, say=lambda _: None)
    rows = json.loads((tmp_path / "metrics.json").read_text())["rows"]
    left_in, left_out = ([row for row in rows if row["mask_seen"] is mask] for mask in (False, True))
    assert [row["recall@10"] for row in left_in] == [row["coverage@10"] for row in left_in] == [1, 1]
    for row in left_out:
        assert row["seen_targets"] == row["users"] == 6
        assert row["recall@10"] == row["ndcg@10_high"] == row["coverage@10"] == row["entropy@10"] == 0
        assert row["popularity@10"] == 0.5


def test_two_processes_cannot_write_one_run(tmp_path: Path, world_files: Path, tiny: Recipe) -> None:
    with only_writer(tmp_path), pytest.raises(SememeError, match="another process is writing"):
        run_again(tiny, world_files, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": ()}, "has the seeds"),
        ({"seeds": (1, 1)}, "has the seeds"),
        ({"evaluation": EvaluationPlan(ks=())}, "evaluation.ks"),
        ({"evaluation": EvaluationPlan(ks=(3,))}, "did you mean 'ndcg@"),
        ({"evaluation": EvaluationPlan(resamples=0)}, "evaluation.resamples is 0"),
        ({"train": None}, "has no train"),
        ({"embed": None}, "tokenizer without vectors"),
        ({"name": "popularity"}, "share a name"),
    ],
)
def test_a_recipe_that_does_not_fit_together_is_refused_before_anything_is_read(
    tiny: Recipe, change: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_again(replace(tiny, **change), tmp_path / "no data", tmp_path / "run")  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()
