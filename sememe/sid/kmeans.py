"""k-means on one machine: seeded start, matrix products in chunks, revived empty clusters, a result free of item order.

Sources: Lloyd 1982; Arthur & Vassilvitskii 2007 (k-means++).  Kept: both.  Changed: a second start by halving cells
along principal directions, because k-means++ leaves most codes unused on real embeddings; the distinct vectors are put
into one canonical order first, so the items' order changes nothing; a cluster that loses all its points moves to the
point that lies farthest from its centre; large inputs are fitted on a fixed-size sample, as faiss does.

Shape legend: n vectors, d their width, K centres.
"""

import heapq
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from sememe.core.schema import FloatArray, Int32Array, Int64Array

CHUNK_CELLS = 1 << 23
"""Cells of the (rows, K) distance block that is held at once: 32 MiB of float32."""


LARGE = 1024.0
"""Numbers beyond this are scaled before their third powers are added up."""
EVEN_TOLERANCE = 1.1
"""How much more squared error even clusters may cost; ours, from embeddings of two real catalogues."""


@dataclass(frozen=True, eq=False)
class Clusters:
    """What `k_means` found."""

    centers: FloatArray
    """(K, d); where there are fewer than K distinct vectors the surplus rows are far away and never nearest."""
    labels: Int32Array
    """(n,) nearest centre of each vector."""
    inertia: float
    """Sum of the squared distances to the nearest centres."""
    iterations: int


@dataclass(frozen=True, eq=False)
class Distinct:
    """The distinct rows of a matrix in canonical order (by their bytes), and where each row went."""

    rows: FloatArray
    """(m, d)"""
    counts: Int64Array
    """(m,) how many rows are equal to each."""
    inverse: Int64Array
    """(n,): input row i is `rows[inverse[i]]`."""


@dataclass(frozen=True, eq=False)
class EqualRows:
    """Which rows of a matrix are equal; kinds are in canonical order (by their bytes)."""

    first: Int64Array
    """(m,) the first row of each kind."""
    counts: Int64Array
    """(m,) how many rows are of each kind."""
    inverse: Int64Array
    """(n,) the kind of each row."""


def equal_rows(vectors: FloatArray) -> EqualRows:
    """Group the rows of float32 (n, d): as `np.unique` of their bytes would, in a tenth of its time."""
    # Most rows differ in their first numbers already; only where those are equal is all of the row compared.
    start = _bytes_of(vectors[:, :2])
    head = start.view(">u8").astype(np.uint64).ravel() if start.shape[1] == 8 else start.view(">u4").ravel()
    order = np.argsort(head, kind="stable")
    changes = np.flatnonzero(head[order][1:] != head[order][:-1]) + 1
    is_new = np.zeros(len(order), np.bool_)
    is_new[:1] = True
    is_new[changes] = True
    alone = is_new & np.append(is_new[1:], True)
    tied = np.flatnonzero(~alone)
    if len(tied):
        rows = order[tied]
        whole = _bytes_of(vectors[rows])
        _, kind = np.unique(whole.view(f"V{whole.shape[1]}").ravel(), return_inverse=True)
        # The head comes first among the bytes, so sorting by all of them moves nothing out of its group.
        again = np.argsort(kind, kind="stable")
        order[tied], kind = rows[again], kind[again]
        is_new[tied] = np.append(True, kind[1:] != kind[:-1])
    starts = np.flatnonzero(is_new)
    inverse = np.empty(len(order), np.int64)
    inverse[order] = np.cumsum(is_new) - 1
    return EqualRows(first=order[starts], counts=np.diff(np.append(starts, len(order))), inverse=inverse)


def _bytes_of(rows: FloatArray) -> npt.NDArray[np.uint8]:
    """(n, 4 d) the bytes of float32 (n, d)."""
    # Adding 0 turns -0.0 into 0.0: equal numbers must have equal bytes.
    return (np.ascontiguousarray(rows, dtype=np.float32) + np.float32(0)).view(np.uint8)


def distinct_rows(vectors: FloatArray) -> Distinct:
    """The distinct rows of float32 (n, d); the same rows in another order give the same `rows` and `counts`."""
    equal = equal_rows(vectors)
    rows = np.asarray(vectors[equal.first], np.float32) + np.float32(0)
    return Distinct(rows, equal.counts, equal.inverse)


def nearest_centers(vectors: FloatArray, centers: FloatArray) -> tuple[Int32Array, FloatArray]:
    """Index of the nearest centre, int32 (n,), and the squared distance to it, float32 (n,); the first wins a tie."""
    labels = np.empty(len(vectors), np.int32)
    distances = np.empty(len(vectors), np.float32)
    half_norms = 0.5 * np.einsum("kd,kd->k", centers, centers)
    step = max(1, CHUNK_CELLS // len(centers))
    for start in range(0, len(vectors), step):
        block = vectors[start : start + step]
        # |x - c|^2 / 2 = |x|^2 / 2 - (x.c - |c|^2 / 2): the nearest centre has the largest bracket.
        affinity = block @ centers.T
        affinity -= half_norms
        best = affinity.argmax(axis=1)
        labels[start : start + step] = best
        top = affinity[np.arange(len(block)), best]
        distances[start : start + step] = np.maximum(np.einsum("nd,nd->n", block, block) - 2 * top, 0)
    return labels, distances


def k_means(
    vectors: FloatArray,
    *,
    num_clusters: int,
    rng: np.random.Generator,
    max_iterations: int = 50,
    max_fit_rows: int = 131_072,
) -> Clusters:
    """Cluster float32 (n, d) by squared distance.

    Equal rows count as often as they occur.  The result depends on the set of vectors, not on their order.  More than
    `max_fit_rows` distinct rows are fitted on a random sample of that size; labels are given to all.

    Two starts are run.  k-means++ finds separated clusters; on the many directions of real embeddings it leaves one
    giant cluster at the centre and hundreds of single points (perplexity 6 of 256 was seen).  Halving along principal
    directions gives even clusters there at nearly the same error, so it wins unless its error is EVEN_TOLERANCE worse.
    """
    assert num_clusters >= 1 and len(vectors) >= 1, "k-means needs a cluster and a vector"
    distinct = distinct_rows(vectors)
    rows, weights = distinct.rows, distinct.counts.astype(np.float32)
    if len(rows) > max_fit_rows:
        chosen = np.sort(rng.choice(len(rows), max_fit_rows, replace=False))
        rows, weights = rows[chosen], weights[chosen]
    active = min(num_clusters, len(rows))
    even = _lloyd(rows, weights, centers=halving_start(rows, weights, num_clusters=active), steps=max_iterations)
    spread = plus_plus_start(rows, weights, num_clusters=active, rng=rng)
    plus_plus = _lloyd(rows, weights, centers=spread, steps=max_iterations)
    best = even if even.inertia <= EVEN_TOLERANCE * plus_plus.inertia else plus_plus
    labels, distances = nearest_centers(distinct.rows, best.centers)
    return Clusters(
        centers=_pad_far_away(best.centers, num_clusters),
        labels=labels[distinct.inverse],
        inertia=float(np.dot(distances.astype(np.float64), distinct.counts)),
        iterations=best.iterations,
    )


def _lloyd(rows: FloatArray, weights: FloatArray, *, centers: FloatArray, steps: int) -> Clusters:
    """Assign and move until no row changes its cluster, `steps` times at most."""
    labels, distances = nearest_centers(rows, centers)
    done = 0
    while done < steps:
        centers = move_centers(rows, weights, labels=labels, distances=distances, centers=centers)
        previous = labels
        labels, distances = nearest_centers(rows, centers)
        done += 1
        if np.array_equal(labels, previous):
            break
    return Clusters(centers, labels, float(np.dot(distances.astype(np.float64), weights)), done)


def halving_start(rows: FloatArray, weights: FloatArray, *, num_clusters: int) -> FloatArray:
    """Centres of cells of equal size: the largest cell is cut at the median of its principal direction, until K cells.

    `num_clusters` must not exceed the number of rows.  No randomness.
    """
    # Ties in size go to the older cell, so that the order of cuts is fixed.
    cells: list[tuple[int, int, Int64Array]] = [(-len(rows), 0, np.arange(len(rows)))]
    for made in range(1, num_clusters):
        _, _, cell = heapq.heappop(cells)
        block = rows[cell]
        block = block - block.mean(axis=0)
        along = block @ _principal_direction(block)
        order = np.argsort(along, kind="stable")
        half = len(cell) // 2
        for place, part in enumerate((cell[np.sort(order[:half])], cell[np.sort(order[half:])])):
            heapq.heappush(cells, (-len(part), 2 * made + place, part))
    members = [cell for _, _, cell in sorted(cells, key=lambda entry: entry[1])]
    return np.stack([np.average(rows[cell], axis=0, weights=weights[cell]) for cell in members]).astype(np.float32)


def _principal_direction(block: FloatArray) -> FloatArray:
    """(d,) direction of the largest variance of the centred rows, by a few power iterations from the longest row."""
    largest = max(float(block.max()), -float(block.min()))
    if largest > LARGE:
        # By a power of two, which changes no digit of the direction: the third powers below would overflow.
        block = np.ldexp(block, -int(np.frexp(largest)[1]))
    direction: FloatArray = block[np.einsum("nd,nd->n", block, block).argmax()]
    for _ in range(5):
        direction = block.T @ (block @ direction)
        direction = direction / np.float32(max(float(np.linalg.norm(direction)), 1e-30))
    return direction


def plus_plus_start(
    rows: FloatArray, weights: FloatArray, *, num_clusters: int, rng: np.random.Generator
) -> FloatArray:
    """k-means++: each next centre is a row drawn by its weighted squared distance to the centres so far."""
    norms = np.einsum("nd,nd->n", rows, rows)
    chosen = np.empty(num_clusters, np.int64)
    probability: npt.NDArray[np.float64] = weights.astype(np.float64)
    nearest = np.full(len(rows), np.inf, np.float32)
    for place in range(num_clusters):
        total = np.cumsum(probability)
        chosen[place] = min(int(np.searchsorted(total, rng.random() * total[-1], side="right")), len(rows) - 1)
        center = rows[chosen[place]]
        distance = np.maximum(norms - 2 * (rows @ center) + center @ center, 0)
        np.minimum(nearest, distance, out=nearest)
        # Rounding leaves a speck of distance at chosen rows; a row must not be drawn twice.
        nearest[chosen[place]] = 0
        probability = weights.astype(np.float64) * nearest
        if not probability.any():
            probability = np.ones(len(rows))
            probability[chosen[: place + 1]] = 0
    starts: FloatArray = rows[chosen]
    return starts


def move_centers(
    rows: FloatArray, weights: FloatArray, *, labels: Int32Array, distances: FloatArray, centers: FloatArray
) -> FloatArray:
    """Weighted mean of each cluster's rows; an empty cluster goes to a row that lies far from its centre."""
    num_rows, num_clusters = len(rows), len(centers)
    membership = sp.csr_matrix((weights, (labels, np.arange(num_rows))), shape=(num_clusters, num_rows))
    mass = np.bincount(labels, weights=weights, minlength=num_clusters).astype(np.float32)
    sums: FloatArray = (membership @ rows).astype(np.float32)
    moved: FloatArray = np.divide(sums, np.maximum(mass, np.float32(1))[:, None], dtype=np.float32)
    empty = np.flatnonzero(mass == 0)
    if len(empty):
        farthest = np.argsort(-distances, kind="stable")[: len(empty)]
        moved[empty[: len(farthest)]] = rows[farthest]
    return moved


def _pad_far_away(centers: FloatArray, num_clusters: int) -> FloatArray:
    """Rows for the clusters that have no vector to stand for, where no vector comes near them."""
    surplus = num_clusters - len(centers)
    if surplus == 0:
        return centers
    reach = float(np.abs(centers).max(initial=0.0))
    far = np.full((surplus, centers.shape[1]), 1e3 * (1.0 + reach), np.float32)
    return np.concatenate([centers, far])
