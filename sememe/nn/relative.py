"""Causal attention with a learned bias for each head and distance, and no other positions.

Raffel et al. (T5, 2020, arXiv 1910.10683).  Kept: the buckets of distances and their number, one learned number per
head and bucket, added to the score.  Changed: every layer has biases of its own, as in HSTU (Zhai et al. 2024, arXiv
2402.17152), where T5 shares them to save time, which at these lengths is nothing; scores are scaled by 1/sqrt(E) as in
the other attentions of a trunk, so that only the positions differ.

Shape legend: N rows, T positions, H heads, D model width, E width of one head.
"""

from torch import Tensor, nn

from sememe.nn.attention import MASKED, RelativeBias, attend, causal_bias, merge_heads
from sememe.nn.causal import CausalAttention
from sememe.nn.kvcache import KeyValues, later_positions

BUCKETS = 32
MAX_DISTANCE = 128
"""T5's: 16 distances of their own, 16 growing ranges, all from 128 on together."""


class RelativeAttention(CausalAttention):
    """Multi-head self-attention over the positions up to one's own, told apart by their distance."""

    def __init__(self, d_model: int, *, heads: int, dropout: float) -> None:
        super().__init__(d_model, heads=heads, dropout=dropout)
        self.bias = RelativeBias(heads, bidirectional=False, buckets=BUCKETS, max_distance=MAX_DISTANCE)
        nn.init.normal_(self.bias.weight, std=0.02)

    def forward(self, states: Tensor) -> Tensor:
        """(N, T, D) -> (N, T, D)"""
        rows, length, width = states.shape
        split = self.qkv(states).view(rows, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).contiguous()
        bias = self.bias(length) + causal_bias(length, device=states.device)
        dropout = self.dropout if self.training else 0.0
        mixed = attend(query * (width // self.heads) ** -0.5, key, value, bias=bias, dropout=dropout)
        joined: Tensor = self.out(merge_heads(mixed))
        return joined

    def read(self, query: Tensor, cache: KeyValues, *, first: int) -> Tensor:
        """(N, H, t, E) what the queries (N, H, t, E) at positions from `first` on read of the cache."""
        closed = ~later_positions(query.shape[2], first=first, device=query.device)
        bias = self.bias(cache.length, first_query=first).masked_fill(closed, MASKED)
        return attend(query * query.shape[3] ** -0.5, cache.keys, cache.values, bias=bias, dropout=0.0)
