"""What a tokenizer may know beside the joined vectors: where each part of them ends, and who took what."""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np

from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import FloatArray, Int64Array, Interactions
from sememe.sid.fitted import FittedTokenizer


class Fitter(Protocol):
    """A tokenizer that is fitted on vectors."""

    def fit(self, vectors: FloatArray, *, seed: int) -> FittedTokenizer: ...


@runtime_checkable
class ContextFitter(Protocol):
    """A tokenizer that is fitted on vectors in their surroundings."""

    def fit_in(self, vectors: FloatArray, *, context: "CodeContext", seed: int) -> FittedTokenizer: ...


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

    def of(self, rows: Int64Array) -> "CodeContext":
        """Of the items `rows` (n,), rising, alone: a log without events of the others, and items by their new rows."""
        others = np.setdiff1d(np.arange(self.train.num_items, dtype=np.int32), rows)
        kept = self.train.without_items(others)
        renumbered = np.searchsorted(rows, kept.items).astype(np.int32)
        return replace(self, train=replace(kept, items=renumbered, item_ids=kept.item_ids.gather(rows)))

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


def fit_in_context(
    part: Fitter | ContextFitter, vectors: FloatArray, *, context: CodeContext | None, seed: int, fix: str
) -> FittedTokenizer:
    """`part` fitted on `vectors` (n, dim) and, where it asks for them, on their surroundings.

    Raises:
        ConfigError: it asks and there are none; `fix` says what to do.  Else what the tokenizer raises.
    """
    if not isinstance(part, ContextFitter):
        return part.fit(vectors, seed=seed)
    if context is None:
        raise ConfigError(
            f"{type(part).__name__} is fitted on the parts of the vectors and the log too, which are not given", fix=fix
        )
    return part.fit_in(vectors, context=context, seed=seed)
