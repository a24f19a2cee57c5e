"""Planted worlds: what is claimed to be the truth is checked against what was drawn."""

import time

import numpy as np
import polars as pl
import pytest

from sememe.core.errors import ConfigError
from sememe.data.index import build_interactions
from sememe.data.readers import open_tables
from sememe.data.simulated_files import LargeLog, write_world
from sememe.data.simulator import FIRST_WEIGHT, TINY, Chain, PlantedWorld
from sememe.data.splits import GlobalTime, LastSession, LeaveOneOut, check_no_leak


@pytest.fixture(scope="module")
def world():
    return TINY.generate(seed=1)


@pytest.fixture(scope="module")
def large():
    plan = PlantedWorld(branching=(3, 4), items_per_leaf=3, num_users=3000, events_per_user=(10, 10))
    return plan.generate(seed=2)


def test_equal_seeds_give_equal_worlds(world):
    again, other = TINY.generate(seed=1), TINY.generate(seed=2)
    np.testing.assert_array_equal(world.interactions.items, again.interactions.items)
    np.testing.assert_array_equal(world.catalog.vectors, again.catalog.vectors)
    assert world.catalog.frame.equals(again.catalog.frame)
    assert not np.array_equal(world.catalog.vectors, other.catalog.vectors)


def test_a_world_is_a_usable_log(world):
    log = world.interactions
    assert (log.num_users, log.num_items) == (60, 27)
    assert set(log.lengths().tolist()) <= set(range(4, 13))
    assert (log.items.dtype, log.offsets.dtype, log.timestamps.dtype) == (np.int32, np.int64, np.int64)
    assert world.catalog.frame["item_id"].to_list() == log.item_ids.to_list() == sorted(log.item_ids.to_list())
    assert world.catalog.vectors.shape == (27, 8)
    for user in range(log.num_users):
        events = slice(log.offsets[user], log.offsets[user + 1])
        assert np.all(np.diff(log.timestamps[events]) > 0)
        assert np.all(np.diff(log.columns["session"][events]) >= 0)
    for part in (LeaveOneOut(), GlobalTime(), LastSession()):
        check_no_leak(part.split(log))


def test_steps_follow_the_planted_chain(large):
    leaves = large.leaves[large.interactions.items].reshape(3000, 10)
    transitions = large.chain.transitions()
    np.testing.assert_allclose(transitions.sum(axis=1), 1)
    pairs = np.zeros_like(transitions)
    np.add.at(pairs, (leaves[:, :-1].ravel(), leaves[:, 1:].ravel()), 1)
    visits = pairs.sum(axis=1, keepdims=True)
    # Five standard errors of a share that is estimated from `visits` draws; 144 cells are looked at.
    allowed = 5 * np.sqrt(transitions * (1 - transitions) / visits) + 1e-3
    assert np.all(np.abs(pairs / visits - transitions) < allowed)


def test_next_items_have_the_planted_probabilities(large):
    items = large.interactions.items.reshape(3000, 10)
    last, following = items[:, :-1].ravel(), items[:, 1:].ravel()
    truth = large.next_item_probabilities(last)
    assert truth.shape == (27000, 36)
    np.testing.assert_allclose(truth.sum(axis=1), 1, rtol=1e-5)
    counts = np.bincount(following, minlength=36)
    assert np.all(np.abs(counts - truth.sum(axis=0)) < 5 * np.sqrt(counts))
    for k in (1, 5):
        best = np.argsort(-truth, axis=1)[:, :k]
        hits = np.mean((best == following[:, None]).any(axis=1))
        assert abs(hits - large.best_recall(last, k=k)) < 0.012


def test_transitions_by_hand():
    chain = Chain(0.5, 0.3, np.array([[1, 2], [2, 0], [0, 1]], np.int32), np.array([0.5, 0.25, 0.25]), np.array([1.0]))
    first, second = 0.3 * FIRST_WEIGHT, 0.3 * (1 - FIRST_WEIGHT)
    expected = [
        [0.5 + 0.1, first + 0.05, second + 0.05],
        [second + 0.1, 0.5 + 0.05, first + 0.05],
        [first + 0.1, second + 0.05, 0.5 + 0.05],
    ]
    np.testing.assert_allclose(chain.transitions(), expected)


def test_the_tree_is_in_the_vectors_and_in_the_titles(world):
    vectors, leaves = world.catalog.vectors, world.leaves
    centres = np.stack([vectors[leaves == leaf].mean(axis=0) for leaf in range(9)])
    nearest = np.argmin(((vectors[:, None] - centres) ** 2).sum(axis=2), axis=1)
    np.testing.assert_array_equal(nearest, leaves)
    titles = [title.split() for title in world.catalog.frame["title"]]
    for one in range(27):
        for other in range(27):
            shared = np.cumprod(world.leaf_codes[one] == world.leaf_codes[other]).sum()
            words = np.cumprod([a == b for a, b in zip(titles[one][:2], titles[other][:2], strict=True)]).sum()
            assert words == shared
    assert world.catalog.frame["title"].n_unique() == 27
    assert world.catalog.frame["categories"].n_unique() == 9


def test_the_right_codes_tell_every_item_apart(world):
    codes = world.codes()
    assert (codes.num_levels, codes.num_semantic_levels, codes.codebook_sizes) == (3, 2, (3, 3, 3))
    assert len(np.unique(codes.matrix, axis=0)) == 27
    np.testing.assert_array_equal(codes.matrix[:, :2], world.leaf_codes)
    for leaf, items in enumerate(world.leaf_items):
        assert set(world.leaves[items].tolist()) == {leaf}
        assert codes.matrix[items, 2].tolist() == [0, 1, 2]


@pytest.mark.parametrize("file_format", ["parquet", "csv", "jsonl"])
def test_a_written_world_reads_back_as_it_was(world, tmp_path, file_format):
    write_world(world, tmp_path, file_format=file_format)
    read = build_interactions(open_tables(tmp_path), keep_cold_items=True)
    log = read.interactions
    assert log.user_ids.to_list() == world.interactions.user_ids.to_list()
    assert log.item_ids.to_list() == world.interactions.item_ids.to_list()
    np.testing.assert_array_equal(log.items, world.interactions.items)
    np.testing.assert_array_equal(log.timestamps, world.interactions.timestamps)
    # Sessions are the same runs; in a text file their numbers are labels, and may be numbered anew.
    runs, expected = (np.diff(each.columns["session"]) != 0 for each in (log, world.interactions))
    np.testing.assert_array_equal(runs, expected)
    assert read.catalog.frame["title"].to_list() == world.catalog.frame["title"].to_list()
    if file_format != "csv":
        np.testing.assert_array_equal(read.catalog.vectors, world.catalog.vectors)


def test_a_large_log_comes_in_chunks_and_reads_as_one(tmp_path):
    plan = LargeLog(num_events=1000, num_users=50, num_items=40, chunk_events=300)
    frames = list(plan.chunks(seed=3))
    assert [frame.height for frame in frames] == [300, 300, 300, 100]
    whole = pl.concat(frames)
    assert whole["timestamp"].is_sorted()
    assert whole["user_id"].max() < 50
    assert whole["item_id"].value_counts()["count"].max() > 100
    paths = plan.write(tmp_path, seed=3)
    assert [path.name for path in paths] == [f"interactions-{number:05d}.parquet" for number in range(4)]
    assert open_tables(tmp_path).events.collect().height == 1000


def test_a_tiny_world_is_quick():
    TINY.generate(seed=0)
    started = time.perf_counter()
    TINY.generate(seed=1)
    assert time.perf_counter() - started < 0.5


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"branching": ()}, "at least one level"),
        ({"events_per_user": (9, 5)}, "fewest <= most"),
        ({"stay": 0.7, "follow": 0.6}, "at most 1"),
        ({"num_users": 0}, "at least 1"),
        ({"noise": -1.0}, "not negative"),
    ],
)
def test_a_world_that_cannot_be_is_said(change, rule):
    with pytest.raises(ConfigError, match=rule):
        PlantedWorld(**change).generate(seed=0)


def test_an_unknown_file_format_is_said(world, tmp_path):
    with pytest.raises(ConfigError, match="'xlsx'"):
        write_world(world, tmp_path, file_format="xlsx")
