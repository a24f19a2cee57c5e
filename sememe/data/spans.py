"""Examples that are spans of a log, and the order in which an epoch gives them.

An example is told by its number alone; nothing is kept of it but its place in the order of the current epoch, so that
an epoch over 100 million examples costs one array of numbers.  Rows of similar length share a batch, which pads little:
examples are shuffled over the whole epoch, sorted by length inside windows of a fixed number of batches, and the
batches are shuffled again.

Shape legend: n examples asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sememe.core.errors import DataError
from sememe.core.schema import Batch, Int32Array, Int64Array
from sememe.core.seeding import generator

Numbers = npt.NDArray[np.int32] | npt.NDArray[np.int64]

WINDOW_BATCHES = 64
"""Batches sorted by length together: enough to pad little, few enough that batches keep changing between epochs."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Some examples: each is the events `starts..ends` of the log and what follows them at `ends`."""

    users: Int32Array
    starts: Int64Array
    ends: Int64Array


class Spans(Protocol):
    """All examples of a log, each worked out from its number."""

    def __len__(self) -> int: ...

    def rows(self, examples: Numbers) -> Rows:
        """Where the examples with these numbers (n,) lie in the log."""

    def lengths(self) -> npt.NDArray[np.uint16] | Int32Array:
        """(examples,) events in each."""


class SpanSource:
    """A BatchSource over examples that are spans of a log; keeps the order of one epoch, the current one."""

    def __init__(self, spans: Spans, *, batch_size: int, seed: int, make: Callable[[Rows], Batch]) -> None:
        if len(spans) == 0:
            raise DataError(
                "the training part holds no example: no user has two events to learn a next event from",
                fix="check the data, the filters and the split; training needs users with at least two events",
            )
        self._spans = spans
        self._batch_size = batch_size
        self._seed = seed
        self._make = make
        self._epoch_order = lru_cache(maxsize=1)(self._order)

    @property
    def num_examples(self) -> int:
        """Rows given per epoch."""
        return len(self._spans)

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch; one of them is smaller where the batch size does not divide the examples."""
        return -(-self.num_examples // self._batch_size)

    def __call__(self, step: int) -> Batch:
        """The batch of `step`, a pure function of the data, the seed and the step."""
        assert step >= 0, "steps count from 0"
        epoch, place = divmod(step, self.steps_per_epoch)
        order = self._epoch_order(epoch)
        batch = int(order.batches[place])
        examples = order.examples[batch * self._batch_size : (batch + 1) * self._batch_size]
        return self._make(self._spans.rows(examples))

    def _order(self, epoch: int) -> "_EpochOrder":
        """Shuffle all examples, sort windows of them by length, shuffle the batches."""
        random = generator(self._seed, "batches", epoch)
        count = self.num_examples
        # Half the memory where it fits: one epoch's order of 100 M examples is 400 MB.
        examples: Numbers = np.arange(count, dtype=np.int32) if count < 2**31 else np.arange(count, dtype=np.int64)
        random.shuffle(examples)
        # Lengths are worked out in the order of the log: finding the users of shuffled examples misses every cache.
        lengths = self._spans.lengths()
        window = WINDOW_BATCHES * self._batch_size
        for start in range(0, count, window):
            part = examples[start : start + window]
            examples[start : start + window] = part[np.argsort(lengths[part], kind="stable")]
        return _EpochOrder(examples, random.permutation(self.steps_per_epoch))


@dataclass(frozen=True, eq=False)
class _EpochOrder:
    examples: Numbers
    batches: Int64Array
