import pytest
import torch
from torch.nn import functional as F

from sememe.nn.relative import RelativeAttention


def bucket(distance: int) -> int:
    """T5's, one direction, 32 buckets up to 128: from 16 on it is 16 + floor(log(d / 16) / log(8) * 16)."""
    return {16: 16, 17: 16, 18: 16, 19: 17, 20: 17, 21: 18}.get(distance, distance)


def by_loops(part: RelativeAttention, states: torch.Tensor) -> torch.Tensor:
    """One score at a time."""
    rows, length, width = states.shape
    query, key, value = F.linear(states, part.qkv.weight, part.qkv.bias).split(width, dim=2)
    each = width // part.heads
    outputs = []
    for row in range(rows):
        for here in range(length):
            mixed = []
            for head in range(part.heads):
                place = slice(head * each, (head + 1) * each)
                scores = [
                    query[row, here, place] @ key[row, past, place] / each**0.5
                    + part.bias.weight[bucket(here - past), head]
                    for past in range(here + 1)
                ]
                mixed.append(torch.stack(scores).softmax(0) @ value[row, : here + 1, place])
            outputs.append(torch.cat(mixed))
    return F.linear(torch.stack(outputs).view_as(states), part.out.weight, part.out.bias)


@pytest.fixture
def part() -> RelativeAttention:
    torch.manual_seed(0)
    part = RelativeAttention(6, heads=2, dropout=0.5).double().eval()
    torch.nn.init.normal_(part.bias.weight)
    return part


def test_values_and_gradients_equal_loops_over_rows_heads_and_positions(part: RelativeAttention):
    states = torch.randn(2, 22, 6, dtype=torch.float64)
    up = torch.randn_like(states)
    grads = []
    for outputs in (part(states), by_loops(part, states)):
        part.zero_grad()
        (outputs * up).sum().backward()
        grads.append({name: value.grad for name, value in part.named_parameters()})
    torch.testing.assert_close(part(states), by_loops(part, states))
    torch.testing.assert_close(*grads)
    assert bool((grads[0]["bias.weight"][:19].abs() > 0).all())
    assert bool((grads[0]["bias.weight"][19:] == 0).all())


def test_the_fused_pass_without_gradients_equals_the_plain_one(part: RelativeAttention):
    states = torch.randn(2, 22, 6, dtype=torch.float64)
    plain = part(states)
    with torch.no_grad():
        torch.testing.assert_close(part(states), plain)
