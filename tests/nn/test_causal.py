import math

import pytest
import torch
from torch.nn import functional as F

from sememe.nn.causal import CausalAttention, CausalBlock, LigrBlock, last_position


def test_attention_equals_loops_over_rows_heads_and_positions():
    torch.manual_seed(0)
    part = CausalAttention(6, heads=2, dropout=0.0).double().requires_grad_(False)
    states = torch.randn(2, 4, 6, dtype=torch.float64)
    query, key, value = F.linear(states, part.qkv.weight, part.qkv.bias).split(6, dim=2)
    mixed = torch.zeros_like(states)
    for row in range(2):
        for head in (slice(0, 3), slice(3, 6)):
            for here in range(4):
                scores = [
                    float(query[row, here, head] @ key[row, past, head]) / math.sqrt(3) for past in range(here + 1)
                ]
                weights = [math.exp(score) / sum(map(math.exp, scores)) for score in scores]
                for past, weight in enumerate(weights):
                    mixed[row, here, head] += weight * value[row, past, head]
    torch.testing.assert_close(part(states), F.linear(mixed, part.out.weight, part.out.bias))


def test_a_gated_block_equals_its_formula_number_by_number():
    torch.manual_seed(2)
    block = LigrBlock(6, heads=2, ff=4, dropout=0.3).double().eval().requires_grad_(False)
    states = torch.randn(2, 5, 6, dtype=torch.float64)
    attended = block.attention(block.attention_norm(states))
    middle, expected = states.clone(), torch.zeros_like(states)
    for row in range(2):
        for position in range(5):
            before = states[row, position]
            for channel in range(6):
                gate = block.attention_gate.weight[channel] @ before + block.attention_gate.bias[channel]
                middle[row, position, channel] += attended[row, position, channel] / (1 + math.exp(-gate))
            here = middle[row, position]
            normed = (here - here.mean()) / (here.var(correction=0) + block.ff_norm.eps).sqrt()
            wide = [float(weights @ normed) for weights in block.wide.weight]
            inner = [wide[unit] / (1 + math.exp(-wide[unit])) * wide[4 + unit] for unit in range(4)]
            for channel in range(6):
                gate = block.ff_gate.weight[channel] @ here + block.ff_gate.bias[channel]
                change = sum(
                    float(weight) * unit for weight, unit in zip(block.narrow.weight[channel], inner, strict=True)
                )
                expected[row, position, channel] = here[channel] + change / (1 + math.exp(-gate))
    torch.testing.assert_close(block(states), expected)


@pytest.mark.parametrize("kind", [CausalBlock, LigrBlock])
def test_a_later_position_changes_nothing_before_it(kind):
    torch.manual_seed(1)
    block = kind(8, heads=2, ff=16, dropout=0.5).double().eval()
    states = torch.randn(3, 5, 8, dtype=torch.float64)
    changed = states.clone()
    changed[:, 3] = torch.randn(3, 8, dtype=torch.float64)
    first, second = block(states), block(changed)
    torch.testing.assert_close(first[:, :3], second[:, :3], rtol=0, atol=0)
    assert bool(((first[:, 3:] - second[:, 3:]).abs() > 1e-6).any(2).all())


def test_the_last_position_of_each_row_is_taken():
    states = torch.arange(12.0).view(2, 3, 2)
    assert last_position(states, torch.tensor([1, 3])).tolist() == [[0.0, 1.0], [10.0, 11.0]]
    assert last_position(states, torch.tensor([0, 2])).tolist() == [[0.0, 0.0], [8.0, 9.0]]
    assert last_position(torch.zeros(2, 0, 2), torch.tensor([0, 0])).tolist() == [[0.0, 0.0], [0.0, 0.0]]
