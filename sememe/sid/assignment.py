"""Giving vectors to clusters that all get the same number of them.

Sources: `fill_in_turn` is the balanced k-means of OneRec, arXiv 2502.18965: the clusters choose one after the other,
each takes its nearest vectors that are still free.  `fill_by_prices` is ours after Cuturi 2013 (arXiv 1306.0895):
prices per cluster from entropy-regularised transport (Sinkhorn), then the exact sizes in rounds.  In a round every
vector asks for the cluster that is best for it among those with room; a cluster that more ask for than it has room for
takes those that would lose most by going elsewhere (their regret).  No cluster comes first, and few vectors are left
after one round.

Rows are distinct vectors with a count each, so that equal vectors cost as much as one; a row may be shared out over
clusters.  Ties go to the earlier row, so callers put their rows into an order of their own making (`distinct_rows`).

Shape legend: m rows, d their width, n the sum of their counts, K clusters, s shares.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sememe.core.schema import FloatArray, Int64Array
from sememe.sid.kmeans import CHUNK_CELLS

PRICE_CELLS = 1 << 26
"""Prices are found on so many (row, cluster) cells at most: 256 MiB of float32, twice."""
PRICE_ROWS_PER_CLUSTER = 8
"""So many rows per cluster at least, also where that is more than PRICE_CELLS."""
PRICE_STAGES = 5
PRICE_ITERATIONS = 20
FIRST_TEMPERATURE = 0.2
"""Of the first stage, in units of how much nearer the nearest cluster is than the mean one; a third at each next."""


@dataclass(frozen=True, eq=False)
class Shares:
    """Which part of which row went to which cluster."""

    rows: Int64Array
    """(s,) rising."""
    clusters: Int64Array
    """(s,)"""
    counts: Int64Array
    """(s,) how many of the row's vectors, at least 1."""


Fill = Callable[[FloatArray, Int64Array, FloatArray], Shares]
"""From rows (m, d), their counts (m,) and centres (K, d) to shares; every cluster gets floor(n / K) or one more."""


def fill_in_turn(rows: FloatArray, counts: Int64Array, centers: FloatArray) -> Shares:
    """Cluster after cluster takes the nearest vectors that are free; the first n mod K clusters take one more."""
    free = counts.copy()
    base, extra = divmod(int(counts.sum()), len(centers))
    # -|x - c|^2 / 2 = x.c - |c|^2 / 2 - |x|^2 / 2, and |c|^2 is the same for all who stand before one cluster.
    norms = 0.5 * np.einsum("md,md->m", rows, rows)
    block = max(1, CHUNK_CELLS // len(rows))
    taken = []
    for cluster in range(len(centers)):
        if cluster % block == 0:
            affinity = centers[cluster : cluster + block] @ rows.T - norms
        wanted = base + (cluster < extra)
        left = np.flatnonzero(free)
        order = left[_nearest_first(affinity[cluster % block, left], wanted)]
        before = np.cumsum(free[order]) - free[order]
        order, before = order[before < wanted], before[before < wanted]
        given = np.minimum(free[order], wanted - before)
        free[order] -= given
        taken.append((order, np.full(len(order), cluster), given))
    return _shares(taken)


def _nearest_first(affinity: FloatArray, wanted: int) -> Int64Array:
    """Places of the `wanted` largest values at least, largest first; ties go to the earlier place."""
    if wanted == 0:
        return np.empty(0, np.int64)
    places = np.arange(len(affinity))
    if wanted < len(affinity):
        # All that tie with the last one stay in, for the stable sort to decide.
        places = np.flatnonzero(affinity >= np.partition(affinity, len(affinity) - wanted)[len(affinity) - wanted])
    ordered: Int64Array = places[np.argsort(-affinity[places], kind="stable")]
    return ordered


def fill_by_prices(rows: FloatArray, counts: Int64Array, centers: FloatArray) -> Shares:
    """Every vector to the best cluster with room at the clusters' prices, those first that lose most elsewhere."""
    bonus = transport_prices(rows, counts, centers) - 0.5 * np.einsum("kd,kd->k", centers, centers)
    free = counts.copy()
    asked = _best_two(rows, centers, bonus)
    demand = np.bincount(asked.best, weights=counts.astype(np.float64), minlength=len(centers))
    room = _rooms(demand.astype(np.int64), int(counts.sum()))
    waiting = np.arange(len(rows))
    taken = []
    while len(waiting):
        given = _admit(asked, free[waiting], room)
        some = given > 0
        taken.append((waiting[some], asked.best[some], given[some]))
        room -= np.bincount(asked.best, weights=given, minlength=len(room)).astype(np.int64)
        free[waiting] -= given
        waiting = np.flatnonzero(free)
        open_clusters = np.flatnonzero(room)
        if len(waiting):
            asked = _best_two(rows[waiting], centers[open_clusters], bonus[open_clusters])
            asked = _Asked(open_clusters[asked.best], asked.regret)
    return _shares(taken)


@dataclass(frozen=True, eq=False)
class _Asked:
    best: Int64Array
    """(m,) the cluster each row asks for."""
    regret: FloatArray
    """(m,) how much worse the next best is."""


def _best_two(rows: FloatArray, centers: FloatArray, bonus: FloatArray) -> _Asked:
    """The cluster of the largest x.c + bonus, and its lead over the next; without a next one nobody leads."""
    best, regret = np.empty(len(rows), np.int64), np.zeros(len(rows), np.float32)
    step = max(1, CHUNK_CELLS // len(centers))
    for start in range(0, len(rows), step):
        affinity = rows[start : start + step] @ centers.T
        affinity += bonus
        place = np.arange(len(affinity))
        first = affinity.argmax(axis=1)
        best[start : start + step] = first
        if len(centers) > 1:
            top = affinity[place, first]
            affinity[place, first] = -np.inf
            regret[start : start + step] = top - affinity.max(axis=1)
    return _Asked(best, regret)


def _rooms(demand: Int64Array, total: int) -> Int64Array:
    """(K,) sizes that sum to `total` and differ by one at most; the clusters most asked for get the larger ones."""
    base, extra = divmod(total, len(demand))
    rooms = np.full(len(demand), base, np.int64)
    rooms[np.argsort(-demand, kind="stable")[:extra]] += 1
    return rooms


def _admit(asked: _Asked, free: Int64Array, room: Int64Array) -> Int64Array:
    """(m,) how many vectors of each row get in: by falling regret, until the cluster is full."""
    order = np.lexsort((-asked.regret, asked.best))
    cluster, supply = asked.best[order], free[order]
    before = np.cumsum(supply) - supply
    first = np.r_[True, cluster[1:] != cluster[:-1]]
    ahead = before - np.repeat(before[first], np.diff(np.r_[np.flatnonzero(first), len(cluster)]))
    given = np.empty(len(free), np.int64)
    given[order] = np.clip(room[cluster] - ahead, 0, supply)
    return given


def transport_prices(rows: FloatArray, counts: Int64Array, centers: FloatArray) -> FloatArray:
    """(K,) what to add to the affinity x.c - |c|^2 / 2 of each cluster, so that about as many rows prefer each.

    Sinkhorn's scaling at falling temperatures; after each stage the scales move into the prices, so that nothing
    underflows.  Large catalogues are represented by every so many-th row.  Zero where there are fewer vectors than
    clusters: no cluster has to be filled then.
    """
    if counts.sum() < len(centers):
        return np.zeros(len(centers), np.float32)
    most = max(PRICE_CELLS // len(centers), PRICE_ROWS_PER_CLUSTER * len(centers))
    stride = -(-len(rows) // most)
    rows, weights = rows[::stride], counts[::stride].astype(np.float32)
    affinity = rows @ centers.T
    affinity -= 0.5 * np.einsum("kd,kd->k", centers, centers)
    lead = float(np.mean(affinity.max(axis=1) - affinity.mean(axis=1)))
    prices = np.zeros(len(centers), np.float32)
    if not lead > 0:
        return prices
    share = np.float32(weights.sum() / len(centers))
    kernel = np.empty_like(affinity)
    for stage in range(PRICE_STAGES):
        temperature = np.float32(FIRST_TEMPERATURE * lead / 3**stage)
        np.add(affinity, prices, out=kernel)
        kernel -= kernel.max(axis=1, keepdims=True)
        kernel /= temperature
        np.exp(kernel, out=kernel)
        scale = np.ones(len(centers), np.float32)
        for _ in range(PRICE_ITERATIONS):
            mass = (weights / (kernel @ scale)) @ kernel
            # A bounded step keeps float32 from overflowing; the next stage goes on from there.
            scale = np.clip(share / np.maximum(mass, np.float32(1e-30)), np.float32(1e-20), np.float32(1e20))
        prices += temperature * np.log(scale)
    return prices


def _shares(taken: list[tuple[Int64Array, Int64Array, Int64Array]]) -> Shares:
    rows, clusters, counts = (np.concatenate(column).astype(np.int64) for column in zip(*taken, strict=True))
    # A row asks each cluster once, so (row, cluster) names a share.
    order = np.lexsort((clusters, rows))
    return Shares(rows[order], clusters[order], counts[order])
