"""GRPO, ECPO and GBPO against slow twins, one action at a time, gradients by finite differences of the twin."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sememe.core.errors import ConfigError, DataError
from sememe.objectives.advantages import group_advantages
from sememe.objectives.ecpo import ECPO
from sememe.objectives.gbpo import GBPO
from sememe.objectives.grpo import GRPO, kl_estimate

Objective = GRPO | ECPO | GBPO
EVERY: tuple[Objective, ...] = (GRPO(), GRPO(kl_weight=0.3), ECPO(), GBPO())


def example(*, levels: int = 0, spread: float = 0.5) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Two rows of five samples, moved since the rollout by some e^spread: beyond every clip, with A of both signs."""
    random = torch.Generator().manual_seed(5)
    shape = (2, 5, levels) if levels else (2, 5)
    old = -0.05 - 2 * torch.rand(shape, generator=random, dtype=torch.float64)
    moved = (old + spread * torch.randn(shape, generator=random, dtype=torch.float64)).clamp(max=-1e-3)
    rewards = torch.rand(2, 5, generator=random, dtype=torch.float64)
    batch = {
        "rollout_log_probs": old,
        "reference_log_probs": old - 0.2,
        "advantages": group_advantages(rewards).double(),
    }
    return {"sample_log_probs": moved.requires_grad_()}, batch


def ppo(now: float, _: float, old: float, advantage: float) -> float:
    ratio = math.exp(now - old)
    return -min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)


def ecpo(now: float, frozen: float, old: float, advantage: float) -> float:
    raised = math.log(max(math.exp(old), math.exp(frozen) / (1 + 0.2 + 0.1)))
    return ppo(now, frozen, raised, advantage)


def gbpo(now: float, frozen: float, old: float, advantage: float) -> float:
    probability = math.exp(frozen)
    bound = max(math.exp(old), probability if advantage >= 0 else 1 - probability)
    return -math.exp(now) / bound * advantage


def kl(now: float, _: float, old: float, __: float) -> float:
    drift = old - 0.2 - now
    return ppo(now, now, old, __) + 0.3 * (math.exp(drift) - drift - 1)


Twin = Callable[[float, float, float, float], float]
TWINS: list[tuple[Objective, Twin]] = [(GRPO(), ppo), (GRPO(kl_weight=0.3), kl), (ECPO(), ecpo), (GBPO(), gbpo)]


@pytest.mark.parametrize("levels", [0, 3])
@pytest.mark.parametrize(("objective", "twin"), TWINS)
def test_loss_and_gradient_are_those_of_the_twin(objective: Objective, twin: Twin, levels: int) -> None:
    outputs, batch = example(levels=levels)
    loss = objective(outputs, batch)
    loss.backward()
    now, old = outputs["sample_log_probs"], batch["rollout_log_probs"]
    advantages = batch["advantages"].reshape(2, 5, *[1] * bool(levels)).expand_as(now)
    total, step = 0.0, 1e-6
    for place in range(now.numel()):
        value, then, advantage = (values.flatten()[place].item() for values in (now, old, advantages))
        total += twin(value, value, then, advantage)
        slope = twin(value + step, value, then, advantage) - twin(value - step, value, then, advantage)
        assert float(now.grad.flatten()[place]) == pytest.approx(slope / (2 * step) / now.numel(), abs=1e-8)
    assert loss.item() == pytest.approx(total / now.numel(), abs=1e-10)


@pytest.mark.parametrize("objective", EVERY)
def test_the_first_inner_step_is_the_plain_policy_gradient(objective: Objective) -> None:
    """Ratio 1: GRPO and ECPO push each sample by its advantage, and the loss is 0 as advantages sum to 0."""
    outputs, batch = example()
    now = outputs["sample_log_probs"]
    batch["rollout_log_probs"] = batch["reference_log_probs"] = now.detach().clone()
    loss = objective(outputs, batch)
    loss.backward()
    weight = torch.ones_like(now)
    if isinstance(objective, GBPO):
        odds = now.exp() / torch.maximum(now.exp(), 1 - now.exp())
        weight = torch.where(batch["advantages"] >= 0, weight, odds)
    else:
        assert abs(loss.item()) < 1e-7
    torch.testing.assert_close(now.grad, -weight * batch["advantages"] / 10)
    # Without a rollout the model is the policy that sampled.
    alone = objective(outputs, {name: batch[name] for name in ("advantages", "reference_log_probs")})
    assert alone.item() == loss.item()


@pytest.mark.parametrize("objective", EVERY)
def test_a_group_without_a_hit_gives_no_policy_gradient(objective: Objective) -> None:
    outputs, batch = example()
    rewards = torch.tensor([[0.0] * 5, [0.0, 0.0, 1.0, 0.0, 0.0]])
    objective(outputs, batch | {"advantages": group_advantages(rewards)}).backward()
    now = outputs["sample_log_probs"]
    expected = torch.zeros(5, dtype=torch.float64)
    if isinstance(objective, GRPO) and objective.kl_weight:
        # Only the pull to the reference remains: d/dx of e^(r - x) - (r - x) - 1 is 1 - e^(r - x).
        expected = 0.3 * (1 - (batch["reference_log_probs"] - now).exp()[0]).detach() / 10
        assert expected.abs().min() > 0
    torch.testing.assert_close(now.grad[0], expected)
    assert now.grad[1].abs().sum() > 0


def test_ecpo_is_ppo_where_ratios_have_not_run_away() -> None:
    outputs, batch = example(spread=1.0)
    now = outputs["sample_log_probs"]
    ratios = (now - batch["rollout_log_probs"]).exp().detach()
    same = (ratios <= 1.3) | (batch["advantages"] >= 0)
    assert 0 < same.sum() < same.numel()
    (ppo_grad,) = torch.autograd.grad(GRPO()(outputs, batch), now)
    (ecpo_grad,) = torch.autograd.grad(ECPO()(outputs, batch), now)
    torch.testing.assert_close(ecpo_grad[same], ppo_grad[same])
    # The others weigh 1.3 instead of their ratio.
    torch.testing.assert_close(ecpo_grad[~same], ppo_grad[~same] * 1.3 / ratios[~same])
    quiet = outputs, batch | {"counted": ratios <= 1.3}
    assert ECPO()(*quiet).item() == pytest.approx(GRPO()(*quiet).item(), abs=1e-12)


def test_ecpo_bounds_what_ppo_does_not() -> None:
    outputs = {"sample_log_probs": torch.tensor([[-0.1, -1.0]], requires_grad=True)}
    batch = {"rollout_log_probs": torch.tensor([[-9.0, -1.0]]), "advantages": torch.tensor([[-1.0, 1.0]])}
    (free,) = torch.autograd.grad(GRPO()(outputs, batch), outputs["sample_log_probs"])
    (held,) = torch.autograd.grad(ECPO()(outputs, batch), outputs["sample_log_probs"])
    assert float(free[0, 0]) == pytest.approx(math.exp(8.9) / 2, rel=1e-5)
    assert float(held[0, 0]) == pytest.approx(1.3 / 2, rel=1e-5)


@pytest.mark.parametrize("old", [1e-6, 0.2, 0.9, 1.0])
def test_the_gradient_of_gbpo_is_bounded(old: float) -> None:
    probability = torch.tensor([[1e-9, 1e-6, 0.01, 0.3, 0.5, 0.9, 1 - 1e-6]], dtype=torch.float64)
    now = probability.log().requires_grad_()
    for advantage in (-2.0, 2.0):
        batch = {
            "rollout_log_probs": torch.full_like(probability, old).log(),
            "advantages": torch.full_like(probability, advantage),
        }
        (grad,) = torch.autograd.grad(GBPO()({"sample_log_probs": now}, batch), now)
        weight = -grad * probability.numel() / advantage
        bound = torch.ones_like(probability) if advantage > 0 else probability / (1 - probability)
        assert (weight > 0).all()
        assert (weight <= bound * (1 + 1e-9)).all()
    # A certain tuple divides by pi_old, not by 0.
    certain = {"sample_log_probs": torch.zeros(1, 1)}
    assert GBPO()(certain, {"advantages": torch.tensor([[-1.0]])}).item() == 1.0


def test_gbpo_takes_samples_of_others_as_its_own() -> None:
    outputs, batch = example()
    now = outputs["sample_log_probs"]
    generated = torch.tensor([[True] * 5, [False] * 5])
    taken = batch["rollout_log_probs"].clone()
    taken[1] = now[1].detach()
    nonsense = batch["rollout_log_probs"].clone()
    nonsense[1] = -30.0
    ours = GBPO()(outputs, batch | {"rollout_log_probs": nonsense, "generated": generated})
    assert ours.item() == pytest.approx(GBPO()(outputs, batch | {"rollout_log_probs": taken}).item(), abs=1e-12)


def test_the_kl_estimate_has_the_mean_of_the_kl_and_is_never_negative() -> None:
    ours, reference = torch.tensor([0.5, 0.3, 0.2]).log(), torch.tensor([0.2, 0.2, 0.6]).log()
    estimate = kl_estimate(ours, reference)
    assert (estimate >= 0).all()
    exact = (ours.exp() * (ours - reference)).sum()
    torch.testing.assert_close((ours.exp() * estimate).sum(), exact)
    assert not kl_estimate(ours, ours).any()


@pytest.mark.parametrize("levels", [0, 3])
@pytest.mark.parametrize("objective", EVERY)
def test_what_is_not_counted_has_no_part(objective: Objective, levels: int) -> None:
    outputs, batch = example(levels=levels)
    now = outputs["sample_log_probs"].detach().clone()
    counted = torch.ones(2, 5, dtype=torch.bool)
    counted[:, 3:] = False
    now[:, 3:] = -math.inf
    now.requires_grad_()
    advantages = batch["advantages"].masked_fill(~counted, math.nan)
    loss = objective({"sample_log_probs": now}, batch | {"advantages": advantages, "counted": counted})
    loss.backward()
    cut = {name: values[:, :3] for name, values in batch.items()}
    assert loss.item() == pytest.approx(objective({"sample_log_probs": now[:, :3]}, cut).item(), abs=1e-12)
    assert not now.grad[:, 3:].any()
    nothing = objective({"sample_log_probs": now}, batch | {"counted": torch.zeros(2, 5, dtype=torch.bool)})
    assert nothing.item() == 0.0


@pytest.mark.parametrize("objective", EVERY)
def test_the_loss_is_fp32_whatever_comes_in(objective: Objective) -> None:
    outputs, batch = example()
    half = {name: values.detach().bfloat16() for name, values in outputs.items()}
    assert objective(half, {name: values.float() for name, values in batch.items()}).dtype == torch.float32


def test_what_cannot_be_is_named() -> None:
    outputs, batch = example(levels=3)
    for objective, message in (
        (GRPO(clip=0.0), "clip is 0.0"),
        (ECPO(clip=1.0), "clip is 1.0"),
        (GRPO(kl_weight=-1.0), "kl_weight is -1.0"),
        (ECPO(margin=-0.1), "margin is -0.1"),
    ):
        with pytest.raises(ConfigError, match=message):
            objective(outputs, batch)
    with pytest.raises(ConfigError, match="no 'reference_log_probs'"):
        GRPO(kl_weight=0.1)(outputs, {"advantages": batch["advantages"]})
    with pytest.raises(ConfigError, match="no 'sample_log_probs' among hidden"):
        GRPO()({"hidden": batch["advantages"]}, batch)
    with pytest.raises(ConfigError, match=r"advantages has shape \(2, 5, 3\), and must be \(2, 5\)"):
        GRPO()(outputs, batch | {"advantages": batch["rollout_log_probs"]})
    with pytest.raises(ConfigError, match=r"rollout_log_probs has shape \(2, 5\)"):
        GBPO()(outputs, batch | {"rollout_log_probs": batch["advantages"]})
    with pytest.raises(ConfigError, match=r"has shape \(5,\)"):
        GRPO()({"sample_log_probs": batch["advantages"][0]}, batch)
    for name in ("advantages", "rollout_log_probs"):
        with pytest.raises(DataError, match=f"numbers in {name}"):
            ECPO()(outputs, batch | {name: batch[name] * math.nan})
