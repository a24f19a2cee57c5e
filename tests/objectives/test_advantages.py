"""Group advantages against hand-worked numbers and what must hold for any group."""

import math

import pytest
import torch

from sememe.core.errors import ConfigError, DataError
from sememe.objectives.advantages import SOFTENING, group_advantages

REWARDS = torch.tensor([[1.0, 0.0, 0.0, 0.0], [2.0, 4.0, 4.0, 6.0]])


def test_advantages_by_hand() -> None:
    # Deviations of the groups: sqrt(3) / 4, and sqrt(2).
    first = [value / (math.sqrt(3) / 4 + SOFTENING) for value in (0.75, -0.25, -0.25, -0.25)]
    second = [value / (math.sqrt(2) + SOFTENING) for value in (-2.0, 0.0, 0.0, 2.0)]
    torch.testing.assert_close(group_advantages(REWARDS), torch.tensor([first, second]))
    unscaled = torch.tensor([[0.75, -0.25, -0.25, -0.25], [-2.0, 0.0, 0.0, 2.0]])
    torch.testing.assert_close(group_advantages(REWARDS, scale=False), unscaled)


@pytest.mark.parametrize("scale", [True, False])
def test_they_sum_to_zero_in_every_group(scale: bool) -> None:
    random = torch.Generator().manual_seed(0)
    rewards = 1e4 + torch.randn(200, 16, generator=random)
    counted = torch.rand(200, 16, generator=random) < 0.7
    for mask in (None, counted):
        advantages = group_advantages(rewards, counted=mask, scale=scale)
        assert advantages.sum(1).abs().max() < 1e-5
        assert advantages.abs().sum() > 100


def test_a_group_of_equal_rewards_has_exactly_none() -> None:
    # 0.1 has no exact mean in floating point.
    equal = torch.full((3, 7), 0.1)
    for softening in (SOFTENING, 0.0):
        assert not group_advantages(equal, softening=softening).any()
        assert not group_advantages(equal, softening=softening, scale=False).any()


def test_nothing_changes_by_a_constant_and_by_a_scale() -> None:
    shifted = group_advantages(5.0 + 3.0 * REWARDS, softening=0.0)
    torch.testing.assert_close(shifted, group_advantages(REWARDS, softening=0.0))


def test_what_is_not_counted_has_no_part() -> None:
    wide = torch.cat([REWARDS, torch.full((2, 2), math.nan)], dim=1)
    counted = torch.ones(2, 6, dtype=torch.bool)
    counted[:, 4:] = False
    found = group_advantages(wide, counted=counted)
    torch.testing.assert_close(found[:, :4], group_advantages(REWARDS))
    assert not found[:, 4:].any()
    # A single sample is its own mean, and a row may be empty.
    counted[0, 1:], counted[1] = False, False
    assert not group_advantages(wide, counted=counted).any()


def test_rewards_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="1 of 8 numbers in rewards"):
        group_advantages(REWARDS.masked_fill(REWARDS == 6.0, math.inf))
    with pytest.raises(ConfigError, match=r"counted has shape \(2, 3\)"):
        group_advantages(REWARDS, counted=torch.ones(2, 3, dtype=torch.bool))
