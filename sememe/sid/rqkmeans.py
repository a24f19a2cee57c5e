"""Residual k-means: a semantic ID by clustering the vectors, then what the clusters leave over, and so on.

Sources: the residual quantiser of Juang & Gray 1982 as OneRec (arXiv 2502.18965) uses it for semantic IDs.  Kept: one
k-means per level on the residuals of the level before.  It has no network to train: minutes become seconds, nothing
collapses, and it is the yardstick that a learned quantiser has to beat.

Shape legend: n vectors, dim their width, L levels, K codes per level; K may differ from level to level.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import FloatArray, Int32Array
from sememe.core.seeding import generator
from sememe.sid.kmeans import equal_rows, k_means

RESIDUAL_ROWS = 1_024
"""Vectors that are coded at once: their residuals and their products with all codes of a level stay in the cache."""
LONGEST = 1e15
"""Of a vector: sums of larger squared distances over a catalogue overflow in float32 (3e38), and then the nearest code
is any."""


@dataclass(frozen=True)
class ResidualKMeans:
    """Fit `levels` codebooks of `codebook_size` codes by k-means on residuals."""

    levels: int = 3
    codebook_size: int | tuple[int, ...] = 256
    """One size for all levels, or one per level."""
    iterations: int = 50
    """At most this many per level; it stops when no vector changes its code."""
    max_fit_rows: int = 131_072
    """Larger catalogues are fitted on a sample of this size, and all items are encoded."""
    items_per_code: int = 0
    """0 takes the sizes as they are; n > 0 halves those for which the catalogue has fewer than n items per code."""

    def fit(self, vectors: FloatArray, *, seed: int) -> "FittedResidualKMeans":
        """Fit on float32 (n, dim); the order of the rows does not matter.

        Raises:
            ConfigError: settings that cannot be, or a level with more codes than there are items.
            DataError: vectors that cannot be used.
        """
        check_vectors(vectors)
        sizes = self._sizes(len(vectors))
        check_room(sizes, items=len(vectors))
        residual = vectors.astype(np.float32)
        codebooks = []
        for level, size in enumerate(sizes):
            found = k_means(
                residual,
                num_clusters=size,
                rng=generator(seed, "sid", "rqkmeans", level),
                max_iterations=self.iterations,
                max_fit_rows=self.max_fit_rows,
            )
            codebooks.append(found.centers)
            residual = residual - found.centers[found.labels]
        return FittedResidualKMeans(tuple(codebooks))

    def _sizes(self, items: int) -> tuple[int, ...]:
        """(L,) codes of each level for a catalogue of so many items."""
        if self.iterations < 1 or self.items_per_code < 0:
            raise ConfigError(
                f"ResidualKMeans got iterations={self.iterations}, items_per_code={self.items_per_code}",
                fix="give iterations >= 1 and items_per_code >= 0",
            )
        sizes = check_sizes(self.levels, self.codebook_size)
        return (
            tuple(_halved(size, most=items // self.items_per_code) for size in sizes) if self.items_per_code else sizes
        )


def _halved(size: int, *, most: int) -> int:
    """`size`, halved until it is at most `most`, and 2 at least."""
    while size > max(2, most):
        size = max(2, size // 2)
    return size


@dataclass(frozen=True, eq=False)
class FittedResidualKMeans:
    """Turns vectors into codes and codes into the vectors they stand for."""

    rebuilds_prefixes: ClassVar[bool] = True
    """`reconstruct` takes the first codes alone, too."""

    codebooks: Sequence[FloatArray]
    """L times (K, dim)"""

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """(L,)"""
        return tuple(len(codebook) for codebook in self.codebooks)

    def encode(self, vectors: FloatArray) -> Int32Array:
        """int32 (n, L); equal vectors get equal codes wherever they stand in the input."""
        check_vectors(vectors, dim=self.codebooks[0].shape[1])
        # How a product rounds may depend on where a row stands: the first of equal vectors speaks for all.
        equal = equal_rows(vectors)
        return quantize_residuals(vectors, self.codebooks)[equal.first][equal.inverse]

    def reconstruct(self, codes: Int32Array) -> FloatArray:
        """float32 (n, dim): the sum of the codes' centres, of codes (n, l) with l <= L."""
        return sum_of_centers(codes, self.codebooks)

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """Arrays from which `from_state` makes an equal tokenizer."""
        return pack_codebooks(self.codebooks)

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray[np.generic]]) -> "FittedResidualKMeans":
        """The tokenizer that `state` described."""
        return cls(unpack_codebooks(state))


def quantize_residuals(vectors: FloatArray, codebooks: Sequence[FloatArray] | FloatArray) -> Int32Array:
    """Nearest code of each level's residual, int32 (n, L), for vectors (n, dim) and L codebooks (K, dim)."""
    codes = np.empty((len(vectors), len(codebooks)), np.int32)
    # |r - c|^2 / 2 = |r|^2 / 2 - (r.c - |c|^2 / 2): the nearest code has the largest bracket.
    books = [(codebook, codebook.T, 0.5 * np.einsum("kd,kd->k", codebook, codebook)) for codebook in codebooks]
    rows = min(RESIDUAL_ROWS, len(vectors))
    # Made once: fresh pages for each block would cost as much as the subtractions.
    residuals, chosen = (np.empty((rows, vectors.shape[1]), np.float32) for _ in range(2))
    affinities = [np.empty((rows, len(codebook)), np.float32) for codebook in codebooks]
    for start in range(0, len(vectors), RESIDUAL_ROWS):
        block = vectors[start : start + RESIDUAL_ROWS]
        residual = residuals[: len(block)]
        residual[:] = block
        for level, (codebook, turned, half_norms) in enumerate(books):
            affinity = np.matmul(residual, turned, out=affinities[level][: len(block)])
            affinity -= half_norms
            codes[start : start + RESIDUAL_ROWS, level] = best = affinity.argmax(axis=1)
            if level + 1 < len(books):
                residual -= np.take(codebook, best, axis=0, out=chosen[: len(block)], mode="clip")
    return codes


def sum_of_centers(codes: Int32Array, codebooks: Sequence[FloatArray]) -> FloatArray:
    """What codes (n, l) of the first l <= L levels stand for, float32 (n, dim)."""
    total = np.zeros((len(codes), codebooks[0].shape[1]), np.float32)
    for level, codebook in enumerate(codebooks[: codes.shape[1]]):
        total += codebook[codes[:, level]]
    return total


def pack_codebooks(codebooks: Sequence[FloatArray]) -> dict[str, npt.NDArray[np.generic]]:
    """ "codebooks" (L, largest K, dim), and "sizes" (L,) where they differ: zeros fill up the smaller ones."""
    sizes = [len(codebook) for codebook in codebooks]
    packed = np.zeros((len(codebooks), max(sizes), codebooks[0].shape[1]), np.float32)
    for level, codebook in enumerate(codebooks):
        packed[level, : sizes[level]] = codebook
    return {"codebooks": packed} if len(set(sizes)) == 1 else {"codebooks": packed, "sizes": np.array(sizes, np.int64)}


def unpack_codebooks(state: Mapping[str, npt.NDArray[np.generic]]) -> tuple[FloatArray, ...]:
    """The codebooks that `pack_codebooks` packed."""
    packed = np.asarray(state["codebooks"], dtype=np.float32)
    sizes = state.get("sizes", np.full(len(packed), packed.shape[1]))
    return tuple(codebook[: int(size)] for codebook, size in zip(packed, sizes, strict=True))


def check_sizes(levels: int, codebook_size: int | tuple[int, ...]) -> tuple[int, ...]:
    """The size of each level, (L,).

    Raises ConfigError for a shape of codes that cannot be.
    """
    sizes = (codebook_size,) * levels if isinstance(codebook_size, int) else tuple(codebook_size)
    if levels < 1 or min(sizes, default=0) < 2:
        raise ConfigError(
            f"semantic IDs of levels={levels} with codebook_size={codebook_size} tell no items apart",
            fix="give levels >= 1 and codebook_size >= 2",
        )
    if len(sizes) != levels:
        raise ConfigError(
            f"codebook_size={codebook_size} names {len(sizes)} sizes for levels={levels}",
            fix="give one size for all levels, or one size per level",
        )
    return sizes


def check_room(sizes: tuple[int, ...], *, items: int, of: str = "items") -> None:
    """Raise ConfigError where a codebook is larger than a catalogue of so many items; `of` says what they are."""
    if max(sizes) > items:
        raise ConfigError(
            f"codebooks of {sizes} codes are larger than the catalogue of {items} {of}",
            fix=f"give codebooks of at most as many codes as there are {of}; an eighth of them is plenty",
        )


def check_vectors(vectors: FloatArray, *, dim: int | None = None, of: str = "item") -> None:
    """Raise DataError for vectors that cannot be quantised; `of` says whose they are."""
    if vectors.ndim != 2 or 0 in vectors.shape:
        raise DataError(f"{of} vectors have shape {vectors.shape}", fix="give one row per item: (items, dim)")
    if dim is not None and vectors.shape[1] != dim:
        raise DataError(
            f"{of} vectors are {vectors.shape[1]} wide, the tokenizer was fitted on width {dim}",
            fix="embed them with the part and model that the tokenizer was fitted on",
        )
    most = LONGEST / float(np.sqrt(vectors.shape[1]))
    # NaN is neither above nor below, so that two extremes tell whether anything is wrong.
    if -most <= vectors.min() and vectors.max() <= most:
        return
    for wrong, what, fix in (
        (~np.isfinite(vectors), "hold NaN or infinity", "repair or leave out these vectors"),
        (
            np.abs(vectors) > most,
            f"hold numbers beyond {most:.2g}, too large to measure distances",
            "scale the vectors",
        ),
    ):
        bad = np.flatnonzero(wrong.any(axis=1))
        if len(bad):
            raise DataError(
                f"{len(bad)} of {len(vectors)} {of} vectors {what}, first at {of} index {bad[0]}",
                fix=f"{fix}; a zero vector stands for 'nothing known'",
            )
