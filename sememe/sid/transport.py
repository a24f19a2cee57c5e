"""The best assignment of vectors to clusters that have room for so many each, by chains of moves.

Source: successive shortest paths with potentials (Edmonds & Karp 1972, "Theoretical improvements in algorithmic
efficiency for network flow problems"), on a graph of clusters alone: the way from cluster a to b is as long as what the
member of a that loses least by going to b loses.  All vectors start at their best cluster at some prices, which is the
best assignment with the sizes that come of it.  Chains from clusters with too many to clusters with too few, shortest
first, keep it the best with its sizes, until the sizes are those wanted.
Changed: many chains are pushed after one search, as long as no vector goes twice; good prices leave few to push.

What comes out is the optimum whatever the prices are (up to float32's rounding of the affinities); the time depends on
them.

Shape legend: m rows, K clusters.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sememe.core.schema import BoolArray, FloatArray, Int64Array
from sememe.sid.prices import BLOCK_CELLS

Float64Array = npt.NDArray[np.float64]

MOST_SURPLUS = 2048
SURPLUS_SHARE = 1 / 64
"""With more vectors in the wrong place than so many and this share of all, chains would take too long."""


def affinity_table(rows: FloatArray, centers: FloatArray) -> FloatArray:
    """float32 (m + K, K + 1): the affinity x.c - |c|^2 / 2 of rows (m, d) to centres (K, d), and K tokens beneath.

    The last column stands for no cluster but for the right to one more vector.  Token k is a place of cluster k: while
    it is in the cluster it fills that place, when it leaves for the last column it makes room for a vector.
    """
    num_rows, num_clusters = len(rows), len(centers)
    table = np.empty((num_rows + num_clusters, num_clusters + 1), np.float32)
    affinity = table[:num_rows, :-1]
    np.matmul(rows, centers.T, out=affinity)
    affinity -= np.float32(0.5) * np.einsum("kd,kd->k", centers, centers)
    table[:num_rows, -1] = -np.inf
    table[num_rows:] = -np.inf
    np.fill_diagonal(table[num_rows:], 0)
    table[num_rows:, -1] = 0
    return table


def deal_evenly(table: FloatArray, prices: FloatArray, *, taken: Int64Array) -> Int64Array | None:
    """Labels int64 (m,) of the rows of an `affinity_table`, so that clusters end with equal sizes or one more.

    `taken` (K,) vectors are in the clusters already and stay there.  Which clusters get one more is chosen for the best
    as well.  None where the prices (K,) are so far off that it would take too long.
    """
    num_clusters = len(prices)
    num_rows = len(table) - num_clusters
    base, extra = divmod(num_rows + int(taken.sum()), num_clusters)
    # At this price of the last column, as many tokens leave as there are clusters with one more.
    lowest = np.sort(prices)
    right = lowest[0] if extra == 0 else (lowest[extra - 1] + lowest[extra]) / 2
    labels = deal_out(table, np.append(prices, right), room=np.append(base + 1 - taken, extra))
    return None if labels is None else labels[:num_rows]


def deal_out(affinity: FloatArray, prices: FloatArray, *, room: Int64Array) -> Int64Array | None:
    """Labels int64 (m,) with the largest sum of affinity (m, K) where cluster k gets `room[k]` rows; room sums to m.

    Every row's best affinity must be finite; -inf bars a row from a cluster.  None if `prices` (K,), added to the
    affinity, bring too many rows where they cannot stay.
    """
    labels = _best_clusters(affinity, prices.astype(np.float32))
    surplus = np.bincount(labels, minlength=len(room)) - room
    if np.maximum(surplus, 0).sum() > MOST_SURPLUS + SURPLUS_SHARE * len(labels):
        return None
    plan = _Plan(affinity, labels)
    potential = prices.astype(np.float64)
    while surplus.any():
        # Potentials keep every length at 0 or above, but for rounding.
        length = np.maximum(plan.loss + potential[:, None] - potential, 0).astype(np.float32)
        chains = _shortest_chains(length, surplus > 0)
        short = np.flatnonzero((surplus < 0) & np.isfinite(chains.length))
        short = short[np.argsort(chains.length[short], kind="stable")]
        potential += np.minimum(chains.length, chains.length[short[-1]])
        _push(plan, chains, surplus=surplus, short=short)
    return plan.labels


def _best_clusters(affinity: FloatArray, prices: FloatArray) -> Int64Array:
    labels = np.empty(len(affinity), np.int64)
    step = max(1, BLOCK_CELLS // len(prices))
    for start in range(0, len(affinity), step):
        labels[start : start + step] = (affinity[start : start + step] + prices).argmax(axis=1)
    return labels


class _Plan:
    """An assignment that changes, and who can be moved on at what loss."""

    def __init__(self, affinity: FloatArray, labels: Int64Array) -> None:
        num_clusters = affinity.shape[1]
        self.labels = labels
        self.loss: Float64Array = np.full((num_clusters, num_clusters), np.inf)
        """(K, K) what the member of the one that loses least by going to the other loses; inf without members."""
        self.leaver: Int64Array = np.full((num_clusters, num_clusters), -1)
        """(K, K) which member that is."""
        self._affinity = affinity
        self._own = affinity[np.arange(len(labels)), labels]
        order = np.argsort(labels, kind="stable")
        self._members = np.split(order, np.cumsum(np.bincount(labels, minlength=num_clusters))[:-1])
        for cluster, members in enumerate(self._members):
            self._measure(cluster, np.arange(num_clusters), affinity=affinity[members])

    def move(self, moves: dict[int, int]) -> None:
        """Bring rows to clusters."""
        orphaned: dict[int, BoolArray] = {}
        for row, target in moves.items():
            source = int(self.labels[row])
            orphaned[source] = orphaned.get(source, False) | (self.leaver[source] == row)
            self._members[source] = self._members[source][self._members[source] != row]
            self._members[target] = np.append(self._members[target], row)
            self.labels[row], self._own[row] = target, self._affinity[row, target]
            losses = self._own[row] - self._affinity[row]
            less = losses < self.loss[target]
            self.loss[target, less], self.leaver[target, less] = losses[less], row
        for source, columns in orphaned.items():
            targets = np.flatnonzero(columns)
            self._measure(source, targets, affinity=self._affinity[self._members[source][:, None], targets])

    def _measure(self, cluster: int, targets: Int64Array, *, affinity: FloatArray) -> None:
        """Find the leavers of one cluster to some from its members' affinity to these, (members, targets)."""
        members = self._members[cluster]
        if len(members) == 0:
            self.loss[cluster, targets], self.leaver[cluster, targets] = np.inf, -1
            return
        losses = self._own[members, None] - affinity
        least = losses.argmin(axis=0)
        self.loss[cluster, targets] = losses[least, np.arange(len(targets))]
        self.leaver[cluster, targets] = members[least]


@dataclass(frozen=True, eq=False)
class _Chains:
    length: FloatArray
    """(K,) of the shortest way to each cluster from one with too many."""
    before: Int64Array
    """(K,) the cluster before it on that way; -1 where the way begins and where there is none."""

    def to(self, cluster: int) -> list[tuple[int, int]]:
        """The steps of the way, last one first."""
        steps = []
        while self.before[cluster] >= 0:
            steps.append((int(self.before[cluster]), cluster))
            cluster = int(self.before[cluster])
        return steps


def _shortest_chains(length: FloatArray, begins: BoolArray) -> _Chains:
    """Bellman and Ford's search through ways of `length` (K, K), none below 0, from all that begin at once."""
    best = np.where(begins, 0, np.inf).astype(np.float32)
    before = np.full(len(best), -1)
    active = np.flatnonzero(begins)
    while len(active):
        through = best[active, None] + length[active]
        found = through.min(axis=0)
        # Only what is shorter counts, so that ways of length 0 close no ring.
        shorter = np.flatnonzero(found < best)
        best[shorter], before[shorter] = found[shorter], active[through[:, shorter].argmin(axis=0)]
        active = shorter
    return _Chains(best, before)


def _push(plan: _Plan, chains: _Chains, *, surplus: Int64Array, short: Int64Array) -> None:
    """One row along each chain to a cluster that is `short`, where no row of the chain has moved; `surplus` follows."""
    moves: dict[int, int] = {}
    passed: set[tuple[int, int]] = set()
    for cluster in short.tolist():
        steps = chains.to(cluster)
        begin = steps[-1][0]
        if surplus[begin] <= 0 or not passed.isdisjoint(steps):
            continue
        chain = {int(plan.leaver[source, target]): target for source, target in steps}
        if moves.keys().isdisjoint(chain):
            moves |= chain
            passed.update(steps)
            surplus[begin] -= 1
            surplus[cluster] += 1
    plan.move(moves)
