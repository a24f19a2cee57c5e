"""Logs for tests of tokenizers that read one: from histories, and of unlike items that are used together."""

import numpy as np
import polars as pl

from sememe.core.schema import FloatArray, Int32Array, Interactions


def log_of(histories: list[list[int]], *, num_items: int) -> Interactions:
    """A log without times, one user per history."""
    lengths = [len(history) for history in histories]
    return Interactions(
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=np.concatenate([np.array(history, np.int32) for history in [*histories, []]]),
        user_ids=pl.Series(list(range(len(histories))), dtype=pl.Int64),
        item_ids=pl.Series(list(range(num_items)), dtype=pl.Int64),
    )


def relabelled(train: Interactions, order: np.ndarray) -> Interactions:
    """The same log where item order[i] is called i."""
    place = np.argsort(order).astype(np.int32)
    return Interactions(
        offsets=train.offsets,
        items=place[train.items],
        user_ids=train.user_ids,
        item_ids=train.item_ids.gather(order),
    )


def paired_clusters(
    seed: int, *, clusters: int = 8, per_cluster: int = 16
) -> tuple[FloatArray, Int32Array, Interactions]:
    """Vectors (n, 12) of clusters in general position, the cluster (n,) of each, and a log of alternating histories.

    Clusters 0 and 1, 2 and 3, and so on are used together, whatever their content; no user takes others.
    """
    rng = np.random.default_rng(seed)
    cluster = rng.permutation(np.repeat(np.arange(clusters), per_cluster)).astype(np.int32)
    centers = 3 * np.linalg.qr(rng.standard_normal((12, 12)))[0][:clusters]
    vectors = centers[cluster] + 0.3 * rng.standard_normal((len(cluster), 12))
    members = [np.flatnonzero(cluster == number) for number in range(clusters)]
    histories = []
    for user in range(300):
        pair = 2 * (user % (clusters // 2))
        histories.append([int(rng.choice(members[pair + step % 2])) for step in range(6)])
    return vectors.astype(np.float32), cluster, log_of(histories, num_items=len(cluster))
