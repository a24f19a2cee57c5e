"""kill -9 at any moment, start again: the end is that of a run that nobody disturbed, bit for bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import killed_run
import polars as pl
import pytest
from safetensors.numpy import load_file

from sememe.align.prompts import Prompts
from sememe.align.reward_model import SessionReward
from sememe.align.rollouts import DistinctGroups
from sememe.core.config import to_tree
from sememe.models.reward import SessionRewardNet
from sememe.pipeline.align_plan import STEP, AlignPlan, GatePlan
from sememe.pipeline.recipe import Recipe
from sememe.train.plan import TrainPlan

MOMENTS = (
    r"open .*/\.data-.*\.tmp/items\.npy",  # a stage is half written
    r"rename .*/\.split-[^/]*\.tmp",  # written, not yet in its place
    r"shutil\.rmtree .*/\.split-[^/]*\.work",  # in its place, its scratch still there
    r"rename .*/\.step-000000001\..*",  # before the first checkpoint is whole
    r"remove .*/step-000000002\.safetensors",  # one checkpoint too many
    r"rename .*/\.best-000000006\..*",  # validated, the best weights not kept yet
    r"rename .*/\.step-000000006\..*",  # the best weights kept, the step that they belong to not
    r"rename .*\.work/\.final\..*",
    r"remove .*/checkpoints/best-.*",  # trained; the checkpoints are being cleared away
    r"rename .*/\.model-tiny-[^/]*\.tmp",  # trained and copied, not yet in its place
    r"open .*/\.evaluation-tiny-.*\.tmp/rows\.json",
    r"rename .*/\.metrics\.json\..*",  # written, not yet in its place
    r"open .*/\.run\.json\..*",  # metrics.json is there, run.json is not
)

LAST_WORD = (
    r"rename .*/\.rerank-tiny-[^/]*\.work/half1/\.final\..*",  # one half fitted, the other not yet kept
    r"rename .*/\.rerank-tiny-[^/]*\.work/all/\.final\..*",
    r"rename .*/\.rerank-tiny-[^/]*\.tmp",
    r"open .*/\.evaluation-tiny-items-.*\.tmp/rows\.json",
)

ALIGNED = (
    r"rename .*/\.judge-tiny-[^/]*\.work/\.final\..*",  # the judge is learned, and not kept yet
    r"rename .*/\.aligned-tiny-[^/]*\.work/round-00/checkpoints/\.step-000000002\..*",  # in the midst of a round
    r"rename .*/\.aligned-tiny-[^/]*\.work/round-00/\.final\..*",
    r"rename .*/\.aligned-tiny-[^/]*\.work/round-01/checkpoints/\.step-000000003\..*",
    r"rename .*/\.aligned-tiny-[^/]*\.tmp",
    r"open .*/\.gate-tiny-[^/]*\.tmp/gate\.json",
    r"open .*/\.evaluation-tiny-refused-.*\.tmp/rows\.json",
)

FOUR_STEPS = TrainPlan(
    epochs=None, steps=4, validate_every=2, monitor=STEP, checkpoint_every_seconds=0.0, threads=1, precision="fp32"
)
LIKED = SessionReward(
    labels=("like",),
    weights=(1.0,),
    net=SessionRewardNet(d_model=8, hidden=8),
    train=replace(FOUR_STEPS, monitor="correlation"),
    batch_size=16,
)


@pytest.fixture(scope="module")
def recipe(tiny: Recipe) -> Recipe:
    """With dropout, which a resumed training must draw anew as it was, and a checkpoint after every step."""
    assert tiny.train is not None
    return replace(
        tiny,
        model=replace(tiny.model, dropout=0.1),
        train=replace(tiny.train, checkpoint_every_seconds=0.0),
        baselines=tiny.baselines[:1],
    )


def run_both(recipe: Recipe, data: Path, folder: Path, *, moments: tuple[str, ...]) -> None:
    """Make `folder`/whole and `folder`/broken, and see that the attempts at the broken run ended at their moments."""
    (folder / "recipe.json").write_text(json.dumps(to_tree(recipe)))
    done = subprocess.run(
        [sys.executable, killed_run.__file__, str(data), str(folder), *moments],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ends: list[int] = json.loads((folder / "ends.json").read_text())
    assert dict(zip((*moments, "end"), ends, strict=True)) == {**dict.fromkeys(moments, signal.SIGKILL), "end": 0}


def test_a_run_that_is_killed_again_and_again_ends_as_an_unbroken_one(
    recipe: Recipe, world_files: Path, tmp_path: Path
) -> None:
    run_both(recipe, world_files, tmp_path, moments=MOMENTS)
    assert_equal_runs(tmp_path / "whole", tmp_path / "broken")


def test_so_does_one_that_is_killed_while_its_last_word_is_fitted(
    reranked: Recipe, world_files: Path, tmp_path: Path
) -> None:
    run_both(replace(reranked, baselines=()), world_files, tmp_path, moments=LAST_WORD)
    assert_equal_runs(tmp_path / "whole", tmp_path / "broken")


def test_so_does_one_that_is_killed_while_it_is_aligned(recipe: Recipe, world_files: Path, tmp_path: Path) -> None:
    """On-policy, so that the samples of a step depend on weights that a checkpoint has to bring back; with a judge that
    is learned."""
    liked = tmp_path / "liked"
    shutil.copytree(world_files, liked)
    events = pl.read_parquet(liked / "interactions.parquet")
    every_third = pl.int_range(pl.len()) % 3 == 0
    events.with_columns(like=every_third.cast(pl.Int8)).write_parquet(liked / "interactions.parquet")
    plan = AlignPlan(
        prompts=Prompts(batch_size=8),
        sampler=DistinctGroups(size=4),
        rounds=2,
        imitate=True,
        train=FOUR_STEPS,
        look_users=10,
        gate=GatePlan(judge=LIKED, samples=2, list_items=5),
    )
    run_both(replace(recipe, align=plan, baselines=()), liked, tmp_path, moments=ALIGNED)
    assert_equal_runs(tmp_path / "whole", tmp_path / "broken")
    for kind in ("judge", "aligned", "gate"):
        (stage,) = (tmp_path / "broken" / "stages").glob(f"{kind}-tiny-*")
        assert (stage / "manifest.json").is_file()


def assert_equal_runs(whole: Path, broken: Path) -> None:
    """The two run directories hold the same bytes, and nothing half-written is left."""
    assert (broken / "metrics.json").read_bytes() == (whole / "metrics.json").read_bytes()
    stages = sorted(path.name for path in (whole / "stages").iterdir())
    # Also says that nothing half-written is left: those names begin with a dot.
    assert sorted(path.name for path in (broken / "stages").iterdir()) == stages
    weights = sorted(path.relative_to(whole) for path in whole.rglob("*.safetensors"))
    assert len(weights) >= 4
    for file in weights:
        assert (broken / file).read_bytes() == (whole / file).read_bytes(), file
    trained = next(path for path in weights if "model-tiny" in str(path))
    assert all(array.any() for array in load_file(broken / trained).values())
    assert not [path for path in broken.rglob(".*") if path.name != ".lock"]
