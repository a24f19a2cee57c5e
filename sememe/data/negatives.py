"""Candidates that all positions of a training batch are told apart from, so that a softmax need not name every item.

Sampled softmax with a correction (Bengio and Senecal, "Adaptive Importance Sampling to Accelerate Training of a Neural
Probabilistic Language Model", 2008; Yi et al., "Sampling-Bias-Corrected Neural Modeling", RecSys 2019).  Candidates are
the batch's own targets and a uniform sample of the items that the training part holds.  Subtracting the log of the
probability with which an item became a candidate makes the sum over candidates an unbiased estimate of the sum over the
catalogue.

Shape legend: N rows, T positions, C candidates, I items.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sememe.core.errors import ConfigError
from sememe.core.schema import PAD, Batch, Interactions
from sememe.core.seeding import generator
from sememe.data.batches import BatchSource, SequenceBatches
from sememe.data.event_inputs import EventInput


@dataclass(frozen=True)
class SharedNegatives:
    """The batches of `batches`, and candidates for each.

    Added batch keys, shared by all rows: "candidates" int32 (C,), ascending; "candidate_log_prob" float32 (C,), the
    log of the probability that the item is among them; and "target_places" int32 (N, T), where in "candidates" each
    target is, PAD where there is none.
    """

    batches: SequenceBatches = field(default_factory=SequenceBatches)
    negatives: int = 2048
    """Items drawn uniformly, without replacement; as many as there are where the catalogue is smaller."""

    @property
    def max_history(self) -> int:
        return self.batches.max_history

    @property
    def events(self) -> tuple[EventInput, ...]:
        return self.batches.events

    def source(self, train: Interactions, *, seed: int) -> "NegativesSource":
        """The source over a training part; errors as those of `batches`."""
        if self.negatives < 1:
            raise ConfigError(f"negatives must be at least 1, got {self.negatives}", fix="set negatives to 1024, say")
        counts = np.bincount(train.items, minlength=train.num_items)
        pool = np.flatnonzero(counts).astype(np.int32)
        return NegativesSource(
            inner=self.batches.source(train, seed=seed),
            pool=pool,
            shares=counts / max(1, counts.sum()),
            negatives=min(self.negatives, len(pool)),
            seed=seed,
        )


@dataclass(frozen=True, eq=False)
class NegativesSource:
    """A BatchSource: a pure function of the data, the seed and the step."""

    inner: BatchSource
    pool: npt.NDArray[np.int32]
    """Items of the training part."""
    shares: npt.NDArray[np.float64]
    """(I,) of all training events."""
    negatives: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """As many as the inner source has."""
        return self.inner.steps_per_epoch

    def __call__(self, step: int) -> Batch:
        """The inner source's batch with its candidates."""
        batch = self.inner(step)
        targets = batch["targets"]
        is_target = targets != PAD
        drawn = generator(self.seed, "negatives", step).choice(self.pool, self.negatives, replace=False, shuffle=False)
        candidates = np.union1d(targets[is_target], drawn).astype(np.int32)
        places = np.where(is_target, np.searchsorted(candidates, targets), PAD).astype(np.int32)
        # An item is missing only if the sample misses it and no target of the batch is it.
        drawn_share = self.negatives / len(self.pool)
        missing = (1.0 - drawn_share) * (1.0 - self.shares[candidates]) ** int(is_target.sum())
        log_prob = np.log1p(-missing).astype(np.float32)
        return {**batch, "candidates": candidates, "candidate_log_prob": log_prob, "target_places": places}
