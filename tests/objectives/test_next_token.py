"""The next-token loss against numbers worked out by hand."""

import math

import pytest
import torch

from sememe.core.errors import ConfigError
from sememe.objectives.next_token import NextToken

INF = math.inf
# One row, two levels: three codes with probabilities 1/2, 1/4, 1/4; and two codes with 3/4, 1/4 and no third.
LOGITS = torch.tensor([[[math.log(2), 0.0, 0.0], [math.log(3), 0.0, -INF]]])
TARGETS = torch.tensor([[0, 1]], dtype=torch.int32)
FIRST, SECOND = math.log(2), math.log(4)


def loss(part: NextToken, logits: torch.Tensor = LOGITS) -> float:
    return float(part({"code_logits": logits}, {"target_codes": TARGETS}))


def test_plain_loss_is_the_mean_over_rows_and_levels() -> None:
    assert loss(NextToken()) == pytest.approx((FIRST + SECOND) / 2)
    two = {"code_logits": LOGITS.repeat(2, 1, 1)}, {"target_codes": torch.tensor([[0, 1], [1, 0]])}
    assert float(NextToken()(*two)) == pytest.approx((FIRST + SECOND + math.log(4) + math.log(4 / 3)) / 4)


def test_smoothing_spreads_over_the_codes_that_exist() -> None:
    even_first = (math.log(2) + math.log(4) + math.log(4)) / 3
    even_second = (math.log(4 / 3) + math.log(4)) / 2
    expected = 0.8 * (FIRST + SECOND) / 2 + 0.2 * (even_first + even_second) / 2
    assert loss(NextToken(label_smoothing=0.2)) == pytest.approx(expected)
    assert loss(NextToken(label_smoothing=1e-9)) == pytest.approx(loss(NextToken()))


def test_levels_are_weighted() -> None:
    assert loss(NextToken(level_weights=(3.0, 1.0))) == pytest.approx((3 * FIRST + SECOND) / 4)
    assert loss(NextToken(level_weights=(1.0, 1.0))) == pytest.approx(loss(NextToken()))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradients_are_finite_where_codes_do_not_exist(smoothing: float) -> None:
    logits = LOGITS.clone().requires_grad_()
    NextToken(label_smoothing=smoothing)({"code_logits": logits}, {"target_codes": TARGETS}).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert float(logits.grad[0, 1, 2]) == 0.0
    assert logits.grad.abs().sum() > 0


def test_the_loss_is_float32_whatever_the_logits_are() -> None:
    value = NextToken()({"code_logits": LOGITS.bfloat16()}, {"target_codes": TARGETS})
    assert value.dtype == torch.float32


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (NextToken(label_smoothing=1.0), "label_smoothing is 1.0"),
        (NextToken(level_weights=(1.0,)), "needs 2 numbers"),
        (NextToken(level_weights=(0.0, 0.0)), "not all 0"),
    ],
)
def test_impossible_settings_are_named(part: NextToken, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loss(part)
