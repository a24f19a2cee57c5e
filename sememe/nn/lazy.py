"""The lazy decoder of OneRec-V2: attention to a context without projections of keys and values in the layers.

OneRec-V2 (Kuaishou 2025, arXiv 2508.20900).  Kept: one projection of the context makes `groups` groups of keys, of few
heads each, normed by their root mean square; layer l of n reads group floor(l * groups / n), so that neighbouring
layers share one; values are the keys unless they have a projection of their own; in a block, attention to the context
comes first, then causal self-attention, then the network, each before a shortcut.
Changed: all else is T5's, as in `sememe.nn.blocks` (unscaled scores, ReLU, dropout in its places), so that the lazy
decoder differs from the encoder-decoder's in this alone; the norm is over each head, so that keys of different heads
have one length.

Shape legend: N rows, S context positions, D model width, G heads of keys, E width of one head, M sequences that grow, t
new positions of each, P old ones.
"""

from torch import Tensor, nn

from sememe.nn.attention import split_heads
from sememe.nn.blocks import BlockShape, CrossAttention, FeedForward, Memory, SelfAttention, by_row
from sememe.nn.kvcache import Extended, KeyValues
from sememe.nn.norm import RmsNorm


class KeyValueGroups(nn.Module):
    """Keys and values of all layers of a lazy decoder, of a context read once."""

    def __init__(self, shape: BlockShape, *, layers: int, groups: int, own_values: bool) -> None:
        """own_values: values have a projection of their own (S_kv = 2 in the paper), else they are the keys (1)."""
        super().__init__()
        assert 1 <= groups <= layers, "no group without a layer"
        self.group_of_layer = tuple(layer * groups // layers for layer in range(layers))
        self.kv_heads = shape.kv_heads or shape.heads
        self.parts = (2 if own_values else 1) * groups
        self.project = nn.Linear(shape.d_model, self.parts * shape.kv_inner, bias=False)
        self.norms = nn.ModuleList(RmsNorm(shape.head_dim) for _ in range(self.parts))
        nn.init.normal_(self.project.weight, std=shape.d_model**-0.5)

    def forward(self, context: Tensor, bias: Tensor | None) -> tuple[Memory, ...]:
        """context (N, S, D), bias (N, 1, 1, S) of padding -> one memory a layer; layers of a group have the same."""
        heads = split_heads(self.project(context), parts=self.parts, heads=self.kv_heads)
        normed = [norm(part) for norm, part in zip(self.norms, heads, strict=True)]
        groups = self.group_of_layer[-1] + 1
        # Without values of their own, groups of values are the groups of keys counted from the end.
        memories = [Memory(normed[group], normed[group - groups], bias) for group in range(groups)]
        return tuple(memories[group] for group in self.group_of_layer)


class LazyBlock(nn.Module):
    """Attention to the context, self-attention, feed-forward."""

    def __init__(self, shape: BlockShape, *, network: nn.Module | None = None) -> None:
        """network: (..., D) -> (..., D) with its own shortcut, in place of `FeedForward`."""
        super().__init__()
        self.cross = CrossAttention(shape)
        self.attention = SelfAttention(shape)
        self.feed_forward = FeedForward(shape) if network is None else network

    def extend(self, states: Tensor, bias: Tensor, memory: Memory, past: KeyValues | None) -> Extended:
        """New positions (M, t, D) of sequences, those of a row of the memory below each other, after those of `past`.

        bias: broadcastable to (M, H, t, P + t).
        """
        told = self.cross(by_row(states, memory), memory.keys, memory.values, memory.bias).view_as(states)
        own = self.attention.extend(told, bias, past)
        return Extended(self.feed_forward(own.states), own.cache)
