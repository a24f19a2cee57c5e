"""The session reward model: what a user will make of a list, from what the user made of items before.

OneRec (arXiv 2502.18965, section 3.2): each item of the list attends to the user's history, the items attend to each
other, and towers on their sum say how likely each kind of feedback is.  Kept: target attention, self-attention, towers
of two layers, binary cross-entropy.  Changed: the mean takes the place of the sum, so that lists of different lengths
lie on one scale; there is no user embedding, so that it judges users whom it never met; the history tells what came of
each event, as far as the log knows.  The final tower is the P-Score's of the Technical Report (arXiv 2506.13695): it
reads what the towers found, and one number of its own is held to all the labels with their weights.

Shape legend: N lists, S items of a list, T history positions, O labels, D width.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sememe.core.errors import ConfigError
from sememe.core.schema import PAD, FloatArray
from sememe.core.seeding import derive_seed

ALIKE = 2.0
"""Length of queries and keys at the start: items alike attend to each other, others hardly."""


@dataclass(frozen=True)
class SessionRewardNet:
    """Sizes of the network."""

    d_model: int = 32
    heads: int = 2
    hidden: int = 64
    dropout: float = 0.2
    item_embedding: bool = True
    """Whether an item has a vector of its own, beside its content."""

    def build(self, *, num_items: int, vectors: FloatArray | None, labels: int, seed: int) -> "SessionRewardModel":
        """labels: O.

        Raises ConfigError where items would have neither vector, or a size is below 1."""
        if min(self.d_model, self.heads, self.hidden) < 1 or self.d_model % self.heads:
            raise ConfigError(
                f"d_model is {self.d_model}, heads {self.heads}, hidden {self.hidden}",
                fix="give sizes of at least 1, and heads that divide d_model",
            )
        if vectors is None and not self.item_embedding:
            raise ConfigError(
                "items have neither a vector of their own nor content", fix="set item_embedding=true in the reward"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "session reward"))
            return SessionRewardModel(self, num_items=num_items, vectors=vectors, labels=labels)


class SessionRewardModel(nn.Module):
    """Built by `SessionRewardNet.build`."""

    def __init__(self, config: SessionRewardNet, *, num_items: int, vectors: FloatArray | None, labels: int) -> None:
        super().__init__()
        width, hidden = config.d_model, config.hidden
        self.heads, self.dropout = config.heads, config.dropout
        self.own = nn.Embedding(num_items, width) if config.item_embedding else None
        if self.own is not None:
            # From nothing, so that an item that was hardly met is what its content says.
            nn.init.normal_(self.own.weight, std=width**-0.5 if vectors is None else 0.0)
        self.content: Tensor | None
        content = None if vectors is None else torch.from_numpy(vectors).float()
        self.register_buffer("content", content, persistent=False)
        self.project = None if content is None else nn.Linear(content.shape[1], width)
        # Each label is told with whether it is known at all.
        self.told = nn.Linear(2 * labels, width)
        self.query, self.keys = nn.Linear(width, width), nn.Linear(width, 2 * width)
        # At the start an item attends to those that it is like: what came of them is the first guess.
        nn.init.orthogonal_(self.query.weight, gain=ALIKE)
        self.keys.weight.data[:width] = self.query.weight.data
        self.alike = nn.LayerNorm(width)
        self.mix = _tower(3 * width + (config.heads + 1) * labels, hidden, width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.lower = nn.ModuleList(nn.Sequential(nn.Linear(width, hidden), nn.GELU()) for _ in range(labels))
        self.towers = nn.ModuleList(nn.Linear(hidden, 1) for _ in range(labels))
        self.final = _tower(labels * hidden, hidden, 1)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Logits of the labels and of the final tower.

        batch: "lists" (N, S) and "history" (N, T) items, PAD where there is none; "told" (N, T, O) the labels of
        the history, NaN unknown.
        Returns "label_logits" (N, O) and "score_logits" (N,).
        """
        lists, history = batch["lists"], batch["history"]
        listed, met = lists != PAD, history != PAD
        items = self._items(lists)
        read, told = self._items(history), batch["told"]
        known = read + self.told(torch.cat([told.nan_to_num(0.0), told.isfinite().to(told.dtype)], 2))
        key, _ = self.keys(self.alike(read)).chunk(2, 2)
        _, value = self.keys(known).chunk(2, 2)
        query = self.query(self.alike(items))
        taste = _attend(query, key, value, met, heads=self.heads)
        # What came of items alike, as it is, and of all: the network need not find out by itself how to say so.
        filled, usual = _around_mean(told)
        heard = _attend(query, key, filled.repeat(1, 1, self.heads), met, heads=self.heads)
        usual = usual.expand(-1, items.shape[1], -1)
        items = self.mix(torch.cat([items, taste, items * taste, heard, usual], 2))
        query, key, value = self.qkv(self.norm(items)).chunk(3, 2)
        items = items + self.out(_attend(query, key, value, listed, heads=self.heads))
        share = listed.unsqueeze(2) / listed.sum(1).clamp(min=1)[:, None, None]
        pooled = F.dropout((items * share).sum(1), self.dropout, training=self.training)
        lower = [tower(pooled) for tower in self.lower]
        logits = [tower(found) for tower, found in zip(self.towers, lower, strict=True)]
        return {"label_logits": torch.cat(logits, 1), "score_logits": self.final(torch.cat(lower, 1)).squeeze(1)}

    def _items(self, items: Tensor) -> Tensor:
        """(N, X) -> (N, X, D); zeros for PAD."""
        places = items.clamp(min=0)
        vectors = torch.zeros((), device=items.device)
        if self.own is not None:
            vectors = vectors + self.own(places)
        if self.project is not None and self.content is not None:
            vectors = vectors + self.project(self.content[places])
        return vectors.masked_fill((items == PAD).unsqueeze(2), 0.0)


@dataclass(frozen=True)
class RewardLoss:
    """Binary cross-entropy of every tower, and of the final one with all labels, each label with its weight.

    Labels may lie between 0 and 1, as shares do; NaN ones are left out.
    """

    weights: tuple[float, ...]
    """(O,) of the final tower; a label that counts against is held to its opposite."""

    def __call__(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """Scalar; outputs as `SessionRewardModel` gives, batch["labels"] (N, O)."""
        labels = batch["labels"]
        known = labels.isfinite()
        filled = labels.nan_to_num(0.0)
        towers = F.binary_cross_entropy_with_logits(outputs["label_logits"].float(), filled, reduction="none")
        weights = torch.tensor(self.weights, device=labels.device)
        wanted = torch.where(weights < 0, 1.0 - filled, filled)
        score = outputs["score_logits"].float().unsqueeze(1).expand_as(wanted)
        final = F.binary_cross_entropy_with_logits(score, wanted, reduction="none") * weights.abs()
        return ((towers + final) * known).sum() / known.sum().clamp(min=1)


def _tower(width: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, out))


def _around_mean(told: Tensor) -> tuple[Tensor, Tensor]:
    """Labels (N, T, O) less their row's mean, 0 where unknown, and the means (N, 1, O)."""
    known = told.isfinite()
    means = told.nan_to_num(0.0).sum(1, keepdim=True) / known.sum(1, keepdim=True).clamp(min=1)
    return (told - means).masked_fill(~known, 0.0), means


def _attend(query: Tensor, key: Tensor, value: Tensor, readable: Tensor, *, heads: int) -> Tensor:
    """(N, X, D) queries on (N, Y, D) of which `readable` (N, Y); zeros where a row has nothing to read."""

    def split(values: Tensor) -> Tensor:
        return values.reshape(*values.shape[:2], heads, -1).transpose(1, 2)

    anything = readable.any(1, keepdim=True)
    # A row without anything would have no number: it reads what is there and is set to zero after.
    mask = (readable | ~anything)[:, None, None]
    found = F.scaled_dot_product_attention(split(query), split(key), split(value), attn_mask=mask)
    joined: Tensor = found.transpose(1, 2).flatten(2) * anything.unsqueeze(2)
    return joined
