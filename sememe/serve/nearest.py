"""Items that are like others: by the vectors of a run, exactly; by shared leading codes where it has codes alone.

Shape legend: I items, m items asked about, dim the width of vectors, L code levels.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sememe.core.errors import ConfigError
from sememe.core.schema import BoolArray, FloatArray, Int32Array, Int64Array
from sememe.pipeline.prepare import ItemSpace


@dataclass(frozen=True, eq=False)
class Nearest:
    """What likeness is told from."""

    space: ItemSpace

    @property
    def by(self) -> str:
        """What is compared: "vectors" or "codes".  Raises ConfigError where the model has neither."""
        if self.space.vectors is not None:
            return "vectors"
        if self.space.codes is not None:
            return "codes"
        raise ConfigError(
            "this model has neither item vectors nor semantic IDs, so nothing says which items are alike",
            fix="serve a row of a recipe that embeds items: sememe serve RUN --model ROW",
        )

    def find(self, items: Int64Array, *, allowed: BoolArray | None, k: int) -> tuple[Int64Array, FloatArray]:
        """The k items most like `items` (m,), which are left out themselves, and how alike they are.

        By vectors: cosine with the sum of the unit vectors; items without a vector are not found.  By codes: the share
        of leading codes in common with the one that they have most in common with.
        """
        likeness = self._to_all(items)
        likeness[items] = -np.inf
        if allowed is not None:
            likeness[~allowed] = -np.inf
        listed = np.argsort(-likeness, kind="stable")[:k]
        listed = listed[likeness[listed] > -np.inf]
        return listed, likeness[listed]

    def between(self, items: Int64Array, others: Int32Array) -> FloatArray | None:
        """(m, T) cosine of each of `items` (m,) and each of `others` (T,); None where there are no vectors."""
        if self.space.vectors is None:
            return None
        found: FloatArray = self._unit(items) @ self._unit(others).T
        return found

    def _to_all(self, items: Int64Array) -> FloatArray:
        """(I,)"""
        if self.by == "codes":
            return self._shared_codes(items)
        vectors = self.space.vectors
        assert vectors is not None, "said by `by`"
        wanted = self._unit(items).sum(axis=0)
        length = float(np.linalg.norm(wanted))
        product = (vectors @ (wanted / (length or 1.0)).astype(vectors.dtype)).astype(np.float32)
        there = self._lengths > 0
        likeness = np.full(len(vectors), -np.inf, np.float32)
        if length:
            np.divide(product, self._lengths, out=likeness, where=there)
        return likeness

    def _shared_codes(self, items: Int64Array) -> FloatArray:
        assert self.space.codes is not None, "said by `by`"
        matrix = self.space.codes.matrix
        best = np.zeros(len(matrix), np.float32)
        for item in items:
            shared = np.cumprod(matrix == matrix[item], axis=1).sum(axis=1) / matrix.shape[1]
            best = np.maximum(best, shared.astype(np.float32))
        return np.where(best > 0, best, np.float32(-np.inf))

    def _unit(self, items: Int64Array | Int32Array) -> FloatArray:
        assert self.space.vectors is not None, "asked for only where there are vectors"
        lengths = self._lengths[items][:, np.newaxis]
        unit = self.space.vectors[items] / np.where(lengths > 0, lengths, 1)
        return unit.astype(np.float32)

    @cached_property
    def _lengths(self) -> FloatArray:
        """(I,) of the vectors."""
        assert self.space.vectors is not None, "asked for only where there are vectors"
        lengths: FloatArray = np.linalg.norm(self.space.vectors, axis=1).astype(np.float32)
        return lengths
