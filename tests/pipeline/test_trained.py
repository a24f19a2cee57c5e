"""What a model stage depends on, and what its batches carry."""

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from sememe.core.config import set_path
from sememe.pipeline.prepare import prepare_items, prepare_world
from sememe.pipeline.recipe import Recipe
from sememe.pipeline.run import run_recipe
from sememe.pipeline.stages import StageStore
from sememe.pipeline.trained import MACHINE_SETTINGS, training_batches
from sememe.train.plan import TrainPlan


def test_the_stage_leaves_out_the_settings_that_a_continued_training_may_change() -> None:
    free = {entry.name for entry in fields(TrainPlan)} - TrainPlan().fingerprint().keys()
    assert set(MACHINE_SETTINGS) == free


def test_curves_for_tensorboard_do_not_train_again(
    finished: Path, world_files: Path, tiny: Recipe, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    lines: list[str] = []
    changed = set_path(tiny, "train.tensorboard", "true")
    run_recipe(changed, data=world_files, out=tmp_path / "run", say=lines.append)
    assert any(line == "model-tiny: unchanged, reused" for line in lines)
    assert [line for line in lines if "running" in line] == []


@pytest.mark.parametrize(("name", "reads"), [("tiny", True), ("reranked", False)])
def test_only_models_that_read_the_codes_of_targets_get_them(
    name: str, reads: bool, world_files: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    recipe: Recipe = request.getfixturevalue(name)
    stages = StageStore(root=tmp_path, say=lambda _: None, recipe_hash="")
    world = prepare_world(stages, recipe.data, source=world_files, columns={})
    items = prepare_items(stages, recipe, world, seed=0)
    assert items.codes is not None
    source = training_batches(recipe, world, items, seed=0)
    batch = source(0)
    assert ("target_codes" in batch) == reads
    if reads:
        np.testing.assert_array_equal(batch["target_codes"], items.codes.matrix[batch["target"]])


@pytest.mark.parametrize("monitor", ["ndcg@10", "masked_ndcg@10"])
def test_what_picks_the_best_step_is_the_row_of_its_name(
    monitor: str, tiny: Recipe, world_files: Path, tmp_path: Path
) -> None:
    """Watched on all validation users, the best value is the row's own number, with seen items left in or out."""
    recipe = set_path(set_path(tiny, "train.monitor", monitor), "evaluation.validation_users", "150")
    run_recipe(replace(recipe, baselines=()), data=world_files, out=tmp_path, say=lambda _: None)
    lines = [json.loads(line) for line in next(tmp_path.glob("stages/model-*/logs/train.jsonl")).open()]
    watched = [line[monitor] for line in lines if monitor in line]
    rows = json.loads((tmp_path / "metrics.json").read_text())["rows"]
    found = {row["mask_seen"]: row["ndcg@10"] for row in rows if row["split"] == "valid"}
    assert max(watched) == pytest.approx(found[monitor.startswith("masked_")])
    assert found[True] != found[False]
    other = "ndcg@10" if monitor.startswith("masked_") else "masked_ndcg@10"
    assert not any(other in line for line in lines)
