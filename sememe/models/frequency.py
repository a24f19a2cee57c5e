"""BSARec: self-attention beside a frequency filter, over a window of the last items, that names what comes after it.

Shin, Choi, Wi and Park, "An Attentive Inductive Bias for Sequential Recommendation beyond the Self-Attention" (AAAI
2024, arXiv 2312.10325).  Kept: item and position embeddings, norm, dropout, blocks of `sememe.nn.frequency`, the last
position against one item table for input and output; a window of fixed length with the newest item at its end, whose
places before the first item take part in the Fourier transform; weights from N(0, 0.02).  Changed: such places hold
their position's vector alone, in the paper's code also a fixed random one.  Added: the learned number for items of the
history that `SasRec` has.

The filter is not causal, so there is one prediction per row and no other: train with `PrefixBatches`, where every
target has a row of its own.  `SequenceBatches`, with a target at every position, would show the model its targets, and
the losses refuse that.

Shape legend: N rows, T history positions, W positions of the window, I items, D model width.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sememe.core.errors import ConfigError
from sememe.core.schema import PAD, ModelInputs
from sememe.core.seeding import derive_seed
from sememe.models.sequential import REPEAT_SPEED, check_length, check_sizes
from sememe.nn.causal import initialize
from sememe.nn.dropout import Dropout
from sememe.nn.frequency import FrequencyBlock, window_bias
from sememe.nn.repeat import RepeatBias


@dataclass(frozen=True)
class BsaRec:
    """A sequence model over items that mixes attention with a low-pass and high-pass filter."""

    layers: int = 2
    d_model: int = 64
    heads: int = 1
    ff: int = 256
    dropout: float = 0.5
    alpha: float = 0.7
    """Share of the filter, 0 to 1; the rest is attention."""
    frequencies: int = 5
    """Lowest frequencies that count as slow; the paper's c.  The others are scaled."""
    max_history: int = 50
    """Length of the window; batches must not be longer."""
    repeat_bias: bool = True
    """Learn a number that is added to the scores of all items of the history."""

    def build(self, inputs: ModelInputs, *, seed: int) -> "BsaRecModel":
        """A model with fresh weights; equal seeds give equal weights.  Raises ConfigError for sizes that cannot be."""
        check_sizes(
            {"layers": self.layers, "d_model": self.d_model, "heads": self.heads, "ff": self.ff},
            max_history=self.max_history,
            dropout=self.dropout,
        )
        if not 0.0 <= self.alpha <= 1.0:
            raise ConfigError(f"alpha is {self.alpha}, not between 0 and 1", fix="set e.g. alpha=0.7")
        if not 1 <= self.frequencies <= self.max_history:
            raise ConfigError(
                f"frequencies is {self.frequencies}, and a window of {self.max_history} items has 1 to as many",
                fix="set e.g. frequencies=5",
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "bsarec"))
            return BsaRecModel(self, num_items=inputs.num_items)

    def block(self) -> FrequencyBlock:
        """One layer, with fresh weights."""
        return FrequencyBlock(
            self.d_model,
            heads=self.heads,
            ff=self.ff,
            dropout=self.dropout,
            window=self.max_history,
            frequencies=self.frequencies,
            alpha=self.alpha,
        )


class BsaRecModel(nn.Module):
    """Built by `BsaRec.build`."""

    def __init__(self, config: BsaRec, *, num_items: int) -> None:
        super().__init__()
        self.config = config
        self.items = nn.Embedding(num_items, config.d_model)
        self.positions = nn.Embedding(config.max_history, config.d_model)
        self.norm = nn.LayerNorm(config.d_model, eps=1e-12)  # eps of the paper's code
        self.blocks = nn.ModuleList(config.block() for _ in range(config.layers))
        self.dropout = Dropout(config.dropout)
        self.repeat_bias = RepeatBias(speed=REPEAT_SPEED) if config.repeat_bias else None
        initialize(self)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What comes after each row, and the vectors of all items to compare it with.

        batch: "history" (N, T) item indices, left-aligned, PAD after the end; "lengths" (N,).
        Returns "hidden" (N, 1, D) and "item_weights" (I, D); the score of an item is their dot product, plus
        "repeat_bias" (1,), where that is there, for items of the history.
        """
        outputs = {"hidden": self._hidden(batch), "item_weights": self.items.weight}
        return outputs if self.repeat_bias is None else outputs | {"repeat_bias": self.repeat_bias()}

    def score_items(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(N, I) float32 scores of every item as the next one; all 0 for an empty history."""
        scores = (self._hidden(batch).squeeze(1) @ self.items.weight.T).float()
        return scores if self.repeat_bias is None else self.repeat_bias.add_to(scores, batch["history"])

    def _hidden(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(N, 1, D); zeros where the history is empty."""
        lengths = batch["lengths"]
        check_length(batch["history"].shape[1], max_history=self.config.max_history)
        window = right_aligned(batch["history"], lengths, width=self.config.max_history)
        valid = window != PAD
        states = self.items(window.clamp(min=0)) * valid.unsqueeze(2)
        states = self.dropout(self.norm(states + self.positions.weight))
        bias = window_bias(valid)
        for depth, block in enumerate(self.blocks, start=1):
            # Only the last position is looked at, and after the last block nothing reads the others.
            states = block(states, bias, last=1 if depth == len(self.blocks) else self.config.max_history)
        hidden: Tensor = states * (lengths > 0).view(-1, 1, 1)
        return hidden


def right_aligned(history: Tensor, lengths: Tensor, *, width: int) -> Tensor:
    """(N, width): the `lengths` first items of each row of `history` (N, T) at the end of the row, PAD before them."""
    # One more column, so that a row without items has something to point at.
    padded = torch.nn.functional.pad(history, (0, 1), value=PAD)
    place = torch.arange(width, device=history.device) - (width - lengths.unsqueeze(1))
    return padded.gather(1, torch.where(place < 0, history.shape[1], place))
