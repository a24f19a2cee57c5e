"""Rotary positions: queries and keys are turned by an angle that grows with their position.

Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding" (2021, arXiv 2104.09864).  Kept: pair i of a
head turns by position * 10000^(-2i / E), so that a score depends on the distance between query and key and not on where
they are; values are not turned.  Changed: a pair is one element of the first half of a head and its fellow of the
second half, where the paper takes neighbours: the same model with the rows of its projections in another order, and
halves are cheaper to take apart.

Shape legend: N rows, T positions, H heads, D model width, E width of one head.
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from sememe.nn.attention import merge_heads
from sememe.nn.causal import CausalAttention

ROTARY_BASE = 10_000.0
"""The slowest pair turns once in about 2 pi times this many positions (section 3.2.2 of the paper)."""


class RotaryAttention(CausalAttention):
    """Multi-head self-attention over the positions up to one's own, told apart by rotation; heads of even width."""

    def forward(self, states: Tensor) -> Tensor:
        """(N, T, D) -> (N, T, D)"""
        rows, length, width = states.shape
        split = self.qkv(states).view(rows, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).contiguous()
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(rotate(query), rotate(key), value, dropout_p=dropout, is_causal=True)
        joined: Tensor = self.out(merge_heads(mixed))
        return joined

    def place(self, heads: Tensor, *, first: int) -> Tensor:
        """Queries or keys (N, H, t, E) of the positions from `first` on, turned."""
        return rotate(heads, first=first)


def rotate(heads: Tensor, *, first: int = 0) -> Tensor:
    """(..., T, E) with the pairs (i, i + E/2) of position t turned by t * 10000^(-2i / E).

    first: position of the first of them; position 0 is unturned.
    """
    length, width = heads.shape[-2:]
    # Half precision is too coarse for the angles of later positions.
    exact = torch.promote_types(heads.dtype, torch.float32)
    cos, sin = _turns(first + length, width=width, dtype=exact, device=heads.device)[:, first:]
    left, right = heads.to(exact).chunk(2, -1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], -1).to(heads.dtype)


@lru_cache(maxsize=256)
@torch.inference_mode(mode=False)
def _turns(length: int, *, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(2, length, width / 2): cosine and sine of each position's angle for each pair; never changes, so kept."""
    speeds = ROTARY_BASE ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(length, dtype=torch.float64).unsqueeze(1) * speeds
    return torch.stack([angles.cos(), angles.sin()]).to(device=device, dtype=dtype)
