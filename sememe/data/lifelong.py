"""A long history as a few events that stand for all of it: hierarchical k-means over each user's items.

OneRec Technical Report (Kuaishou 2025, arXiv 2506.13695), its lifelong pathway.  Kept: a set of events is split by
k-means into floor(cube root of its size) clusters, each of them again, until a cluster has at most so many members; a
cluster is represented by its real member nearest the centre.
Changed: small sets are split in two at least; the centres start at members spread evenly over time, so that the answer
is a function of the history alone; events of equal vectors are one cluster, however many there are; k-means stops after
a few rounds.  The clusters of all users of a batch are split together.

Shape legend: E events of all users, R of them in clusters that are still too large, C clusters, K most parts of one, d
width of the vectors.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from sememe.core.schema import BoolArray, FloatArray, Int64Array

NEARLY = 1e-3
"""Share by which squared distances may differ and count as equal."""
ITERATIONS = 5
"""Of k-means at each split; members that are nearly as near to another centre do not matter here."""


def represent(vectors: FloatArray, lengths: Int64Array, *, members: int) -> BoolArray:
    """(E,) which events stand for their history.

    Args:
        vectors: (E, d) of the events of all histories, one history after the other, each in the order of time.
        lengths: (N,) events of each history, at least 0, which add up to E.
        members: a cluster has at most so many events, or equal vectors; 1 keeps one event of each vector.
    """
    assert members >= 1, "a cluster has a member"
    kept = np.zeros(len(vectors), np.bool_)
    waiting = _Clusters.of(np.arange(len(vectors)), np.repeat(np.arange(len(lengths)), lengths))
    while len(waiting.events):
        small = (waiting.sizes <= members)[waiting.cluster]
        kept[waiting.only(small).nearest_to_mean(vectors)] = True
        large = waiting.only(~small)
        if not len(large.events):
            break
        parts = large.split(vectors)
        # What does not fall apart is of equal vectors, and its latest event stands for all of them.
        alone = parts.pieces == 1
        kept[large.events[(large.starts + large.sizes - 1)[alone]]] = True
        again = ~alone[large.cluster[parts.order]]
        waiting = _Clusters.of(large.events[parts.order][again], parts.part[again])
    return kept


@dataclass(frozen=True, eq=False)
class _Parts:
    """How clusters fall apart."""

    order: Int64Array
    """(R,) the events of the clusters, those of a part side by side, in the order of time."""
    part: Int64Array
    """(R,) of each of them, the number of its part."""
    pieces: Int64Array
    """(C,) parts of each cluster."""


@dataclass(frozen=True, eq=False)
class _Clusters:
    """Events side by side that belong together, in the order of time."""

    events: Int64Array
    """(R,)"""
    cluster: Int64Array
    """(R,) 0..C-1, not falling."""
    starts: Int64Array
    """(C,) where each begins."""
    sizes: Int64Array
    """(C,)"""

    @classmethod
    def of(cls, events: Int64Array, labels: Int64Array) -> "_Clusters":
        """labels: (R,) equal for the events of a cluster, which stand side by side."""
        begins = np.ones(len(labels), np.bool_)
        begins[1:] = labels[1:] != labels[:-1]
        starts = np.flatnonzero(begins)
        return cls(events, np.cumsum(begins) - 1, starts, np.diff(np.append(starts, len(labels))))

    def only(self, chosen: BoolArray) -> "_Clusters":
        """Those clusters whose events are `chosen` (R,)."""
        return _Clusters.of(self.events[chosen], self.cluster[chosen])

    def nearest_to_mean(self, vectors: FloatArray) -> Int64Array:
        """(C,) of each cluster the event nearest its mean, the latest of equally near ones."""
        rows = vectors[self.events]
        means = _sums(rows, self.cluster, count=len(self.sizes)) / self.sizes[:, None].astype(np.float32)
        away = ((rows - means[self.cluster]) ** 2).sum(1)
        if not len(away):
            return self.events
        # Two members are equally far from their mean: rounding must not decide between them.
        near = away <= np.minimum.reduceat(away, self.starts)[self.cluster] * (1 + NEARLY)
        best: Int64Array = self.events[np.maximum.reduceat(np.where(near, np.arange(len(away)), 0), self.starts)]
        return best

    def split(self, vectors: FloatArray) -> _Parts:
        """Every cluster by k-means."""
        rows = vectors[self.events]
        owner = self._owners(rows)
        pieces = self._pieces(owner)
        # Starts that were alike leave one part of different vectors: the first against those that differ from it.
        differs = (rows != rows[self.starts][self.cluster]).any(1)
        owner = np.where((pieces == 1)[self.cluster], differs, owner)
        label = self.cluster * (int(owner.max(initial=0)) + 1) + owner
        order = np.argsort(label, kind="stable")
        return _Parts(order=order, part=label[order], pieces=self._pieces(owner))

    def _pieces(self, owner: Int64Array) -> Int64Array:
        width = int(owner.max(initial=0)) + 1
        found = np.unique(self.cluster * width + owner) // width
        return np.bincount(found, minlength=len(self.sizes))

    def _owners(self, rows: FloatArray) -> Int64Array:
        """(R,) the part of its cluster that each event belongs to."""
        counts = np.maximum(2, _cube_roots(self.sizes))
        width = int(counts.max(initial=1))
        parts = np.arange(width)
        spread = parts * (self.sizes[:, None] - 1) // np.maximum(counts[:, None] - 1, 1)
        missing = parts >= counts[:, None]
        centers = rows[self.starts[:, None] + np.where(missing, 0, spread)]
        owner = self._nearest(rows, centers, missing)
        for _ in range(ITERATIONS):
            label, total = self.cluster * width + owner, len(self.sizes) * width
            sizes = np.bincount(label, minlength=total).astype(np.float32)[:, None]
            sums = _sums(rows, label, count=total)
            # A centre without members stays where it is.
            moved = np.where(sizes > 0, sums / np.maximum(sizes, 1), centers.reshape(total, -1))
            centers = moved.reshape(centers.shape)
            before, owner = owner, self._nearest(rows, centers, missing)
            if np.array_equal(before, owner):
                break
        return owner

    def _nearest(self, rows: FloatArray, centers: FloatArray, missing: BoolArray) -> Int64Array:
        """(R,) the nearest centre (C, K, d) of the event's own cluster, the first of equally near ones."""
        lengths = np.where(missing, np.float32(np.inf), (centers * centers).sum(2))
        best, owner = np.full(len(rows), np.inf, np.float32), np.zeros(len(rows), np.int64)
        # One centre of each cluster at a time: all of them beside each event would be K times the memory.
        for part in range(centers.shape[1]):
            product = np.einsum("rd,rd->r", rows, centers[self.cluster, part])
            apart = lengths[self.cluster, part] - 2 * product
            nearer = apart < best
            best[nearer], owner[nearer] = apart[nearer], part
        return owner


def _sums(rows: FloatArray, labels: Int64Array, *, count: int) -> FloatArray:
    """(count, d) the sum of the rows of each label."""
    ones = np.ones(len(rows), np.float32)
    sums: FloatArray = sp.csr_matrix((ones, (labels, np.arange(len(rows)))), shape=(count, len(rows))) @ rows
    return sums


def _cube_roots(counts: Int64Array) -> Int64Array:
    """floor(count ** (1 / 3)), exact where it is whole."""
    roots: Int64Array = np.round(np.cbrt(counts)).astype(np.int64)
    return roots - (roots**3 > counts)
