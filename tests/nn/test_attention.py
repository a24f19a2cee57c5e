"""Attention pieces against hand-worked numbers and slow twins."""

import math

import pytest
import torch

from sememe.nn.attention import (
    MASKED,
    RelativeBias,
    attend,
    attend_own,
    causal_bias,
    merge_heads,
    padding_bias,
    relative_buckets,
    split_heads,
)


def test_relative_buckets_by_hand() -> None:
    relative = torch.tensor([-200, -128, -20, -9, -8, -7, -1, 0, 1, 7, 8, 20, 200])
    # Bidirectional, 32 buckets: 16 per side, 8 exact; bucket of 9 = 8 + floor(log(9/8) / log(16) * 8) = 8,
    # of 20 = 8 + floor(2.64) = 10; everything from 128 on is the last; keys after the query add 16.
    both = relative_buckets(relative, bidirectional=True, buckets=32, max_distance=128)
    assert both.tolist() == [15, 15, 10, 8, 8, 7, 1, 0, 17, 23, 24, 26, 31]
    # One direction: 16 exact; bucket of 20 = 16 + floor(log(20/16) / log(8) * 16) = 17.
    past = relative_buckets(relative, bidirectional=False, buckets=32, max_distance=128)
    assert past.tolist() == [31, 31, 17, 9, 8, 7, 1, 0, 0, 0, 0, 0, 0]


def test_relative_bias_looks_up_one_number_per_head_and_distance() -> None:
    bias = RelativeBias(2, bidirectional=False, buckets=32, max_distance=128)
    with torch.no_grad():
        bias.weight.copy_(torch.arange(64.0).view(32, 2))  # head h, distance d: 2 d + h
    out = bias(4)
    assert out.shape == (1, 2, 4, 4)
    assert out[0, 0, 3].tolist() == [6, 4, 2, 0]
    assert out[0, 1, 3].tolist() == [7, 5, 3, 1]
    assert torch.equal(bias(4, first_query=3), out[:, :, 3:])


def test_masks_hide_what_they_should() -> None:
    assert padding_bias(torch.tensor([[True, False]])).tolist() == [[[[0.0, MASKED]]]]
    hidden = causal_bias(3, device=torch.device("cpu"))[0, 0] == MASKED
    assert hidden.tolist() == [[False, True, True], [False, False, True], [False, False, False]]


def test_heads_split_and_merge_back() -> None:
    states = torch.arange(24.0).view(1, 3, 8)
    (heads,) = split_heads(states, parts=1, heads=2)
    assert heads.shape == (1, 2, 3, 4)
    assert heads[0, 1, 0].tolist() == [4, 5, 6, 7]
    assert torch.equal(merge_heads(heads), states)
    left, right = split_heads(states, parts=2, heads=2)
    assert left[0, 1, 0].tolist() == [2, 3]
    assert torch.equal(torch.cat([merge_heads(left), merge_heads(right)], -1), states)
    assert left.is_contiguous()
    assert right.is_contiguous()


def test_attention_by_hand_is_not_scaled() -> None:
    queries = torch.tensor([[[[2.0, 0.0]]]])
    keys = torch.tensor([[[[math.log(3) / 2, 5.0], [0.0, 7.0]]]])  # scores log 3 and 0: weights 3/4 and 1/4
    values = torch.tensor([[[[4.0, 0.0], [0.0, 8.0]]]])
    assert attend(queries, keys, values, bias=None, dropout=0.0).flatten().tolist() == pytest.approx([3.0, 2.0])
    bias = torch.tensor([[[[0.0, math.log(3)]]]])  # now equal
    assert attend(queries, keys, values, bias=bias, dropout=0.0).flatten().tolist() == pytest.approx([2.0, 4.0])


def test_a_masked_key_has_no_influence_and_a_row_without_keys_is_finite() -> None:
    torch.manual_seed(0)
    queries, keys, values = torch.randn(3, 2, 2, 4, 8).unbind()
    bias = padding_bias(torch.tensor([[True, True, True, False], [False] * 4]))
    out = attend(queries, keys, values, bias=bias, dropout=0.0)
    keys[0, :, 3], values[0, :, 3] = 99.0, 99.0
    torch.testing.assert_close(attend(queries, keys, values, bias=bias, dropout=0.0)[0], out[0])
    assert out.isfinite().all()


@pytest.mark.parametrize("masked", [False, True])
def test_the_fused_pass_without_gradients_equals_the_plain_one(masked: bool) -> None:
    torch.manual_seed(0)
    queries, keys, values = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    bias = torch.randn(1, 3, 5, 7) + padding_bias(torch.arange(7) < torch.tensor([[7], [4]])) if masked else None
    plain = attend(queries, keys, values, bias=bias, dropout=0.0)
    with torch.no_grad():
        torch.testing.assert_close(attend(queries, keys, values, bias=bias, dropout=0.0), plain)


def test_dropout_removes_the_stated_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    zeros, ones = torch.zeros(1, 1, 200, 4), torch.ones(1, 1, 500, 4)
    weights_sum = attend(zeros, torch.zeros(1, 1, 500, 4), ones, bias=None, dropout=0.25)[..., 0]
    assert float(weights_sum.mean()) == pytest.approx(1.0, abs=0.01)
    assert float(weights_sum.std()) == pytest.approx(math.sqrt(0.25 / 0.75 / 500), rel=0.2)


@pytest.mark.parametrize("shared_first", [False, True])
def test_attention_to_own_positions_equals_attention_beam_by_beam(shared_first: bool) -> None:
    torch.manual_seed(0)
    rows, beams, heads, width, positions = 2, 3, 4, 8, 3
    queries = torch.randn(rows, beams, heads, width)
    keys = [torch.randn(rows, beams, heads, width) for _ in range(positions)]
    values = [torch.randn(rows, beams, heads, width) for _ in range(positions)]
    if shared_first:
        keys[0], values[0] = keys[0][:, :1], values[0][:, :1]
    bias = torch.randn(heads, positions)
    out = attend_own(queries, keys, values, bias=bias)
    for beam in range(beams):
        own_keys = torch.stack([key[:, min(beam, key.shape[1] - 1)] for key in keys], 2)
        own_values = torch.stack([value[:, min(beam, value.shape[1] - 1)] for value in values], 2)
        expected = attend(queries[:, beam, :, None], own_keys, own_values, bias=bias[None, :, None], dropout=0.0)
        torch.testing.assert_close(out[:, beam], expected[:, :, 0])
