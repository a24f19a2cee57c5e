"""Product codes: the vector is rotated and cut into parts, and each part is clustered by itself.

Sources: product quantisation, Jegou et al. 2011; its learned rotation, Ge et al., CVPR 2013 (OPQ); many parallel codes
per item as in RPG, arXiv 2506.05781, which leaves the rotation to faiss.
Kept: the start by eigenvalue allocation (principal directions are dealt out so that all parts get the same product of
variances) and the alternation of assigning, moving centres, and the best rotation for them (orthogonal Procrustes).
Changed: parts may differ in width by one, so that the number of parts need not divide the width; vectors are centred
first; the k-means of each part is ours (free of item order); the last step is a full k-means on the found rotation.

The codes of an item say different things and have no order from coarse to fine: a shared prefix of product codes means
likeness in the first parts alone.

Shape legend: n vectors, dim their width, L parts, K codes of a part; K may differ from part to part.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import FloatArray, Int32Array
from sememe.core.seeding import generator
from sememe.sid.kmeans import distinct_rows, k_means, move_centers, nearest_centers
from sememe.sid.rqkmeans import check_room, check_sizes, check_vectors

VARIANCE_FLOOR = 1e-12
"""Of the largest variance; smaller ones count as this much, so that their logarithms stay finite."""


@dataclass(frozen=True)
class ProductKMeans:
    """Fit one codebook of `codebook_size` codes for each of `levels` parts of the vector."""

    levels: int = 4
    codebook_size: int | tuple[int, ...] = 256
    """One size for all parts, or one per part."""
    rotate: bool = True
    """Learn a rotation; without it the parts are runs of the vector's own dimensions."""
    rotation_steps: int = 10
    """Alternations of codes and rotation; 0 keeps the start by eigenvalue allocation."""
    iterations: int = 30
    """At most this many of the k-means of a part."""
    max_fit_rows: int = 131_072
    """Larger catalogues are fitted on a sample of this size, and all items are encoded."""

    def fit(self, vectors: FloatArray, *, seed: int) -> "FittedProductKMeans":
        """Fit on float32 (n, dim); the order of the rows does not matter.  Raises DataError where dim < levels."""
        sizes = check_sizes(self.levels, self.codebook_size)
        self._check()
        check_vectors(vectors)
        check_room(sizes, items=len(vectors))
        if vectors.shape[1] < self.levels:
            raise DataError(
                f"item vectors are {vectors.shape[1]} wide, too narrow for {self.levels} parts",
                fix="give fewer levels or wider vectors",
            )
        rows = self._sample(vectors, seed=seed)
        mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        centred = rows - mean
        rotation = np.eye(rows.shape[1], dtype=np.float32)
        if self.rotate:
            rotation = allocate_directions(centred, parts=self.levels)
            rotation = self._alternate(centred, rotation, sizes=sizes, seed=seed)
        rotated: FloatArray = centred @ rotation
        return FittedProductKMeans(mean, rotation, self._codebooks(rotated, sizes=sizes, seed=seed))

    def _check(self) -> None:
        least = {"iterations": 1, "max_fit_rows": 1, "rotation_steps": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ConfigError(f"ProductKMeans got {name}={getattr(self, name)}", fix=f"give at least {bound}")

    def _sample(self, vectors: FloatArray, *, seed: int) -> FloatArray:
        """All vectors in canonical order, equal ones side by side, or a sample of them."""
        distinct = distinct_rows(vectors)
        rows = distinct.rows.repeat(distinct.counts, axis=0)
        if len(rows) <= self.max_fit_rows:
            return rows
        rng = generator(seed, "sid", "product", "sample")
        return rows[np.sort(rng.choice(len(rows), self.max_fit_rows, replace=False))]

    def _codebooks(self, rotated: FloatArray, *, sizes: tuple[int, ...], seed: int) -> list[FloatArray]:
        """L times (K, width of the part)."""
        return [
            k_means(
                part,
                num_clusters=size,
                rng=generator(seed, "sid", "product", level),
                max_iterations=self.iterations,
                max_fit_rows=self.max_fit_rows,
            ).centers
            for level, (part, size) in enumerate(zip(split(rotated, self.levels), sizes, strict=True))
        ]

    def _alternate(self, centred: FloatArray, rotation: FloatArray, *, sizes: tuple[int, ...], seed: int) -> FloatArray:
        """Ge et al., section 3.1: codes and centres for the rotation, then the rotation for the codes."""
        if self.rotation_steps == 0:
            return rotation
        weights = np.ones(len(centred), np.float32)
        books = self._codebooks(centred @ rotation, sizes=sizes, seed=seed)
        for _ in range(self.rotation_steps):
            rotated: FloatArray = centred @ rotation
            rebuilt: list[FloatArray] = []
            for level, part in enumerate(split(rotated, self.levels)):
                labels, distances = nearest_centers(part, books[level])
                books[level] = move_centers(part, weights, labels=labels, distances=distances, centers=books[level])
                rebuilt.append(books[level][labels])
            rotation = best_rotation(centred, np.concatenate(rebuilt, axis=1))
        return rotation


@dataclass(frozen=True, eq=False)
class FittedProductKMeans:
    """Turns vectors into codes and codes into the vectors they stand for."""

    rebuilds_prefixes: ClassVar[bool] = True
    """`reconstruct` takes the first codes alone, too."""

    mean: FloatArray
    """(dim,)"""
    rotation: FloatArray
    """(dim, dim), orthogonal"""
    codebooks: Sequence[FloatArray]
    """L times (K, width of the part)"""

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """(L,)"""
        return tuple(len(book) for book in self.codebooks)

    def encode(self, vectors: FloatArray) -> Int32Array:
        """int32 (n, L); equal vectors get equal codes wherever they stand in the input."""
        check_vectors(vectors, dim=len(self.mean))
        distinct = distinct_rows(vectors)
        centred: FloatArray = distinct.rows - self.mean
        rotated: FloatArray = centred @ self.rotation
        pairs = zip(split(rotated, len(self.codebooks)), self.codebooks, strict=True)
        return np.stack([nearest_centers(part, book)[0] for part, book in pairs], axis=1)[distinct.inverse]

    def reconstruct(self, codes: Int32Array) -> FloatArray:
        """float32 (n, dim): the centres of codes (n, l), l <= L, side by side, rotated back; unknown parts are mean."""
        books = self.codebooks[: codes.shape[1]]
        rebuilt = np.concatenate([book[codes[:, level]] for level, book in enumerate(books)], axis=1)
        known = self.rotation[:, : rebuilt.shape[1]]
        return np.asarray(rebuilt @ known.T + self.mean, dtype=np.float32)

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """Arrays from which `from_state` makes an equal tokenizer: centres of all parts side by side in "codebook", and
        "sizes" where parts have different numbers of them: zeros fill up the others."""
        sizes = np.array(self.codebook_sizes, np.int64)
        padded = [np.pad(book, ((0, int(sizes.max()) - len(book)), (0, 0))) for book in self.codebooks]
        arrays: dict[str, npt.NDArray[np.generic]] = {
            "mean": self.mean,
            "rotation": self.rotation,
            "codebook": np.concatenate(padded, axis=1),
            "levels": np.array([len(sizes)], np.int64),
        }
        return arrays if len(set(self.codebook_sizes)) == 1 else {**arrays, "sizes": sizes}

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray[np.generic]]) -> "FittedProductKMeans":
        """The tokenizer that `state` described."""
        mean, rotation, codebook = (np.asarray(state[name], np.float32) for name in ("mean", "rotation", "codebook"))
        books = split(codebook, int(state["levels"][0]))
        sizes = state.get("sizes", np.full(len(books), len(codebook)))
        return cls(mean, rotation, [book[: int(size)] for book, size in zip(books, sizes, strict=True)])


def split(matrix: FloatArray, parts: int) -> list[FloatArray]:
    """Views of the columns of each part; the first parts are one wider where `parts` does not divide the width."""
    return np.array_split(matrix, parts, axis=1)


def allocate_directions(centred: FloatArray, *, parts: int) -> FloatArray:
    """(dim, dim) principal directions as columns, dealt out to the parts (Ge et al., section 3.2).

    By falling variance, each direction goes to the part whose product of variances is the smallest and that has room.
    """
    rows = centred.astype(np.float64)
    variances, directions = np.linalg.eigh(rows.T @ rows / len(rows))
    # The largest entry of each direction is made positive: its sign means nothing, and must not be left to chance.
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.where(directions[largest, np.arange(len(largest))] < 0, -1, 1)
    floor = VARIANCE_FLOOR * max(float(variances[-1]), VARIANCE_FLOOR)
    widths = [len(part) for part in np.array_split(variances, parts)]
    chosen: list[list[int]] = [[] for _ in widths]
    # In units of the floor, so that every direction adds to a product and none shrinks it.
    products = np.zeros(parts)
    for direction in range(len(variances))[::-1]:
        open_parts = [part for part, width in enumerate(widths) if len(chosen[part]) < width]
        part = min(open_parts, key=lambda one: products[one])
        chosen[part].append(direction)
        products[part] += np.log(max(float(variances[direction]), floor) / floor)
    order = [direction for part in chosen for direction in part]
    return np.ascontiguousarray(directions[:, order], dtype=np.float32)


def best_rotation(centred: FloatArray, rebuilt: FloatArray) -> FloatArray:
    """The orthogonal (dim, dim) R for which |centred R - rebuilt|^2 is smallest (Procrustes)."""
    left, _, right = np.linalg.svd(centred.T.astype(np.float64) @ rebuilt.astype(np.float64))
    return np.asarray(left @ right, dtype=np.float32)
