"""T5 layers against hand-worked numbers and slow twins."""

import pytest
import torch

from sememe.nn.blocks import BlockShape, CrossMemory, FeedForward, SelfAttention

SHAPE = BlockShape(d_model=6, heads=2, head_dim=4, ff=10, dropout=0.0)


def test_feed_forward_by_hand() -> None:
    block = FeedForward(BlockShape(d_model=2, heads=1, head_dim=1, ff=2, dropout=0.0))
    with torch.no_grad():
        block.wide.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
        block.narrow.weight.copy_(torch.tensor([[10.0, 5.0], [0.0, 1.0]]))
    # (1, 1) has norm (1, 1); wide (1, -1), after ReLU (1, 0); narrow (10, 0); plus the input.
    assert block(torch.tensor([1.0, 1.0])).tolist() == pytest.approx([11.0, 1.0], abs=1e-4)


def test_self_attention_equals_loops_over_heads_and_positions() -> None:
    torch.manual_seed(0)
    block, states, bias = SelfAttention(SHAPE), torch.randn(2, 3, 6), torch.randn(1, 2, 3, 3)
    out = block(states, bias)
    query, key, value = block.qkv.weight.chunk(3)
    for row in range(2):
        normed = block.norm(states[row])
        mixed = torch.zeros(3, 8)
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            for position in range(3):
                scores = [
                    (query[part] @ normed[position]) @ (key[part] @ normed[other]) + bias[0, head, position, other]
                    for other in range(3)
                ]
                weights = torch.stack(scores).softmax(0)
                mixed[position, part] = sum(weights[other] * (value[part] @ normed[other]) for other in range(3))
        torch.testing.assert_close(out[row], states[row] + mixed @ block.out.weight.T)


def test_memory_is_one_projection_per_layer_and_kind() -> None:
    torch.manual_seed(0)
    memory, encoded = CrossMemory(SHAPE, layers=2), torch.randn(2, 5, 6)
    parts = memory(encoded)
    assert len(parts) == 4
    for part, weight in zip(parts, memory.project.weight.chunk(4), strict=True):
        torch.testing.assert_close(part, (encoded @ weight.T).view(2, 5, 2, 4).transpose(1, 2))


def test_initial_scores_and_widths_are_those_of_t5() -> None:
    torch.manual_seed(0)
    shape = BlockShape(d_model=64, heads=4, head_dim=32, ff=256, dropout=0.0)
    attention, feed_forward = SelfAttention(shape), FeedForward(shape)
    assert float(attention.qkv.weight[:128].detach().std()) == pytest.approx((64 * 32) ** -0.5, rel=0.05)
    assert float(attention.qkv.weight[128:].detach().std()) == pytest.approx(64**-0.5, rel=0.05)
    assert float(attention.out.weight.detach().std()) == pytest.approx(128**-0.5, rel=0.05)
    assert float(feed_forward.wide.weight.detach().std()) == pytest.approx(64**-0.5, rel=0.05)
    assert float(feed_forward.narrow.weight.detach().std()) == pytest.approx(256**-0.5, rel=0.05)
