"""Many vectors read into a fixed number: learned queries that attend to them.

The querying transformer of BLIP-2 (Li et al. 2023, arXiv 2301.12597) as OneRec's Technical Report uses it for lifelong
histories (2025, arXiv 2506.13695).  Kept: learned queries, blocks of attention to what is read and a network, normed
before each part.  Changed: there is no self-attention among the queries in between (as in the report's formula), and
the layers are T5's (`sememe.nn.blocks`).

Shape legend: N rows, Q queries, S vectors to read, D width of the model.
"""

import torch
from torch import Tensor, nn

from sememe.nn.blocks import BlockShape, CrossAttention, CrossMemory, FeedForward


class QFormer(nn.Module):
    """(N, S, D) -> (N, Q, D), whatever S is."""

    def __init__(self, shape: BlockShape, *, queries: int, blocks: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, shape.d_model))
        self.memory = CrossMemory(shape, layers=blocks)
        self.cross = nn.ModuleList(CrossAttention(shape) for _ in range(blocks))
        self.feed_forward = nn.ModuleList(FeedForward(shape) for _ in range(blocks))

    def forward(self, states: Tensor, bias: Tensor | None) -> Tensor:
        """states (N, S, D); bias (N, 1, 1, S) of padding or None."""
        memory = self.memory(states)
        read = self.queries.expand(len(states), -1, -1)
        for block, (cross, network) in enumerate(zip(self.cross, self.feed_forward, strict=True)):
            read = network(cross(read, memory[2 * block], memory[2 * block + 1], bias))
        return read
