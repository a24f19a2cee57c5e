"""Off-policy estimates against hand-worked numbers, and against worlds whose true values are known."""

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from sememe.core.errors import DataError
from sememe.metrics import off_policy, significance
from sememe.metrics.off_policy import (
    Estimate,
    RewardModel,
    action_weights,
    check_support,
    doubly_robust,
    ips,
    list_weights,
    snips,
)

Array = npt.NDArray[np.float64]
REWARDS, TARGET, PROPENSITY = np.array([1.0, 0.0, 1.0, 2.0]), np.array([0.5, 0.2, 0.0, 0.6]), [0.25, 0.8, 0.5, 0.2]
WEIGHTS = np.array([2.0, 0.25, 0.0, 3.0])


@dataclass(frozen=True)
class Bandit:
    """Three kinds of users, four actions, a click or none."""

    kinds: Array
    logging: Array
    target: Array
    rates: Array

    @property
    def truth(self) -> float:
        return float(self.kinds @ (self.target * self.rates).sum(1))

    def log(self, random: np.random.Generator, *, rows: int) -> tuple[Array, Array, Array]:
        """Kind, action and click of each row."""
        kinds = random.choice(3, rows, p=self.kinds)
        actions = (random.random(rows)[:, None] > self.logging[kinds].cumsum(1)).sum(1)
        return kinds, actions, (random.random(rows) < self.rates[kinds, actions]).astype(float)

    def model(self, kinds: Array, actions: Array, *, rates: Array) -> RewardModel:
        return RewardModel(rates[kinds, actions], (self.target[kinds] * rates[kinds]).sum(1))


BANDIT = Bandit(
    kinds=np.array([0.5, 0.3, 0.2]),
    logging=np.array([[0.4, 0.3, 0.2, 0.1], [0.1, 0.4, 0.25, 0.25], [0.25, 0.25, 0.25, 0.25]]),
    target=np.array([[0.1, 0.2, 0.3, 0.4], [0.6, 0.2, 0.1, 0.1], [0.0, 0.0, 0.5, 0.5]]),
    rates=np.array([[0.1, 0.3, 0.5, 0.7], [0.6, 0.2, 0.4, 0.1], [0.9, 0.5, 0.3, 0.8]]),
)
BAD = np.array([[0.9, 0.1, 0.1, 0.0], [0.0, 0.9, 0.0, 0.9], [0.1, 0.1, 0.9, 0.1]])


def estimates(random: np.random.Generator, *, rows: int, resamples: int = 0) -> dict[str, Estimate]:
    """Every estimator on one log of the bandit."""
    kinds, actions, clicks = BANDIT.log(random, rows=rows)
    weights = action_weights(BANDIT.target[kinds, actions], BANDIT.logging[kinds, actions])
    good, bad = (BANDIT.model(kinds, actions, rates=rates) for rates in (BANDIT.rates, BAD))
    often = {"seed": int(random.integers(1 << 30)), "resamples": resamples}
    return {
        "ips": ips(clicks, weights, **often),
        "snips": snips(clicks, weights, **often),
        "dr": doubly_robust(clicks, weights, good, **often),
        "bad dr": doubly_robust(clicks, weights, bad, **often),
        "sndr": doubly_robust(clicks, weights, good, self_normalised=True, **often),
    }


def test_estimates_by_hand() -> None:
    weights = action_weights(TARGET, PROPENSITY)
    np.testing.assert_allclose(weights.values[:, 0], WEIGHTS)
    found = ips(REWARDS, weights, seed=0)
    assert found.value == pytest.approx((2 + 0 + 0 + 6) / 4)
    assert (found.rows, found.largest_weight, found.clipped) == (4, pytest.approx(3.0), 0.0)
    assert found.effective_rows == pytest.approx(5.25**2 / (4 + 0.0625 + 9))
    assert found.mean_weight.mean == pytest.approx(5.25 / 4)
    assert snips(REWARDS, weights, seed=0).value == pytest.approx(8 / 5.25)
    model = RewardModel(np.array([0.5, 0.5, 0.5, 1.0]), np.array([0.6, 0.7, 0.8, 0.9]))
    residuals = 2 * 0.5 - 0.25 * 0.5 + 3 * 1.0
    assert doubly_robust(REWARDS, weights, model, seed=0).value == pytest.approx(0.75 + residuals / 4)
    normalised = doubly_robust(REWARDS, weights, model, self_normalised=True, seed=0)
    assert normalised.value == pytest.approx(0.75 + residuals / 5.25)


def test_clipping_is_stated_and_cuts() -> None:
    weights = action_weights(TARGET, PROPENSITY, clip=2.5)
    found = ips(REWARDS, weights, seed=0)
    assert found.value == pytest.approx((2 + 0 + 0 + 5) / 4)
    assert (found.clipped, found.largest_weight) == (0.25, 2.5)


def test_lists_weigh_by_what_a_reward_may_depend_on() -> None:
    target, propensity = np.array([[0.5, 0.2], [0.1, 0.9]]), np.array([[0.25, 0.4], [0.2, 0.3]])
    rewards = np.array([[1.0, 1.0], [0.0, 2.0]])
    by_hand = {
        "list": ([[1.0], [1.5]], (2 * 1 + 2 * 1.5) / 2),
        "prefix": ([[2.0, 1.0], [0.5, 1.5]], (2 + 1 + 2 * 1.5) / 2),
        "place": ([[2.0, 0.5], [0.5, 3.0]], (2 + 0.5 + 2 * 3) / 2),
    }
    for depends, (expected, value) in by_hand.items():
        weights = list_weights(target, propensity, depends=depends)
        np.testing.assert_allclose(weights.values, expected)
        assert ips(rewards, weights, seed=0).value == pytest.approx(value)
    # Each place is divided by its own weights.
    assert snips(rewards, weights, seed=0).value == pytest.approx(2 / 2.5 + 6.5 / 3.5)
    single = list_weights(target[:, :1], propensity[:, :1], depends="list")
    np.testing.assert_allclose(single.values, action_weights(target[:, 0], propensity[:, 0]).values)


def test_the_policy_that_logged_has_the_mean_of_the_log() -> None:
    rng = np.random.default_rng(0)
    propensities, rewards = rng.uniform(0.1, 1.0, (50, 3)), rng.random((50, 3))
    for depends in ("list", "prefix", "place"):
        weights = list_weights(propensities, propensities, depends=depends)
        for estimate in (ips(rewards, weights, seed=0), snips(rewards, weights, seed=0)):
            assert estimate.value == pytest.approx(rewards.sum(1).mean())
            assert estimate.effective_rows == pytest.approx(50)
            assert estimate.mean_weight.low == estimate.mean_weight.high == pytest.approx(1.0)


def test_snips_follows_a_constant() -> None:
    weights = action_weights(TARGET, PROPENSITY)
    raised = snips(REWARDS + 5.0, weights, seed=0)
    found = snips(REWARDS, weights, seed=0)
    assert raised.value == pytest.approx(found.value + 5.0)
    assert raised.normal.high == pytest.approx(found.normal.high + 5.0)
    assert ips(REWARDS + 5.0, weights, seed=0).value > ips(REWARDS, weights, seed=0).value + 6.0


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    random, held, repetitions = np.random.default_rng(1), {}, 1500
    for _ in range(repetitions):
        for name, found in estimates(random, rows=400).items():
            held.setdefault(name, []).append(found.normal.low <= BANDIT.truth <= found.normal.high)
    # Of 95 % intervals; the standard error of a share is 0.6 %.
    shares = {name: sum(values) / repetitions for name, values in held.items()}
    assert len(shares) == 5
    assert min(shares.values()) >= 0.93, shares
    assert max(shares.values()) <= 0.97, shares


def test_the_bootstrap_says_what_the_normal_interval_says() -> None:
    random = np.random.default_rng(6)
    for _ in range(10):
        for name, found in estimates(random, rows=1000, resamples=1000).items():
            half = found.normal.high - found.value
            assert found.bootstrap.mean == found.value
            for end in ("low", "high"):
                assert abs(getattr(found.bootstrap, end) - getattr(found.normal, end)) < 0.25 * half, name


def test_ips_and_dr_are_unbiased_and_a_good_model_narrows() -> None:
    random, repetitions = np.random.default_rng(2), 1500
    drawn = [estimates(random, rows=200) for _ in range(repetitions)]
    values = {name: np.array([found[name].value for found in drawn]) for name in drawn[0]}
    for name in ("ips", "dr", "bad dr"):
        error = values[name].std() / repetitions**0.5
        assert abs(values[name].mean() - BANDIT.truth) < 3 * error, name
    assert values["dr"].var() < 0.6 * values["ips"].var()
    assert values["bad dr"].var() > values["dr"].var()
    # The model alone would be far off.
    model = BANDIT.kinds @ (BANDIT.target * BAD).sum(1)
    assert abs(model - BANDIT.truth) > 0.2
    # Self-normalising costs a bias, less than a tenth of a standard deviation.
    assert abs(values["snips"].mean() - BANDIT.truth) < 0.1 * values["snips"].std()
    # Stated errors are those that are seen.
    half = np.mean([found["ips"].normal.high - found["ips"].value for found in drawn])
    assert half / 1.96 == pytest.approx(values["ips"].std(), rel=0.06)


ITEMS, PLACES = 3, 3
LISTS = np.array(list(itertools.product(range(ITEMS), repeat=PLACES)))


@dataclass(frozen=True)
class Lists:
    """Lists of three places over three items; the chance of an item depends on the one above it if `chained`."""

    chained: bool
    depends: str
    concentration: float = 12.0
    """Of the policies' Dirichlet draws: the smaller, the further they are apart."""

    def conditionals(self, seed: int) -> Array:
        """(lists, places) probability of each item given those above."""
        random = np.random.default_rng(seed)
        table = random.dirichlet([self.concentration] * ITEMS, (PLACES, ITEMS))
        above = np.concatenate([np.zeros((len(LISTS), 1), int), LISTS[:, :-1]], axis=1)
        return table[np.arange(PLACES), above if self.chained else 0, LISTS]

    @property
    def rates(self) -> Array:
        """(lists, places) chance of a click."""
        own = np.array([0.1, 0.4, 0.6])[LISTS]
        above = np.concatenate([np.zeros((len(LISTS), 1), int), LISTS[:, :-1]], axis=1)
        below = np.concatenate([LISTS[:, 1:], np.zeros((len(LISTS), 1), int)], axis=1)
        if self.depends == "place":
            return own
        return own * (1 + above) / 3 if self.depends == "prefix" else own * (1 + below) / 3

    @property
    def truth(self) -> float:
        """Clicks per list of the target policy."""
        return float(self.conditionals(4).prod(1) @ self.rates.sum(1))

    def run(self, *, weighed: str, repetitions: int, rows: int = 500) -> list[Estimate]:
        """Estimates of the truth from as many logs."""
        logging, target, random = self.conditionals(3), self.conditionals(4), np.random.default_rng(5)
        found = []
        for _ in range(repetitions):
            shown = random.choice(len(LISTS), rows, p=logging.prod(1) / logging.prod(1).sum())
            clicks = (random.random((rows, PLACES)) < self.rates[shown]).astype(float)
            weights = list_weights(target[shown], logging[shown], depends=weighed)
            found.append(ips(clicks, weights, seed=0, resamples=0))
        return found

    def expected(self, *, weighed: str, model: Array) -> float:
        """The exact mean of an estimate, every list by its chance; of DR, with any model (lists, places)."""
        logging, target = self.conditionals(3), self.conditionals(4)
        weights = list_weights(target, logging, depends=weighed).values
        offset = float(target.prod(1) @ model.sum(1))
        residuals = self.rates - model
        return offset + float(logging.prod(1) @ (weights * residuals).sum(1))

    @property
    def allowed(self) -> tuple[str, ...]:
        """What may be assumed in this world."""
        narrowest = ("place", "prefix", "list").index(self.depends)
        return ("place", "prefix", "list")[max(narrowest, int(self.chained)) :]


@pytest.mark.parametrize("depends", ["place", "prefix", "list"])
@pytest.mark.parametrize("chained", [False, True])
def test_lists_are_unbiased_where_their_assumption_holds(depends: str, chained: bool) -> None:
    world = Lists(chained=chained, depends=depends, concentration=2.0)
    # No model, a perfect one, one that has it the wrong way round.
    for quality in (0.0, 1.0, -0.5):
        for weighed in ("place", "prefix", "list"):
            expected = world.expected(weighed=weighed, model=quality * world.rates)
            if weighed in world.allowed:
                assert expected == pytest.approx(world.truth, abs=1e-12)
            elif quality < 1:
                assert abs(expected - world.truth) > 0.01


@pytest.mark.parametrize("depends", ["place", "prefix", "list"])
def test_assumptions_narrow_the_estimates_of_lists_and_intervals_hold(depends: str) -> None:
    world, spread = Lists(chained=False, depends=depends), []
    for weighed in ("place", "prefix", "list"):
        found = world.run(weighed=weighed, repetitions=600)
        spread.append(np.std([each.value for each in found]))
        held = np.mean([each.normal.low <= world.truth <= each.normal.high for each in found])
        assert held >= 0.93 or weighed not in world.allowed
    assert spread == sorted(spread)


def test_a_model_narrows_lists_too() -> None:
    """With expected rewards as the model, what is left is the noise of the clicks."""
    random, world = np.random.default_rng(0), Lists(chained=True, depends="prefix", concentration=4.0)
    logging, target, rates = world.conditionals(3), world.conditionals(4), world.rates
    shown = random.choice(len(LISTS), 4000, p=logging.prod(1) / logging.prod(1).sum())
    clicks = (random.random((4000, PLACES)) < rates[shown]).astype(float)
    model = RewardModel(rates[shown], np.tile(target.prod(1) @ rates, (4000, 1)))
    for depends in ("prefix", "list"):
        weights = list_weights(target[shown], logging[shown], depends=depends)
        plain = ips(clicks, weights, seed=0, resamples=0)
        helped = doubly_robust(clicks, weights, model, seed=0, resamples=0)
        assert helped.normal.low < world.truth < helped.normal.high
        assert helped.normal.high - helped.value < 0.8 * (plain.normal.high - plain.value)


def test_the_bootstrap_is_the_plain_loop_whatever_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    rewards, target = rng.random(40), rng.uniform(0.0, 0.5, 40)
    weights = action_weights(target, np.full(40, 0.5))
    whole = snips(rewards, weights, seed=7, resamples=60)
    random, values = off_policy.generator(7, "off-policy", "bootstrap"), weights.values[:, 0]
    drawn = []
    for _ in range(60):
        rows = random.integers(0, 40, 40)
        drawn.append((rewards[rows] * values[rows]).sum() / values[rows].sum())
    assert (whole.bootstrap.low, whole.bootstrap.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
    monkeypatch.setattr(significance, "CHUNK_DRAWS", 7 * 40)
    parted = snips(rewards, weights, seed=7, resamples=60).bootstrap
    assert (parted.low, parted.high) == pytest.approx((whole.bootstrap.low, whole.bootstrap.high))


def test_a_weight_that_was_never_met_is_seen_in_the_mean_weight() -> None:
    """Half of what the target policy shows has a chance of 1 in a million: the log cannot know it, but tells."""
    rows = 2000
    weights = action_weights(np.full(rows, 0.5), np.full(rows, 1 - 1e-6))
    assert ips(np.ones(rows), weights, seed=0, resamples=0).mean_weight.high < 0.51


@pytest.mark.parametrize(
    ("target", "propensity", "message"),
    [
        ([0.5, 0.5], [0.0, 0.5], r"propensity 0.0 in row 0 \(1 of 2 like it\)"),
        ([0.5, 0.5], [0.5, -0.1], "propensity -0.1 in row 1"),
        ([0.5, 0.5], [0.5, np.nan], "propensity nan in row 1"),
        ([0.5, 0.5], [0.5, 1.5], "propensity 1.5 in row 1"),
        ([0.5, 1.2], [0.5, 0.5], "target probability 1.2 in row 1"),
        ([0.0, 0.0], [0.5, 0.5], "all weights are 0"),
    ],
)
def test_probabilities_that_cannot_be_are_named(target: list[float], propensity: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        action_weights(target, propensity)


def test_other_things_that_cannot_be_are_named() -> None:
    with pytest.raises(DataError, match="propensity 0.0 in row 1, place 0"):
        list_weights(np.ones((2, 2)), [[0.5, 0.5], [0.0, 0.5]], depends="prefix")
    weights = action_weights(TARGET, PROPENSITY)
    with pytest.raises(DataError, match="rewards: row 2 is not finite"):
        ips([0.0, 1.0, np.nan, 0.0], weights, seed=0)
    with pytest.raises(AssertionError, match="do not fit"):
        ips([0.0, 1.0], weights, seed=0)


def test_missing_support_is_named() -> None:
    logging = [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]
    check_support(logging, [[0.2, 0.4, 0.4], [0.5, 0.5, 0.0]])
    with pytest.raises(DataError, match="in row 1 the target policy takes action 2 with probability 0.9"):
        check_support([[0.5, 0.5, 0.0], [0.1, 0.0, 0.9]], logging)
    with pytest.raises(DataError, match="45.00% of its actions"):
        check_support([[0.5, 0.5, 0.0], [0.1, 0.0, 0.9]], logging)
    with pytest.raises(DataError, match="row 1 of the logging policy has probabilities that sum to 0.9"):
        check_support([[0.5, 0.5]] * 2, [[0.5, 0.5], [0.5, 0.4]])
