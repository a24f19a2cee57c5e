"""Residual k-means: a semantic ID by clustering the vectors, then what the clusters leave over, and so on.

Sources: the residual quantiser of Juang & Gray 1982 as OneRec (arXiv 2502.18965) uses it for semantic IDs.  Kept: one
k-means per level on the residuals of the level before.  It has no network to train: minutes become seconds, nothing
collapses, and it is the yardstick that a learned quantiser has to beat.

Shape legend: n vectors, dim their width, L levels, K codes per level.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import FloatArray, Int32Array
from sememe.core.seeding import generator
from sememe.sid.kmeans import distinct_rows, k_means, nearest_centers


@dataclass(frozen=True)
class ResidualKMeans:
    """Fit `levels` codebooks of `codebook_size` codes by k-means on residuals."""

    levels: int = 3
    codebook_size: int = 256
    iterations: int = 50
    """At most this many per level; it stops when no vector changes its code."""
    max_fit_rows: int = 131_072
    """Larger catalogues are fitted on a sample of this size, and all items are encoded."""

    def fit(self, vectors: FloatArray, *, seed: int) -> "FittedResidualKMeans":
        """Fit on float32 (n, dim); the order of the rows does not matter."""
        check_sizes(self.levels, self.codebook_size)
        if self.iterations < 1:
            raise ConfigError(f"ResidualKMeans got iterations={self.iterations}", fix="give at least 1")
        check_vectors(vectors)
        residual = vectors.astype(np.float32)
        codebooks = []
        for level in range(self.levels):
            found = k_means(
                residual,
                num_clusters=self.codebook_size,
                rng=generator(seed, "sid", "rqkmeans", level),
                max_iterations=self.iterations,
                max_fit_rows=self.max_fit_rows,
            )
            codebooks.append(found.centers)
            residual = residual - found.centers[found.labels]
        return FittedResidualKMeans(np.stack(codebooks))


@dataclass(frozen=True, eq=False)
class FittedResidualKMeans:
    """Turns vectors into codes and codes into the vectors they stand for."""

    codebooks: FloatArray
    """(L, K, dim)"""

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """(L,)"""
        return (int(self.codebooks.shape[1]),) * len(self.codebooks)

    def encode(self, vectors: FloatArray) -> Int32Array:
        """int32 (n, L); equal vectors get equal codes wherever they stand in the input."""
        check_vectors(vectors, dim=self.codebooks.shape[2])
        distinct = distinct_rows(vectors)
        return quantize_residuals(distinct.rows, self.codebooks)[distinct.inverse]

    def reconstruct(self, codes: Int32Array) -> FloatArray:
        """float32 (n, dim): the sum of the codes' centres."""
        total = np.zeros((len(codes), self.codebooks.shape[2]), np.float32)
        for level, codebook in enumerate(self.codebooks):
            total += codebook[codes[:, level]]
        return total

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """Arrays from which `from_state` makes an equal tokenizer."""
        return {"codebooks": self.codebooks}

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray[np.generic]]) -> "FittedResidualKMeans":
        """The tokenizer that `state` described."""
        return cls(np.asarray(state["codebooks"], dtype=np.float32))


def quantize_residuals(vectors: FloatArray, codebooks: FloatArray) -> Int32Array:
    """Nearest code of each level's residual, int32 (n, L), for vectors (n, dim) and codebooks (L, K, dim)."""
    codes = np.empty((len(vectors), len(codebooks)), np.int32)
    residual = vectors.astype(np.float32, copy=True)
    for level, codebook in enumerate(codebooks):
        codes[:, level], _ = nearest_centers(residual, codebook)
        residual -= codebook[codes[:, level]]
    return codes


def check_sizes(levels: int, codebook_size: int) -> None:
    """Raise ConfigError for a shape of codes that cannot be."""
    if levels < 1 or codebook_size < 2:
        raise ConfigError(
            f"semantic IDs of levels={levels} with codebook_size={codebook_size} tell no items apart",
            fix="give levels >= 1 and codebook_size >= 2",
        )


def check_vectors(vectors: FloatArray, *, dim: int | None = None) -> None:
    """Raise DataError for vectors that cannot be quantised."""
    if vectors.ndim != 2 or 0 in vectors.shape:
        raise DataError(f"item vectors have shape {vectors.shape}", fix="give one row per item: (items, dim)")
    if dim is not None and vectors.shape[1] != dim:
        raise DataError(
            f"item vectors are {vectors.shape[1]} wide, the tokenizer was fitted on width {dim}",
            fix="embed the items with the part and model that the tokenizer was fitted on",
        )
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise DataError(
            f"{len(bad)} of {len(vectors)} item vectors hold NaN or infinity, first at item index {bad[0]}",
            fix="repair or leave out these vectors; a zero vector stands for 'nothing known'",
        )
