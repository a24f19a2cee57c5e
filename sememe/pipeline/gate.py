"""The gate: is a model after alignment better than before, and at what price?

Both models are measured on the same held-out users, and compared user by user.  A model is promoted where the judge's
reward rose, with the interval above 0, and no limit is broken; a judge that was learned and predicts nothing promotes
nothing.  Else what is deployed stays the model before.

Shape legend: N users, K list places, R resamples, I items.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sememe.core.errors import ConfigError
from sememe.core.schema import PAD, Int32Array
from sememe.core.seeding import derive_seed, generator
from sememe.metrics.coverage import entropy
from sememe.metrics.significance import paired_difference

Float64Array = npt.NDArray[np.float64]

REWARD, KL, LEGALITY = "reward", "kl", "legality"
NOT_LIMITED = "not limited"
LISTED = 10
"""Places of the lists whose entropy and coverage are told."""
WHOLE_RESAMPLES = 200
"""Resamples of users for what only all lists together have; each needs a count of all of them."""


@dataclass(frozen=True, eq=False)
class Measures:
    """What one model did for N users, always in the same order."""

    per_user: Mapping[str, Float64Array]
    """Metric -> (N,): "reward" by the judge, "ndcg@10", "recall@10", "ndcg@50", "recall@50", "legality", "level1@10",
    "kl"."""
    lists: Int32Array
    """(N, K) items, PAD after the last one."""
    num_items: int


@dataclass(frozen=True)
class Limits:
    """What an aligned model may lose at most: shares of what the model before has, but for `kl`.

    1 or more limits nothing, since nobody loses more than all, and the table says so.
    """

    ndcg10: float = 0.01
    recall10: float = 0.01
    ndcg50: float = 0.01
    recall50: float = 0.01
    legality: float = 0.0
    """A loss has to be certain, by the interval's upper end: what is drawn differs by chance too."""
    level1: float = 0.02
    entropy: float = 0.05
    coverage: float = 0.1
    kl: float = 1.0
    """Nats of KL(after || before), mean over users."""
    certain: bool = False
    """Whether the interval's worse end has to keep to the limits, rather than the mean."""

    def check(self) -> None:
        """Raise ConfigError where a limit is below 0."""
        for name, value in asdict(self).items():
            if value < 0:
                raise ConfigError(f"limits.{name} is {value}", fix="give a share of at least 0: 0.01 allows 1 %")

    def losses(self) -> dict[str, float]:
        """Metric -> largest share lost."""
        return {
            "ndcg@10": self.ndcg10,
            "recall@10": self.recall10,
            "ndcg@50": self.ndcg50,
            "recall@50": self.recall50,
            LEGALITY: self.legality,
            "level1@10": self.level1,
            f"entropy@{LISTED}": self.entropy,
            f"coverage@{LISTED}": self.coverage,
        }


@dataclass(frozen=True)
class GateRow:
    """One line of the table."""

    metric: str
    before: float
    after: float
    difference: float
    low: float
    high: float
    limit: str
    """What is asked of it."""
    kept: bool


@dataclass(frozen=True)
class Verdict:
    """What the gate says."""

    promoted: bool
    reason: str
    rows: tuple[GateRow, ...]
    users: int

    def to_json(self) -> dict[str, Any]:
        """As gate.json has it."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Verdict":
        """What `to_json` gave; further keys, such as those of metrics.json, are passed over."""
        rows = tuple(GateRow(**row) for row in content["rows"])
        return cls(promoted=content["promoted"], reason=content["reason"], rows=rows, users=content["users"])

    def lines(self) -> list[str]:
        """The table as text, the reason last."""
        head = f"  {'':<14}{'before':>9}{'after':>9}  {'after - before, 95 %':<28}limit"
        table = [
            f"  {row.metric:<14}{row.before:>9.4f}{row.after:>9.4f}  "
            f"{f'{row.difference:+.4f} [{row.low:+.4f}, {row.high:+.4f}]':<28}{row.limit}"
            f"{'' if row.kept else ', BROKEN'}"
            for row in self.rows
        ]
        return [head, *table, f"  {'promoted' if self.promoted else 'NOT PROMOTED'}: {self.reason}"]


def judge(before: Measures, after: Measures, limits: Limits, *, resamples: int = 1000) -> Verdict:
    """Compare two models user by user.

    Raises:
        ConfigError: a limit below 0.
    """
    limits.check()
    assert before.lists.shape[0] == after.lists.shape[0], "the same users on both sides"
    rows = [_reward_row(before, after, resamples=resamples)]
    for metric, most in limits.losses().items():
        found = _compared(before, after, metric, resamples=resamples)
        rows.append(_loss_row(found, most, certain=limits.certain))
    drift = _compared(before, after, KL, resamples=resamples)
    worst = drift.high if limits.certain else drift.after
    rows.append(_row(drift, limit=f"<= {limits.kl:g} nats", kept=bool(worst <= limits.kl)))
    return Verdict(
        promoted=all(row.kept for row in rows), reason=_reason(rows), rows=tuple(rows), users=len(after.lists)
    )


def unless_blind(verdict: Verdict, correlations: Sequence[float]) -> Verdict:
    """The verdict, and no promotion where a judge was learned that is not shown to predict anything.

    correlations: of each learned part of the judge with feedback of users that it did not learn from, the lower ends of
    their 95 % intervals.  The intervals of the table say how sure the judge is, and nothing of whether it is right.
    """
    blind = [value for value in correlations if not value > 0]
    if not blind:
        return verdict
    reason = (
        "the judge is not shown to predict anything: its correlation with feedback that it did not learn from may be "
        f"{min(blind):+.3f} (where the 95 % interval begins)"
    )
    return replace(verdict, promoted=False, reason=reason if verdict.promoted else f"{reason}; {verdict.reason}")


@dataclass(frozen=True)
class _Compared:
    metric: str
    before: float
    after: float
    difference: float
    low: float
    high: float


def _row(found: _Compared, *, limit: str, kept: bool) -> GateRow:
    return GateRow(**asdict(found), limit=limit, kept=kept)


def _loss_row(found: _Compared, most: float, *, certain: bool) -> GateRow:
    if most >= 1:
        return _row(found, limit=NOT_LIMITED, kept=True)
    doubted = found.metric == LEGALITY and not certain
    by = found.low if certain else found.high if doubted else found.difference
    limit = f"loss <= {most:.0%}" if most else "no loss"
    return _row(found, limit=limit + ", by upper end" * doubted, kept=bool(by >= -most * abs(found.before) - 1e-12))


def _reward_row(before: Measures, after: Measures, *, resamples: int) -> GateRow:
    found = _compared(before, after, REWARD, resamples=resamples)
    return _row(found, limit="interval above 0", kept=found.low > 0)


def _compared(before: Measures, after: Measures, metric: str, *, resamples: int) -> _Compared:
    whole = {f"entropy@{LISTED}": entropy, f"coverage@{LISTED}": _coverage}
    if metric in whole:
        return _compare_whole(before, after, metric, measure=whole[metric])
    ours, theirs = after.per_user[metric], before.per_user[metric]
    found = paired_difference(ours, theirs, seed=derive_seed(0, "bootstrap"), resamples=resamples)
    return _Compared(metric, float(theirs.mean()), float(ours.mean()), found.mean, found.low, found.high)


def _compare_whole(
    before: Measures, after: Measures, metric: str, *, measure: Callable[[npt.NDArray[np.int64]], float]
) -> _Compared:
    """What all lists have together, with an interval over resampled users, the same ones on both sides."""
    random, users = generator(0, "gate users"), len(before.lists)
    values = [measure(_counts(model, None)) for model in (before, after)]
    differences = []
    for _ in range(WHOLE_RESAMPLES):
        times = np.bincount(random.integers(0, users, users), minlength=users)
        differences.append(measure(_counts(after, times)) - measure(_counts(before, times)))
    # Resampled users show fewer different items than all of them: the interval is moved to where the difference is.
    spread = np.asarray(differences) - np.median(differences) + values[1] - values[0]
    low, high = np.quantile(spread, [0.025, 0.975])
    return _Compared(metric, values[0], values[1], values[1] - values[0], float(low), float(high))


def _counts(measures: Measures, times: npt.NDArray[np.int64] | None) -> npt.NDArray[np.int64]:
    """(I,) places of each item, users counted `times` (N,) each."""
    lists = measures.lists[:, :LISTED]
    listed = lists != PAD
    weights = None if times is None else np.broadcast_to(times[:, None], lists.shape)[listed]
    return np.bincount(lists[listed], weights=weights, minlength=measures.num_items).astype(np.int64)


def _coverage(counts: npt.NDArray[np.int64]) -> float:
    return float((counts > 0).mean())


def _reason(rows: list[GateRow]) -> str:
    broken = [row for row in rows if not row.kept]
    gain = rows[0]
    if not broken:
        return (
            f"the held-out reward rose by {gain.difference:.4f} [{gain.low:.4f}, {gain.high:.4f}], no limit is broken"
        )
    parts = []
    if not gain.kept:
        fell = "fell" if gain.high < 0 else "did not rise"
        parts.append(f"the held-out reward {fell} ({gain.difference:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}])")
    parts += [
        f"{row.metric} went from {row.before:.4f} to {row.after:.4f} ({row.limit})" for row in broken if row is not gain
    ]
    return "; ".join(parts)
