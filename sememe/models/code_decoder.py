"""A stack of decoder layers that writes codes: at once where they are known, level by level in a search.

The layers are `DecoderBlock` or `LazyBlock`: both take new positions of sequences, with what is kept of the old ones.
Training and search are one path, so that a step of a search is teacher forcing by construction.

Shape legend: N rows, B beams, M = N * B sequences, t new positions, P old ones, D width, L code levels, K codes of one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sememe.nn.attention import MASKED, RelativeBias
from sememe.nn.blocks import BlockShape, DecoderBlock, Memory
from sememe.nn.dropout import Dropout
from sememe.nn.kvcache import KeyValues, later_positions
from sememe.nn.lazy import LazyBlock
from sememe.nn.norm import RmsNorm

Memories = tuple[Memory, ...]
"""One for each layer."""


class Decoded(NamedTuple):
    """What the stack says of new positions."""

    states: Tensor
    """(M, t, D), normed"""
    caches: tuple[KeyValues, ...]
    """Of each layer, with the new positions."""


class CodeDecoder(nn.Module):
    """Layers, a last norm, and an output layer for each level of codes."""

    def __init__(
        self,
        blocks: Iterable[DecoderBlock | LazyBlock],
        shape: BlockShape,
        *,
        codebook_sizes: tuple[int, ...],
        position_buckets: int = 32,
        max_distance: int = 128,
    ) -> None:
        """position_buckets, max_distance: of T5's relative positions, which its layers share."""
        super().__init__()
        self.codebook_sizes = codebook_sizes
        self.blocks = nn.ModuleList(blocks)
        self.bias = RelativeBias(shape.heads, bidirectional=False, buckets=position_buckets, max_distance=max_distance)
        nn.init.normal_(self.bias.weight, std=shape.d_model**-0.5)
        self.norm = RmsNorm(shape.d_model)
        self.dropout = Dropout(shape.dropout)
        scale = shape.d_model**-0.5
        self.heads = nn.ParameterList(torch.randn(size, shape.d_model) * scale for size in codebook_sizes)

    def forward(self, states: Tensor, memories: Memories, caches: tuple[KeyValues, ...] | None = None) -> Decoded:
        """states: (M, t, D) embedded tokens after those of `caches`; memories: of N rows, each read by M / N sequences,
        which stand below each other."""
        first = 0 if caches is None else caches[0].length
        length = states.shape[1]
        closed = ~later_positions(length, first=first, device=states.device)
        bias = self.bias(first + length, first_query=first).masked_fill(closed, MASKED)
        states = self.dropout(states)
        kept = []
        for layer, block in enumerate(self.blocks):
            past = None if caches is None else caches[layer]
            extended = cast(DecoderBlock | LazyBlock, block).extend(states, bias, memories[layer], past)
            states = extended.states
            kept.append(extended.cache)
        return Decoded(self.dropout(self.norm(states)), tuple(kept))

    def logits(self, states: Tensor, *, level: int) -> Tensor:
        """(..., D) -> (..., K of the level)"""
        return F.linear(states, self.heads[level])

    def all_logits(self, states: Tensor) -> Tensor:
        """(..., L, D) -> (..., L, largest K), -inf where a level has fewer codes."""
        widest = max(self.codebook_sizes)
        levels = [self.logits(states[..., level, :], level=level) for level in range(len(self.codebook_sizes))]
        return torch.stack([F.pad(part, (0, widest - part.shape[-1]), value=-torch.inf) for part in levels], -2)


@dataclass(eq=False)
class WriteState:
    """What a search remembers of N lists and of the beams that write the next item of each."""

    memories: Memories
    last: Tensor
    """(N, B, D) what was said of the newest position, normed."""
    caches: tuple[KeyValues, ...]
    """Of N * B sequences."""
    level: int = 0
    """Codes of the item written so far."""

    def follow(self, parents: Tensor) -> None:
        """Let the beams of the next step continue `parents` (N, B), beams of the last one."""
        rows, beams = self.last.shape[:2]
        source = (torch.arange(rows, device=parents.device)[:, None] * beams + parents).flatten()
        self.caches = tuple(
            KeyValues(cache.keys.index_select(0, source), cache.values.index_select(0, source)) for cache in self.caches
        )


def of_rows(memories: Memories, rows: Tensor) -> Memories:
    """The memories of some rows (R,); layers that share one share the copy."""
    taken = {id(memory): memory.of_rows(rows) for memory in memories}
    return tuple(taken[id(memory)] for memory in memories)
