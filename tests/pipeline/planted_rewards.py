"""A reward that can be hacked, for the tests of the gate."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sememe.align.protocol import Feedback
from sememe.core.schema import Batch, FloatArray, Int32Array


@dataclass(frozen=True)
class Popularity:
    """Items are worth their share of the events that may be read: whoever lists what is popular is praised."""

    correlation: float = 1.0
    """What it says of itself."""
    correlation_low: float | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return ()

    def fit(self, feedback: Feedback, *, seed: int, scratch: Path) -> "FittedPopularity":
        del seed, scratch
        counts = np.bincount(feedback.train.items[feedback.readable], minlength=feedback.train.num_items)
        shares = (counts / counts.max()).astype(np.float32)
        return FittedPopularity(shares, correlation=self.correlation, correlation_low=self.correlation_low)

    def load(self, state: Any, *, feedback: Feedback) -> "FittedPopularity":
        del feedback
        return FittedPopularity(state["shares"])


@dataclass(frozen=True, eq=False)
class FittedPopularity:
    shares: FloatArray
    names: tuple[str, ...] = ()
    correlation: float = 1.0
    correlation_low: float | None = None

    @property
    def estimate(self) -> dict[str, float]:
        low = {} if self.correlation_low is None else {"correlation_low": self.correlation_low}
        return {"correlation": self.correlation, **low}

    def score(self, batch: Batch, lists: Int32Array) -> FloatArray:
        return np.where(lists >= 0, self.shares[lists], 0.0).mean(2).astype(np.float32)

    def state(self) -> dict[str, FloatArray]:
        return {"shares": self.shares}
