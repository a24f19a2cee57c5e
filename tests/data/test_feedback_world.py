"""What is claimed of the simulated world is checked against all lists of tiny ones, slow loops, and what is drawn."""

import itertools
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import PAD, Interactions
from sememe.data.feedback_policy import SoftmaxPolicy
from sememe.data.feedback_simulator import TINY_FEEDBACK
from sememe.data.feedback_world import FeedbackRules, FeedbackWorld, UserState


def tiny_world(seed, *, users=3, items=6, topics=2, **rules):
    """A world with every number drawn from all of its range."""
    random = np.random.default_rng(seed)
    drawn = {
        "boredom": random.random(),
        "memory": random.random(),
        "impatience": random.random(),
        "stay_watched": random.random(),
        "like_rate": random.random(),
        "dislike_rate": random.random() * random.integers(0, 2),
        "dislike_cost": 3 * random.random(),
    } | rules
    rules = FeedbackRules(**drawn)
    return FeedbackWorld(
        rules=rules,
        taste=random.random((users, topics)) ** random.choice([0.1, 1.0]),
        stay=(1 - rules.stay_watched) * random.random(users) ** random.choice([0.1, 1.0]),
        topics=random.integers(0, topics, items).astype(np.int32),
        quality=random.random(items) ** random.choice([0.1, 1.0]),
        lengths=5 + 50 * random.random(items),
        state=UserState(2 * random.random((users, topics)), random.random((users, items)) < 0.1),
        user_ids=pl.Series("user_id", [f"u{user}" for user in range(users)]),
        item_ids=pl.Series("item_id", [f"i{item}" for item in range(items)]),
    )


def slow_value(world, user, items):
    """The expected value of one list, item by item as a person would tell it."""
    rules, value, reached = world.rules, 0.0, 1.0
    satiation, seen = dict(enumerate(world.state.satiation[user])), set(np.flatnonzero(world.state.seen[user]))
    for item in items:
        if item == PAD:
            continue
        topic = world.topics[item]
        appeal = world.taste[user, topic] * world.quality[item] * (world.lengths[item] / 5) ** -rules.impatience
        appeal *= rules.boredom ** satiation[topic]
        appeal = 0.0 if item in seen else appeal
        like, follow = rules.like_rate * appeal, rules.follow_rate * appeal
        dislike = rules.dislike_rate * (1 - appeal)
        worth = rules.watch_value * appeal + rules.like_value * like + rules.follow_value * follow
        value += reached * (worth - rules.dislike_cost * dislike)
        reached *= world.stay[user] + rules.stay_watched * appeal
        satiation[topic] += 1
        seen.add(item)
    return value


def test_expected_values_are_those_of_a_slow_loop():
    for seed in range(30):
        world, random = tiny_world(seed), np.random.default_rng(seed)
        # Repeats, seen items and gaps as well.
        lists = random.integers(PAD, 6, (40, 4)).astype(np.int32)
        users = random.integers(0, 3, 40)
        expected = [slow_value(world, user, items) for user, items in zip(users, lists.tolist(), strict=True)]
        np.testing.assert_allclose(world.expected_value(users, lists), expected, atol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_no_list_is_better_than_the_optimal_one(k):
    whole = 0
    # Shorter lists as well, and such as show an item twice.
    every = np.array(list(itertools.product(range(PAD, 6), repeat=k)), np.int32)
    for seed in range(150):
        world = tiny_world(1000 * k + seed)
        best = world.optimal_lists(range(3), k)
        for user in range(3):
            values = world.expected_value(np.full(len(every), user), every)
            assert world.expected_value([user], best[user : user + 1])[0] >= values.max() - 1e-12
        whole += (best != PAD).all(axis=1).sum()
    # Both kinds were met: lists of k items, and lists that end where nothing is worth showing.
    assert 150 < whole < 450


def test_optimal_lists_end_where_nothing_is_worth_showing():
    world = tiny_world(0, dislike_rate=1.0, dislike_cost=1e6)
    assert world.optimal_lists([0, 1], 4).tolist() == [[PAD] * 4] * 2
    harmless = tiny_world(0, dislike_rate=0.0).optimal_lists([0], 8)
    assert sorted(harmless[0, :6].tolist()) == list(range(6))
    assert harmless[0, 6:].tolist() == [PAD, PAD]


def test_what_is_drawn_has_the_expected_value():
    world = tiny_world(5, users=4, items=12, topics=3, stay_watched=0.3, dislike_rate=0.4)
    world = replace(world, stay=np.full(4, 0.6), state=replace(world.state, seen=np.zeros((4, 12), np.bool_)))
    random, repeats = np.random.default_rng(0), 40_000
    for user in range(4):
        items = random.permutation(12)[:5].astype(np.int32)
        drawn = world.react(np.full(repeats, user), np.tile(items, (repeats, 1)), random=random)
        expected, value = world.place_values([user], items[None])[0], drawn.value
        error = value.std(axis=0) / repeats**0.5
        assert (np.abs(value.mean(axis=0) - expected) < 4 * error).all()
        appeals = world.list_appeals([user], items[None])[0]
        for place in range(5):
            shares = drawn.watch_share[drawn.shown[:, place], place]
            assert abs(shares.mean() - appeals[place]) < 4 * shares.std() / len(shares) ** 0.5
        np.testing.assert_allclose(drawn.watch_time, drawn.watch_share * world.lengths[items])
        # After an exit nothing is shown, and without one all is.
        left = drawn.exit.any(axis=1)
        np.testing.assert_array_equal(drawn.shown.sum(axis=1)[left], drawn.exit.argmax(axis=1)[left] + 1)
        assert drawn.shown[~left].all()
        assert not (drawn.like | drawn.follow | drawn.dislike)[~drawn.shown].any()


def test_lists_shorter_than_others_end_where_they_end():
    world, random = tiny_world(2), np.random.default_rng(0)
    lists = np.array([[0, 1, PAD], [PAD, PAD, PAD]], np.int32)
    drawn = world.react([0, 1], np.repeat(lists, [1, 1], axis=0), random=random)
    assert not drawn.shown[:, 2].any()
    assert not drawn.shown[1].any()
    assert drawn.value[1].sum() == world.expected_value([1], lists[1:])[0] == 0


def test_what_was_shown_is_remembered_and_partly_forgotten():
    world = tiny_world(3)
    lists = np.array([[0, 1, 2]], np.int32)
    later = world.remember([1], lists, shown=np.array([[True, True, False]]))
    expected = world.state.satiation.copy()
    for item in (0, 1):
        expected[1, world.topics[item]] += 1
    expected[1] *= world.rules.memory
    np.testing.assert_allclose(later.state.satiation, expected)
    assert later.state.seen[1, :2].all()
    np.testing.assert_array_equal(later.state.seen[[0, 2]], world.state.seen[[0, 2]])


def test_a_world_after_a_log_is_the_one_that_made_it():
    made = TINY_FEEDBACK.generate(seed=4)
    again = made.before.after(made.interactions)
    np.testing.assert_allclose(again.state.satiation, made.world.state.satiation, atol=1e-12)
    np.testing.assert_array_equal(again.state.seen, made.world.state.seen)
    untouched = made.interactions.prefix(np.zeros(80, np.int64))
    assert not made.world.after(untouched).state.satiation.any()


def test_a_world_follows_the_indices_of_a_log():
    made = TINY_FEEDBACK.generate(seed=4)
    log, world = made.interactions, made.world
    kept_users, kept_items = np.array([7, 3]), np.array([30, 2, 11])
    part = Interactions(
        offsets=np.array([0, 1, 3]),
        items=np.array([1, 0, 2], np.int32),
        user_ids=log.user_ids.gather(kept_users),
        item_ids=log.item_ids.gather(kept_items),
        columns={"session": np.array([0, 1, 2])},
    )
    small = world.after(part)
    memory = world.rules.memory
    expected = np.zeros((2, 4))
    expected[0, world.topics[2]] += memory
    expected[1, world.topics[30]] += memory**2
    expected[1, world.topics[11]] += memory
    np.testing.assert_allclose(small.state.satiation, expected)
    lists = np.array([[0, 1, 2], [1, 2, 0]], np.int32)
    fresh = replace(small, state=UserState(made.before.state.satiation[:2], np.zeros((2, 3), np.bool_))).expected_value(
        [0, 1], lists
    )
    np.testing.assert_allclose(fresh, made.before.expected_value(kept_users, kept_items[lists].astype(np.int32)))
    with pytest.raises(DataError, match="1 users are not of this world, e.g. 'nobody'"):
        world.after(replace(part, user_ids=pl.Series(["u07", "nobody"])))


@pytest.mark.parametrize("change", [{"boredom": 1.5}, {"like_rate": -0.1}, {"concentration": 0.0}, {"watch_value": -1}])
def test_rules_that_cannot_be_are_said(change):
    with pytest.raises(ConfigError, match="lie in"):
        FeedbackRules(**change).check()


def test_policies_know_the_chance_of_what_they_show():
    random = np.random.default_rng(0)
    policy = SoftmaxPolicy(random.standard_normal((2, 5)), 0.2)
    barred = np.array([[False, True, False, False, False], [False] * 5])
    every = np.array(list(itertools.permutations(range(5), 3)), np.int32)
    for user in range(2):
        rows = np.full(len(every), user)
        chances = policy.list_probabilities(rows, every, barred=np.tile(barred[user], (len(every), 1)))
        assert chances.prod(axis=1).sum() == pytest.approx(1.0)
        repeats = 20_000
        drawn = policy.draw(np.full(repeats, user), length=3, barred=np.tile(barred[user], (repeats, 1)), random=random)
        for items, chance in zip(every, chances.prod(axis=1), strict=True):
            share = (drawn.items == items).all(axis=1).mean()
            assert abs(share - chance) <= 4.5 * (chance * (1 - chance) / repeats) ** 0.5
        told = policy.list_probabilities(
            np.full(repeats, user), drawn.items, barred=np.tile(barred[user], (repeats, 1))
        )
        np.testing.assert_allclose(drawn.propensities, told)


def test_policies_leave_gaps_alone_and_refuse_what_cannot_be():
    policy = SoftmaxPolicy.uniform(users=1, items=4)
    told = policy.list_probabilities([0], np.array([[2, PAD, 1, 2]], np.int32), barred=np.zeros((1, 4), np.bool_))
    np.testing.assert_allclose(told, [[1 / 4, 1, 1 / 3, 0]])
    with pytest.raises(DataError, match="row 0 has no item left"):
        policy.probabilities([0], barred=np.ones((1, 4), np.bool_))
    with pytest.raises(ConfigError, match="explore is a share"):
        SoftmaxPolicy(np.zeros((1, 2)), 1.5)
