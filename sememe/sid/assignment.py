"""Giving vectors to clusters that all get the same number of them.

Sources: `fill_in_turn` is the balanced k-means of OneRec, arXiv 2502.18965: the clusters choose one after the other,
each takes its nearest vectors that are still free.  `fill_by_prices` is ours: prices per cluster (`prices.py`), then
the best assignment with the exact sizes (`transport.py`).  Where that would take too much memory or time, the exact
sizes come in rounds: in a round every vector asks for the cluster that is best for it among those with room, and a
cluster that more ask for than it has room for takes those that would lose most by going elsewhere (their regret).  No
cluster comes first, and few vectors are left after one round.

Rows are distinct vectors with a count each, so that equal vectors cost as much as one; a row may be shared out over
clusters.  Ties go to the earlier row, so callers put their rows into an order of their own making (`distinct_rows`).

Shape legend: m rows, d their width, n the sum of their counts, K clusters, s shares.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sememe.core.schema import BoolArray, FloatArray, Int64Array
from sememe.sid.kmeans import CHUNK_CELLS
from sememe.sid.prices import transport_prices
from sememe.sid.transport import affinity_table, deal_evenly

PRICE_CELLS = 1 << 26
"""So many (row, cluster) cells are held at most, 256 MiB of float32; else prices come from a part of the rows."""
PRICE_ROWS_PER_CLUSTER = 8
"""So many rows per cluster at least, also where that is more than PRICE_CELLS."""
MOST_CLUSTERS = 1024
"""With more, the rounds: chains of moves are searched for among all pairs of clusters."""


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
    """The least sum of squared distances; on very large catalogues, near it.

    Equal vectors are shared out in rounds and stay there; the others get the best of what is left.
    """
    stride = -(-len(rows) // max(PRICE_CELLS // len(centers), PRICE_ROWS_PER_CLUSTER * len(centers)))
    table = affinity_table(rows[::stride], centers)
    prices = transport_prices(table[: -len(centers), :-1], counts[::stride])
    alone = counts == 1
    shares = None if alone.all() else _fill_in_rounds(rows, counts, centers, prices)
    if stride == 1 and len(centers) <= MOST_CLUSTERS and alone.any():
        shares = _deal_again(table, prices, alone=alone, shares=shares) or shares
    return shares or _fill_in_rounds(rows, counts, centers, prices)


def _deal_again(table: FloatArray, prices: FloatArray, *, alone: BoolArray, shares: Shares | None) -> Shares | None:
    """The best that can be made of the rows that stand for one vector; those that stand for more stay as in `shares`.

    None where that would take too long.
    """
    if shares is None:
        labels = deal_evenly(table, prices, taken=np.zeros(len(prices), np.int64))
        return None if labels is None else Shares(np.arange(len(labels)), labels, np.ones_like(labels))
    stay = ~alone[shares.rows]
    rows, clusters, counts = shares.rows[stay], shares.clusters[stay], shares.counts[stay]
    taken = np.zeros(len(prices), np.int64)
    np.add.at(taken, clusters, counts)
    labels = deal_evenly(table[np.append(alone, np.ones(len(prices), np.bool_))], prices, taken=taken)
    if labels is None:
        return None
    return _shares([(rows, clusters, counts), (np.flatnonzero(alone), labels, np.ones_like(labels))])


def _fill_in_rounds(rows: FloatArray, counts: Int64Array, centers: FloatArray, prices: FloatArray) -> Shares:
    """Every vector to the best cluster with room at the clusters' prices, those first that lose most elsewhere."""
    bonus = prices - np.float32(0.5) * np.einsum("kd,kd->k", centers, centers)
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


def _shares(taken: list[tuple[Int64Array, Int64Array, Int64Array]]) -> Shares:
    rows, clusters, counts = (np.concatenate(column).astype(np.int64) for column in zip(*taken, strict=True))
    # A row asks each cluster once, so (row, cluster) names a share.
    order = np.lexsort((clusters, rows))
    return Shares(rows[order], clusters[order], counts[order])
