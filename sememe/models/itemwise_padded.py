"""The item-wise generator in fixed shapes: every prefix is asked about as many children as any of its depth has.

The model itself asks each prefix about its own children only, which is less work and a shape that depends on numbers.
A CUDA graph (`decode.graphed`) cannot hold that.  The answers are the same to rounding.

Shape legend: N rows, B live beams, M = N * B prefixes, W most children of a prefix, K codes of a level, D width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sememe.models.depth import NEVER, CodeHead
from sememe.models.itemwise import ItemWiseModel, WritingState


@dataclass(frozen=True, eq=False)
class PaddedSteps:
    """`model` with steps in fixed shapes; a `decode.protocol.StepModel`."""

    model: ItemWiseModel
    most: tuple[int, ...]
    """Per level, the most children that a prefix has."""

    @classmethod
    def of(cls, model: ItemWiseModel) -> "PaddedSteps":
        """`model` with what has to be known of its prefixes."""
        nodes = model.writer.nodes
        return cls(model, tuple(nodes.most_children(depth) for depth in range(nodes.num_levels)))

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """(L,)"""
        return self.model.codebook_sizes

    @property
    def training(self) -> bool:
        """Whether dropout is on."""
        return self.model.training

    def encode(self, batch: Mapping[str, Tensor]) -> WritingState:
        """As the model does."""
        return self.model.encode(batch)

    def step(self, state: Any, codes: Tensor | None, parents: Tensor | None) -> Tensor:
        """(N, B, K) fp32 log-probabilities of the next level's codes; -inf where no item continues so."""
        if codes is not None and parents is not None:
            self.model.follow(state, codes, parents)
        rows, beams = state.nodes.shape
        hidden = state.hidden.unsqueeze(1).expand(-1, beams, -1).reshape(rows * beams, -1)
        prefix, level = state.prefix.flatten(0, 1), state.level
        log_probs = next_level(self.model.writer, hidden, prefix, state.nodes.flatten(), most=self.most[level])
        return log_probs.view(rows, beams, -1)


def next_level(writer: CodeHead, hidden: Tensor, prefix: Tensor, nodes: Tensor, *, most: int) -> Tensor:
    """`CodeHead.next_level` with `most` children for each of `nodes` (M,), those beyond its own left out: (M, K)."""
    level = prefix.shape[1]
    size = writer.nodes.codebook_sizes[level]
    offset = torch.arange(most, device=nodes.device)
    first, count = writer.nodes.first_child(nodes, depth=level), writer.nodes.child_counts(nodes, depth=level)
    children = (first.unsqueeze(1) + offset).clamp_(max=writer.nodes.num_nodes(level + 1) - 1)
    vectors = writer.node_vectors(children.flatten(), depth=level + 1).view(*children.shape, -1)
    logits = torch.einsum("md,mwd->mw", writer.query(hidden, prefix), vectors).float()
    log_probs = logits.masked_fill(offset >= count.unsqueeze(1), NEVER).log_softmax(1)
    # Children that are not there are written into a column of their own, which is dropped.
    columns = torch.where(offset < count.unsqueeze(1), writer.nodes.node_codes(level + 1)[children], size)
    dense = torch.full((len(nodes), size + 1), NEVER, device=nodes.device)
    return dense.scatter_(1, columns, log_probs)[:, :size]
