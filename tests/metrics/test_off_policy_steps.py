"""Doubly robust by steps: exact means over all lists, the widths that a good model gives, and what goes wrong."""

import numpy as np
import pytest
from test_off_policy import ITEMS, LISTS, PLACES, Lists

from sememe.metrics.off_policy import RewardModel, action_weights, doubly_robust, ips, list_weights

SHAPE = (ITEMS,) * PLACES


def prefix_means(values):
    """`values` (lists, places) with each place averaged over all that stands below it."""
    table = values.T.reshape(PLACES, *SHAPE).copy()
    for place in range(PLACES):
        below = tuple(range(place + 1, PLACES))
        table[place] = table[place].mean(axis=below, keepdims=True) + np.zeros(SHAPE)
    return table.reshape(PLACES, -1).T


def stepwise(conditionals, wanted):
    """(lists, places) mean of `wanted` over the items at the place, given those above."""
    table = (conditionals * wanted).T.reshape(PLACES, *SHAPE)
    summed = [table[place].sum(axis=place, keepdims=True) + np.zeros(SHAPE) for place in range(PLACES)]
    return np.stack(summed).reshape(PLACES, -1).T


def to_come(world, conditionals):
    """(lists, places) what the place and all below it bring under the policy, given the items down to it."""
    found, later = np.zeros((len(LISTS), PLACES)), np.zeros(len(LISTS))
    for place in reversed(range(PLACES)):
        found[:, place] = world.rates[:, place] + later
        later = stepwise(conditionals, found)[:, place]
    return found


@pytest.mark.parametrize("chained", [False, True])
def test_by_steps_is_unbiased_whatever_the_model_is(chained):
    world = Lists(chained=chained, depends="prefix", concentration=2.0)
    logging, target, random = world.conditionals(3), world.conditionals(4), np.random.default_rng(0)
    weights = list_weights(target, logging, depends="prefix")
    for model in (to_come(world, target), prefix_means(random.standard_normal((len(LISTS), PLACES)))):
        values = stepwise(target, model)
        terms = weights.above() * values + weights.values * (world.rates - model)
        assert logging.prod(1) @ terms.sum(1) == pytest.approx(world.truth, abs=1e-12)


def test_the_first_value_of_a_perfect_model_is_the_truth():
    world = Lists(chained=True, depends="prefix")
    target = world.conditionals(4)
    np.testing.assert_allclose(stepwise(target, to_come(world, target))[:, 0], world.truth)


def test_a_good_model_narrows_and_holds_the_truth():
    random, world = np.random.default_rng(0), Lists(chained=True, depends="prefix", concentration=4.0)
    logging, target = world.conditionals(3), world.conditionals(4)
    shown = random.choice(len(LISTS), 4000, p=logging.prod(1) / logging.prod(1).sum())
    clicks = (random.random((4000, PLACES)) < world.rates[shown]).astype(float)
    weights = list_weights(target[shown], logging[shown], depends="prefix")
    model = to_come(world, target)
    helped = doubly_robust(
        clicks, weights, RewardModel(model[shown], stepwise(target, model)[shown], by_steps=True), seed=0, resamples=200
    )
    plain = ips(clicks, weights, seed=0, resamples=0)
    assert helped.normal.low < world.truth < helped.normal.high
    assert helped.normal.high - helped.value < 0.85 * (plain.normal.high - plain.value)
    # By hand: every place of every row.
    u, w, q, v = weights.above(), weights.values, model[shown], stepwise(target, model)[shown]
    by_hand = sum(
        u[row, place] * v[row, place] + w[row, place] * (clicks[row, place] - q[row, place])
        for row in range(4000)
        for place in range(PLACES)
    )
    assert helped.value == pytest.approx(by_hand / 4000)


def test_steps_need_weights_by_prefix_and_no_normalising():
    model = RewardModel(np.zeros((2, 1)), np.zeros((2, 1)), by_steps=True)
    with pytest.raises(AssertionError, match="weights by prefix"):
        doubly_robust(np.ones(2), action_weights([0.5, 0.5], [0.5, 0.5]), model, seed=0)
    weights = list_weights([[0.5], [0.5]], [[0.5], [0.5]], depends="prefix")
    with pytest.raises(AssertionError, match="not normalised"):
        doubly_robust(np.ones(2), weights, model, seed=0, self_normalised=True)
