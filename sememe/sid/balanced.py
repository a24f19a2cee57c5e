"""Balanced residual k-means: every code of a level stands for the same number of items of the catalogue.

Source: OneRec, arXiv 2502.18965: on each level, clusters take turns, each the |V| / K nearest items that are still
free, centres move to their means, until nothing gets better; then residuals, and the next level.
Kept, as assignment="greedy": just that.  The default, assignment="sinkhorn", keeps the equal sizes and lets all
clusters choose at once (`fill_by_prices`): in turns, the last clusters get what the others left over, wherever it lies.
Changed in both:
- "sinkhorn" reaches the least error for given centres where vectors differ, K is 1,024 at most and a level has 2^26
  pairs of a vector and a code at most (262,144 vectors at 256 codes); else it goes in rounds, and comes near it;
- sizes are floor(n / K) or one more, so that K need not divide n;
- rows stand in one canonical order, so the items' order changes nothing;
- two starts, k-means++ and halving, run a few rounds against each other, and the better one goes on;
- centres of large catalogues are learnt from a sample; the sizes hold for all items nevertheless.

The equal sizes are a property of the whole catalogue, so there are two ways to codes.  `assign` codes a catalogue as a
whole, with equal sizes: for the items that were fitted.  `encode` gives each vector its nearest centres by itself: for
items that come later, whose codes must not depend on what else is asked for.  The two differ for items between
clusters.  Equal vectors beyond a cluster's size are shared out over several; which of the equal items goes where
follows their order.

Shape legend: n vectors, dim their width, L levels, K codes of a level, m distinct rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from sememe.core.errors import ConfigError
from sememe.core.schema import FloatArray, Int32Array, Int64Array
from sememe.core.seeding import generator
from sememe.sid.assignment import Fill, Shares, fill_by_prices, fill_in_turn
from sememe.sid.kmeans import distinct_rows, halving_start, plus_plus_start
from sememe.sid.rqkmeans import (
    check_room,
    check_sizes,
    check_vectors,
    pack_codebooks,
    quantize_residuals,
    sum_of_centers,
    unpack_codebooks,
)

FILLS: Mapping[str, Fill] = {"sinkhorn": fill_by_prices, "greedy": fill_in_turn}
RACE = 3
"""Iterations after which the better start goes on alone."""
TOLERANCE = 1e-3
"""An iteration that lowers the squared error by a smaller share is the last."""


@dataclass(frozen=True)
class BalancedKMeans:
    """Fit `levels` codebooks of `codebook_size` codes by k-means with clusters of equal size, on residuals."""

    levels: int = 3
    codebook_size: int | tuple[int, ...] = 256
    """One size for all levels, or one per level."""
    assignment: Literal["sinkhorn", "greedy"] = "sinkhorn"
    iterations: int = 20
    """At most this many per level."""
    max_fit_rows: int = 131_072
    """Centres of larger catalogues are learnt from a sample of this size."""

    def fit(self, vectors: FloatArray, *, seed: int) -> "FittedBalancedKMeans":
        """Fit on float32 (n, dim); the order of the rows does not matter."""
        sizes = check_sizes(self.levels, self.codebook_size)
        self._check()
        check_vectors(vectors)
        check_room(sizes, items=len(vectors))
        pieces = _whole(vectors)
        codebooks: list[FloatArray] = []
        for level, size in enumerate(sizes):
            centers = balanced_centers(
                pieces.residuals,
                pieces.counts,
                num_clusters=size,
                fill=FILLS[self.assignment],
                rng=generator(seed, "sid", "balanced", level),
                iterations=self.iterations,
                max_fit_rows=self.max_fit_rows,
            )
            codebooks.append(centers)
            if level + 1 < len(sizes):
                pieces = _cut(pieces, centers, fill=FILLS[self.assignment])
        return FittedBalancedKMeans(tuple(codebooks), self.assignment)

    def _check(self) -> None:
        for name, value in (("iterations", self.iterations), ("max_fit_rows", self.max_fit_rows)):
            if value < 1:
                raise ConfigError(f"BalancedKMeans got {name}={value}", fix="give at least 1")
        if self.assignment not in FILLS:
            raise ConfigError(
                f"BalancedKMeans got assignment={self.assignment!r}", fix=f"choose one of: {', '.join(sorted(FILLS))}"
            )


@dataclass(frozen=True, eq=False)
class FittedBalancedKMeans:
    """Turns vectors into codes, one by one or as a balanced whole, and codes into the vectors they stand for."""

    rebuilds_prefixes: ClassVar[bool] = True
    """`reconstruct` takes the first codes alone, too."""

    codebooks: Sequence[FloatArray]
    """L times (K, dim)"""
    assignment: str

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """(L,)"""
        return tuple(len(codebook) for codebook in self.codebooks)

    def assign(self, vectors: FloatArray) -> Int32Array:
        """int32 (n, L) for a catalogue as a whole: each code of a level is given floor(n / K) times or once more."""
        check_vectors(vectors, dim=self.codebooks[0].shape[1])
        pieces = _whole(vectors)
        for codebook in self.codebooks:
            pieces = _cut(pieces, codebook, fill=FILLS[self.assignment])
        codes = np.empty((len(vectors), len(self.codebooks)), np.int32)
        codes[np.argsort(distinct_rows(vectors).inverse, kind="stable")] = pieces.codes.repeat(pieces.counts, axis=0)
        return codes

    def encode(self, vectors: FloatArray) -> Int32Array:
        """int32 (n, L): the nearest code of each level's residual, whatever the other vectors are."""
        check_vectors(vectors, dim=self.codebooks[0].shape[1])
        distinct = distinct_rows(vectors)
        return quantize_residuals(distinct.rows, self.codebooks)[distinct.inverse]

    def reconstruct(self, codes: Int32Array) -> FloatArray:
        """float32 (n, dim): the sum of the codes' centres, of codes (n, l) with l <= L."""
        return sum_of_centers(codes, self.codebooks)

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """Arrays from which `from_state` makes an equal tokenizer."""
        name = np.frombuffer(self.assignment.encode(), np.uint8)
        return {**pack_codebooks(self.codebooks), "assignment": name}

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray[np.generic]]) -> "FittedBalancedKMeans":
        """The tokenizer that `state` described."""
        return cls(unpack_codebooks(state), state["assignment"].tobytes().decode())


def balanced_centers(
    rows: FloatArray,
    counts: Int64Array,
    *,
    num_clusters: int,
    fill: Fill,
    rng: np.random.Generator,
    iterations: int,
    max_fit_rows: int,
) -> FloatArray:
    """(K, d) centres for rows (m, d) that stand for `counts` vectors each, where `fill` deals them out.

    With fewer distinct rows than clusters, centres repeat.
    """
    if len(rows) > max_fit_rows:
        chosen = np.sort(rng.choice(len(rows), max_fit_rows, replace=False))
        rows, counts = rows[chosen], counts[chosen]
    weights = counts.astype(np.float32)
    active = min(num_clusters, len(rows))
    starts = (
        halving_start(rows, weights, num_clusters=active),
        plus_plus_start(rows, weights, num_clusters=active, rng=rng),
    )
    raced = [
        _improve(rows, counts, centers=np.resize(start, (num_clusters, rows.shape[1])), fill=fill, steps=RACE)
        for start in starts
    ]
    winner = min(raced, key=lambda one: one.error)
    return _improve(rows, counts, centers=winner.centers, fill=fill, steps=iterations).centers


@dataclass(frozen=True, eq=False)
class _Improved:
    centers: FloatArray
    error: float
    """Sum of squared distances where `fill` deals the rows out to these centres."""


def _improve(rows: FloatArray, counts: Int64Array, *, centers: FloatArray, fill: Fill, steps: int) -> _Improved:
    """Deal out and move, until it does not get better, `steps` times at most; the best centres met."""
    best = _Improved(centers, np.inf)
    for _ in range(steps):
        shares = fill(rows, counts, centers)
        error = _squared_error(rows, shares, centers)
        before = best.error
        if error < before:
            best = _Improved(centers, error)
        if error >= (1 - TOLERANCE) * before:
            break
        centers = _means(rows, shares, centers)
    return best


def _squared_error(rows: FloatArray, shares: Shares, centers: FloatArray) -> float:
    apart = rows[shares.rows] - centers[shares.clusters]
    return float(np.einsum("sd,sd->s", apart, apart).astype(np.float64) @ shares.counts)


def _means(rows: FloatArray, shares: Shares, centers: FloatArray) -> FloatArray:
    """Means of the clusters; one that got nothing stays where it is."""
    weights = shares.counts.astype(np.float32)
    membership = sp.csr_matrix((weights, (shares.clusters, shares.rows)), shape=(len(centers), len(rows)))
    mass = np.bincount(shares.clusters, weights=weights, minlength=len(centers)).astype(np.float32)
    means = (membership @ rows) / np.maximum(mass, np.float32(1))[:, None]
    return np.where(mass[:, None] > 0, means, centers).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Pieces:
    """A catalogue cut into groups of equal vectors with equal codes; groups of a vector stand side by side."""

    residuals: FloatArray
    """(m, dim) what the codes so far leave over."""
    counts: Int64Array
    """(m,)"""
    codes: Int32Array
    """(m, levels so far)"""


def _whole(vectors: FloatArray) -> _Pieces:
    distinct = distinct_rows(vectors)
    return _Pieces(distinct.rows, distinct.counts, np.empty((len(distinct.rows), 0), np.int32))


def _cut(pieces: _Pieces, centers: FloatArray, *, fill: Fill) -> _Pieces:
    """One level more."""
    shares = fill(pieces.residuals, pieces.counts, centers)
    return _Pieces(
        pieces.residuals[shares.rows] - centers[shares.clusters],
        shares.counts,
        np.column_stack([pieces.codes[shares.rows], shares.clusters.astype(np.int32)]),
    )
