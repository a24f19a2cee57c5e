"""The simulated service: what it logs is what its policies and its users do."""

import numpy as np
import pytest

from sememe.core.errors import ConfigError
from sememe.data.feedback_policy import SoftmaxPolicy
from sememe.data.feedback_simulator import EVENT_TYPES, TINY_FEEDBACK, FeedbackSimulator
from sememe.data.sessions import find_sessions, logged_lists
from sememe.data.splits import GlobalTime, LastSession, LeaveOneOut, check_no_leak


@pytest.fixture(scope="module")
def made():
    return TINY_FEEDBACK.generate(seed=1)


@pytest.fixture(scope="module")
def large():
    return FeedbackSimulator(
        branching=(3, 2), items_per_topic=15, num_users=700, sessions_per_user=(4, 6), list_length=6, random_share=0.4
    ).generate(seed=2)


def test_equal_seeds_give_equal_logs(made):
    again, other = TINY_FEEDBACK.generate(seed=1), TINY_FEEDBACK.generate(seed=2)
    np.testing.assert_array_equal(made.interactions.items, again.interactions.items)
    for name, values in made.interactions.columns.items():
        np.testing.assert_array_equal(values, again.interactions.columns[name])
    assert made.catalog.frame.equals(again.catalog.frame)
    assert not np.array_equal(made.world.taste, other.world.taste)


def test_the_log_is_a_usable_one(made):
    log = made.interactions
    assert (log.num_users, log.num_items) == (80, 32)
    assert made.catalog.frame["item_id"].to_list() == log.item_ids.to_list() == sorted(log.item_ids.to_list())
    assert log.user_ids.to_list() == sorted(log.user_ids.to_list())
    np.testing.assert_array_equal(made.catalog.frame["duration"].to_numpy(), made.world.lengths)
    for user in range(80):
        events = slice(log.offsets[user], log.offsets[user + 1])
        assert np.all(np.diff(log.timestamps[events]) > 0)
        assert len(set(log.items[events].tolist())) == len(log.items[events])
    assert 3 <= np.bincount(find_sessions(log).users).min() <= np.bincount(find_sessions(log).users).max() <= 5
    for split in (LeaveOneOut(), GlobalTime(), LastSession()):
        check_no_leak(split.split(log))
    assert made.codes.num_items == 32
    np.testing.assert_array_equal(np.ravel_multi_index(tuple(made.codes.matrix[:, :2].T), (2, 2)), made.world.topics)


def test_the_columns_agree_with_each_other(made):
    log, rules = made.interactions, made.world.rules
    columns = log.columns
    share = columns["watch_time"] / columns["duration"]
    assert share.min() >= 0
    assert share.max() <= 1 + 1e-6
    value = rules.watch_value * share + rules.like_value * columns["like"] + rules.follow_value * columns["follow"]
    np.testing.assert_allclose(columns["rating"], value - rules.dislike_cost * columns["dislike"], atol=1e-5)
    kinds = np.array(EVENT_TYPES)[columns["event_type"]]
    np.testing.assert_array_equal(kinds == "dislike", columns["dislike"] == 1)
    np.testing.assert_array_equal(kinds == "follow", (columns["dislike"] == 0) & (columns["follow"] == 1))
    assert set(np.unique(kinds)) == set(EVENT_TYPES)
    sessions = find_sessions(log)
    # Whoever leaves sees no more of the session, and only a whole list ends without leaving.
    exits = columns["exit"] == 1
    assert set(np.flatnonzero(exits)) <= set(sessions.ends - 1)
    lengths = sessions.ends - sessions.starts
    np.testing.assert_array_equal(lengths < 4, exits[sessions.ends - 1])


def test_users_do_what_the_world_expects_of_them(large):
    """Session by session, the first item is watched as much as the world at that time says."""
    log, world, surprises, shares = large.interactions, large.before, [], []
    sessions = find_sessions(log)
    number = np.concatenate([np.arange(count) for count in np.bincount(sessions.users)])
    for turn in range(int(number.max()) + 1):
        now = sessions.only(number == turn)
        first = log.items[now.starts]
        before = log.prefix(np.where(np.isin(np.arange(700), now.users), _upto(log, now), log.lengths()))
        appeals = world.after(before).list_appeals(now.users, first[:, None])[:, 0]
        watched = (log.columns["watch_time"] / log.columns["duration"])[now.starts]
        surprises += (watched - appeals).tolist()
        shares += watched.tolist()
    surprises = np.array(surprises)
    assert abs(surprises.mean()) < 3.5 * surprises.std() / len(surprises) ** 0.5
    assert surprises.var() < 0.9 * np.var(shares)


def _upto(log, now):
    known = np.zeros(log.num_users, np.int64)
    known[now.users] = now.starts - log.offsets[now.users]
    return known


def test_propensities_are_those_of_the_policies(large):
    log = large.interactions
    lists = logged_lists(log, length=6)
    barred = np.zeros((len(lists.users), 90), np.bool_)
    for row, (user, known) in enumerate(zip(lists.users, lists.known, strict=True)):
        barred[row, log.history(user)[:known]] = True
    uniform = SoftmaxPolicy.uniform(users=700, items=90)
    for policy, rows in ((large.logging, ~lists.random_exposure), (uniform, lists.random_exposure)):
        told = policy.list_probabilities(lists.users[rows], lists.items[rows], barred=barred[rows])
        np.testing.assert_allclose(told, lists.propensities[rows], rtol=1e-9)
    assert abs(lists.random_exposure.mean() - 0.4) < 0.05


def test_the_policy_is_better_than_chance_and_worse_than_the_best(large):
    world, users = large.world, np.arange(700)
    random = np.random.default_rng(0)
    values = {}
    for name, policy in (("logging", large.logging), ("random", SoftmaxPolicy.uniform(users=700, items=90))):
        lists = policy.draw(users, length=6, barred=world.state.seen, random=random).items
        values[name] = world.expected_value(users, lists).mean()
    best = world.expected_value(users, world.optimal_lists(users, 6)).mean()
    assert values["random"] < 0.7 * values["logging"] < 0.7 * 0.7 * best
    # By seconds watched, long items would look best, which they are not.
    log = large.interactions
    seconds, length = log.columns["watch_time"], log.columns["duration"]
    assert np.corrcoef(seconds, length)[0, 1] > 0.3
    assert np.corrcoef(seconds / length, length)[0, 1] < 0


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"num_users": 0}, "at least 1"),
        ({"sessions_per_user": (3, 2)}, "fewest <= most"),
        ({"random_share": 1.2}, "is a share"),
        ({"stay": (0.5, 0.9)}, "room for rules.stay_watched"),
        ({"list_length": 40}, "more items than all sessions"),
    ],
)
def test_a_service_that_cannot_be_is_said(change, rule):
    with pytest.raises(ConfigError, match=rule):
        FeedbackSimulator(**change).generate(seed=0)
