"""SASRec and eSASRec: causal transformers over item embeddings that score the whole catalogue at every position.

Kang and McAuley, "Self-Attentive Sequential Recommendation" (ICDM 2018). Kept: learned positions counted from the
newest item, causal self-attention, one embedding table for input and output. Changed: pre-norm blocks with GELU and a
full-width feed-forward; trained with the full softmax over all items instead of sampled binary cross-entropy, which is
worth 20 to 40 % (Klenitskiy and Vasilev, "Turning Dross Into Gold Loss: is BERT4Rec really better than SASRec?", RecSys
2023). The table starts at a standard deviation of D^-0.5 and inputs are scaled by D^0.5 (Vaswani et al. 2017), so that
an item outweighs what untrained layers add to it. Added: one learned number for items of the history (`nn/repeat.py`).

eSASRec: Tikhonovich et al., "eSASRec: Enhancing Transformer-based Recommendations in a Modular Fashion" (RecSys 2025,
arXiv 2508.06450).  Kept: SASRec's training target at every position, LiGR blocks.  Changed: all of the above.

Shape legend: N rows, T positions, I items, D model width.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sememe.core.errors import ConfigError
from sememe.core.schema import PAD, ModelInputs
from sememe.core.seeding import derive_seed
from sememe.nn.causal import CausalBlock, LigrBlock, initialize, last_position
from sememe.nn.dropout import Dropout
from sememe.nn.repeat import RepeatBias

REPEAT_SPEED = 3.0
"""See `RepeatBias`; chosen on the validation part of Amazon Beauty among 1, 3 and 10."""


@dataclass(frozen=True)
class SasRec:
    """A causal sequence model over items."""

    layers: int = 2
    d_model: int = 128
    heads: int = 2
    ff: int = 512
    dropout: float = 0.5
    max_history: int = 50
    """Longest history that has positions; batches must not be longer."""
    repeat_bias: bool = True
    """Learn a number that is added to the scores of all items of the history."""

    def build(self, inputs: ModelInputs, *, seed: int) -> "SasRecModel":
        """A model with fresh weights; equal seeds give equal weights.  Raises ConfigError for sizes that cannot be."""
        check_sizes(
            {"layers": self.layers, "d_model": self.d_model, "heads": self.heads, "ff": self.ff},
            max_history=self.max_history,
            dropout=self.dropout,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "sasrec"))
            return SasRecModel(self, num_items=inputs.num_items)

    def block(self) -> nn.Module:
        """One layer, with fresh weights."""
        return CausalBlock(self.d_model, heads=self.heads, ff=self.ff, dropout=self.dropout)


@dataclass(frozen=True)
class ESasRec(SasRec):
    """`SasRec` with gated blocks and SwiGLU; the sizes are those of the paper's settings for Amazon Beauty."""

    layers: int = 1
    d_model: int = 256
    heads: int = 1
    ff: int = 1024
    dropout: float = 0.2

    def block(self) -> nn.Module:
        """One layer, with fresh weights."""
        return LigrBlock(self.d_model, heads=self.heads, ff=self.ff, dropout=self.dropout)


class SasRecModel(nn.Module):
    """Built by `SasRec.build` and `ESasRec.build`."""

    def __init__(self, config: SasRec, *, num_items: int) -> None:
        super().__init__()
        self.config = config
        self.items = nn.Embedding(num_items, config.d_model)
        self.positions = nn.Embedding(config.max_history, config.d_model)
        self.blocks = nn.ModuleList(config.block() for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.d_model)
        self.dropout = Dropout(config.dropout)
        self.repeat_bias = RepeatBias(speed=REPEAT_SPEED) if config.repeat_bias else None
        initialize(self)
        nn.init.normal_(self.items.weight, std=config.d_model**-0.5)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Contextual vectors of every position, and the vectors of all items to compare them with.

        batch: "history" (N, T) item indices, left-aligned, PAD after the end.
        Returns "hidden" (N, T, D), what comes after each position, and "item_weights" (I, D); the score of an item is
        their dot product, plus "repeat_bias" (1,), where that is there, for items up to the position.  Positions at PAD
        hold numbers without meaning.
        """
        outputs = {"hidden": self._hidden(batch["history"]), "item_weights": self.items.weight}
        return outputs if self.repeat_bias is None else outputs | {"repeat_bias": self.repeat_bias()}

    def score_items(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(N, I) float32 scores of every item as the one after the last of "lengths"; all 0 for an empty history."""
        history = batch["history"]
        scores = (last_position(self._hidden(history), batch["lengths"]) @ self.items.weight.T).float()
        return scores if self.repeat_bias is None else self.repeat_bias.add_to(scores, history)

    def _hidden(self, history: Tensor) -> Tensor:
        length = history.shape[1]
        check_length(length, max_history=self.config.max_history)
        # Rows are left-aligned.  Padding reads item 0: nothing that counts can see those positions.
        states = self.items(history.clamp(min=0)) * self.config.d_model**0.5
        states = self.dropout(states + self.positions(self._ages(history)))
        for block in self.blocks:
            states = block(states)
        hidden: Tensor = self.norm(states)
        return hidden

    def _ages(self, history: Tensor) -> Tensor:
        """(N, T) the place of each event in a window of max_history places that ends with the row's newest event."""
        places = torch.arange(history.shape[1], device=history.device)
        missing = self.config.max_history - (history != PAD).sum(1, keepdim=True)
        return (missing + places).clamp(max=self.config.max_history - 1)


def check_sizes(sizes: Mapping[str, int], *, max_history: int, dropout: float) -> None:
    """Refuse sizes that no network can have; `sizes` holds at least d_model and heads.

    Raises:
        ConfigError: names the size.
    """
    for name, value in {**sizes, "max_history": max_history}.items():
        if value < 1:
            raise ConfigError(f"{name} is {value}, and must be at least 1", fix=f"set {name} higher")
    if sizes["d_model"] % sizes["heads"]:
        raise ConfigError(
            f"d_model is {sizes['d_model']}, which {sizes['heads']} heads do not divide",
            fix="choose heads that divide it",
        )
    if not 0.0 <= dropout < 1.0:
        raise ConfigError(f"dropout is {dropout}, not at least 0 and below 1", fix="set e.g. dropout=0.5")


def check_length(length: int, *, max_history: int) -> None:
    """Refuse a batch of histories that are longer than a model with `max_history` positions can read.

    Raises:
        ConfigError: says both numbers.
    """
    if length > max_history:
        raise ConfigError(
            f"a history of {length} items is longer than max_history = {max_history} of the model",
            fix="give model and batches the same max_history",
        )
