"""Logs for tests of tokenizers that read one: from histories, and of unlike items that are used together."""

from dataclasses import dataclass

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


@dataclass(frozen=True, eq=False)
class PopularWorld:
    """Users who take what they like, and popular items more often."""

    users: FloatArray
    """(U, 8) interests, seen through noise."""
    items: FloatArray
    """(I, 9) properties, seen through noise; popularity; noise."""
    properties: FloatArray
    """(I, 6)"""
    train: Interactions

    @property
    def log_popularity(self) -> FloatArray:
        """(I,)"""
        counts = np.bincount(self.train.items, minlength=len(self.items))
        return np.log1p(counts).astype(np.float32)


def popular_world(seed: int, *, users: int = 400, items: int = 400, taken: int = 10) -> PopularWorld:
    """p(item | user) is proportional to e^(interest . properties + popularity); what is taken stands in any order."""
    rng = np.random.default_rng(seed)
    properties, interests = 0.6 * rng.standard_normal((items, 6)), rng.standard_normal((users, 6))
    popularity = 0.8 * rng.standard_normal(items)
    # Gumbel noise: the largest are a draw without replacement.
    lots = interests @ properties.T + popularity + rng.gumbel(size=(users, items))
    histories = [rng.permutation(row)[:taken].tolist() for row in np.argsort(-lots, axis=1)[:, :taken]]
    seen = [
        properties / 0.6 + rng.standard_normal((items, 6)),
        popularity[:, None] / 0.8 + 0.3 * rng.standard_normal((items, 1)),
        rng.standard_normal((items, 2)),
    ]
    content = np.concatenate([interests, rng.standard_normal((users, 2))], axis=1)
    return PopularWorld(
        users=(content + 0.3 * rng.standard_normal(content.shape)).astype(np.float32),
        items=np.concatenate(seen, axis=1).astype(np.float32),
        properties=properties.astype(np.float32),
        train=log_of(histories, num_items=items),
    )


def explained(predictors: FloatArray, target: FloatArray) -> float:
    """R^2 of a linear regression, adjusted for the number of predictors."""
    design = np.column_stack([predictors, np.ones(len(predictors))]).astype(np.float64)
    target = target.reshape(len(target), -1).astype(np.float64)
    rest = target - design @ np.linalg.lstsq(design, target, rcond=None)[0]
    spread = np.square(target - target.mean(axis=0)).sum()
    return float(1 - np.square(rest).sum() / spread * (len(design) - 1) / (len(design) - design.shape[1]))
