import math

import pytest
import torch
from torch import nn

from sememe.nn.gated import SwiGlu


def test_values_by_hand():
    part = SwiGlu(2, ff=12, dropout=0.5).double().eval()
    with torch.no_grad():
        part.gate_and_up.weight.zero_()
        part.gate_and_up.weight[1] = torch.tensor([1.0, -1.0])  # gate of hidden value 1
        part.gate_and_up.weight[9] = torch.tensor([2.0, 1.0])  # hidden value 1
        part.down.weight.zero_()
        part.down.weight[0, 1] = 3.0
    # Input (3, 1): gate 2, silu 2 / (1 + exp(-2)); value 7; output 3 * 7 * silu.
    out = part(torch.tensor([3.0, 1.0], dtype=torch.float64))
    assert out.tolist() == pytest.approx([42 / (1 + math.exp(-2)), 0.0])


def test_values_equal_three_matrices():
    torch.manual_seed(0)
    part = SwiGlu(6, ff=24, dropout=0.5).double().eval()
    gate, up = part.gate_and_up.weight.split(16)
    states = torch.randn(4, 5, 6, dtype=torch.float64)
    left = states @ gate.T
    expected = (left * torch.sigmoid(left) * (states @ up.T)) @ part.down.weight.T
    torch.testing.assert_close(part(states), expected)


@pytest.mark.parametrize(("d_model", "ff"), [(128, 512), (64, 256), (256, 1024), (128, 300)])
def test_there_are_about_as_many_parameters_as_in_two_layers(d_model: int, ff: int):
    two_layers = nn.Sequential(nn.Linear(d_model, ff), nn.Linear(ff, d_model))
    counts = [
        sum(value.numel() for value in part.parameters()) for part in (SwiGlu(d_model, ff=ff, dropout=0.0), two_layers)
    ]
    assert counts[0] == pytest.approx(counts[1], rel=0.03)


def test_the_hidden_values_are_dropped_in_training():
    torch.manual_seed(0)
    part = SwiGlu(2, ff=1200, dropout=0.25).requires_grad_(False)
    nn.init.ones_(part.gate_and_up.weight)
    nn.init.ones_(part.down.weight)
    states = torch.full((50, 2), 0.5)
    whole = part.eval()(states)
    share = part.train()(states) / whole * 0.75  # kept values are scaled up by 1 / 0.75
    assert float(share.mean()) == pytest.approx(0.75, abs=0.01)
    assert float(share.std()) == pytest.approx((0.75 * 0.25 / 800) ** 0.5, rel=0.3)
