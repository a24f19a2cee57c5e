import math

import pytest
import torch
from torch.nn import functional as F

from sememe.nn.rotary import RotaryAttention, rotate


def by_complex_numbers(heads: torch.Tensor) -> torch.Tensor:
    """Each pair as a complex number, times exp(i * angle)."""
    length, width = heads.shape[-2:]
    first, second = heads.double().chunk(2, -1)
    turned = torch.complex(first, second)
    for position in range(length):
        for pair in range(width // 2):
            angle = position * 10_000 ** (-2 * pair / width)
            turned[..., position, pair] *= complex(math.cos(angle), math.sin(angle))
    return torch.cat([turned.real, turned.imag], -1)


def test_a_pair_turns_by_hand():
    # Width 4: pair 0 turns by 1 per position, pair 1 by 1 / 100; pairs are (element 0, 2) and (1, 3).
    heads = torch.tensor([[1.0, 0.0, 0.0, 2.0]]).expand(3, 4).double()
    turned = rotate(heads)
    assert turned[0].tolist() == [1.0, 0.0, 0.0, 2.0]
    expected = [math.cos(2), -2 * math.sin(0.02), math.sin(2), 2 * math.cos(0.02)]
    assert turned[2].tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.02)], ids=str
)
def test_rotation_equals_multiplication_of_complex_numbers(dtype: torch.dtype, atol: float):
    torch.manual_seed(0)
    heads = torch.randn(2, 3, 40, 6).to(dtype)
    turned = rotate(heads)
    assert turned.dtype == dtype
    torch.testing.assert_close(turned.double(), by_complex_numbers(heads), rtol=0, atol=atol)


def test_scores_depend_on_the_distance_only():
    torch.manual_seed(1)
    query, key = torch.randn(2, 1, 8, dtype=torch.float64).expand(2, 30, 8)
    scores = rotate(query) @ rotate(key).T
    for distance in (-7, 0, 3):
        along = scores.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along))
    assert scores[9, 9] != pytest.approx(float(scores[9, 3]))


def test_attention_equals_loops_over_rows_heads_and_positions():
    torch.manual_seed(0)
    part = RotaryAttention(8, heads=2, dropout=0.5).double().eval().requires_grad_(False)
    states = torch.randn(2, 5, 8, dtype=torch.float64)
    query, key, value = F.linear(states, part.qkv.weight, part.qkv.bias).split(8, dim=2)
    mixed = torch.zeros_like(states)
    for row in range(2):
        for head in (slice(0, 4), slice(4, 8)):
            turned_query, turned_key = (by_complex_numbers(part[row, :, head]) for part in (query, key))
            for here in range(5):
                scores = torch.stack([turned_query[here] @ turned_key[past] / 2 for past in range(here + 1)])
                for past, weight in enumerate(scores.softmax(0)):
                    mixed[row, here, head] += weight * value[row, past, head]
    torch.testing.assert_close(part(states), F.linear(mixed, part.out.weight, part.out.bias))
