"""Rewards by hand, pairs and format choices, and labels that do not depend on an item's length."""

import numpy as np
import pytest
import torch
from align_world import of_items

from sememe.align.labels import duration_quantiles
from sememe.align.pairs import BestAndWorst
from sememe.align.rewards import DiscountedHit, Gain, Mix, RankReward, RuleReward
from sememe.align.scores import GroupScores, format_choice
from sememe.core.errors import ConfigError
from sememe.objectives.dpo import DPO

LISTS = np.array([[[3], [7], [5]], [[1], [2], [9]]], np.int32)
BATCH = {"target": np.array([7, 4], np.int32), "target_rating": np.array([4.0, np.nan], np.float32)}


def test_rule_and_rank_rewards_by_hand() -> None:
    np.testing.assert_array_equal(RuleReward().score(BATCH, LISTS), [[0, 1, 0], [0, 0, 0]])
    weights = 1 / np.log2([2, 3, 4])
    wrong = -weights / weights.sum()
    np.testing.assert_allclose(RankReward().score(BATCH, LISTS), [[wrong[0], 0, wrong[2]], [0, 0, 0]], rtol=1e-6)


def test_a_hit_is_best_and_a_wrong_item_worse_the_higher_it_stands() -> None:
    (reward,) = Mix((RuleReward(), RankReward())).score({"target": np.array([6])}, np.array([[[2], [4], [6], [8]]]))
    assert reward[2] > reward[3] > reward[1] > reward[0]


def test_what_the_log_says_of_a_hit_is_its_worth() -> None:
    gained = RuleReward(gain=Gain("rating", zero=3.0, one=5.0))
    assert gained.names == ("target", "target_rating")
    np.testing.assert_array_equal(gained.score(BATCH, LISTS), [[0, 0.5, 0], [0, 0, 0]])
    bad = {"target": np.array([7]), "target_rating": np.array([1.0])}
    np.testing.assert_array_equal(gained.score(bad, LISTS[:1]), [[0, -1, 0]])
    with pytest.raises(ConfigError, match="zero and one are both 3"):
        RuleReward(gain=Gain(zero=3.0, one=3.0)).score(BATCH, LISTS)


def test_to_stand_above_what_was_not_liked_is_no_mistake() -> None:
    """A hit of 3 stars or fewer is not pulled up by what the others would lose; one of 4 half as much as one of 5."""
    lists, ratings = LISTS[[0, 0, 0, 0]], np.array([5.0, 4.0, 3.0, 1.0])
    batch = {"target": np.full(4, 7), "target_rating": ratings}
    plain, gained = RankReward().score(batch, lists), RankReward(gain=Gain()).score(batch, lists)
    np.testing.assert_allclose(gained, plain * [[1.0], [0.5], [0.0], [0.0]], rtol=1e-6)
    both = Mix((RuleReward(gain=Gain()), RankReward(gain=Gain()))).score(batch, lists)
    assert both[0].argmax() == both[1].argmax() == 1 and not both[2].any() and both[3].argmin() == 1


def test_a_discounted_hit_is_ndcg() -> None:
    lists = np.array([[[9, 7, 3, 5]], [[1, 2, 3, -1]]])
    np.testing.assert_allclose(DiscountedHit().score(BATCH, lists)[:, 0], [1 / np.log2(3), 0])
    np.testing.assert_allclose(DiscountedHit(gain=Gain()).score(BATCH, lists)[:, 0], [0.5 / np.log2(3), 0])


def test_a_mix_weighs_and_names_its_parts() -> None:
    mix = Mix((RuleReward(gain=Gain()), RankReward()), weights=(2.0, 0.5))
    assert mix.names == ("target", "target_rating")
    wanted = 2 * RuleReward(gain=Gain()).score(BATCH, LISTS) + 0.5 * RankReward().score(BATCH, LISTS)
    np.testing.assert_allclose(mix.score(BATCH, LISTS), wanted)
    with pytest.raises(ConfigError, match="2 rewards and 1 weights"):
        Mix((RuleReward(), RankReward()), weights=(1.0,)).score(BATCH, LISTS)


def test_duration_quantiles_are_ranks_among_like_durations_so_far() -> None:
    watched = np.array([1.0, 3.0, 3.0, 50.0, 2.0, 60.0, 5.0])
    durations = np.array([4.0, 5.0, 6.0, 100.0, 4.0, 101.0, 5.0])
    users = np.array([0, 0, 0, 0, 0, 0, 1])
    found = duration_quantiles(watched, durations, users)
    np.testing.assert_allclose(found, [0.5, 0.75, 2 / 3, 0.5, 1.5 / 4, 0.75, 0.5], rtol=1e-6)


def test_quantiles_of_a_history_tell_nothing_of_what_comes_after_it() -> None:
    """Of watch times by chance alone, nor do they change when more comes."""
    rng = np.random.default_rng(0)
    watched = 10 * rng.random((500, 20))
    users, durations = np.repeat(np.arange(500), 20), np.full(10_000, 10.0)
    found = duration_quantiles(watched.ravel(), durations, users).reshape(500, 20)
    assert abs(np.corrcoef(found[:, :15].mean(1), found[:, 15:].mean(1))[0, 1]) < 0.15
    shorter = duration_quantiles(watched[:, :15].ravel(), durations[:7500], np.repeat(np.arange(500), 15))
    np.testing.assert_array_equal(shorter.reshape(500, 15), found[:, :15])


def test_quantiles_do_not_change_with_the_scale_of_a_bucket() -> None:
    """All durations and watch times of one user's bucket times 4, which moves the bucket as a whole."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(20), 200)
    durations = np.where(rng.random(4000) < 0.5, 9.0, 150.0)
    watched = durations * rng.random(4000)
    scaled = np.where((users == 3) & (durations == 9.0), 4.0, 1.0)
    found = duration_quantiles(watched, durations, users)
    np.testing.assert_array_equal(found, duration_quantiles(watched * scaled, durations * scaled, users))
    long = durations == 150.0
    assert abs((found[long] > 0.75).mean() - (found[~long] > 0.75).mean()) < 0.05


def test_pairs_are_the_best_and_the_worst_legal_samples() -> None:
    groups = of_items([[4, 5, 6, 7], [1, 2, 3, -1], [8, 9, 10, 11]])
    rewards = np.array([[0.1, 0.9, -0.5, 0.9], [0.3, 0.7, 0.2, -9.0], [1, 1, 1, 1]], np.float32)
    scored = BestAndWorst().score(groups, rewards, seed=0)
    assert scored.codes[:2, :, 0].tolist() == [[5, 6], [2, 3]]
    assert scored.arrays["counted"].tolist() == [[True, True], [True, True], [False, False]]
    several = BestAndWorst(rejected=2).score(groups, rewards, seed=0)
    assert several.codes[:2, :, 0].tolist() == [[5, 6, 4], [2, 3, 1]]
    with pytest.raises(ConfigError, match="rejected is 4"):
        BestAndWorst(rejected=4).score(groups, rewards, seed=0)


def test_dpo_on_pairs_starts_at_the_logarithm_of_two() -> None:
    groups = of_items([[4, 5, 6, 7], [1, 2, 3, 0]])
    scored = BestAndWorst().score(groups, np.array([[0, 1, 2, 3], [5, 5, 5, 5]], np.float32), seed=0)
    log_probs = torch.randn(2, 2, 1)
    batch = {name: torch.from_numpy(values) for name, values in scored.arrays.items()}
    loss = DPO()({"sample_log_probs": log_probs}, {**batch, "reference_log_probs": log_probs})
    assert loss.item() == pytest.approx(np.log(2), abs=1e-6)


def test_illegal_samples_are_dropped_and_random_legal_ones_rewarded() -> None:
    groups = of_items([[-1, 5, 6, 7, -1, 9]] * 200)
    groups = type(groups)(groups.items, groups.codes, torch.ones(200, 6, dtype=torch.bool))
    rewards = np.zeros((200, 6), np.float32)
    plain = GroupScores().score(groups, rewards, seed=1).arrays
    assert not plain["advantages"].any() and plain["counted"][0].tolist() == [False, True, True, True, False, True]
    formed = GroupScores(format_choices=2).score(groups, rewards, seed=1).arrays["advantages"]
    assert set(np.unique(formed)) == {0.0, 1.0} and not formed[:, [0, 4]].any()
    # Each sample is among the 2 of 6 that are chosen as often as any other: legal ones come to 1/3 each.
    assert np.abs(formed[:, [1, 2, 3, 5]].mean(0) - 1 / 3).max() < 0.12
    assert format_choice(groups.drawn, choices=2, seed=1).sum(1).tolist() == [2] * 200
    with pytest.raises(ConfigError, match="format_choices is 7"):
        format_choice(groups.drawn, choices=7, seed=0)
