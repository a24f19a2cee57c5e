"""What the search asks of a model; `decode` knows no model by name.

Shape legend: N rows of a request, B live beams of a row, K codes of a level, I items.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

TensorBatch = Mapping[str, Tensor]
"""A request: named tensors whose first axis is the row."""

ItemArray = Tensor | npt.NDArray[np.int32]
"""Item indices, (N, S), PAD where a row has fewer."""

Seen = ItemArray | None
"""Items that each row must not get, or None: there are none."""


class StepModel(Protocol):
    """A model that writes codes one level at a time."""

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """(L,)"""
        ...

    def encode(self, batch: TensorBatch) -> Any:
        """Read the histories once; the state belongs to one search, which hands it back to `step`."""
        ...

    def step(self, state: Any, codes: Tensor | None, parents: Tensor | None) -> Tensor:
        """fp32 log-probabilities of the next level's codes, normalised over that level's codebook.

        Level 0: codes and parents are None, the answer is (N, 1, K of level 0).  Level l >= 1: `codes` (N, B) int64 was
        chosen at level l-1 by each live beam and `parents` (N, B) int64 says which beam of the previous step it
        continues; the answer is (N, B, K of level l).
        """
        ...


class ItemScorer(Protocol):
    """A model that scores the whole catalogue at once."""

    def score_items(self, batch: Any) -> Tensor | npt.NDArray[np.float32]:
        """(N, I) scores, higher is better."""
        ...
