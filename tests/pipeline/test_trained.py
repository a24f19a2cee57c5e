"""What a model stage depends on, and what its batches carry."""

import shutil
from dataclasses import fields
from pathlib import Path

from sememe.core.config import set_path
from sememe.pipeline.recipe import Recipe
from sememe.pipeline.run import run_recipe
from sememe.pipeline.trained import MACHINE_SETTINGS
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
