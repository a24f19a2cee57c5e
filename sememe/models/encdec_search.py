"""One decoding step of the encoder-decoder for all beams of a search.

A step moves few numbers (20 beams of one request are 20 rows of 128), and calling modules would take as long as the
arithmetic.  So the layers' weights are taken out of their modules once per search and applied to all hypotheses as rows
of one matrix.  Same numbers as `DecoderBlock`, without dropout: the tests hold each step to teacher forcing.

Shape legend: N rows, B beams, M = N * B hypotheses, L code levels, S tokens of a history, D width of the model, H
heads, E width of one head.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from sememe.nn.attention import attend, attend_own
from sememe.nn.blocks import DecoderBlock, FeedForward
from sememe.nn.norm import rms_norm


class LayerWeights(NamedTuple):
    """What a decoder layer does to a hypothesis, in order; matrices are views, transposed for `states @ matrix`."""

    own_norm: Tensor
    own_qkv: Tensor
    own_out: Tensor
    cross_norm: Tensor
    cross_query: Tensor
    cross_out: Tensor
    ff_norm: Tensor
    ff_wide: Tensor
    ff_narrow: Tensor

    @classmethod
    def of(cls, block: DecoderBlock) -> "LayerWeights":
        """The weights of `block` as they are now."""
        own, cross, ff = block.attention, block.cross, block.feed_forward
        assert isinstance(ff, FeedForward), "only T5's own network is taken out of its module"
        return cls(
            own_norm=own.norm.weight,
            own_qkv=own.qkv.weight.t(),
            own_out=own.out.weight.t(),
            cross_norm=cross.norm.weight,
            cross_query=cross.query.weight.t(),
            cross_out=cross.out.weight.t(),
            ff_norm=ff.norm.weight,
            ff_wide=ff.wide.weight.t(),
            ff_narrow=ff.narrow.weight.t(),
        )


@dataclass(eq=False)
class SearchState:
    """What decoding remembers about N histories and the beams that grow from them."""

    memory: tuple[Tensor, ...]
    """2 * layers tensors (N, H, S, E): cross-attention keys and values, one copy per row whatever the beam width."""
    memory_bias: Tensor | None
    """(N, 1, 1, S), None where no row is padded."""
    bias: Tensor
    """(H, L, L) relative position biases of the decoder."""
    layers: tuple[LayerWeights, ...]
    eps: float
    """Of all norms."""
    past: list[list[Tensor]]
    """Per layer and decoded position (N, B, 2, H, E): self-attention keys and values; B is 1 at the first position."""

    @classmethod
    def start(
        cls, blocks: Iterable[DecoderBlock], *, memory: tuple[Tensor, ...], memory_bias: Tensor | None, bias: Tensor
    ) -> "SearchState":
        """The state before the first step; bias: (1, H, L, L)."""
        blocks = list(blocks)
        layers = tuple(LayerWeights.of(block) for block in blocks)
        eps = blocks[0].attention.norm.eps
        return cls(memory, memory_bias, bias=bias[0], layers=layers, eps=eps, past=[[] for _ in layers])

    @property
    def level(self) -> int:
        """Positions decoded so far."""
        return len(self.past[0])

    def follow(self, parents: Tensor) -> None:
        """Let the beams of the next step continue `parents` (N, B), beams of the last one."""
        # All beams share the first position, which therefore never moves.
        if self.level > 1:
            rows, beams = self.past[0][-1].shape[:2]
            source = (torch.arange(rows, device=parents.device)[:, None] * beams + parents).flatten()
            for past in self.past:
                past[1:] = [_take(position, source, beams=parents.shape[1]) for position in past[1:]]

    def advance(self, states: Tensor) -> Tensor:
        """Run the decoder on one position of every hypothesis, (N, B, D) -> (N, B, D), and remember it."""
        rows, beams, width = states.shape
        bias = self.bias[:, self.level, : self.level + 1]
        flat = states.reshape(rows * beams, width)
        for layer, weights in enumerate(self.layers):
            memory = self.memory[2 * layer], self.memory[2 * layer + 1]
            flat = flat + self._attend_own(weights, flat, self.past[layer], bias, beams=beams) @ weights.own_out
            flat = flat + self._attend_memory(weights, flat, memory, beams=beams) @ weights.cross_out
            flat = flat + F.relu_(rms_norm(flat, weights.ff_norm, eps=self.eps) @ weights.ff_wide) @ weights.ff_narrow
        return flat.view(rows, beams, width)

    def _attend_own(
        self, weights: LayerWeights, flat: Tensor, past: list[Tensor], bias: Tensor, *, beams: int
    ) -> Tensor:
        """(M, D) -> (M, H * E); adds the new position to `past`."""
        heads = len(bias)
        projected = rms_norm(flat, weights.own_norm, eps=self.eps) @ weights.own_qkv
        parts = projected.view(-1, beams, 3, heads, projected.shape[1] // (3 * heads))
        past.append(parts[:, :, 1:])
        keys, values = [position[:, :, 0] for position in past], [position[:, :, 1] for position in past]
        return attend_own(parts[:, :, 0], keys, values, bias=bias).reshape(len(flat), -1)

    def _attend_memory(
        self, weights: LayerWeights, flat: Tensor, memory: tuple[Tensor, Tensor], *, beams: int
    ) -> Tensor:
        """(M, D) -> (M, H * E)"""
        rows, heads, _, width = memory[0].shape
        queries = (
            (rms_norm(flat, weights.cross_norm, eps=self.eps) @ weights.cross_query)
            .view(rows, beams, heads, width)
            .transpose(1, 2)
        )
        attended = attend(queries, *memory, bias=self.memory_bias, dropout=0.0)
        return attended.transpose(1, 2).reshape(len(flat), heads * width)


def _take(position: Tensor, source: Tensor, *, beams: int) -> Tensor:
    """position (N, A, ...) and source (N * B,) in 0..N*A-1 -> (N, B, ...): whole rows are copied, which is fastest."""
    taken = position.flatten(0, 1).index_select(0, source)
    return taken.view(-1, beams, *position.shape[2:])
