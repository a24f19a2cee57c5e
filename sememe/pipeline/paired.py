"""The running model against the refreshed one, by the same users in the same hours.

The running model answers as it does when it is served: what it does not know of a history is passed over.

Shape legend: N rows, T items of a history, I items.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sememe.core.errors import ConfigError, did_you_mean
from sememe.core.schema import PAD, Batch, Int32Array
from sememe.core.seeding import derive_seed
from sememe.data.batches import EvalBatch, request_batches
from sememe.metrics.ranking import rank_metrics
from sememe.metrics.significance import paired_difference
from sememe.pipeline.judging import readings
from sememe.pipeline.opened import Run
from sememe.pipeline.recommend import Recommender
from sememe.pipeline.refresh import NothingNewError, Refreshed, RefreshPlan


@dataclass(frozen=True)
class PairedGate:
    """What the newest hours say, and what follows from it."""

    metric: str
    users: int
    """Who was asked about by both."""
    running: float
    refreshed: float
    difference: float
    low: float
    high: float
    passed: bool

    def describe(self) -> str:
        """In a line."""
        verdict = "passes" if self.passed else "is refused"
        return (
            f"{self.metric} of {self.users:,} users: running {self.running:.4f}, refreshed {self.refreshed:.4f}, "
            f"difference {self.difference:+.4f} [{self.low:+.4f}, {self.high:+.4f}]: the refreshed model {verdict}"
        )


def compare_refreshed(older: Run, made: Refreshed, plan: RefreshPlan, *, row: str | None = None) -> PairedGate:
    """Ask both about the newest hours, seen items left out.

    row: of both runs, as in `open_run`; `older` was opened with it.

    Raises:
        ConfigError: no such metric or row.
        NothingNewError: too few users have a history that the running model can read.
    """
    wanted = row or older.recipe.name
    recommenders = {reading.name: reading.recommender for reading in readings(made.trained)}
    if wanted not in recommenders:
        raise ConfigError(f"the refreshed run has no row {wanted!r}", fix=did_you_mean(wanted, recommenders))
    evaluation = older.recipe.evaluation
    names = [f"{name}@{k}" for name in ("recall", "hit", "ndcg", "mrr") for k in evaluation.ks]
    if plan.metric not in names:
        raise ConfigError(f"there is no metric {plan.metric!r}", fix=did_you_mean(plan.metric, names))
    split = made.world.split
    new, old = recommenders[wanted], older.recommender
    requests = request_batches(
        split.interactions,
        split.test,
        max_history=max(new.max_history, old.max_history),
        batch_size=evaluation.batch_size,
        events=tuple(dict.fromkeys((*new.events, *old.events))),
    )
    log = older.world.interactions
    asked: dict[str, Any] = {"metric": plan.metric, "ks": evaluation.ks}
    ours: list[npt.NDArray[np.float64]] = []
    theirs: list[npt.NDArray[np.float64]] = []
    for request in requests:
        history: Any = request.batch["history"]
        readable = (history < log.num_items) & (history != PAD)
        rows = np.flatnonzero(readable.any(axis=1))
        if len(rows):
            ours.append(_scores(new, request, rows, **asked))
            less = replace(request, batch=_known(request.batch, items=log.num_items, users=log.num_users))
            theirs.append(_scores(old, less, rows, **asked, most=log.num_items))
    users = sum(len(values) for values in ours)
    if users < plan.least_users:
        raise NothingNewError(
            f"the running model can read the histories of {users} users of the newest hours, and {plan.least_users} "
            "are needed",
            fix="wait for more events, or judge by more hours: --set hours=72",
        )
    return _gate(np.concatenate(ours), np.concatenate(theirs), plan, resamples=evaluation.resamples)


def _gate(
    ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64], plan: RefreshPlan, *, resamples: int
) -> PairedGate:
    found = paired_difference(ours, theirs, seed=derive_seed(0, "bootstrap"), resamples=resamples)
    running = float(theirs.mean())
    return PairedGate(
        metric=plan.metric,
        users=len(ours),
        running=running,
        refreshed=float(ours.mean()),
        difference=found.mean,
        low=found.low,
        high=found.high,
        passed=found.mean > 0 and found.low >= -plan.tolerance * running,
    )


def _scores(
    recommender: Recommender,
    request: EvalBatch,
    rows: npt.NDArray[np.int64],
    *,
    metric: str,
    ks: tuple[int, ...],
    most: int | None = None,
) -> npt.NDArray[np.float64]:
    """(rows,) the metric.  most: items that the model knows."""
    batch = {
        name: _window(values[rows], request.batch["lengths"][rows], recommender)
        for name, values in _read(request.batch, recommender).items()
    }
    lengths = np.minimum(request.batch["lengths"][rows], recommender.max_history)
    batch |= {"lengths": lengths.astype(np.int32), "user": request.batch["user"][rows]}
    seen: Int32Array = request.seen[rows]
    if most is not None:
        seen = np.where(seen < most, seen, PAD).astype(np.int32)
    ranked = recommender.rank(batch, k=max(ks), seen=seen)
    beyond = 0 if ranked.tied_beyond is None else int(ranked.tied_beyond.max(initial=0))
    if beyond:
        ranked = recommender.rank(batch, k=max(ks) + beyond, seen=seen)
    return np.asarray(rank_metrics(ranked, request.targets[rows], ks=ks)[metric], np.float64)


def _read(batch: Batch, recommender: Recommender) -> dict[str, Any]:
    return {name: batch[name] for name in ("history", *recommender.events)}


def _window(values: Any, lengths: Any, recommender: Recommender) -> Any:
    """(n, t) the newest items of each row that the model reads, at the left."""
    width = min(recommender.max_history, values.shape[1])
    starts = np.maximum(lengths - width, 0)[:, None]
    places = starts + np.arange(width)
    return np.ascontiguousarray(np.take_along_axis(values, np.minimum(places, values.shape[1] - 1), axis=1))


def _known(batch: Batch, *, items: int, users: int) -> dict[str, Any]:
    """The batch without items that came later, what is left moved to the left, and without users who did."""
    history: Any = batch["history"]
    kept = (history != PAD) & (history < items)
    order = np.argsort(~kept, axis=1, kind="stable")
    lengths = kept.sum(axis=1).astype(np.int32)
    after = np.arange(history.shape[1]) >= lengths[:, None]
    found: dict[str, Any] = {"lengths": lengths}
    user: Any = batch["user"]
    found["user"] = np.where(user < users, user, PAD).astype(np.int32)
    for name, values in batch.items():
        if name not in found:
            fill = PAD if name == "history" else 0
            moved = np.take_along_axis(values, order, axis=1)
            found[name] = np.where(after, fill, moved).astype(values.dtype)
    return found
