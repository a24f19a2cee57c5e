"""Rewards that need no learning, and the mixer.

Rule and rank reward: MiniOneRec (arXiv 2510.24431).  Kept: both formulas.  Changed: a hit may be worth what the log
says of it, such as a rating, in place of 1, to both.

Shape legend: N rows, G samples of a row, S items of a sample.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from sememe.align.protocol import Reward, RewardPart
from sememe.core.errors import ConfigError
from sememe.core.schema import PAD, Batch, FloatArray, Int32Array


@dataclass(frozen=True)
class Gain:
    """What a hit is worth by a column of the log: 0 at `zero`, 1 at `one`, in proportion between and beyond.

    With the ratings 1 to 5 and these defaults, taking what was rated 5 is worth 1, 3 nothing, and 1 counts against.
    """

    column: str = "rating"
    zero: float = 3.0
    one: float = 5.0

    @property
    def name(self) -> str:
        """The array of the batch that is read."""
        return f"target_{self.column}"

    def of(self, batch: Batch) -> FloatArray:
        """(N,); 0 where nothing is known."""
        if self.one == self.zero:
            raise ConfigError(f"zero and one are both {self.one}", fix="give two different values of the column")
        values: Any = batch[self.name]
        worth = (np.asarray(values, np.float64) - self.zero) / (self.one - self.zero)
        return np.nan_to_num(worth, nan=0.0).astype(np.float32)


@dataclass(frozen=True)
class RuleReward:
    """1, or the gain, for a list that holds what was taken next; else 0."""

    gain: Gain | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The target, and the column of the gain."""
        return ("target",) if self.gain is None else ("target", self.gain.name)

    def score(self, batch: Batch, lists: Int32Array) -> FloatArray:
        """(N, G)"""
        worth = np.ones(len(lists), np.float32) if self.gain is None else self.gain.of(batch)
        score: FloatArray = hits(batch, lists) * worth[:, None]
        return score


@dataclass(frozen=True)
class RankReward:
    """In a group with a hit, a wrong sample at place i (from 0) loses (1 / log2(i + 2)) / sum of these over the group:
    what stands before others though it is wrong, loses most.  0 for hits, and in groups without one."""

    gain: Gain | None = None
    """Losses count as much as the hit is worth by it, and nothing where that is 0 or less: to stand above what was
    taken and not liked is no mistake."""

    @property
    def names(self) -> tuple[str, ...]:
        """The target, and the column of the gain."""
        return ("target",) if self.gain is None else ("target", self.gain.name)

    def score(self, batch: Batch, lists: Int32Array) -> FloatArray:
        """(N, G), 0 or less; the order of the group is that of the policy."""
        hit = hits(batch, lists)
        discounts = 1.0 / np.log2(np.arange(lists.shape[1]) + 2.0)
        loss = np.where(hit.any(1, keepdims=True) & ~hit.astype(bool), discounts / discounts.sum(), 0.0)
        worth = np.ones(len(lists)) if self.gain is None else np.maximum(self.gain.of(batch), 0.0)
        return (-loss * worth[:, None]).astype(np.float32)


@dataclass(frozen=True)
class DiscountedHit:
    """What a list is worth by where it holds what was taken next: 1 / log2(place + 2), times the gain.  Of lists of k
    items, the mean over rows with one target each is NDCG@k."""

    gain: Gain | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The target, and the column of the gain."""
        return ("target",) if self.gain is None else ("target", self.gain.name)

    def score(self, batch: Batch, lists: Int32Array) -> FloatArray:
        """(N, G)"""
        target: Any = batch["target"]
        discounts = (1.0 / np.log2(np.arange(lists.shape[2]) + 2.0)).astype(np.float32)
        found = (lists == target[:, None, None]).astype(np.float32) @ discounts
        worth = np.ones(len(lists), np.float32) if self.gain is None else self.gain.of(batch)
        score: FloatArray = found * worth[:, None]
        return score


@dataclass(frozen=True)
class Mix:
    """The weighted sum of several rewards, each a Reward or a RewardPart that a stage makes one of."""

    parts: tuple[Any, ...]
    weights: tuple[float, ...] | None = None
    """One for each part; None: 1 each."""

    @property
    def names(self) -> tuple[str, ...]:
        """Those of all parts."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.names))

    def score(self, batch: Batch, lists: Int32Array) -> FloatArray:
        """(N, G)"""
        weights = self.checked_weights()
        scores = [
            np.float32(weight) * part.score(batch, lists) for weight, part in zip(weights, self.parts, strict=True)
        ]
        total: FloatArray = np.sum(scores, axis=0, dtype=np.float32)
        return total

    def checked_weights(self) -> tuple[float, ...]:
        """One for each part; ConfigError where there are more, fewer or none."""
        weights = (1.0,) * len(self.parts) if self.weights is None else self.weights
        if not self.parts or len(weights) != len(self.parts):
            raise ConfigError(
                f"a mix has {len(self.parts)} rewards and {len(weights)} weights", fix="give one weight for each reward"
            )
        return weights


def learned_parts(reward: Any) -> tuple[RewardPart, ...]:
    """The parts of `reward`, which may be a mix, that have to be learned first."""
    if isinstance(reward, Mix):
        return tuple(part for inner in reward.parts for part in learned_parts(inner))
    return (reward,) if isinstance(reward, RewardPart) else ()


def with_learned(reward: Any, made: Callable[[RewardPart], Reward]) -> Reward:
    """`reward` with each part that has to be learned replaced by what `made` gives for it."""
    if isinstance(reward, Mix):
        return Mix(parts=tuple(map(partial(with_learned, made=made), reward.parts)), weights=reward.checked_weights())
    ready: Reward = made(reward) if isinstance(reward, RewardPart) else reward
    return ready


def hits(batch: Batch, lists: Int32Array) -> FloatArray:
    """(N, G) 1 where a list holds the row's "target"."""
    target: Any = batch["target"]
    assert bool((target != PAD).all()), "a prompt has a target"
    found: FloatArray = (lists == target[:, None, None]).any(2).astype(np.float32)
    return found
