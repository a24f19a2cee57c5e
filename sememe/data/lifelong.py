"""A long history as a few events that stand for all of it: hierarchical k-means over one user's items.

OneRec Technical Report (Kuaishou 2025, arXiv 2506.13695), its lifelong pathway.  Kept: a set of events is split by
k-means into floor(cube root of its size) clusters, each of them again, until a cluster has at most so many members; a
cluster is represented by its real member nearest the centre.
Changed: small sets are split in two at least; the centres start at members spread evenly over time, so that the answer
is a function of the history alone; events of equal vectors are one cluster, however many there are.

Shape legend: n events, d width of their vectors, k clusters.
"""

import numpy as np

from sememe.core.schema import FloatArray, Int64Array

ITERATIONS = 5
"""Of k-means at each split; members that are nearly as near to another centre do not matter here."""


def representatives(vectors: FloatArray, *, members: int) -> Int64Array:
    """Ascending positions of the events that stand for n events with `vectors` (n, d), in the order of time.

    members: a cluster has at most so many events, 1 or more, or equal vectors; 1 keeps one event of each vector.
    """
    assert members >= 1, "a cluster has a member"
    found: list[int] = []
    waiting = [np.arange(len(vectors), dtype=np.int64)] if len(vectors) else []
    while waiting:
        events = waiting.pop()
        parts = [events] if len(events) <= members else _split(vectors, events)
        if len(parts) > 1:
            waiting += parts
        else:
            found.append(int(events[_nearest_to_mean(vectors[events])]))
    return np.sort(np.array(found, np.int64))


def _split(vectors: FloatArray, events: Int64Array) -> list[Int64Array]:
    """The events by cluster; one part where all vectors are equal."""
    rows = vectors[events]
    if bool((rows == rows[0]).all()):
        return [events]
    count = max(2, _cube_root(len(rows)))
    centers = rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)]
    clusters = np.arange(count)
    owner = _owners(rows, centers)
    for _ in range(ITERATIONS):
        member = (owner == clusters[:, None]).astype(np.float32)
        sizes = member.sum(1, keepdims=True)
        # A centre without members stays where it is.
        centers = np.where(sizes > 0, member @ rows / np.maximum(sizes, 1), centers)
        before, owner = owner, _owners(rows, centers)
        if np.array_equal(before, owner):
            break
    parts = [part for part in (events[owner == cluster] for cluster in clusters) if len(part)]
    if len(parts) > 1:
        return parts
    # Starts that were alike left one cluster of different vectors: the first against those that differ from it.
    alike = (rows == rows[0]).all(1)
    return [events[alike], events[~alike]]


def _cube_root(count: int) -> int:
    """floor(count ** (1 / 3)), exact where it is whole."""
    root: int = round(count ** (1 / 3))
    return root - 1 if root**3 > count else root


def _owners(rows: FloatArray, centers: FloatArray) -> Int64Array:
    """(n,) the nearest centre of each row, the first of equally near ones."""
    apart = (centers * centers).sum(1) - 2 * rows @ centers.T
    owners: Int64Array = apart.argmin(1)
    return owners


def _nearest_to_mean(rows: FloatArray) -> int:
    away = rows - rows.mean(0)
    return int((away * away).sum(1).argmin())
