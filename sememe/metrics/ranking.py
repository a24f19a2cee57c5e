"""Recall, hit rate, NDCG and MRR at k: full catalogue, item by item, ties counted as ties.

Items with exactly equal scores form a group whose order means nothing.  Every metric here is its expectation over
uniformly random orders within groups, in closed form (McSherry and Najork, "Computing Information Retrieval
Performance Measures Efficiently in the Presence of Tied Scores", ECIR 2008).  So an item-level number cannot profit
from sort order, and items that share a semantic ID get no credit for being told apart when they are not.

Per row with R distinct targets, cut at k:
    recall@k  targets among the first k, divided by R (not by min(k, R): the share of what the user wanted)
    hit@k     1 if any target is among the first k; equal to recall@k where R = 1
    ndcg@k    sum over those targets of 1 / log2(1 + rank), divided by the same sum for a perfect list
    mrr@k     1 / rank of the first target, 0 where it is beyond k
An item the list does not hold, a masked one included, is a miss.

Shapes: N rows, K list places, M target places (PAD-filled), I items.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sememe.core.schema import PAD, BoolArray, FloatArray, Int32Array, Int64Array, Ranked

Float64Array = npt.NDArray[np.float64]
Metrics = dict[str, Float64Array]

MISS = np.iinfo(np.int64).max // 4
"""Stands for the number of better items of a target that is not ranked at all."""


def rank_metrics(
    ranked: Ranked, targets: Int32Array, *, ks: Sequence[int] = (5, 10), targets_tied_beyond: BoolArray | None = None
) -> Metrics:
    """Metrics of ranked lists, one value per row.

    `ranked.tied_beyond` widens the group of a list's last entry by members that the list has no room for.  Whether a
    target is one of those is not in the list: say so in `targets_tied_beyond` and the result is exact.  Without it such
    a target is a miss, so the result is a lower bound; `cut_ties` finds the rows where that can happen.

    Args:
        ranked: N lists, best first.  Entries that are PAD or score -inf are not recommended.
        targets: (N, M) int32 item indices, PAD-filled, at least one per row; repeats in a row count once.
        ks: cut-offs, each >= 1.  A list shorter than k has misses after its end.
        targets_tied_beyond: (N, M) True where the target scores exactly like the list's last entry and is not listed.

    Returns:
        "recall@k", "hit@k", "ndcg@k", "mrr@k" for each k: (N,) float64.
    """
    assert targets.ndim == 2 and len(targets) == len(ranked.items), "one row of targets per list"
    starts, sizes = _tie_groups(ranked)
    better = np.full(targets.shape, MISS, dtype=np.int64)
    tied = np.ones(targets.shape, dtype=np.int64)
    listed = _listed(ranked)
    for place in range(ranked.items.shape[1]):
        found = (ranked.items[:, place, None] == targets) & listed[:, place, None] & (better == MISS)
        better = np.where(found, starts[:, place, None], better)
        tied = np.where(found, sizes[:, place, None], tied)
    if targets_tied_beyond is not None and ranked.items.shape[1] > 0:
        rows, last = np.arange(len(targets)), np.maximum(listed.sum(axis=1) - 1, 0)
        inside = targets_tied_beyond & (better == MISS) & (_tied_beyond(ranked) > 0)[:, None]
        better = np.where(inside, starts[rows, last][:, None], better)
        tied = np.where(inside, sizes[rows, last][:, None], tied)
    valid = _first_occurrences(targets)
    # Valid targets go to the front: the counts form reads the first num_targets places of a row.
    order = np.argsort(~valid, axis=1, kind="stable")
    return rank_metrics_from_counts(
        np.take_along_axis(better, order, axis=1),
        np.take_along_axis(tied, order, axis=1),
        ks=ks,
        num_targets=valid.sum(axis=1),
    )


def rank_metrics_from_counts(
    better: Int64Array, tied: Int64Array, *, ks: Sequence[int] = (5, 10), num_targets: Int64Array | None = None
) -> Metrics:
    """Metrics from exact scoring: how many items beat each target, and how many tie with it.

    Args:
        better: (N, M) items with a higher score than the target; MISS for a target that is not ranked.
        tied: (N, M) items with exactly the target's score, the target itself included, so >= 1.
        ks: cut-offs, each >= 1.
        num_targets: (N,) the first so many of the M places hold distinct targets; None means all of them.

    Returns:
        As `rank_metrics`.
    """
    rows, places = better.shape
    if num_targets is None:
        num_targets = np.full(rows, places, dtype=np.int64)
    assert ks and min(ks) >= 1, "cut-offs count from 1"
    assert bool(np.all((num_targets >= 1) & (num_targets <= places))), "a row without target has no metric"
    valid = np.arange(places) < num_targets[:, None]
    assert bool(np.all(tied[valid] >= 1)), "a target ties at least with itself"
    deepest = max(ks)
    ranks = np.arange(1, deepest + 1)
    gains = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(1.0 + ranks))])
    first_hit = _first_hit_chances(better, tied, valid=valid, depth=deepest)
    metrics: Metrics = {}
    for k in ks:
        # A target stands at each of the `tied` places from `better` on with equal chance.
        start, stop = np.minimum(better, k), np.minimum(better + tied, k)
        in_top = np.where(valid, (stop - start) / tied, 0.0)
        gain = np.where(valid, (gains[stop] - gains[start]) / tied, 0.0)
        metrics[f"recall@{k}"] = in_top.sum(axis=1) / num_targets
        metrics[f"hit@{k}"] = first_hit[:, :k].sum(axis=1)
        metrics[f"ndcg@{k}"] = gain.sum(axis=1) / gains[np.minimum(num_targets, k)]
        metrics[f"mrr@{k}"] = (first_hit[:, :k] / ranks[:k]).sum(axis=1)
    return metrics


def count_better_and_tied(
    scores: FloatArray, targets: Int32Array, *, seen: Int32Array | None = None
) -> tuple[Int64Array, Int64Array]:
    """The two arrays `rank_metrics_from_counts` reads, from the scores of all items.

    Args:
        scores: (N, I) scores; -inf means not recommended.
        targets: (N, M) int32, PAD-filled.
        seen: (N, S) items to mask out, PAD-filled.  A masked target is a miss.

    Returns:
        better, tied: (N, M) int64 each; MISS and 1 where the target is PAD, masked or scored -inf.
    """
    assert not bool(np.isnan(scores).any()), "a score is not a number"
    if seen is not None:
        scores = mask_items(scores, seen)
    chosen = np.where(targets == PAD, -np.inf, np.take_along_axis(scores, np.maximum(targets, 0), axis=1))
    better = np.empty(targets.shape, dtype=np.int64)
    tied = np.empty(targets.shape, dtype=np.int64)
    for place in range(targets.shape[1]):
        better[:, place] = np.count_nonzero(scores > chosen[:, place, None], axis=1)
        tied[:, place] = np.count_nonzero(scores == chosen[:, place, None], axis=1)
    ranked = chosen > -np.inf
    return np.where(ranked, better, MISS), np.where(ranked, tied, 1)


def mask_items(scores: FloatArray, items: Int32Array) -> FloatArray:
    """A copy of scores (N, I) with -inf at the `items` (N, S, PAD-filled) of each row."""
    # A spare last column takes the PADs.
    wide = np.concatenate([scores, np.zeros((len(scores), 1), scores.dtype)], axis=1)
    np.put_along_axis(wide, np.where(items == PAD, scores.shape[1], items), -np.inf, axis=1)
    return wide[:, :-1]


def top_items(scores: FloatArray, *, k: int, source: str, seen: Int32Array | None = None) -> Ranked:
    """The k best items of each row as a Ranked, ties in item order and counted in `tied_beyond`.

    Args:
        scores: (N, I); -inf means not recommended.
        k: list length; rows with fewer recommendable items are PAD-filled.
        source: what to write into `Ranked.source`.
        seen: (N, S) items to mask out, PAD-filled.
    """
    assert k >= 1 and not bool(np.isnan(scores).any()), "k >= 1 and scores that are numbers"
    if seen is not None:
        scores = mask_items(scores, seen)
    width = min(k, scores.shape[1])
    cut = -np.partition(-scores, width - 1, axis=1)[:, width - 1, None]
    above, at_cut = scores > cut, scores == cut
    room = width - above.sum(axis=1, keepdims=True)
    keep = above | (at_cut & (np.cumsum(at_cut, axis=1) <= room))
    items = np.nonzero(keep)[1].reshape(len(scores), width)
    kept = np.take_along_axis(scores, items, axis=1)
    order = np.argsort(-kept, axis=1, kind="stable")
    items, kept = np.take_along_axis(items, order, axis=1), np.take_along_axis(kept, order, axis=1)
    finite = kept > -np.inf
    beyond = np.where(cut[:, 0] > -np.inf, at_cut.sum(axis=1) - room[:, 0], 0)
    spare = ((0, 0), (0, k - width))
    return Ranked(
        items=np.pad(np.where(finite, items, PAD), spare, constant_values=PAD).astype(np.int32),
        scores=np.pad(kept, spare, constant_values=-np.inf).astype(np.float32),
        source=source,
        tied_beyond=beyond.astype(np.int64),
    )


def cut_ties(ranked: Ranked, *, ks: Sequence[int] = (5, 10)) -> BoolArray:
    """(N,) True where a group of equal scores starts within the first max(ks) places and runs over the list's end.

    Only there can `rank_metrics` without `targets_tied_beyond` count a target as a miss that has a chance of being in
    the top k.  Longer lists make it False everywhere.
    """
    if ranked.items.shape[1] == 0:
        return np.zeros(len(ranked.items), dtype=np.bool_)
    starts, _ = _tie_groups(ranked)
    last = np.maximum(_listed(ranked).sum(axis=1) - 1, 0)
    cut: BoolArray = (_tied_beyond(ranked) > 0) & (starts[np.arange(len(starts)), last] < max(ks))
    return cut


def _listed(ranked: Ranked) -> BoolArray:
    """(N, K) True where the list holds a recommendation; these come first in every row."""
    assert not bool(np.isnan(ranked.scores).any()), "a score is not a number"
    listed: BoolArray = (ranked.items != PAD) & (ranked.scores > -np.inf)
    assert not bool((listed[:, 1:] & ~listed[:, :-1]).any()), "padding stands after the last recommendation"
    return listed


def _tied_beyond(ranked: Ranked) -> Int64Array:
    """(N,) items outside the list that tie with its last entry."""
    return np.zeros(len(ranked.items), dtype=np.int64) if ranked.tied_beyond is None else ranked.tied_beyond


def _tie_groups(ranked: Ranked) -> tuple[Int64Array, Int64Array]:
    """(N, K) each: the 0-based place where the group of an entry starts, and how many members the group has."""
    listed = _listed(ranked)
    rows, width = listed.shape
    scores = ranked.scores
    assert not bool((listed[:, 1:] & (scores[:, 1:] > scores[:, :-1])).any()), "scores of a list never increase"
    fresh = np.ones((rows, width), dtype=np.bool_)
    fresh[:, 1:] = (scores[:, 1:] != scores[:, :-1]) | ~listed[:, 1:]
    places = np.arange(width, dtype=np.int64)
    starts = np.maximum.accumulate(np.where(fresh, places, 0), axis=1)
    # The end of a group is the nearest start after it; read from the right.
    nexts = np.full((rows, width), width, dtype=np.int64)
    nexts[:, :-1] = np.where(fresh, places, width)[:, 1:]
    ends = np.minimum.accumulate(nexts[:, ::-1], axis=1)[:, ::-1]
    length = listed.sum(axis=1)
    sizes = ends - starts + np.where(listed & (ends == length[:, None]), _tied_beyond(ranked)[:, None], 0)
    return starts, sizes


def _first_occurrences(targets: Int32Array) -> BoolArray:
    """(N, M) True for targets that are not PAD and not a repeat within their row."""
    valid: BoolArray = targets != PAD
    if targets.shape[1] == 1:
        return valid
    order = np.argsort(targets, axis=1, kind="stable")
    ordered = np.take_along_axis(targets, order, axis=1)
    fresh = np.ones(targets.shape, dtype=np.bool_)
    fresh[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.zeros(targets.shape, dtype=np.bool_)
    np.put_along_axis(first, order, fresh, axis=1)
    return first & valid


def _first_hit_chances(better: Int64Array, tied: Int64Array, *, valid: BoolArray, depth: int) -> Float64Array:
    """(N, depth) chance that the best-placed target of the row stands at each rank.

    Targets with equal `better` are in one group (a lower one would have the higher one above it), so only the first
    group that holds targets matters: t of its g members are targets, spread at random.
    """
    start = np.where(valid, better, MISS).min(axis=1)
    in_group = valid & (better == start[:, None])
    group = np.where(in_group, tied, 0).max(axis=1)
    wanted = in_group.sum(axis=1)
    chances = np.zeros((len(better), depth))
    none_yet = np.ones(len(better))
    for step in range(depth):
        # Of the members not yet placed, the next one is a target with chance wanted / left.
        left = group - step
        here = none_yet * np.where(left > 0, np.minimum(wanted / np.maximum(left, 1), 1.0), 0.0)
        rank = start + step
        rows = np.flatnonzero(rank < depth)
        chances[rows, rank[rows]] = here[rows]
        none_yet = none_yet - here
    return chances
