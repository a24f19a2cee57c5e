"""One learned number for items that the history holds already.

A model that compares what it says with the very vectors that it reads scores an item that was just read high, although
in most data people do not take the same thing twice; the number learns how it is in the data at hand.

Shape legend: N rows, T positions, I items.
"""

import torch
from torch import Tensor, nn

from sememe.core.schema import PAD


class RepeatBias(nn.Module):
    """The number, 0 to begin with."""

    def __init__(self, *, speed: float) -> None:
        """speed: how much faster it moves than other weights.

        Adam moves a weight by about the learning rate per step, too slowly for a number that has to come to -10 or so;
        moved very fast, it spares the network the work of telling what was read from what is alike.
        """
        super().__init__()
        self.speed = speed
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self) -> Tensor:
        """(1,)"""
        value: Tensor = self.speed * self.weight
        return value

    def add_to(self, scores: Tensor, history: Tensor) -> Tensor:
        """`scores` (N, I) plus the number at the items of each row of `history` (N, T), PAD where none."""
        # One more column takes the padding; an item that is there twice gets the number once.
        read = scores.new_zeros(len(scores), scores.shape[1] + 1)
        read.scatter_(1, torch.where(history == PAD, scores.shape[1], history.long()), 1.0)
        bias: Tensor = self()
        return scores + read[:, :-1] * bias.to(scores.dtype)
