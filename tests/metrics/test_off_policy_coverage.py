"""Intervals of list estimates against the exact truth of the simulated world: the committed benchmark, made short."""

import json

import numpy as np
import pytest

from benchmarks.quality import off_policy_coverage as benchmark
from sememe.core.schema import PAD


@pytest.fixture(scope="module")
def arena():
    return benchmark.Arena.build(seed=0)


def test_the_truth_is_that_of_a_great_many_reactions(arena):
    policy, random, repeats = arena.targets[0.6], np.random.default_rng(0), 40_000
    users = random.integers(0, 30, repeats)
    barred = np.zeros((repeats, 12), np.bool_)
    drawn = policy.draw(users, length=4, barred=barred, random=random)
    values = arena.world.react(users, drawn.items, random=random).value.sum(axis=1)
    chances = arena.chances(policy)
    assert abs(values.mean() - arena.truth(chances)) < 3.5 * values.std() / repeats**0.5
    np.testing.assert_allclose(chances.sum(axis=1), 1)


def test_intervals_hold_the_truth_as_often_as_they_say():
    lines = benchmark.measure(repetitions=100, rows=400, seed=1, distances=(0.3,), say=lambda line: None)
    found = {line["estimator"]: line for line in lines}
    for name in ("IPS", "SNIPS", "DR", "DR of whole lists"):
        # Of 100 intervals of 95 %, fewer than 88 hold the truth once in a thousand times.
        assert found[name]["covered"] >= 0.88, name
        assert abs(found[name]["bias"]) < 4 * found[name]["bias_standard_error"], name
    assert found["DR"]["half_width"] < found["IPS"]["half_width"] < found["IPS by list"]["half_width"]
    assert found["IPS by place"]["effective_rows"] > found["IPS"]["effective_rows"]


def test_a_log_ends_where_users_left(arena):
    log = benchmark.Log.draw(arena, rows=300, random=np.random.default_rng(0))
    gone = log.items == PAD
    assert 0.05 < gone.mean() < 0.8
    assert np.all(np.diff(gone.astype(int), axis=1) >= 0)
    assert not log.rewards[gone].any()
    assert (log.propensities[gone] == 1).all()
    assert (log.sent.propensities < 1).all()
    above = arena.above(np.array([[0, 1, 2, PAD]], np.int32))
    topics = arena.world.topics[[0, 1, 2]]
    assert above[0, :3].tolist() == [0, topics[0] == topics[1], (topics[:2] == topics[2]).sum()]


def test_the_committed_output_holds_what_is_asked_of_it():
    content = json.loads((benchmark.HERE / "off_policy_coverage.json").read_text())
    assert content["simulated"] is True
    near = [line for line in content["rows"] if line["distance"] == benchmark.DISTANCES[0]]
    assert content["repetitions"] == benchmark.REPETITIONS
    for line in near:
        if line["estimator"] in ("IPS", "SNIPS", "DR"):
            assert line["covered"] >= benchmark.NEEDED
