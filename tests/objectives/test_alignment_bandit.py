"""A bandit with three arms: whether each alignment objective finds the best one, and where one by its nature stops."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sememe.objectives.advantages import group_advantages
from sememe.objectives.dpo import DPO
from sememe.objectives.ecpo import ECPO
from sememe.objectives.gbpo import GBPO
from sememe.objectives.grpo import GRPO
from sememe.objectives.reward_weighted import RewardWeighted

Objective = Callable[[dict[str, Tensor], dict[str, Tensor]], Tensor]
CERTAIN = torch.tensor([0.2, 0.5, 1.0])
"""Rewards of the arms."""
START = torch.tensor([1.0, 0.5, 0.0])
"""Logits that favour the worst arm."""
ROWS, GROUP = 32, 16


def play(objective: Objective, *, rounds: int = 100, noisy: bool = False, best_first: bool = False) -> Tensor:
    """(3,) probabilities of the arms after rounds of sampling groups from the policy and two steps on each.

    noisy: a reward is 1 with the arm's reward as its probability, else 0, the best arm's 0.9.
    best_first: the best sample of a group stands first and the worst second, alone, as DPO reads them.
    """
    random = torch.Generator().manual_seed(0)
    logits = START.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.2)
    for _ in range(rounds):
        sampler = logits.detach().log_softmax(0)
        arms = torch.multinomial(sampler.exp(), ROWS * GROUP, replacement=True, generator=random).view(ROWS, GROUP)
        rewards = CERTAIN[arms]
        if noisy:
            rewards = (torch.rand(ROWS, GROUP, generator=random) < rewards.clamp(max=0.9)).float()
        if best_first:
            pair = torch.stack([rewards.argmax(1), rewards.argmin(1)], dim=1)
            arms, rewards = arms.gather(1, pair), rewards.gather(1, pair)
        batch = {
            "rewards": rewards,
            "advantages": group_advantages(rewards),
            "rollout_log_probs": sampler[arms],
            "reference_log_probs": sampler[arms],
        }
        if best_first:
            batch["counted"] = (rewards[:, :1] > rewards[:, 1:]).expand_as(rewards)
        for _ in range(2):
            optimizer.zero_grad()
            objective({"sample_log_probs": logits.log_softmax(0)[arms]}, batch).backward()
            optimizer.step()
    return logits.detach().softmax(0)


@pytest.mark.parametrize("objective", [GRPO(), ECPO(), RewardWeighted()])
@pytest.mark.parametrize("noisy", [False, True])
def test_the_best_arm_is_found(objective: Objective, noisy: bool) -> None:
    assert START.softmax(0)[2] < 0.19
    assert play(objective, noisy=noisy)[2] > 0.99


@pytest.mark.parametrize("noisy", [False, True])
def test_the_best_arm_is_found_from_preferences(noisy: bool) -> None:
    assert play(DPO(), noisy=noisy, best_first=True)[2] > 0.99


def test_gbpo_finds_the_best_arm_more_slowly_and_only_without_noise() -> None:
    """Near the end only improbable arms have A < 0, and these are pushed down by pi / (1 - pi): hardly at all."""
    assert 0.99 < play(GBPO())[2] < play(GRPO())[2]
    assert 0.85 < play(GBPO(), noisy=True)[2] < 0.97


def test_noise_lets_gbpo_stop_short_of_the_best_arm() -> None:
    """The gradient of a group with exactly the expected hits, where the best of three noisy arms has 95 %.

    Lucky draws of the second arm count in full, its failures by 4 / 96: its probability rises.  With two arms of hit
    rates 0.5 and 0.9, the two balance at 7 % for the worse one.
    """
    shares, rates = torch.tensor([0.01, 0.04, 0.95]), torch.tensor([0.2, 0.5, 0.9])
    arms = torch.repeat_interleave(torch.arange(3), (10_000 * shares).round().long())
    hits = torch.cat(
        [torch.arange(n) < round(n * p) for n, p in zip(arms.bincount().tolist(), rates.tolist(), strict=True)]
    )
    pushes = {}
    for objective in (GBPO(), GRPO()):
        logits = shares.log().requires_grad_()
        advantages = group_advantages(hits.float().unsqueeze(0))
        outputs = {"sample_log_probs": logits.log_softmax(0)[arms].unsqueeze(0)}
        objective(outputs, {"advantages": advantages}).backward()
        pushes[type(objective)] = -logits.grad
    assert pushes[GBPO][1] > 0 > pushes[GBPO][2]
    assert pushes[GRPO][2] > 0 > pushes[GRPO][1]
