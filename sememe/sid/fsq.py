"""Finite scalar quantisation: a few numbers per item, each rounded to one of a few fixed steps; no codebook to learn.

Source: Mentzer et al. 2023, arXiv 2309.15505.
Kept: each number is bounded by tanh and rounded to its number of steps; the steps of several numbers make one code
(mixed radix), so that (8, 8, 4) are 256 codes; nothing can collapse, there is no codebook loss and nothing to revive.
Changed:
- the numbers are scores on principal directions, not outputs of a trained encoder.  Among linear encoders they lose
  least, the fit is one eigendecomposition (a second, not minutes), and the comparison with residual k-means stays one
  of quantisers alone.  What a network could still bend into place is left out;
- since no encoder learns to spread its outputs, each score is divided by its deviation and by 1.25: then tanh follows
  the normal distribution's, and steps of equal width between -1 and 1 are used almost evenly;
- the first code gets the directions of the largest variance, the next one the following: codes go from coarse to fine.

There is no randomness: the seed changes nothing.

Shape legend: n vectors, dim their width, L codes, B numbers per code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import FloatArray, Int32Array
from sememe.sid.kmeans import distinct_rows
from sememe.sid.rqkmeans import check_vectors

SPREAD = 1.2533
"""sqrt(pi / 2): tanh(x / SPREAD) and 2 Phi(x) - 1 have the same slope at 0 and differ by .04 at most."""
LEAST_DEVIATION = 1e-5
"""Of the largest deviation; directions with less hold rounding errors alone."""


@dataclass(frozen=True)
class FiniteScalar:
    """Fit principal directions, and round the scores on them."""

    levels: int = 3
    """Codes per item."""
    steps: tuple[int, ...] = (8, 8, 4)
    """Steps of the numbers of a code; their product is the size of the codebook."""

    def fit(self, vectors: FloatArray, *, seed: int) -> "FittedFiniteScalar":
        """Fit on float32 (n, dim); neither the order of the rows nor the seed matters.

        Raises DataError where the vectors are narrower than the numbers needed.
        """
        self._check()
        check_vectors(vectors)
        needed = self.levels * len(self.steps)
        if vectors.shape[1] < needed:
            raise DataError(
                f"item vectors are {vectors.shape[1]} wide, and {self.levels} codes of {len(self.steps)} numbers need "
                f"{needed}",
                fix="give fewer levels, fewer steps or wider vectors",
            )
        distinct = distinct_rows(vectors)
        rows, weights = distinct.rows.astype(np.float64), distinct.counts / distinct.counts.sum()
        mean = weights @ rows
        variances, directions = np.linalg.eigh((rows - mean).T @ ((rows - mean) * weights[:, None]))
        chosen = directions[:, ::-1][:, :needed]
        # The sign of a direction means nothing, and must not be left to chance.
        chosen = chosen * np.where(chosen[np.abs(chosen).argmax(axis=0), np.arange(needed)] < 0, -1, 1)
        deviations = np.sqrt(np.maximum(variances[::-1][:needed], 0))
        deviations[deviations <= LEAST_DEVIATION * deviations[0]] = 0
        return FittedFiniteScalar(
            mean=mean.astype(np.float32),
            directions=np.ascontiguousarray(chosen, dtype=np.float32),
            deviations=deviations.astype(np.float32),
            steps=self.steps,
        )

    def _check(self) -> None:
        # Steps per level, as sizes of codebooks may be given elsewhere, would not be a tuple of numbers.
        steps: Any = self.steps
        numbers = isinstance(steps, Sequence) and all(isinstance(step, int | np.integer) for step in steps)
        if self.levels < 1 or not numbers or not self.steps or min(self.steps) < 2:
            raise ConfigError(
                f"FiniteScalar got levels={self.levels} and steps={self.steps}",
                fix="give levels >= 1 and a tuple of steps of at least 2 each for all levels, such as (8, 8, 4)",
            )


@dataclass(frozen=True, eq=False)
class FittedFiniteScalar:
    """Turns vectors into codes and codes into the vectors they stand for."""

    rebuilds_prefixes: ClassVar[bool] = True
    """`reconstruct` takes the first codes alone, too."""

    mean: FloatArray
    """(dim,)"""
    directions: FloatArray
    """(dim, L * B), orthonormal columns"""
    deviations: FloatArray
    """(L * B,) of the scores; 0 where the catalogue does not vary: all get the middle step."""
    steps: tuple[int, ...]
    """(B,)"""

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """(L,)"""
        return (int(np.prod(self.steps)),) * (len(self.deviations) // len(self.steps))

    def encode(self, vectors: FloatArray) -> Int32Array:
        """int32 (n, L); equal vectors get equal codes wherever they stand in the input."""
        check_vectors(vectors, dim=len(self.mean))
        distinct = distinct_rows(vectors)
        scores = (distinct.rows - self.mean) @ self.directions
        varied = self.deviations > 0
        scores = np.divide(scores, self.deviations * np.float32(SPREAD), out=np.zeros_like(scores), where=varied)
        steps = np.tile(self.steps, len(self.codebook_sizes))
        digits = np.minimum((0.5 + 0.5 * np.tanh(scores)) * steps, steps - 1).astype(np.int64)
        grouped = digits.reshape(len(digits), -1, len(self.steps)).transpose(2, 0, 1)
        codes: Int32Array = np.ravel_multi_index(tuple(grouped), self.steps).astype(np.int32)
        return codes[distinct.inverse]

    def reconstruct(self, codes: Int32Array) -> FloatArray:
        """float32 (n, dim): the middles of the steps of codes (n, l), l <= L, as scores, on their directions."""
        known = codes.shape[1] * len(self.steps)
        digits = np.stack(np.unravel_index(codes, self.steps), axis=2).reshape(len(codes), known)
        steps = np.tile(self.steps, codes.shape[1])
        scores = np.arctanh((2 * digits + 1) / steps - 1) * SPREAD * self.deviations[:known]
        return np.asarray(scores @ self.directions[:, :known].T + self.mean, dtype=np.float32)

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """Arrays from which `from_state` makes an equal tokenizer."""
        arrays = {"mean": self.mean, "directions": self.directions, "deviations": self.deviations}
        return {**arrays, "steps": np.array(self.steps, np.int64)}

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray[np.generic]]) -> "FittedFiniteScalar":
        """The tokenizer that `state` described."""
        names = ("mean", "directions", "deviations")
        mean, directions, deviations = (np.asarray(state[name], np.float32) for name in names)
        return cls(mean, directions, deviations, tuple(int(step) for step in state["steps"]))
