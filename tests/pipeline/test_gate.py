"""The gate on made-up measures: what passes, what breaks a limit, and what the table says of it."""

from dataclasses import replace

import numpy as np
import pytest

from sememe.core.errors import ConfigError
from sememe.pipeline.gate import Limits, Measures, Verdict, judge, unless_blind

USERS, ITEMS = 400, 100
NAMES = ("reward", "ndcg@10", "recall@10", "ndcg@50", "recall@50", "legality", "level1@10")


def measures(*, seed: int = 0, top: int = ITEMS) -> Measures:
    """Numbers drawn for each user, and lists of ten of the first `top` items."""
    rng = np.random.default_rng(seed)
    per_user = {name: rng.random(USERS) for name in NAMES} | {"kl": np.zeros(USERS)}
    lists = np.argsort(rng.random((USERS, top)), axis=1)[:, :10].astype(np.int32)
    return Measures(per_user=per_user, lists=lists, num_items=ITEMS)


def changed(before: Measures, **by: float) -> Measures:
    """The same users with some numbers higher or lower, by name without "@"."""
    shifts = {name: by.get(name.replace("@", ""), 0.0) for name in before.per_user}
    return replace(before, per_user={name: values + shifts[name] for name, values in before.per_user.items()})


def broken(verdict: Verdict) -> list[str]:
    return [row.metric for row in verdict.rows if not row.kept]


def test_a_gain_that_breaks_nothing_is_promoted() -> None:
    before = measures()
    verdict = judge(before, changed(before, reward=0.02, kl=0.3), Limits())
    assert verdict.promoted and not broken(verdict) and verdict.users == USERS
    gain = verdict.rows[0]
    assert (gain.metric, gain.kept) == ("reward", True) and gain.low == pytest.approx(0.02)
    assert verdict.lines()[-1].strip().startswith("promoted: the held-out reward rose by 0.0200")
    assert Verdict.from_json(verdict.to_json()) == verdict


def test_no_gain_is_not_enough() -> None:
    before = measures()
    noisy = changed(before)
    noise = np.random.default_rng(1).normal(0.001, 0.3, USERS)
    noisy = replace(noisy, per_user={**noisy.per_user, "reward": before.per_user["reward"] + noise})
    verdict = judge(before, noisy, Limits())
    assert not verdict.promoted and broken(verdict) == ["reward"] and "did not rise" in verdict.reason
    fell = judge(before, changed(before, reward=-0.1), Limits())
    assert not fell.promoted and "the held-out reward fell" in fell.reason
    assert "NOT PROMOTED" in fell.lines()[-1]


@pytest.mark.parametrize(
    ("name", "by"), [("ndcg@10", -0.01), ("recall@50", -0.01), ("legality", -1e-6), ("level1@10", -0.02), ("kl", 1.5)]
)
def test_each_limit_is_held_whatever_the_gain(name: str, by: float) -> None:
    before = measures()
    verdict = judge(before, changed(before, reward=0.5, **{name.replace("@", ""): by}), Limits())
    assert not verdict.promoted and broken(verdict) == [name] and name in verdict.reason


def test_a_limit_that_cannot_break_is_told_as_none() -> None:
    """All of what there was is lost, and the table does not say that a limit was kept."""
    before = measures()
    nothing = dict.fromkeys(("ndcg@10", "recall@50", "level1@10"), np.zeros(USERS))
    after = changed(before, reward=0.5)
    after = replace(after, per_user={**after.per_user, **nothing})
    verdict = judge(before, after, Limits(ndcg10=1.0, recall50=2.0, level1=1.0, certain=True))
    limits = {row.metric: row.limit for row in verdict.rows}
    assert [limits[name] for name in nothing] == ["not limited"] * 3 and verdict.promoted
    assert limits["recall@10"] == "loss <= 1%"
    assert sum("not limited" in line for line in verdict.lines()) == 3


def test_legality_is_lost_only_where_that_is_certain() -> None:
    """Samples of a model as legal as before are less legal half of the time, by the mean."""
    before, rng = measures(), np.random.default_rng(2)
    legal = np.full(USERS, 0.9)
    before = replace(before, per_user={**before.per_user, "legality": rng.binomial(16, legal) / 16})
    gained, means, kept, worse = changed(before, reward=0.1), 0, 0, 0
    for _ in range(40):
        again = {**gained.per_user, "legality": rng.binomial(16, legal) / 16}
        means += bool(again["legality"].mean() < before.per_user["legality"].mean())
        kept += judge(before, replace(gained, per_user=again), Limits(), resamples=200).promoted
        less = {**gained.per_user, "legality": rng.binomial(16, legal - 0.05) / 16}
        worse += judge(before, replace(gained, per_user=less), Limits(), resamples=200).promoted
    assert means >= 8 and kept >= 36 and worse == 0
    (row,) = [row for row in judge(before, gained, Limits()).rows if row.metric == "legality"]
    assert row.limit == "no loss, by upper end" and row.kept
    certain = judge(before, replace(gained, per_user=again), Limits(certain=True), resamples=200)
    assert broken(certain) == ["legality"]


def test_lists_that_narrow_break_entropy_and_coverage() -> None:
    before = measures()
    after = replace(changed(before, reward=0.5), lists=measures(top=30).lists)
    verdict = judge(before, after, Limits())
    assert broken(verdict) == ["entropy@10", "coverage@10"]
    rows = {row.metric: row for row in verdict.rows}
    assert rows["coverage@10"].before == 1.0 and rows["coverage@10"].after == pytest.approx(0.3)
    assert rows["entropy@10"].low <= rows["entropy@10"].difference <= rows["entropy@10"].high < -1.0


def test_a_loss_within_the_limit_passes_by_its_mean_and_fails_where_it_must_be_certain() -> None:
    before = measures()
    noise = np.random.default_rng(1).normal(0.0, 0.2, USERS)
    noise += -0.002 - noise.mean()
    after = changed(before, reward=0.1)
    after = replace(after, per_user={**after.per_user, "recall@50": before.per_user["recall@50"] + noise})
    assert -0.01 * before.per_user["recall@50"].mean() < noise.mean() < 0
    assert judge(before, after, Limits(recall50=0.01)).promoted
    assert broken(judge(before, after, Limits(recall50=0.01, certain=True))) == ["recall@50"]


def test_a_judge_that_predicts_nothing_promotes_nothing() -> None:
    before = measures()
    verdict = judge(before, changed(before, reward=0.02), Limits())
    assert unless_blind(verdict, ()) == unless_blind(verdict, (0.2, 0.1)) == verdict and verdict.promoted
    for correlation in (-0.04, 0.0, float("nan")):
        blind = unless_blind(verdict, (0.2, correlation))
        assert not blind.promoted and blind.rows == verdict.rows and "not shown to predict anything" in blind.reason
    fell = unless_blind(judge(before, changed(before, reward=-0.1), Limits()), (-0.04,))
    assert "may be -0.040 (where the 95 % interval begins); the held-out reward fell" in fell.reason


def test_a_limit_below_nothing_is_refused() -> None:
    before = measures()
    with pytest.raises(ConfigError, match="limits.entropy is -0.1"):
        judge(before, before, Limits(entropy=-0.1))
