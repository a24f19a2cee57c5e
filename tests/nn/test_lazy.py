"""Grouped attention and the lazy block against loops and slow twins."""

from collections.abc import Callable

import pytest
import torch

from sememe.nn.attention import attend, attend_grouped
from sememe.nn.blocks import BlockShape, DecoderBlock, Memory
from sememe.nn.experts import ExpertFeedForward
from sememe.nn.lazy import KeyValueGroups, LazyBlock
from sememe.nn.qformer import QFormer

SHAPE = BlockShape(d_model=12, heads=6, head_dim=4, ff=10, dropout=0.0, kv_heads=2)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("bias_shape", [None, (3, 1, 1, 5), (1, 6, 2, 5), (1, 1, 2, 5), (3, 6, 2, 5)])
def test_grouped_attention_is_attention_to_repeated_keys(bias_shape: tuple[int, ...] | None) -> None:
    torch.manual_seed(0)
    queries, keys, values = random(3, 6, 2, 4), random(3, 2, 5, 4), random(3, 2, 5, 4)
    bias = None if bias_shape is None else random(*bias_shape)
    inputs = [part for part in (queries, keys, values, bias) if part is not None]

    def repeated() -> torch.Tensor:
        wide = [part.repeat_interleave(3, dim=1) for part in (keys, values)]
        return attend(queries, *wide, bias=bias, dropout=0.0)

    def grouped() -> torch.Tensor:
        return attend_grouped(queries, keys, values, bias=bias, dropout=0.0)

    def values_and_gradients(run: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, ...]:
        out = run()
        return out, *torch.autograd.grad(out.sin().sum(), inputs)

    torch.testing.assert_close(values_and_gradients(grouped), values_and_gradients(repeated))
    with torch.no_grad():
        torch.testing.assert_close(grouped(), repeated())


def test_groups_of_keys_by_hand() -> None:
    torch.manual_seed(0)
    part, context = KeyValueGroups(SHAPE, layers=5, groups=2, own_values=True), torch.randn(3, 7, 12)
    with torch.no_grad():
        for norm in part.norms:
            norm.weight.normal_()
    memories = part(context, None)
    assert part.group_of_layer == (0, 0, 0, 1, 1)  # floor(l * 2 / 5)
    for layer, group in enumerate(part.group_of_layer):
        for found, place in ((memories[layer].keys, group), (memories[layer].values, 2 + group)):
            weight = part.project.weight[8 * place : 8 * place + 8]
            raw = (context @ weight.T).view(3, 7, 2, 4)
            normed = raw / (raw.square().mean(-1, keepdim=True) + 1e-6).sqrt() * part.norms[place].weight
            torch.testing.assert_close(found, normed.transpose(1, 2))
    assert memories[0] is memories[1]


@pytest.mark.parametrize("kind", [DecoderBlock, LazyBlock])
def test_new_positions_read_the_old_ones_and_several_sequences_one_memory(kind: type[DecoderBlock | LazyBlock]) -> None:
    """All positions of all sequences at once, against one sequence after the other, position by position."""
    torch.manual_seed(0)
    block = kind(SHAPE, network=ExpertFeedForward(SHAPE, experts=3, per_token=2)).double().eval()
    keys, values, padding = random(2, 2, 5, 4), random(2, 2, 5, 4), torch.zeros(2, 1, 1, 5, dtype=torch.float64)
    padding[1, ..., 3:] = -1e9
    states, bias = random(6, 4, 12), random(1, 6, 4, 4) + torch.full((4, 4), -1e9).triu(1)
    whole = block.extend(states, bias, Memory(keys, values, padding), None)
    assert whole.cache.keys.shape == (6, 2, 4, 4)
    for sequence in range(6):
        row = sequence // 3
        memory, past = Memory(keys[[row]], values[[row]], padding[[row]]), None
        for place in range(4):
            one = block.extend(
                states[[sequence], place : place + 1], bias[:, :, place : place + 1, : place + 1], memory, past
            )
            past = one.cache
            torch.testing.assert_close(one.states[0, 0], whole.states[sequence, place])


def test_the_lazy_block_reads_the_context_first() -> None:
    torch.manual_seed(0)
    block, memory = LazyBlock(SHAPE).eval(), Memory(torch.randn(2, 2, 5, 4), torch.randn(2, 2, 5, 4), None)
    states, bias = torch.randn(2, 3, 12), torch.full((1, 1, 3, 3), -1e9).triu(1)
    expected = block.cross(states, memory.keys, memory.values, None)
    expected = block.feed_forward(block.attention(expected, bias))
    torch.testing.assert_close(block.extend(states, bias, memory, None).states, expected)


def test_an_expert_network_begins_as_t5_does_and_adds_to_its_input() -> None:
    torch.manual_seed(0)
    shape = BlockShape(d_model=64, heads=1, head_dim=64, ff=256, dropout=0.0)
    part, states = ExpertFeedForward(shape, experts=4, per_token=2), torch.randn(3, 5, 64)
    for expert in part.mixture.experts:
        assert float(expert[0].weight.detach().std()) == pytest.approx(64**-0.5, rel=0.05)
        assert float(expert[-1].weight.detach().std()) == pytest.approx(256**-0.5, rel=0.05)
    torch.testing.assert_close(part.eval()(states), states + part.mixture(part.norm(states)))


def test_a_query_former_reads_any_number_of_vectors_but_no_padding() -> None:
    torch.manual_seed(0)
    shape = BlockShape(d_model=12, heads=3, head_dim=4, ff=10, dropout=0.0)
    part, states = QFormer(shape, queries=4, blocks=2).eval(), torch.randn(2, 6, 12)
    bias = torch.zeros(2, 1, 1, 6)
    bias[..., 4:] = -1e9
    padded = part(states, bias)
    assert padded.shape == (2, 4, 12)
    torch.testing.assert_close(padded, part(states[:, :4], None))
    assert (padded - part(states, None)).abs().max() > 1e-3
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(padded, part(states[:, order], None))
