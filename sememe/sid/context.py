"""What a tokenizer may know beside the joined vectors: where each part of them ends, and who took what."""

from dataclasses import dataclass

import numpy as np

from sememe.core.errors import DataError
from sememe.core.schema import FloatArray, Interactions


@dataclass(frozen=True, eq=False)
class CodeContext:
    """The surroundings of the vectors (I, dim) that a tokenizer is fitted on."""

    widths: tuple[int, ...]
    """Of the parts that the vectors were joined from; they add up to dim."""
    train: Interactions
    """The training part of the log, and nothing after it; its items are the rows of the vectors."""

    def parts(self, vectors: FloatArray) -> list[FloatArray]:
        """The parts of `vectors` (I, dim), (I, width) each.

        Raises DataError for vectors that this is not the context of.
        """
        self.check(vectors)
        return np.split(vectors, np.cumsum(self.widths)[:-1], axis=1)

    def check(self, vectors: FloatArray) -> None:
        """Raise DataError where `vectors` (I, dim) do not fit the widths or the log."""
        if not self.widths or min(self.widths) < 1 or sum(self.widths) != vectors.shape[1]:
            raise DataError(
                f"item vectors are {vectors.shape[1]} wide, and their parts {self.widths}",
                fix="give the width of each part that the vectors were joined from, in order",
            )
        if self.train.num_items != len(vectors):
            raise DataError(
                f"there are {len(vectors)} item vectors, and the log knows {self.train.num_items} items",
                fix="give one row of vectors per item of the log",
            )
