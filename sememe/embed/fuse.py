"""Several item vectors made into one: bring each to the same scale, fill gaps, weight, concatenate, optionally whiten.

A gap is an item that one part knows and another does not: a new item has words and no co-occurrence.  Left at zero, it
would set new items apart from all others and together with each other, and a tokenizer would give them codes that say
"new" and little else.  So a gap takes what the item's nearest neighbours in the other parts have there, as attributes
stand in for behaviour in cold-start recommendation (Gantner et al., "Learning Attribute-to-Feature Mappings for
Cold-Start Recommendations", ICDM 2010).

Shape legend: I items, dim the width of a part's vectors, D the sum of the widths, G gaps, N items known to all parts.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sememe.core.errors import ConfigError, DataError, NothingToEmbedError
from sememe.core.schema import Catalog, FloatArray, Int32Array, Interactions

CHUNK_COSINES = 20_000_000
"""Cosines of gaps with known items held at once: 80 MB."""

_log = logging.getLogger(__name__)


class Embedder(Protocol):
    """Any part that makes one vector per item."""

    def embed(self, catalog: Catalog, train: Interactions, *, seed: int) -> FloatArray: ...


@dataclass(frozen=True)
class ProvidedVectors:
    """The vectors that came with the catalogue."""

    def embed(self, catalog: Catalog, train: Interactions, *, seed: int) -> FloatArray:
        """float32 (I, dim) as given.  Raises DataError where the catalogue has none, or where they are not finite."""
        if catalog.vectors is None:
            raise DataError(
                "the catalogue has no vectors",
                fix="give items a list column of numbers, or embed their text with TextEmbedder()",
            )
        vectors = np.ascontiguousarray(catalog.vectors, dtype=np.float32)
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            raise DataError(
                f"the vector of item {catalog.frame['item_id'][int(bad[0])]} holds NaN or infinity "
                f"({len(bad)} such items)",
                fix="repair these vectors, or set them to zero: a zero vector stands for 'nothing known'",
            )
        return vectors


@dataclass(frozen=True)
class Fuse:
    """Concatenate the vectors of `parts`: each part's vector of an item is scaled to length 1, then by its weight."""

    parts: tuple[Embedder, ...] = ()
    weights: tuple[float, ...] = ()
    """One per part; empty for equal weights."""
    neighbors: int = 0
    """0 leaves gaps at zero; n > 0 fills each from the n nearest items that all parts know."""
    whiten: int = 0
    """0 keeps the concatenation; n > 0 projects on its n leading principal directions, each scaled to variance 1."""

    @property
    def num_parts(self) -> int:
        """How many parts of the joined vectors can be told apart: whitening mixes them."""
        return 1 if self.whiten else len(self.parts)

    def embed(self, catalog: Catalog, train: Interactions, *, seed: int) -> FloatArray:
        """float32 (I, D), or (I, whiten).  An item unknown to every part keeps a zero row."""
        return self.join(self.embed_parts(catalog, train, seed=seed))

    def embed_parts(self, catalog: Catalog, train: Interactions, *, seed: int) -> list[FloatArray]:
        """float32 (I, dim) of each part, as it is; (I, 1) zeros of a part that finds nothing, unless none finds any.

        Raises:
            NothingToEmbedError: no part finds anything to read; the error is the first part's.
        """
        self._check()
        vectors, nothing = [], []
        for part in self.parts:
            try:
                vectors.append(part.embed(catalog, train, seed=seed))
            except NothingToEmbedError as error:
                _log.warning("%s finds nothing to read: %s", type(part).__name__, error.problem)
                nothing.append(error)
                vectors.append(np.zeros((catalog.num_items, 1), np.float32))
        if len(nothing) == len(self.parts):
            raise nothing[0]
        for part, made in zip(self.parts, vectors, strict=True):
            _log.info("%s: %d of %d items unknown", type(part).__name__, int((~made.any(axis=1)).sum()), len(made))
        return vectors

    def join(self, vectors: list[FloatArray]) -> FloatArray:
        """What `embed` makes of the vectors of the parts."""
        weights = self.weights or (1.0,) * len(vectors)
        units = [unit_rows(made) for made in vectors]
        if self.neighbors:
            units = fill_gaps(units, neighbors=self.neighbors)
        joined = np.concatenate(
            [np.float32(weight) * unit for weight, unit in zip(weights, units, strict=True)], axis=1
        )
        return whitened(joined, num_directions=self.whiten) if self.whiten else joined

    def extend(self, joined: FloatArray, widths: Sequence[int], new: list[FloatArray]) -> FloatArray:
        """float32 (n, D) for items that came after `joined` (I, D) was made, in the same space.

        A gap of a new item is filled from the items of `joined`; those stay as they are.

        Args:
            joined: what `embed` made of the known items.
            widths: of its parts.
            new: (n, dim) of each part, as it is; zeros where a part knows nothing, as those that read the log.

        Raises:
            ConfigError: whitening mixed the parts.
            DataError: the parts of the new items have other widths.
        """
        self.check_extends()
        if [part.shape[1] for part in new] != list(widths):
            raise DataError(
                f"new items have parts of widths {[part.shape[1] for part in new]}, the known ones {list(widths)}",
                fix="embed them with the same parts and models",
            )
        ends = np.cumsum(widths)
        known = [unit_rows(joined[:, end - width : end]) for end, width in zip(ends, widths, strict=True)]
        # What was borrowed counts as known here: it is what the known items' own codes were made from.
        together = [np.concatenate([before, unit_rows(part)]) for before, part in zip(known, new, strict=True)]
        return self.join(together)[len(joined) :]

    def check_extends(self) -> None:
        """Raise ConfigError where later items cannot be put into the space of the known ones."""
        if self.whiten:
            raise ConfigError(
                "Fuse(whiten=...) keeps no directions that later items could be put along",
                fix="set embed.whiten=0, or embed all items again",
            )

    def without_log(self, joined: FloatArray, widths: Sequence[int], new: Int32Array) -> FloatArray:
        """(I, D) `joined` as it were, had the log held no event of the items `new` (n,).

        widths: of the parts of `joined`.  Parts that read the log say so by `reads_log`; what they say of other items
        is left as it is.  Parts that were mixed by whitening cannot be told apart, and stay, unless all read the log.
        """
        result = joined.copy()
        reads_log = [getattr(part, "reads_log", False) for part in self.parts]
        if all(reads_log):
            result[new] = 0
            return result
        if self.whiten or len(widths) != len(self.parts) or not any(reads_log):
            return result
        ends = np.cumsum(widths)
        units = [unit_rows(joined[:, end - width : end]) for end, width in zip(ends, widths, strict=True)]
        for reads, unit in zip(reads_log, units, strict=True):
            if reads:
                unit[new] = 0
        result[new] = self.join(units)[new]
        return result

    def _check(self) -> None:
        weights = self.weights or (1.0,) * len(self.parts)
        if not self.parts or len(weights) != len(self.parts) or min(weights) < 0 or max(weights) == 0:
            raise ConfigError(
                f"Fuse got {len(self.parts)} parts and weights {self.weights}",
                fix="give at least one part, and one weight >= 0 per part (or none), not all 0",
            )
        if self.neighbors < 0:
            raise ConfigError(f"neighbors of Fuse is {self.neighbors}", fix="give 0, or how many neighbours fill a gap")


def fill_gaps(parts: list[FloatArray], *, neighbors: int) -> list[FloatArray]:
    """`parts` (I, dim) with rows of length 1 or 0, and fewer rows of length 0.

    A zero row that another part knows becomes the mean of the part's rows at the item's nearest neighbours, by cosine
    in the other parts and weighted by it, scaled to length 1; it stays zero where no neighbour has a positive cosine.
    """
    known = np.stack([part.any(axis=1) for part in parts])
    complete = np.flatnonzero(known.all(axis=0))
    filled = [part.copy() for part in parts]
    if len(complete) == 0:
        return filled
    for number, part in enumerate(parts):
        # Parts that do not know the item have zeros, which add nothing to a product.
        others = unit_rows(
            np.concatenate([np.zeros((len(part), 1), np.float32), *parts[:number], *parts[number + 1 :]], 1)
        )
        gaps = np.flatnonzero(~known[number] & known.any(axis=0))
        rows = max(1, CHUNK_COSINES // len(complete))
        for start in range(0, len(gaps), rows):
            chunk = gaps[start : start + rows]
            filled[number][chunk] = _borrowed(others[chunk] @ others[complete].T, part[complete], neighbors=neighbors)
    return filled


def _borrowed(cosines: FloatArray, donors: FloatArray, *, neighbors: int) -> FloatArray:
    """(G, dim) for gaps with `cosines` (G, N) to the items that have `donors` (N, dim)."""
    count = min(neighbors, cosines.shape[1])
    nearest = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
    weight = np.maximum(np.take_along_axis(cosines, nearest, axis=1), 0)
    return unit_rows(np.einsum("gn,gnd->gd", weight, donors[nearest]))


def unit_rows(vectors: FloatArray) -> FloatArray:
    """Each row divided by its length; zero rows stay zero.

    Raises DataError for a row whose length overflows: divided by infinity, it would pass for one of which nothing is
    known.
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    endless = np.flatnonzero(~np.isfinite(norms))
    if len(endless):
        raise DataError(
            f"{len(endless)} of {len(vectors)} vectors are too long to be measured in float32, first at row "
            f"{endless[0]}",
            fix="scale the vectors",
        )
    return np.asarray(vectors / np.where(norms > 0, norms, 1), dtype=np.float32)


def whitened(vectors: FloatArray, *, num_directions: int) -> FloatArray:
    """float32 (I, num_directions): coordinates along the leading principal directions, each of variance 1.

    Mean and directions come from the rows that are not zero; zero rows stay zero.  Raises ConfigError where the vectors
    have fewer directions than asked for.
    """
    known = vectors.any(axis=1)
    centered = vectors[known].astype(np.float64)
    centered -= centered.mean(axis=0)
    values, directions = np.linalg.eigh(centered.T @ centered / max(1, len(centered)))
    values, directions = values[::-1][:num_directions], directions[:, ::-1][:, :num_directions]
    rank = int((values > 1e-10 * values[0]).sum()) if values[0] > 0 else 0
    if rank < num_directions:
        raise ConfigError(
            f"whiten={num_directions}, but the vectors span only {rank} directions", fix=f"give <= {rank}"
        )
    signs = np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(rank)])
    result = np.zeros((len(vectors), rank), np.float32)
    result[known] = centered @ (directions * signs / np.sqrt(values))
    return result
