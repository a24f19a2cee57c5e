"""What trains a policy and what judges it share no event; data without feedback is refused or said to lack it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sememe.align.reward_model import SessionReward
from sememe.align.rewards import Gain, RuleReward
from sememe.core.errors import DataError
from sememe.data.feedback_simulator import TINY_FEEDBACK
from sememe.pipeline.align_plan import AlignPlan
from sememe.pipeline.learned_rewards import Reads, lacking_feedback, readable_events
from sememe.pipeline.recipe import Recipe
from sememe.pipeline.run import run_recipe

LOG = TINY_FEEDBACK.generate(seed=0).interactions


@pytest.mark.parametrize("reads", ["other_users", "random_exposure"])
def test_no_event_is_read_in_both_roles(reads: Reads) -> None:
    trains, judges = (readable_events(LOG, role=role, reads=reads, seed=0) for role in ("reward", "judge"))
    assert not (trains & judges).any() and (trains | judges).all() and trains.any() and judges.any()
    if reads == "random_exposure":
        np.testing.assert_array_equal(judges, LOG.columns["random_exposure"] == 1)
    else:
        assert not set(LOG.users()[trains].tolist()) & set(LOG.users()[judges].tolist())


def test_what_a_log_lacks_is_told() -> None:
    plain = replace(LOG, columns={"session": LOG.columns["session"]})
    assert lacking_feedback(LOG, SessionReward(), reads="random_exposure") is None
    assert "duration, follow, like, watch_time" in str(lacking_feedback(plain, SessionReward(), reads="other_users"))
    assert "rating" in str(lacking_feedback(plain, RuleReward(gain=Gain()), reads="other_users"))
    assert lacking_feedback(plain, RuleReward(), reads="random_exposure") is None
    logged = replace(LOG, columns={**LOG.columns, "random_exposure": np.zeros(LOG.num_events, np.int8)})
    assert "uniformly at random" in str(lacking_feedback(logged, SessionReward(), reads="random_exposure"))


def test_a_run_refuses_data_without_feedback_before_it_trains(tiny: Recipe, world_files: Path, tmp_path: Path) -> None:
    recipe = replace(tiny, align=AlignPlan(reward=SessionReward()), baselines=())
    with pytest.raises(DataError, match="'tiny' cannot be aligned: its rewards read dislike, duration"):
        run_recipe(recipe, data=world_files, out=tmp_path, say=lambda _: None)
    assert not list((tmp_path / "stages").glob("model-*"))
