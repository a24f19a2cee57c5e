"""The layers of T5 version 1 (Raffel et al. 2020, arXiv 1910.10683): root mean square norm before each part, ReLU
feed-forward, no biases, dropout inside and after each part.

Kept: arithmetic, places of dropout, initialisation.  Changed: query, key and value projections of self-attention are
one matrix (the same numbers, one product), and cross-attention reads keys and values that its caller computed.

Shape legend: N rows, S positions, D width of the model, H heads, E width of one head.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from sememe.nn.attention import attend, merge_heads, split_heads
from sememe.nn.dropout import Dropout
from sememe.nn.norm import RmsNorm


@dataclass(frozen=True)
class BlockShape:
    """What every layer of a stack has in common."""

    d_model: int
    heads: int
    head_dim: int
    ff: int
    dropout: float

    @property
    def inner(self) -> int:
        """Width of all heads together."""
        return self.heads * self.head_dim


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
        self.qkv = nn.Linear(shape.d_model, 3 * shape.inner, bias=False)
        self.out = nn.Linear(shape.inner, shape.d_model, bias=False)
        self.dropout = Dropout(shape.dropout)
        # T5 leaves 1/sqrt(E) out of the scores and puts it into the start of the query projection.
        nn.init.normal_(self.qkv.weight.data[: shape.inner], std=(shape.d_model * shape.head_dim) ** -0.5)
        nn.init.normal_(self.qkv.weight.data[shape.inner :], std=shape.d_model**-0.5)
        nn.init.normal_(self.out.weight, std=shape.inner**-0.5)

    def project(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, S, D) -> queries, keys, values, each (N, H, S, E)."""
        queries, keys, values = split_heads(
            self.qkv(self.norm(states)), parts=3, heads=self.shape.heads, read_once=True
        )
        return queries, keys, values

    def close(self, states: Tensor, attended: Tensor) -> Tensor:
        """Add the projected result of attention, (N, H, S, E), to `states` (N, S, D)."""
        change: Tensor = self.dropout(self.out(merge_heads(attended)))
        return states + change

    def forward(self, states: Tensor, bias: Tensor) -> Tensor:
        """(N, S, D) -> (N, S, D); bias: broadcastable to (N, H, S, S)."""
        queries, keys, values = self.project(states)
        dropout = self.shape.dropout if self.training else 0.0
        return self.close(states, attend(queries, keys, values, bias=bias, dropout=dropout))


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
        """states (N, Q, D), keys and values (N, H, S, E), bias (N, 1, 1, S) or None -> (N, Q, D)."""
        (queries,) = split_heads(self.query(self.norm(states)), parts=1, heads=self.shape.heads)
        dropout = self.shape.dropout if self.training else 0.0
        attended = attend(queries, keys, values, bias=bias, dropout=dropout)
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

    def forward(self, states: Tensor, bias: Tensor) -> Tensor:
        """(N, S, D) -> (N, S, D); bias: broadcastable to (N, H, S, S)."""
        changed: Tensor = self.feed_forward(self.attention(states, bias))
        return changed


class DecoderBlock(nn.Module):
    """Self-attention, attention to the encoder, feed-forward."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.attention = SelfAttention(shape)
        self.cross = CrossAttention(shape)
        self.feed_forward = FeedForward(shape)

    def forward(
        self, states: Tensor, bias: Tensor, memory: tuple[Tensor, Tensor], memory_bias: Tensor | None
    ) -> Tensor:
        """All L positions at once, (N, L, D) -> (N, L, D).

        bias: causal, broadcastable to (N, H, L, L); memory: keys and values (N, H, S, E); memory_bias: (N, 1, 1, S).
        """
        keys, values = memory
        changed: Tensor = self.feed_forward(self.cross(self.attention(states, bias), keys, values, memory_bias))
        return changed
