"""Causal transformer blocks, pre-norm: each position reads itself and what came before it.

Vaswani et al. (2017).  Kept: scaled dot-product attention with several heads, two-layer networks.  Changed: the norm
comes before each part (Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture"), which trains
without a warm-up, and the activation is GELU.

`LigrBlock`: Borisyuk et al. 2025, "From Features to Transformers: Redefining Ranking for Scalable Impact"
(arXiv 2502.03417), with the SwiGLU network (Shazeer 2020, "GLU Variants Improve Transformer") that eSASRec gives it.
Kept: x + sigmoid(x W + b) * part(norm(x)) for both parts; no biases in the network.

Rows are left-aligned, so padding comes after the last item: no position that counts can read it, and causality alone is
the mask.

Shape legend: N rows, T positions, H heads, D model width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sememe.nn.dropout import Dropout
from sememe.nn.kvcache import Extended, KeyValues, later_positions


class CausalAttention(nn.Module):
    """Multi-head self-attention over the positions up to one's own."""

    def __init__(self, d_model: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        assert d_model % heads == 0, "heads divide d_model"
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, states: Tensor) -> Tensor:
        """(N, T, D) -> (N, T, D)"""
        rows, length, width = states.shape
        split = self.qkv(states).view(rows, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        joined: Tensor = self.out(mixed.transpose(1, 2).reshape(rows, length, width))
        return joined

    def extend(self, states: Tensor, past: KeyValues | None, *, last_only: bool) -> Extended:
        """What `forward` says of the positions of `states` (N, t, D), which come after those of `past`; in evaluation.

        last_only: whether the last position alone is asked for.
        """
        assert not self.training, "dropout is on: call eval() first"
        rows, length, width = states.shape
        split = self.qkv(states).view(rows, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        first = 0 if past is None else past.length
        query, key = self.place(query, first=first), self.place(key, first=first)
        # Copies: a view would keep the queries in memory too.
        cache = KeyValues(key.contiguous(), value.contiguous()) if past is None else past.then(key, value)
        if last_only:
            query, first = query[:, :, -1:], first + length - 1
        mixed = self.read(query, cache, first=first)
        return Extended(self.out(mixed.transpose(1, 2).flatten(2)), cache)

    def place(self, heads: Tensor, *, first: int) -> Tensor:
        """Queries or keys (N, H, t, E) of the positions from `first` on, told where they are."""
        del first  # the states tell it
        return heads

    def read(self, query: Tensor, cache: KeyValues, *, first: int) -> Tensor:
        """(N, H, t, E) what the queries (N, H, t, E) at positions from `first` on read of the cache."""
        mask = later_positions(query.shape[2], first=first, device=query.device)
        return F.scaled_dot_product_attention(query, cache.keys, cache.values, attn_mask=mask)


class CausalBlock(nn.Module):
    """Attention, then a two-layer network at each position, each with a norm before, dropout after, and a shortcut."""

    def __init__(self, d_model: int, *, heads: int, ff: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(d_model)
        self.attention = CausalAttention(d_model, heads=heads, dropout=dropout)
        self.ff_norm = nn.LayerNorm(d_model)
        self.ff = nn.Sequential(
            nn.Linear(d_model, ff), nn.GELU(), Dropout(dropout), nn.Linear(ff, d_model), Dropout(dropout)
        )
        self.dropout = Dropout(dropout)

    def forward(self, states: Tensor) -> Tensor:
        """(N, T, D) -> (N, T, D)"""
        states = states + self.dropout(self.attention(self.attention_norm(states)))
        deepened: Tensor = states + self.ff(self.ff_norm(states))
        return deepened


class LigrBlock(nn.Module):
    """Attention, then SwiGLU; a gate that looks at the states scales, number by number, what is added to them."""

    def __init__(self, d_model: int, *, heads: int, ff: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(d_model)
        self.attention = CausalAttention(d_model, heads=heads, dropout=dropout)
        self.attention_gate = nn.Linear(d_model, d_model)
        self.ff_norm = nn.LayerNorm(d_model)
        self.wide = nn.Linear(d_model, 2 * ff, bias=False)
        self.narrow = nn.Linear(ff, d_model, bias=False)
        self.ff_gate = nn.Linear(d_model, d_model)
        self.dropout = Dropout(dropout)

    def forward(self, states: Tensor) -> Tensor:
        """(N, T, D) -> (N, T, D)"""
        change = self.dropout(self.attention(self.attention_norm(states)))
        states = states + torch.sigmoid(self.attention_gate(states)) * change
        switch, value = self.wide(self.ff_norm(states)).chunk(2, dim=-1)
        change = self.dropout(self.narrow(self.dropout(F.silu(switch) * value)))
        deepened: Tensor = states + torch.sigmoid(self.ff_gate(states)) * change
        return deepened


def initialize(module: nn.Module, *, std: float = 0.02) -> None:
    """Normal weights of `std` and zero biases for every linear layer and embedding below `module`."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)):
            nn.init.normal_(part.weight, std=std)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


def last_position(states: Tensor, lengths: Tensor) -> Tensor:
    """(N, D): of each row of `states` (N, T, D), the position lengths - 1; rows of length 0 give zeros."""
    if states.shape[1] == 0:
        return states.new_zeros(states.shape[0], states.shape[2])
    index = (lengths - 1).clamp(min=0).view(-1, 1, 1).expand(-1, 1, states.shape[2])
    found = states.gather(1, index).squeeze(1)
    return torch.where((lengths > 0).unsqueeze(1), found, torch.zeros_like(found))
