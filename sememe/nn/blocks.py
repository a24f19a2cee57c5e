"""The layers of T5 version 1 (Raffel et al. 2020, arXiv 1910.10683): root mean square norm before each part, ReLU
feed-forward, no biases, dropout inside and after each part.

Kept: arithmetic, places of dropout, initialisation.  Changed: query, key and value projections of self-attention are
one matrix (the same numbers, one product), and cross-attention reads keys and values that its caller computed.  Added:
heads of keys and values may be fewer than those of queries, and a decoder's network may be another one.

Shape legend: N rows, S positions, D width of the model, H heads, G heads of keys and values, E width of one head, M
sequences that grow (several a row in a search), t new positions of each, P old ones.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from sememe.nn.attention import attend_grouped, merge_heads, split_heads
from sememe.nn.dropout import Dropout
from sememe.nn.kvcache import Extended, KeyValues
from sememe.nn.norm import RmsNorm


@dataclass(frozen=True)
class BlockShape:
    """What every layer of a stack has in common."""

    d_model: int
    heads: int
    head_dim: int
    ff: int
    dropout: float
    kv_heads: int = 0
    """G, a divisor of `heads`; 0: as many."""

    @property
    def inner(self) -> int:
        """Width of all heads together."""
        return self.heads * self.head_dim

    @property
    def kv_inner(self) -> int:
        """Width of all heads of keys together."""
        return (self.kv_heads or self.heads) * self.head_dim


@dataclass(frozen=True, eq=False)
class Memory:
    """What one decoder layer reads of N histories."""

    keys: Tensor
    """(N, G, S, E)"""
    values: Tensor
    """(N, G, S, E)"""
    bias: Tensor | None
    """(N, 1, 1, S) of padding; None where nothing is padded."""

    def of_rows(self, rows: Tensor) -> "Memory":
        """That of some rows (R,), in their order."""
        bias = None if self.bias is None else self.bias.index_select(0, rows)
        return Memory(self.keys.index_select(0, rows), self.values.index_select(0, rows), bias)


class FeedForward(nn.Module):
    """Norm, D -> ff, ReLU, dropout, ff -> D, dropout; added to the input."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.norm = RmsNorm(shape.d_model)
        self.wide = nn.Linear(shape.d_model, shape.ff, bias=False)
        self.narrow = nn.Linear(shape.ff, shape.d_model, bias=False)
        self.dropout = Dropout(shape.dropout)
        nn.init.normal_(self.wide.weight, std=shape.d_model**-0.5)
        nn.init.normal_(self.narrow.weight, std=shape.ff**-0.5)

    def forward(self, states: Tensor) -> Tensor:
        """(..., D) -> (..., D)"""
        # The mask holds no negative number, so it may come before the ReLU, which then works in place.
        hidden = F.relu_(self.dropout(self.wide(self.norm(states))))
        change: Tensor = self.dropout(self.narrow(hidden))
        return states + change


class SelfAttention(nn.Module):
    """Norm, attention among the positions of a row, dropout; added to the input."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.shape = shape
        self.norm = RmsNorm(shape.d_model)
        self.qkv = nn.Linear(shape.d_model, shape.inner + 2 * shape.kv_inner, bias=False)
        self.out = nn.Linear(shape.inner, shape.d_model, bias=False)
        self.dropout = Dropout(shape.dropout)
        # T5 leaves 1/sqrt(E) out of the scores and puts it into the start of the query projection.
        nn.init.normal_(self.qkv.weight.data[: shape.inner], std=(shape.d_model * shape.head_dim) ** -0.5)
        nn.init.normal_(self.qkv.weight.data[shape.inner :], std=shape.d_model**-0.5)
        nn.init.normal_(self.out.weight, std=shape.inner**-0.5)

    def project(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, S, D) -> queries (N, H, S, E), keys and values (N, G, S, E)."""
        projected, shape = self.qkv(self.norm(states)), self.shape
        if shape.kv_inner == shape.inner:
            queries, keys, values = split_heads(projected, parts=3, heads=shape.heads, read_once=True)
            return queries, keys, values
        own, shared = projected.split([shape.inner, 2 * shape.kv_inner], -1)
        (queries,) = split_heads(own, parts=1, heads=shape.heads)
        keys, values = split_heads(shared, parts=2, heads=shape.kv_heads)
        return queries, keys, values

    def close(self, states: Tensor, attended: Tensor) -> Tensor:
        """Add the projected result of attention, (N, H, S, E), to `states` (N, S, D)."""
        change: Tensor = self.dropout(self.out(merge_heads(attended)))
        return states + change

    def forward(self, states: Tensor, bias: Tensor | None) -> Tensor:
        """(N, S, D) -> (N, S, D); bias: broadcastable to (N, H, S, S), or None."""
        return self.extend(states, bias, None).states

    def extend(self, states: Tensor, bias: Tensor | None, past: KeyValues | None) -> Extended:
        """New positions (M, t, D) after those of `past`; bias: broadcastable to (M, H, t, P + t), or None."""
        queries, keys, values = self.project(states)
        cache = KeyValues(keys, values) if past is None else past.then(keys, values)
        dropout = self.shape.dropout if self.training else 0.0
        attended = attend_grouped(queries, cache.keys, cache.values, bias=bias, dropout=dropout)
        return Extended(self.close(states, attended), cache)


class CrossAttention(nn.Module):
    """Norm, attention to keys and values computed elsewhere, dropout; added to the input."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.shape = shape
        self.norm = RmsNorm(shape.d_model)
        self.query = nn.Linear(shape.d_model, shape.inner, bias=False)
        self.out = nn.Linear(shape.inner, shape.d_model, bias=False)
        self.dropout = Dropout(shape.dropout)
        nn.init.normal_(self.query.weight, std=(shape.d_model * shape.head_dim) ** -0.5)
        nn.init.normal_(self.out.weight, std=shape.inner**-0.5)

    def forward(self, states: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        """states (N, Q, D), keys and values (N, G, S, E), bias (N, 1, 1, S) or None -> (N, Q, D)."""
        (queries,) = split_heads(self.query(self.norm(states)), parts=1, heads=self.shape.heads)
        dropout = self.shape.dropout if self.training else 0.0
        attended = attend_grouped(queries, keys, values, bias=bias, dropout=dropout)
        change: Tensor = self.dropout(self.out(merge_heads(attended)))
        return states + change


class CrossMemory(nn.Module):
    """The keys and values that all decoder layers read from the encoder, as one product.

    The same numbers as one key and one value projection in each layer.
    """

    def __init__(self, shape: BlockShape, *, layers: int) -> None:
        super().__init__()
        self.shape = shape
        self.layers = layers
        self.project = nn.Linear(shape.d_model, 2 * layers * shape.inner, bias=False)
        nn.init.normal_(self.project.weight, std=shape.d_model**-0.5)

    def forward(self, encoded: Tensor) -> tuple[Tensor, ...]:
        """(N, S, D) -> 2 * layers tensors (N, H, S, E): keys and values of layer 0, of layer 1, ..."""
        return split_heads(self.project(encoded), parts=2 * self.layers, heads=self.shape.heads)


class EncoderBlock(nn.Module):
    """Self-attention and feed-forward."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.attention = SelfAttention(shape)
        self.feed_forward = FeedForward(shape)

    def forward(self, states: Tensor, bias: Tensor | None) -> Tensor:
        """(N, S, D) -> (N, S, D); bias: broadcastable to (N, H, S, S), or None."""
        changed: Tensor = self.feed_forward(self.attention(states, bias))
        return changed


class DecoderBlock(nn.Module):
    """Self-attention, attention to the encoder, feed-forward."""

    def __init__(self, shape: BlockShape, *, network: nn.Module | None = None) -> None:
        """network: (..., D) -> (..., D) with its own shortcut, in place of `FeedForward`."""
        super().__init__()
        self.attention = SelfAttention(shape)
        self.cross = CrossAttention(shape)
        self.feed_forward = FeedForward(shape) if network is None else network

    def forward(
        self, states: Tensor, bias: Tensor, memory: tuple[Tensor, Tensor], memory_bias: Tensor | None
    ) -> Tensor:
        """All L positions at once, (N, L, D) -> (N, L, D).

        bias: causal, broadcastable to (N, H, L, L); memory: keys and values (N, H, S, E); memory_bias: (N, 1, 1, S).
        """
        keys, values = memory
        changed: Tensor = self.feed_forward(self.cross(self.attention(states, bias), keys, values, memory_bias))
        return changed

    def extend(self, states: Tensor, bias: Tensor, memory: Memory, past: KeyValues | None) -> Extended:
        """New positions (M, t, D) of sequences, those of a row of the memory below each other, after those of `past`.

        bias: broadcastable to (M, H, t, P + t).
        """
        own = self.attention.extend(states, bias, past)
        read = self.cross(by_row(own.states, memory), memory.keys, memory.values, memory.bias)
        return Extended(self.feed_forward(read).view_as(states), own.cache)


def by_row(states: Tensor, memory: Memory) -> Tensor:
    """(M, t, D) -> (N, M / N * t, D): what reads one row of the memory, side by side, so that no key is copied."""
    return states.reshape(len(memory.keys), -1, states.shape[2])
