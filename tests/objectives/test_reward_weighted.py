"""Reward-weighted likelihood by hand, its fixed point on a log, and imitation beside alignment."""

import math

import pytest
import torch

from sememe.align.policy import Steering
from sememe.core.errors import ConfigError, DataError
from sememe.objectives.dpo import DPO
from sememe.objectives.next_token import NextToken
from sememe.objectives.reward_weighted import RewardWeighted, reward_weights

REWARDS = torch.tensor([[3.0, 1.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("share", "first"),
    [(0.25, [1, 0, 0, 0]), (0.3, [1 / 3, 0, 1 / 3, 1 / 3]), (0.5, [1 / 3, 0, 1 / 3, 1 / 3]), (1.0, [0.25] * 4)],
)
def test_the_elite_is_the_best_share_with_its_ties(share: float, first: list[float]) -> None:
    weights = reward_weights(REWARDS, elite_share=share)
    torch.testing.assert_close(weights, torch.tensor([first, [0.25] * 4], dtype=torch.float64))


def test_a_temperature_weighs_the_elite() -> None:
    weights = reward_weights(REWARDS / math.log2(math.e), elite_share=0.5, temperature=1.0)[0]
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.0, 0.25, 0.25], dtype=torch.float64))
    # As it falls only the best is left, as it rises all weigh the same; large rewards do not overflow.
    cold = reward_weights(1e6 * REWARDS, temperature=1e-3)[0]
    torch.testing.assert_close(cold, torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(reward_weights(REWARDS, temperature=1e9), reward_weights(REWARDS))


def test_the_loss_by_hand() -> None:
    log_probs = torch.tensor([[0.5, 0.1, 0.25, 0.25], [0.5, 0.5, 0.5, 0.5]]).log().requires_grad_()
    loss = RewardWeighted(elite_share=0.5)({"sample_log_probs": log_probs}, {"rewards": REWARDS})
    assert loss.item() == pytest.approx((5 / 3 * math.log(2) + math.log(2)) / 2)
    loss.backward()
    expected = -torch.tensor([[1 / 3, 0.0, 1 / 3, 1 / 3], [0.25] * 4]) / 2
    torch.testing.assert_close(log_probs.grad, expected)
    by_code = torch.stack([2 * log_probs, torch.zeros_like(log_probs)], dim=2)
    per_code = RewardWeighted(elite_share=0.5)({"sample_log_probs": by_code}, {"rewards": REWARDS})
    torch.testing.assert_close(per_code, loss)


def test_what_is_not_counted_has_no_part() -> None:
    counted = torch.tensor([[False, True, True, True], [False] * 4])
    rewards = REWARDS.masked_fill(~counted, math.nan)
    weights = reward_weights(rewards, counted=counted, elite_share=0.3)
    torch.testing.assert_close(weights, torch.tensor([[0, 0, 0.5, 0.5], [0] * 4], dtype=torch.float64))
    outputs = {"sample_log_probs": torch.full((2, 4), -2.0).masked_fill(~counted, -math.inf)}
    loss = RewardWeighted(elite_share=0.3)(outputs, {"rewards": rewards, "counted": counted})
    assert loss.item() == pytest.approx(2.0)
    nothing = {"rewards": rewards, "counted": torch.zeros(2, 4, dtype=torch.bool)}
    assert RewardWeighted()(outputs, nothing).item() == 0.0


def test_on_a_log_it_ends_at_the_log_weighed_not_at_the_best_action() -> None:
    """Each of three arms logged once: the fit is e^(r / temperature) / Z, and the best arm has no more than that."""
    rewards = torch.tensor([[0.0, 0.5, 1.0]], dtype=torch.float64)
    logits = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=100, tolerance_grad=1e-12)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        objective = RewardWeighted(elite_share=1.0, temperature=0.5)
        loss = objective({"sample_log_probs": logits.log_softmax(1)}, {"rewards": rewards})
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(logits.detach().softmax(1), (rewards / 0.5).softmax(1), atol=1e-5, rtol=0)


def test_groups_that_say_nothing_are_left_out_where_asked() -> None:
    """The second row has equal rewards: of the first alone, the loss is its best sample's."""
    log_probs = torch.tensor([[-1.0, -2.0, -3.0, -4.0], [-5.0, -6.0, -7.0, -8.0]], requires_grad=True)
    outputs, batch = {"sample_log_probs": log_probs}, {"rewards": REWARDS}
    assert RewardWeighted()(outputs, batch).item() == pytest.approx((1.0 + 6.5) / 2)
    loss = RewardWeighted(skip_equal=True)(outputs, batch)
    loss.backward()
    assert loss.item() == pytest.approx(1.0) and log_probs.grad is not None
    torch.testing.assert_close(log_probs.grad, torch.tensor([[-1.0, 0, 0, 0], [0.0] * 4]))
    counted = torch.tensor([[False, True, True, True], [True] * 4])
    of_others = RewardWeighted(skip_equal=True)(outputs, {**batch, "counted": counted})
    assert of_others.item() == pytest.approx((3.0 + 4.0) / 2)
    assert RewardWeighted(skip_equal=True)(outputs, {"rewards": torch.zeros(2, 4)}).item() == 0.0


def test_imitation_and_alignment_add_up() -> None:
    outputs = {
        "code_logits": torch.zeros(1, 2, 4),
        "sample_log_probs": torch.tensor([[-1.0, -2.0]]),
    }
    batch = {"target_codes": torch.zeros(1, 2), "reference_log_probs": torch.tensor([[-1.0, -2.0]])}
    steering = Steering(DPO(), imitation=NextToken(), weight=0.5)
    assert steering(outputs, batch).item() == pytest.approx(math.log(4) + 0.5 * math.log(2))
    assert steering({"code_logits": outputs["code_logits"]}, batch).item() == pytest.approx(math.log(4))
    assert Steering(DPO())(outputs, batch).item() == pytest.approx(math.log(2))


def test_what_cannot_be_is_named() -> None:
    for settings in ({"elite_share": 0.0}, {"elite_share": 1.5}, {"temperature": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            reward_weights(REWARDS, **settings)
    with pytest.raises(DataError, match="1 of 8 numbers in rewards"):
        reward_weights(REWARDS.masked_fill(REWARDS == 3.0, math.nan))
    with pytest.raises(ConfigError, match="no 'rewards'"):
        RewardWeighted()({"sample_log_probs": torch.zeros(2, 4)}, {})
