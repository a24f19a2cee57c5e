"""The written-out norm against a hand-worked number and torch's composed one, gradients too."""

import pytest
import torch
from torch.nn import functional as F

from sememe.nn.norm import RmsNorm


def test_norm_by_hand() -> None:
    norm = RmsNorm(2)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0]))
    # Mean square of (3, 4) is 12.5; no centring.
    assert norm(torch.tensor([3.0, 4.0])).tolist() == pytest.approx([3 / 12.5**0.5, 8 / 12.5**0.5], abs=1e-5)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 5), (0, 4)])
def test_values_and_gradients_equal_those_of_torch(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    norm = RmsNorm(shape[-1], eps=1e-3)
    with torch.no_grad():
        norm.weight.normal_()
    states, up = torch.randn(shape, requires_grad=True), torch.randn(shape)
    plain_states = states.detach().clone().requires_grad_()
    plain_weight = norm.weight.detach().clone().requires_grad_()
    plain = F.rms_norm(plain_states, plain_weight.shape, plain_weight, 1e-3)
    out = norm(states)
    torch.testing.assert_close(out, plain)
    with torch.no_grad():
        torch.testing.assert_close(norm(states), plain)
    out.backward(up)
    plain.backward(up)
    torch.testing.assert_close(states.grad, plain_states.grad)
    torch.testing.assert_close(norm.weight.grad, plain_weight.grad)


def test_a_zero_vector_stays_zero_with_finite_gradients() -> None:
    states = torch.zeros(2, 3, requires_grad=True)
    out = RmsNorm(3)(states)
    out.sum().backward()
    assert out.abs().sum() == 0
    assert states.grad is not None
    assert states.grad.isfinite().all()


def test_a_gradient_that_is_not_contiguous_is_taken() -> None:
    states = torch.randn(2, 3, 4, requires_grad=True)
    RmsNorm(4)(states).transpose(0, 1).square().sum().backward()
    assert states.grad is not None
