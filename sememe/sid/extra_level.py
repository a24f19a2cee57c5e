"""One more residual level where items collide.

Source: the de-duplication level of MiniOneRec's constrained residual k-means, and of OneRec-style pipelines with it:
k-means on what all levels so far leave over.
Kept: just that.  Changed: items that still collide (those with equal vectors do) are numbered on a further level, which
is there only where it is needed.

Shape legend: n vectors, dim their width, L levels of the tokenizer, K codes of the extra one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import Codes, FloatArray, Int32Array
from sememe.core.seeding import generator
from sememe.sid.collisions import CollisionToken, tuple_groups
from sememe.sid.encode import Settled
from sememe.sid.fitted import FittedTokenizer, pack_tokenizer, unpack_tokenizer
from sememe.sid.kmeans import distinct_rows, k_means, nearest_centers

BASE = "base."


@dataclass(frozen=True)
class ExtraLevel:
    """Append a level of `size` codes, fitted by k-means on the residuals of all items."""

    size: int = 256
    token: int = 256
    """Codes of a further level that numbers the items which still collide; 0: such items are an error."""
    iterations: int = 50
    """At most this many of the k-means."""

    def settle(self, matrix: Int32Array, *, tokenizer: FittedTokenizer, vectors: FloatArray, seed: int) -> Settled:
        """Codes (n, L + 1) or, where items still collide, (n, L + 2), whose rows are all different.

        Raises:
            ConfigError: a size that cannot be.
            DataError: more items share all codes than can be told apart.
        """
        self._check()
        residual = vectors - tokenizer.reconstruct(matrix)
        found = k_means(
            residual,
            num_clusters=self.size,
            rng=generator(seed, "sid", "extra_level"),
            max_iterations=self.iterations,
        )
        # With fewer different residuals than codes the surplus repeats real centres: never first in a tie, so unused.
        centers = np.resize(found.centers[: int(found.labels.max()) + 1], found.centers.shape)
        extended = FittedExtraLevel(tokenizer, centers)
        wide = np.ascontiguousarray(np.column_stack([matrix.astype(np.int32), found.labels]))
        return Settled(self._tell_apart(wide, extended.codebook_sizes), extended)

    def _tell_apart(self, wide: Int32Array, sizes: tuple[int, ...]) -> Codes:
        """The codes `wide` (n, L + 1) as they are where all differ, else with a token."""
        counts = np.bincount(tuple_groups(wide, sizes))
        # The extra level only tells items apart: what codes are worth is judged on the tokenizer's own.
        levels = len(sizes) - 1
        if counts.max() == 1:
            return Codes(wide, sizes, num_semantic_levels=levels, collisions="extra")
        if self.token == 0:
            raise DataError(
                f"{int(counts[counts > 1].sum())} items still share all their codes with another after an extra level "
                f"of {self.size}",
                fix="give items a finer signal (more text fields, collaborative vectors), a larger extra level, or "
                "allow a token: ExtraLevel(token=256)",
            )
        numbered = CollisionToken(size=self.token).resolve(wide, sizes)
        return replace(numbered, num_semantic_levels=levels, collisions="extra")

    def _check(self) -> None:
        for name, least in {"size": 2, "token": 0, "iterations": 1}.items():
            if getattr(self, name) < least:
                raise ConfigError(f"ExtraLevel got {name}={getattr(self, name)}", fix=f"give at least {least}")


@dataclass(frozen=True, eq=False)
class FittedExtraLevel:
    """A fitted tokenizer with one more level: the nearest centre of what it leaves over."""

    base: FittedTokenizer
    centers: FloatArray
    """(K, dim)"""

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """(L + 1,)"""
        return (*self.base.codebook_sizes, len(self.centers))

    def encode(self, vectors: FloatArray) -> Int32Array:
        """int32 (n, L + 1); equal vectors get equal codes wherever they stand in the input."""
        codes = self.base.encode(vectors)
        # In one canonical order, since the products of matrices round by place.
        distinct = distinct_rows(vectors - self.base.reconstruct(codes))
        return np.column_stack([codes, nearest_centers(distinct.rows, self.centers)[0][distinct.inverse]])

    def reconstruct(self, codes: Int32Array) -> FloatArray:
        """float32 (n, dim): what the tokenizer says, and the extra level's centre."""
        return self.base.reconstruct(codes[:, :-1]) + self.centers[codes[:, -1]]

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """Arrays from which `from_state` makes an equal tokenizer."""
        return {"centers": self.centers, **pack_tokenizer(self.base, prefix=BASE)}

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray[np.generic]]) -> "FittedExtraLevel":
        """The tokenizer that `state` described."""
        return cls(unpack_tokenizer(state, prefix=BASE), np.asarray(state["centers"], np.float32))
