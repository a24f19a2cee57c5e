"""The item-wise generator: one position per item, a causal trunk, a depth decoder that writes the next item's codes.

Where TIGER (arXiv 2305.05065) spends four positions and an encoder-decoder on an item, here an item is one vector, the
sum of its code embeddings, an embedding of its own and its projected content; a causal transformer is trained at every
position at once (as SASRec, arXiv 1808.09781); and a small decoder writes the codes from the position's vector alone
(the layout of RQ-Transformer, arXiv 2203.01941).  The same position also scores items directly, against the very
vectors that the trunk reads: one model retrieves by codes and ranks by items.  Where asked for, the trunk also reads
what was done with each item and how long after the one before; candidates have no such thing.

What is known of cold items: an item that the training part never holds has no embedding of its own, is not among
the negatives, and does not take part in the normalisation while training; its codes and its content speak for it.

Shape legend: N rows, T positions, P positions with a target, C candidates shared by a batch, I items, L levels, B
beams, M = N * B hypotheses, K codes of a level, D width.
"""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from sememe.core.errors import ConfigError
from sememe.core.schema import PAD, ModelInputs
from sememe.core.seeding import derive_seed
from sememe.data.event_inputs import UNKNOWN
from sememe.models.code_nodes import CodeNodes
from sememe.models.depth import CodeHead, Depth, exact
from sememe.models.item_table import ItemTable
from sememe.nn.causal import last_position
from sememe.nn.kvcache import TrunkCache, TrunkReading
from sememe.nn.repeat import RepeatBias
from sememe.nn.trunk import Trunk

SPARSE, DENSE = 20.0, 100.0
"""Training events per item: of Amazon's 5-core sets it is 7 to 12, of MovieLens-1M 300."""

EVENT_STD = 0.02
"""Of the tables of event inputs to begin with: small beside item vectors, whose length is about 1."""

_log = logging.getLogger(__name__)

MOST_KEPT = 200_000
"""Items whose vectors a model keeps for exact scoring, at most: 100 MB of width 128."""


@dataclass(frozen=True)
class ItemWise:
    """The generator with its two heads."""

    trunk: Trunk = Trunk()
    """Its dropout is for data whose items have few events; see `dense_dropout`."""
    dense_dropout: float | None = None
    """Dropout of the trunk where an item has DENSE events on average or more; from SPARSE on, by the logarithm, between
    the two; that of `depth` falls in proportion.  None: their own everywhere."""
    depth: Depth = Depth()
    item_embedding: bool = True
    """Whether an item has a vector of its own, beside its codes and its content."""
    content: bool = True
    """Whether the item vectors of the recipe (its `embed`) are projected into the item's vector."""
    cold_share: float = 0.0
    """Share of items that lose their own vector in each training step, and of nodes of the code tree that lose theirs,
    so that the model learns to go by codes and content, as it has to for a new item."""
    start: Literal["random", "content"] = "random"
    """Where an item's own vector starts: at random, or at its content, mapped into the width of the trunk."""
    actions: bool = False
    """Whether the trunk reads what was done with each item; batches have to hold "action" (their field `events`)."""
    gaps: bool = False
    """Whether the trunk reads the time since the user's event before; batches have to hold "gap"."""

    @property
    def reads_events(self) -> tuple[str, ...]:
        """Names of the event inputs that batches have to hold."""
        return tuple(name for name, read in (("action", self.actions), ("gap", self.gaps)) if read)

    def build(self, inputs: ModelInputs, *, seed: int) -> "ItemWiseModel":
        """A model with fresh weights; equal seeds give equal weights.

        Raises ConfigError where something that the settings ask for is not in `inputs`, codes to begin with.
        """
        if inputs.codes is None:
            raise ConfigError("ItemWise writes semantic IDs, and there are none", fix="add a tokenizer to the recipe")
        if not 0.0 <= self.cold_share < 1.0:
            raise ConfigError(f"cold_share is {self.cold_share}, not at least 0 and below 1", fix="set 0.1, say, or 0")
        self._check_start()
        self._check_events(inputs)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "itemwise"))
            return ItemWiseModel(self._for_density(inputs), inputs)

    def _check_start(self) -> None:
        if self.start not in ("random", "content"):
            raise ConfigError(f"start is {self.start!r}", fix='set it to "random" or "content"')
        if self.start == "content" and not self.item_embedding:
            raise ConfigError(
                'start is "content", and items have no vector of their own that could start there',
                fix="set model.item_embedding=true or model.start=random",
            )

    def _check_events(self, inputs: ModelInputs) -> None:
        if self.actions and inputs.num_actions == 0:
            raise ConfigError(
                "the model reads actions, and the data does not say what was done",
                fix="name the column that does (event_type), or set model.actions=false and leave it out of events",
            )
        if self.gaps and inputs.num_gaps == 0:
            raise ConfigError(
                "the model reads time gaps, and the data has no times",
                fix="name the time column, or set model.gaps=false and leave it out of events",
            )

    def _for_density(self, inputs: ModelInputs) -> "ItemWise":
        """The same with dropout for as many events per item as there are."""
        if self.dense_dropout is None or inputs.train_counts is None:
            return self
        if not 0.0 <= self.dense_dropout < 1.0:
            raise ConfigError(f"dense_dropout is {self.dense_dropout}, not at least 0 and below 1", fix="set 0.2, say")
        met = inputs.train_counts[inputs.train_counts > 0]
        events = float(met.mean()) if len(met) else 0.0
        share = np.clip(np.log(max(events, 1e-9) / SPARSE) / np.log(DENSE / SPARSE), 0.0, 1.0)
        # Dense data needs less dropout; who sets less than that anyway keeps it.
        least = min(self.dense_dropout, self.trunk.dropout)
        dropout = round(float(self.trunk.dropout + share * (least - self.trunk.dropout)), 3)
        _log.info("%.1f training events per item: dropout %s", events, dropout)
        kept = dropout / self.trunk.dropout if self.trunk.dropout else 1.0
        of_depth = round(self.depth.dropout * kept, 3)
        return replace(self, trunk=replace(self.trunk, dropout=dropout), depth=replace(self.depth, dropout=of_depth))


@dataclass(eq=False)
class WritingState:
    """A search that is under way: the histories, read once, and what each hypothesis has written."""

    hidden: Tensor
    """(N, D); never copied per beam."""
    prefix: Tensor
    """(N, B, l, D) embedded codes of each hypothesis."""
    nodes: Tensor
    """(N, B) node of depth l of each hypothesis."""

    @property
    def level(self) -> int:
        """Codes written so far."""
        return self.prefix.shape[2]


@dataclass(frozen=True, eq=False)
class _KeptVectors:
    """Vectors of all items, and of which weights they were made."""

    vectors: Tensor
    """(I, D)"""
    state: tuple[object, ...]
    made_of: list[Tensor]
    """Held, so that no other tensor comes to lie where one of them lay."""


class ItemWiseModel(nn.Module):
    """Built by `ItemWise.build`."""

    def __init__(self, config: ItemWise, inputs: ModelInputs) -> None:
        super().__init__()
        assert inputs.codes is not None, "checked by ItemWise.build"
        self.config = config
        self.codebook_sizes = inputs.codes.codebook_sizes
        known = None if inputs.train_counts is None else inputs.train_counts > 0
        width = config.trunk.d_model
        nodes = CodeNodes(inputs.codes, known_items=known)
        self.trunk = config.trunk.build()
        self.writer = CodeHead(
            config.depth, nodes=nodes, d_model=width, heads=config.trunk.heads, cold=config.cold_share
        )
        self.items = ItemTable(
            inputs,
            d_model=width,
            own=config.item_embedding,
            content=config.content,
            known_items=known,
            cold=config.cold_share,
            start=config.start,
        )
        self.repeat_bias = RepeatBias(speed=10.0)
        self._kept: _KeptVectors | None = None
        # Made last, so that all other weights are those of a model without them.
        sizes = {"action": inputs.num_actions, "gap": inputs.num_gaps}
        self.events = nn.ModuleDict({name: _event_table(sizes[name], width) for name in config.reads_events})

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the two heads say of the targets of a training batch.

        batch: "history" (N, T) item indices, left-aligned; "targets" (N, T), PAD where none; "candidates" (C,) items to
        be told from the target, the targets among them; "target_places" (N, T) where in "candidates" each target is;
        (N, T) each of the event inputs that the model reads.
        Returns "code_log_probs" (P, L) and "item_logits" (P, C), by row and position, and "places" (P,).
        """
        history, candidates = batch["history"], batch["candidates"].long()
        places = (batch["targets"].flatten() != PAD).nonzero().squeeze(1)
        # Each item that the batch mentions is embedded once, whatever the catalogue's size.
        mentioned, index = torch.unique(
            torch.cat([candidates, history.flatten().clamp(min=0).long()]), return_inverse=True
        )
        vectors = self._vectors(mentioned)
        read = vectors[index[len(candidates) :]].view(*history.shape, -1)
        hidden = self._follow_history(read, batch).flatten(0, 1)[places]
        logits = exact(hidden @ vectors[index[: len(candidates)]].T)
        return {
            "code_log_probs": self.writer.log_probs(hidden, batch["targets"].flatten()[places].long()),
            "item_logits": self._add_repeat_bias(logits, history, candidates, places),
            "places": batch["target_places"].flatten()[places].long(),
        }

    def _vectors(self, items: Tensor) -> Tensor:
        """(M, D) the vectors of `items` (M,), read by the trunk and compared with what it says."""
        codes = self.writer.nodes.item_codes(items)
        vectors: Tensor = self.items(items)
        for level, table in enumerate(self.writer.read):
            vectors = vectors + table(codes[:, level])
        return vectors

    def _follow_history(self, vectors: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """(N, T, D) what the trunk says after each of the items with `vectors` (N, T, D)."""
        hidden: Tensor = self.trunk(self._told(vectors, batch))
        return hidden

    def _told(self, vectors: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """(N, T, D) what the trunk reads: items with what is known of their events, in its scale."""
        for name, table in self.events.items():
            known: Tensor = table(batch[name].long())
            vectors = vectors + known
        return vectors * math.sqrt(vectors.shape[-1])

    def _add_repeat_bias(self, logits: Tensor, history: Tensor, candidates: Tensor, places: Tensor) -> Tensor:
        """`logits` (P, C) with the bias on candidates that the row has read up to the position, once each."""
        rows, length = history.shape
        # Candidates are in ascending order, so each item of the history is looked up by bisection.
        column = torch.searchsorted(candidates, history.long()).clamp_(max=len(candidates) - 1)
        is_candidate = (candidates[column] == history) & (history != PAD)
        up_to = torch.ones(length, length, dtype=torch.bool, device=history.device).tril()
        again = ((history.unsqueeze(2) == history.unsqueeze(1)) & up_to.tril(-1)).any(2)
        # (N, T, T): position t sees the first reading of an item at s <= t.
        sees = (is_candidate & ~again).unsqueeze(1) & up_to
        position, source = sees.flatten(0, 1)[places].nonzero(as_tuple=True)
        row = places[position] // length
        return logits.index_put(
            (position, column[row, source]), self.repeat_bias().expand(len(position)), accumulate=True
        )

    def encode(self, batch: Mapping[str, Tensor]) -> WritingState:
        """Read the histories of "history" and event inputs (N, T), "lengths" (N,): the state before the first code."""
        return self.start(self._last(batch))

    def read(self, batch: Mapping[str, Tensor], *, cache: TrunkCache | None = None) -> TrunkReading:
        """Read t >= 1 items more of each history: "history" (N, t) without padding, and event inputs (N, t).

        cache: of the items read before; `start` goes from what is read to a search.  The answer is that of `encode` on
        the whole history, which must not be longer than the trunk's window: once that slides, read it anew.
        """
        history = batch["history"]
        vectors = self._told(self._vectors(history.flatten().long()).view(*history.shape, -1), batch)
        return self.trunk.extend(vectors, cache=cache)

    def start(self, hidden: Tensor) -> WritingState:
        """The state before the first code, for what the trunk said last (N, D)."""
        root = torch.zeros(len(hidden), 1, dtype=torch.long, device=hidden.device)
        return WritingState(hidden=hidden, prefix=hidden.new_zeros(len(hidden), 1, 0, hidden.shape[1]), nodes=root)

    def step(self, state: WritingState, codes: Tensor | None, parents: Tensor | None) -> Tensor:
        """(N, B, K) fp32 log-probabilities of the next level's codes; the protocol is `decode.protocol.StepModel`."""
        if codes is not None and parents is not None:
            self.follow(state, codes, parents)
        rows, beams = state.nodes.shape
        hidden = state.hidden.unsqueeze(1).expand(-1, beams, -1).reshape(rows * beams, -1)
        log_probs = self.writer.next_level(hidden, state.prefix.flatten(0, 1), state.nodes.flatten())
        return log_probs.view(rows, beams, -1)

    def follow(self, state: WritingState, codes: Tensor, parents: Tensor) -> None:
        """Let the hypotheses of `state` be those that `step` is told of; it does so itself."""
        level = state.level
        chosen = parents[..., None, None].expand(-1, -1, level, state.prefix.shape[-1])
        prefix = state.prefix.gather(1, chosen)
        told = self.writer.embed(codes, level=level)
        state.prefix = torch.cat([prefix, told.unsqueeze(2)], 2)
        state.nodes = self.writer.nodes.child(state.nodes.gather(1, parents), codes, depth=level)

    def score_items(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(N, I) float32 scores of every item as the next one, by the item head."""
        hidden, history = self._last(batch), batch["history"]
        scores = (hidden @ self._all_vectors().T).float()
        return self.repeat_bias.add_to(scores, history)

    def _all_vectors(self) -> Tensor:
        """(I, D) the vectors of all items; a model that answers keeps them until a weight changes."""
        made_of = (*self.items.parameters(), *self.items.buffers(), *self.writer.read.parameters())
        device, items = made_of[-1].device, self.items.num_items
        changing = self.training or torch.is_grad_enabled() or self.items.as_new is not None
        if changing or items > MOST_KEPT or any(tensor.is_inference() for tensor in made_of):
            return self._vectors(torch.arange(items, device=device))
        # A write in place counts the version up, and whatever else is put in its place lies elsewhere.  A write through
        # `.data` is not seen: who writes so must do it before the first score.
        state = (torch.is_autocast_enabled(device.type), *((part.data_ptr(), part._version) for part in made_of))
        if self._kept is None or self._kept.state != state:
            vectors = self._vectors(torch.arange(items, device=device))
            self._kept = _KeptVectors(vectors, state, [part.detach() for part in made_of])
        return self._kept.vectors

    def code_log_prob(self, batch: Mapping[str, Tensor], items: Tensor) -> Tensor:
        """(N, C) log-probability that the depth decoder gives to the codes of `items` (N, C), all real items."""
        return self.writer.item_log_prob(self._last(batch), items.long()).float()

    def sample_log_probs(self, batch: Mapping[str, Tensor], samples: Tensor) -> Tensor:
        """(N, G, L) log-probability of each of the codes `samples` (N, G, L), each given those before it; -inf where
        the codes name no item.  The trunk reads each row once."""
        nodes = self.writer.nodes
        leaf = nodes.find(samples.flatten(0, 1))
        items = nodes.any_item(leaf.clamp(min=0), depth=nodes.num_levels).view(samples.shape[:2])
        log_probs = self.writer.item_log_probs(self._last(batch), items)
        return log_probs.masked_fill((leaf < 0).view(*items.shape, 1), -math.inf)

    @contextmanager
    def as_new(self, items: Tensor) -> Iterator[None]:
        """Within, nothing that the model learned of the items of (I,) bool alone is used: codes and content speak."""
        self.items.as_new, self.writer.as_new = items, self.writer.nodes.only_of(items)
        try:
            yield
        finally:
            self.items.as_new = self.writer.as_new = None

    def _last(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(N, D) what the trunk says after the last item; the zero vector for an empty history."""
        history = batch["history"]
        vectors = self._vectors(history.flatten().clamp(min=0).long())
        hidden = self._follow_history(vectors.view(*history.shape, vectors.shape[-1]), batch)
        return last_position(hidden, batch["lengths"])


def _event_table(size: int, width: int) -> nn.Embedding:
    """A small vector for each value but the first, which stands for what is not known and says nothing."""
    table = nn.Embedding(size, width, padding_idx=UNKNOWN)
    nn.init.normal_(table.weight, std=EVENT_STD)
    table.weight.data[UNKNOWN] = 0.0
    return table
