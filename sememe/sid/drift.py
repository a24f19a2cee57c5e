"""Is it time to fit the tokenizer again?  What came since the fit, held against what the fit was made for.

Four numbers can call for a new fit, each only where it is surely beyond its limit, not just by the luck of which items
came: the error of what codes stand for, the share of items whose tuple was taken, codes used in other proportions, and
how full the fullest tuple is.

A tokenizer serves the items that it was fitted on otherwise than those that come later, drift or none: mostly better,
the more so the fewer items there are per code.  `measure_fresh` finds out by one more fit without a tenth of the items;
where that was not done, the error is reported and not judged.

Shape legend: n items, D levels of the tokenizer, K codes of a level, R resamples.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sememe.core.errors import ConfigError
from sememe.core.schema import BoolArray, FloatArray, Int32Array, Int64Array
from sememe.core.seeding import generator
from sememe.sid.catalogue import FreshItems, LiveCatalogue
from sememe.sid.context import CodeContext, ContextFitter, Fitter, fit_in_context
from sememe.sid.encode import PlainRule, VectorRule, settle_catalog
from sememe.sid.place import joint_keys

Float64Array = npt.NDArray[np.float64]

RESAMPLES = 400
NOISE_QUANTILE = 0.99
"""There are several levels, and each must not cry wolf."""
Z = 1.645
"""One-sided 95 %."""
PERFECT = 1e-6
"""Of the vectors' spread; a smaller error counts as this, so that rounding is no drift."""


@dataclass(frozen=True)
class DriftLimits:
    """From where on a new fit is called for."""

    error: float = 1.2
    """Error of the items since the fit, over that of fresh items without drift."""
    collisions: float = 0.1
    """Share of the items since the fit whose tuple was taken, beyond that share without drift."""
    divergence: float = 0.25
    """Jensen-Shannon divergence of a level's code use from that of the fit, in bits, beyond noise and what fresh items
    have.  New items half of which use codes that were not used before come to .31."""
    fullness: float = 0.9
    """Numbers given or retired in the fullest tuple, of those there are."""
    least_items: int = 50
    """With fewer items since the fit only the fullness is judged."""

    def check(self) -> None:
        """Raise ConfigError for limits that cannot be."""
        for name, value in asdict(self).items():
            if not value > 0:
                raise ConfigError(f"DriftLimits got {name}={value}", fix="give more than 0")


@dataclass(frozen=True)
class LevelDrift:
    """How differently the items since the fit use the codes of a level."""

    divergence: float
    """Jensen-Shannon, bits: 0 is the same use, 1 is no code in common."""
    noise: float
    """99th percentile of what two samples of these sizes from the fit's own use have."""
    excess: float
    """Divergence beyond the mean of that noise; 0 at least."""


@dataclass(frozen=True)
class Drift:
    """What the items that came since the fit look like."""

    items_fitted: int
    items_since: int
    error_fitted: float
    """Share of the fitted vectors' spread that codes lose."""
    error_since: float
    error_ratio: float
    """Error since the fit over that of the fitted items; nan where there are none of either."""
    error_ratio_low: float
    """Lower end of its one-sided 95 % interval."""
    collision_share: float | None
    """Of the items since the fit; None where a rule deals out last codes, or there are none."""
    collision_share_low: float | None
    collision_share_fitted: float | None
    levels: tuple[LevelDrift, ...]
    fullness: float | None
    """Of the fullest tuple; None where items have no numbers."""
    fresh: FreshItems | None
    reasons: tuple[str, ...]
    """Which numbers call for a new fit."""
    notes: tuple[str, ...]
    """What could not be judged."""

    @property
    def refit(self) -> bool:
        """Whether the tokenizer should be fitted again."""
        return bool(self.reasons)

    @property
    def verdict(self) -> str:
        """The answer and the numbers that gave it, in words."""
        return f"fit again: {'; '.join(self.reasons)}" if self.reasons else "keep the codes"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, None for nan and infinity, which JSON does not have."""
        content = {**asdict(self), "refit": self.refit, "verdict": self.verdict}
        if content["fresh"] is not None:
            content["fresh"] = {name: _plain(value) for name, value in content["fresh"].items()}
        return {name: _plain(value) for name, value in content.items()}

    def render(self) -> str:
        """The findings as lines of text."""
        lines = [f"{self.verdict}", f"  {self.items_since:,} items since the fit on {self.items_fitted:,}"]
        if not np.isnan(self.error_ratio):
            lines.append(
                f"  error       {self.error_since:.3f} of the variance, {self.error_ratio:.2f} times that of the fit "
                f"(surely {self.error_ratio_low:.2f})"
                + (f", {self.fresh.error_ratio:.2f} times without drift" if self.fresh else "")
            )
        if self.collision_share is not None:
            lines.append(f"  collisions  {self.collision_share:.1%}, in the fit {self.collision_share_fitted:.1%}")
        lines += [
            f"  level {number}     code use {level.divergence:.3f} bits away (noise up to {level.noise:.3f})"
            for number, level in enumerate(self.levels, start=1)
        ]
        if self.fullness is not None:
            lines.append(f"  fullness    {self.fullness:.0%} of the numbers of the fullest tuple are taken")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def measure_drift(catalogue: LiveCatalogue, *, limits: DriftLimits | None = None, seed: int = 0) -> Drift:
    """How far the items since the fit are from what the tokenizer was fitted on, and whether to fit again.

    Items that were updated count as items since the fit; removed ones stay part of what it was fitted on.

    Raises:
        ConfigError: a limit that cannot be.
    """
    limits = limits or DriftLimits()
    limits.check()
    fitted, since = ~catalogue.since_fit, catalogue.since_fit & catalogue.live
    enough = min(int(fitted.sum()), int(since.sum())) > 0
    found = _numbers(catalogue, fitted, since, seed=seed) if enough else {}
    numbers: dict[str, Any] = {
        "items_fitted": int(fitted.sum()),
        "items_since": int(since.sum()),
        "error_fitted": _relative(catalogue, fitted),
        "error_since": _relative(catalogue, since),
        "error_ratio": float("nan"),
        "error_ratio_low": float("nan"),
        "collision_share": None,
        "collision_share_low": None,
        "collision_share_fitted": None,
        "levels": (),
        "fullness": _fullness(catalogue),
        "fresh": catalogue.fresh,
        **found,
    }
    drift = Drift(**numbers, reasons=(), notes=())
    return Drift(**numbers, reasons=tuple(_reasons(drift, limits)), notes=tuple(_notes(drift, limits)))


def measure_fresh(
    part: Fitter | ContextFitter,
    rule: PlainRule | VectorRule,
    vectors: FloatArray,
    *,
    seed: int,
    share: float = 0.1,
    context: CodeContext | None = None,
    as_new: Callable[[Int32Array], FloatArray] | None = None,
) -> FreshItems:
    """What items of the same kind look like that come after the fit: `part` is fitted without a share of the items.

    Items that come have no events.  Where vectors hold what the log says of items, that part of a new item's vector is
    borrowed or missing, which no left-out item's would be: `as_new` says what its vector were then.  For the items of a
    run: `sememe.pipeline.live.fresh_items`.

    Args:
        part, rule: the tokenizer and the collision rule that the catalogue is made with.
        vectors: (n, dim) of all items.
        seed: draws the items; the fit has it, too.
        share: of the items that are left out.
        context: of `vectors`, for tokenizers that read it; events of left-out items are left out, too.
        as_new: gives (n, dim), the vectors had the log no event of the items that it is asked for.

    Raises:
        ConfigError: a share that leaves too few items on one side, or a tokenizer that reads the log and has none.
    """
    count = round(share * len(vectors))
    if not 0 < count < len(vectors):
        raise ConfigError(
            f"a share of {share} leaves out {count} of {len(vectors)} items", fix="give a share such as 0.1"
        )
    order = generator(seed, "sid", "drift", "fresh").permutation(len(vectors))
    come, stay = np.sort(order[:count]), np.sort(order[count:])
    fitted = fit_in_context(
        part,
        vectors[stay],
        context=None if context is None else context.of(stay),
        seed=seed,
        fix="give them: measure_fresh(..., context=CodeContext(widths, train))",
    )
    settled = settle_catalog(rule, tokenizer=fitted, vectors=vectors[stay], seed=seed)
    before = LiveCatalogue.start(
        settled.codes, item_ids=stay.tolist(), tokenizer=settled.tokenizer, vectors=vectors[stay]
    )
    arriving = (vectors if as_new is None else as_new(come.astype(np.int32)))[come]
    drift = measure_drift(before.add(come.tolist(), vectors=arriving), seed=seed)
    return FreshItems(
        error_ratio=drift.error_ratio,
        collision_share=drift.collision_share,
        divergences=tuple(level.excess for level in drift.levels),
    )


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _reasons(drift: Drift, limits: DriftLimits) -> Iterator[str]:
    if drift.items_fitted == 0:
        yield "no item has the code of the fit any more"
    if drift.items_since >= limits.least_items:
        yield from _error_reasons(drift, limits)
        yield from _use_reasons(drift, limits)
    if drift.fullness is not None and drift.fullness > limits.fullness:
        yield f"the fullest tuple has {drift.fullness:.0%} of its numbers taken (limit {limits.fullness:.0%})"


def _error_reasons(drift: Drift, limits: DriftLimits) -> Iterator[str]:
    if drift.fresh is not None and drift.error_ratio_low > limits.error * drift.fresh.error_ratio:
        yield (
            f"the error of items since the fit is {drift.error_ratio / drift.fresh.error_ratio:.2f} times what it is "
            f"without drift, surely {drift.error_ratio_low / drift.fresh.error_ratio:.2f} (limit {limits.error:.2f})"
        )


def _use_reasons(drift: Drift, limits: DriftLimits) -> Iterator[str]:
    usual = drift.fresh.collision_share if drift.fresh is not None else drift.collision_share_fitted
    if drift.collision_share_low is not None and drift.collision_share_low > (usual or 0.0) + limits.collisions:
        yield (
            f"{drift.collision_share:.1%} of the items since the fit have a tuple that was taken, "
            f"{usual or 0.0:.1%} without drift (limit {limits.collisions:.1%} more)"
        )
    for place, level in enumerate(drift.levels):
        beyond = level.excess - (drift.fresh.divergences[place] if drift.fresh is not None else 0.0)
        if level.divergence > level.noise and beyond > limits.divergence:
            yield (
                f"the codes of level {place + 1} are used otherwise than in the fit, by {beyond:.2f} bits "
                f"(limit {limits.divergence:.2f})"
            )


def _notes(drift: Drift, limits: DriftLimits) -> Iterator[str]:
    if drift.items_since < limits.least_items:
        yield (
            f"{drift.items_since} items came since the fit; what they have in common is judged from "
            f"{limits.least_items} on"
        )
    elif drift.fresh is None:
        yield "the error is not judged: how large it is without drift was not measured (measure_fresh)"


def _relative(catalogue: LiveCatalogue, rows: BoolArray) -> float:
    """Mean error of `rows` (I,) as a share of the spread; nan without rows."""
    if not rows.any():
        return float("nan")
    error = float(catalogue.errors[rows].astype(np.float64).mean())
    return error / catalogue.spread if catalogue.spread > 0 else float(error > 0)


def _numbers(catalogue: LiveCatalogue, fitted: BoolArray, since: BoolArray, *, seed: int) -> dict[str, Any]:
    """What needs items on both sides."""
    ratio, low = _error_ratio(catalogue, fitted, since)
    codes, depth = catalogue.codes, len(catalogue.tokenizer.codebook_sizes)
    levels = tuple(
        _level_drift(
            np.bincount(codes.matrix[fitted, level], minlength=size),
            np.bincount(codes.matrix[since, level], minlength=size),
            rng=generator(seed, "sid", "drift", level),
        )
        for level, size in enumerate(catalogue.tokenizer.codebook_sizes)
    )
    numbers: dict[str, Any] = {"error_ratio": ratio, "error_ratio_low": low, "levels": levels}
    if codes.num_levels > depth or codes.collisions == "tied":
        # Removed items take part: a tuple that only they have is taken all the same.
        held = np.flatnonzero(fitted | since)
        (keys,) = joint_keys([codes.matrix[held, :depth]], catalogue.tokenizer.codebook_sizes)
        _, group, counts = np.unique(keys, return_inverse=True, return_counts=True)
        collides = counts[group] > 1
        share = float(collides[since[held]].mean())
        own = np.bincount(group[fitted[held]], minlength=len(counts))[group[fitted[held]]] > 1
        numbers |= {
            "collision_share": share,
            "collision_share_low": share - Z * float(np.sqrt(share * (1 - share) / int(since.sum()))),
            "collision_share_fitted": float(own.mean()),
        }
    return numbers


def _error_ratio(catalogue: LiveCatalogue, fitted: BoolArray, since: BoolArray) -> tuple[float, float]:
    """Mean error since the fit over that of the fitted items, and its lower one-sided bound (delta method)."""
    sides = [catalogue.errors[rows].astype(np.float64) for rows in (since, fitted)]
    floor = PERFECT * catalogue.spread
    upper, lower = (max(float(side.mean()), floor) for side in sides)
    if lower == 0:
        return (1.0, 1.0) if upper == 0 else (float("inf"), float("inf"))
    doubts = [float(side.var()) / len(side) / mean**2 for side, mean in zip(sides, (upper, lower), strict=True) if mean]
    ratio = upper / lower
    return ratio, ratio * max(0.0, 1 - Z * float(np.sqrt(sum(doubts))))


def _level_drift(fitted: Int64Array, since: Int64Array, *, rng: np.random.Generator) -> LevelDrift:
    """From the counts (K,) of a level's codes."""
    found = float(divergence(fitted[None], since[None])[0])
    chances = fitted / fitted.sum()
    # Both sides are drawn, since the fit's own counts are a sample, too.
    noise = divergence(
        rng.multinomial(int(fitted.sum()), chances, size=RESAMPLES),
        rng.multinomial(int(since.sum()), chances, size=RESAMPLES),
    )
    return LevelDrift(
        divergence=found,
        noise=float(np.quantile(noise, NOISE_QUANTILE)),
        excess=max(0.0, found - float(noise.mean())),
    )


def divergence(left: Int64Array, right: Int64Array) -> Float64Array:
    """(R,) Jensen-Shannon divergence, in bits, between the distributions that counts (R, K) stand for."""
    shares = [counts / counts.sum(axis=1, keepdims=True) for counts in (left, right)]
    middle = (shares[0] + shares[1]) / 2
    total = np.zeros(len(left))
    for share in shares:
        # Where a share is 0 it adds nothing, and the middle may be 0, too.
        quotient = np.divide(share, middle, out=np.ones_like(share), where=share > 0)
        total += (share * np.log2(quotient)).sum(axis=1) / 2
    return total


def _fullness(catalogue: LiveCatalogue) -> float | None:
    """Share of the numbers that are given or retired in the fullest tuple."""
    codes, depth = catalogue.codes, len(catalogue.tokenizer.codebook_sizes)
    if codes.num_levels == depth:
        return None
    held = np.concatenate([codes.matrix[catalogue.live], catalogue.retired])[:, :depth]
    (keys,) = joint_keys([held], catalogue.tokenizer.codebook_sizes)
    return float(np.unique(keys, return_counts=True)[1].max() / codes.codebook_sizes[-1])
