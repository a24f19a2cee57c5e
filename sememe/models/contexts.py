"""What a generator of the OneRec family reads of a user: tokens of codes, or the pathways of several time scales.

`CodeTokens` is version 1's (2025, arXiv 2502.18965): the codes of the history one after the other, as in TIGER, told
apart by their distance.  `Pathways` is the Technical Report's (2025, arXiv 2506.13695).  Kept: one static token; the
latest events; the latest positive events; a lifelong history of clusters (`sememe.data.lifelong`), of which learned
queries make a fixed number of vectors; each with a network of its own over what is known of an event; all of them in a
row, with learned positions.  Changed: an event is the codes of its item, where the report has ids of many kinds, times
and labels; the static token is the hashed user.

Shape legend: N rows, T history items, L code levels, S context positions, D width of the model, W events of a pathway.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sememe.core.errors import ConfigError
from sememe.core.schema import PAD, FloatArray, ModelInputs
from sememe.data.event_inputs import POSITIVE
from sememe.data.lifelong import represent
from sememe.data.ranges import padded_rows
from sememe.models.tokens import START, TokenTable
from sememe.nn.attention import padding_bias
from sememe.nn.blocks import BlockShape
from sememe.nn.qformer import QFormer

CLUSTERED_WIDTH = 16
"""Main directions of the item vectors by which histories are clustered."""


class Context(NamedTuple):
    """What was read of N users."""

    states: Tensor
    """(N, S, D)"""
    valid: Tensor
    """(N, S) bool"""

    def bias(self) -> Tensor | None:
        """(N, 1, 1, S) of padding; None where it is known that nothing is padded."""
        # Batches are sorted by length, so most hold no padding.  Only asked on CPU: elsewhere asking would wait.
        full = self.valid.device.type == "cpu" and bool(self.valid.all())
        return None if full else padding_bias(self.valid)


@dataclass(frozen=True)
class CodeTokens:
    """A token for the user and one for each code of the history."""

    @property
    def reads_events(self) -> tuple[str, ...]:
        """Nothing but the items."""
        return ()

    def build(self, shape: BlockShape, inputs: ModelInputs) -> "CodeTokensModule":
        """A module without weights; those of the tokens belong to the generator."""
        del shape, inputs
        return CodeTokensModule()


class CodeTokensModule(nn.Module):
    """Built by `CodeTokens.build`."""

    by_distance = True
    """Whether positions are told apart by their distance, in the layers that read them."""

    def forward(self, batch: Mapping[str, Tensor], tokens: TokenTable) -> Context:
        """batch: "history" (N, T), and "user" (N,) where the table has users."""
        read = tokens.history_tokens(batch)
        return Context(tokens(read), read != START)


@dataclass(frozen=True)
class Pathways:
    """One static token, the latest events, the latest positive ones, and a whole life in few vectors."""

    short: int = 20
    positive: int = 256
    """Positive events read; 0: no such pathway."""
    feedback: bool = False
    """Whether the log says which events were positive (the event input "positive" of `sememe.data.event_inputs`); else
    all are taken to be."""
    lifelong: int = 2000
    """Clusters of the history that are read, the latest ones; 0: no such pathway."""
    members: int = 8
    """Events that one cluster stands for, at most."""
    queries: int = 128
    """Vectors that the clusters become."""
    query_blocks: int = 2

    @property
    def reads_events(self) -> tuple[str, ...]:
        """What batches must hold of each event."""
        return ("positive",) if self.positive and self.feedback else ()

    def build(self, shape: BlockShape, inputs: ModelInputs) -> "PathwaysModule":
        """A module with fresh weights.  Raises ConfigError where a size or an input cannot be."""
        for name, least in {
            "short": 1,
            "positive": 0,
            "lifelong": 0,
            "members": 1,
            "queries": 1,
            "query_blocks": 1,
        }.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}, below {least}", fix=f"set {name} higher")
        if self.lifelong and inputs.item_vectors is None:
            raise ConfigError(
                "the lifelong pathway clusters item vectors, and there are none",
                fix="add an embedder to the recipe, or set lifelong=0",
            )
        return PathwaysModule(self, shape, inputs)


class PathwaysModule(nn.Module):
    """Built by `Pathways.build`."""

    by_distance = False

    def __init__(self, config: Pathways, shape: BlockShape, inputs: ModelInputs) -> None:
        super().__init__()
        assert inputs.codes is not None, "refused by the generator"
        self.config = config
        self.item_vectors: FloatArray | None = None
        if config.lifelong and inputs.item_vectors is not None:
            self.know(inputs.item_vectors)
        lengths = {"static": 1, "short": config.short, "positive": config.positive}
        lengths["lifelong"] = config.queries if config.lifelong else 0
        lengths = {name: length for name, length in lengths.items() if length}
        width = shape.d_model
        # Small beside the vectors that they are added to, which have a length of about D^0.5.
        self.positions = nn.ParameterDict({name: 0.02 * torch.randn(size, width) for name, size in lengths.items()})
        self.networks = nn.ModuleDict(
            {name: _network(1 if name == "static" else inputs.codes.num_levels, width=width) for name in lengths}
        )
        self.qformer = None
        if config.lifelong:
            self.qformer = QFormer(shape, queries=config.queries, blocks=config.query_blocks)

    def know(self, item_vectors: FloatArray) -> None:
        """From now on histories are clustered by these vectors, (I, V)."""
        self.item_vectors = _main_directions(item_vectors)

    def forward(self, batch: Mapping[str, Tensor], tokens: TokenTable) -> Context:
        """batch: "history" (N, T), "user" (N,) where the table has users, and "positive" (N, T) where it is read."""
        history = batch["history"]
        known = history != PAD
        parts = [self._static(batch, tokens), self._latest("short", history, known, tokens)]
        if self.config.positive:
            positive = known & (batch["positive"] == POSITIVE) if self.config.feedback else known
            parts.append(self._latest("positive", history, positive, tokens))
        if self.qformer is not None:
            parts.append(self._lifelong(history, tokens))
        return Context(torch.cat([part.states for part in parts], 1), torch.cat([part.valid for part in parts], 1))

    def _static(self, batch: Mapping[str, Tensor], tokens: TokenTable) -> Context:
        rows = len(batch["history"])
        users = torch.full((rows,), START, device=batch["history"].device)
        if tokens.user_buckets:
            users = tokens.user_tokens(batch["user"])
        states = self.networks["static"](tokens(users)).unsqueeze(1) + self.positions["static"]
        # Read for unknown users too: so no row has nothing to read.
        return Context(states, torch.ones(rows, 1, dtype=torch.bool, device=users.device))

    def _latest(self, name: str, history: Tensor, wanted: Tensor, tokens: TokenTable) -> Context:
        """The latest of the events that are `wanted` (N, T), the newest first, so that it always has one position."""
        places = torch.arange(history.shape[1], device=history.device).expand_as(history)
        count = min(len(self.positions[name]), history.shape[1])
        latest = places.masked_fill(~wanted, -1).topk(count, dim=1).values
        valid = latest >= 0
        items = history.gather(1, latest.clamp(min=0)).masked_fill(~valid, PAD)
        return Context(self._events(name, items, tokens) + self.positions[name][:count], valid)

    def _lifelong(self, history: Tensor, tokens: TokenTable) -> Context:
        assert self.qformer is not None, "asked for where there is one"
        items = self._clusters(history)
        valid = items != PAD
        read = self.qformer(self._events("lifelong", items, tokens), padding_bias(valid))
        states = read + self.positions["lifelong"]
        # Of a history without events, the queries read nothing.
        return Context(states, valid.any(1, keepdim=True).expand(-1, states.shape[1]))

    def _events(self, name: str, items: Tensor, tokens: TokenTable) -> Tensor:
        """(N, W) items -> (N, W, D)."""
        vectors: Tensor = self.networks[name](tokens(tokens.item_tokens[items]).flatten(2))
        return vectors

    def _clusters(self, history: Tensor) -> Tensor:
        """(N, W) the items that stand for each history, in the order of time, PAD after the end."""
        assert self.item_vectors is not None, "refused when it was built"
        given = history.cpu().numpy()
        known = given != PAD
        lengths, items = known.sum(1), given[known].astype(np.int32)
        kept = represent(self.item_vectors[items], lengths, members=self.config.members)
        ends = np.cumsum(lengths)
        found = [items[end - length : end][kept[end - length : end]] for length, end in zip(lengths, ends, strict=True)]
        found = [row[-self.config.lifelong :] for row in found]
        return torch.from_numpy(padded_rows(found)).long().to(history.device)


def _main_directions(vectors: FloatArray) -> FloatArray:
    """(I, d) in the directions in which they differ most, which tell clusters apart at a fraction of the time."""
    centered = vectors.astype(np.float64) - vectors.mean(0, dtype=np.float64)
    _, directions = np.linalg.eigh(centered.T @ centered)
    # Ascending by how much vectors differ along them.
    narrow: FloatArray = (centered @ directions[:, -CLUSTERED_WIDTH:]).astype(np.float32)
    return narrow


def _network(inputs: int, *, width: int) -> nn.Sequential:
    """What is known of an event, `inputs` vectors side by side, as one vector; two layers, as in the report."""
    first, second = nn.Linear(inputs * width, width), nn.Linear(width, width)
    nn.init.normal_(first.weight, std=(inputs * width) ** -0.5)
    nn.init.normal_(second.weight, std=width**-0.5)
    return nn.Sequential(first, nn.LeakyReLU(), second)
