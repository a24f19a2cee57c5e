"""True values of a run's lists: one user at a time by hand, bounds, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.quality.true_value import judged, table_of
from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import PAD
from sememe.data.feedback_files import read_truth, write_feedback
from sememe.data.feedback_simulator import TINY_FEEDBACK
from sememe.pipeline.opened import open_run
from sememe.pipeline.run import run_recipe
from sememe.pipeline.true_value import true_values
from sememe.recipes import item_knn, popularity


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("true_value")
    write_feedback(TINY_FEEDBACK, root / "data", seed=0)
    recipe = replace(item_knn(), baselines=(popularity(),))
    run_recipe(recipe, data=root / "data", out=root / "run", say=lambda line: None)
    return root


def test_values_are_those_of_each_user_s_list_in_the_state_before_the_test(folder):
    run, world = open_run(folder / "run"), read_truth(folder / "data").world
    found = true_values(run, world, k=4)
    split = run.world.split
    assert len(found.values) == len(split.test) > 10
    for row in range(0, len(split.test), 3):
        user, known = int(split.test.users[row]), int(split.test.starts[row])
        history = split.interactions.history(user)[:known]
        listed = run.recommender.recommend([history], users=np.array([user]), k=4, leave_out=[history]).items[0]
        np.testing.assert_array_equal(found.lists[row], listed)
        ends = split.interactions.lengths()
        ends[user] = known
        now = world.after(split.interactions.prefix(ends))
        assert found.values[row] == pytest.approx(now.expected_value([user], listed[None])[0])
        assert not set(listed.tolist()) & set(history.tolist())
    assert (found.values <= found.best + 1e-12).all()
    assert (found.lists != PAD).all()


def test_a_table_compares_rows_user_by_user(folder):
    lines = table_of(judged(folder / "run", k=3), against="popularity")
    by_row = {line["row"]: line for line in lines}
    known = by_row["popularity"]
    assert "minus" not in known
    knn = by_row["item-knn"]
    assert knn["minus"]["mean"] == pytest.approx(knn["value"]["mean"] - known["value"]["mean"])
    assert 0 < knn["share_of_best"] < 1
    assert knn["minus"]["low"] < knn["minus"]["mean"] < knn["minus"]["high"]


def test_what_cannot_be_judged_is_said(folder, tmp_path):
    run, world = open_run(folder / "run"), read_truth(folder / "data").world
    with pytest.raises(ConfigError, match="lists of 0 items"):
        true_values(run, world, k=0)
    other = write_feedback(TINY_FEEDBACK, tmp_path / "data", seed=0)
    (tmp_path / "data" / "data.toml").unlink()
    real = run_recipe(item_knn(), data=tmp_path / "data", out=tmp_path / "run", say=lambda line: None)
    with pytest.raises(ConfigError, match="not simulated"):
        true_values(open_run(real), other.world, k=3)
    small = replace(TINY_FEEDBACK, num_users=3).generate(seed=0)
    with pytest.raises(DataError, match="not of this world"):
        true_values(run, small.world, k=3)
