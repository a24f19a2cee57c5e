"""Batches as random access: a source is a pure function of (seed, step), so a run resumes knowing its step only.

Shape legend: N rows of a batch, T history positions (the longest in the batch), L code levels, M targets, S seen items.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from sememe.core.errors import ConfigError
from sememe.core.schema import PAD, Batch, Codes, Int32Array, Int64Array, Interactions
from sememe.data.event_inputs import EventInput, check_events, padded_event_inputs
from sememe.data.ranges import chunks, padded
from sememe.data.spans import Numbers, Rows, SpanSource
from sememe.data.splits import Examples, Split


class BatchSource(Protocol):
    """Anything that gives the batch of a step: the same step always gives the same batch."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which every example has been given once."""

    def __call__(self, step: int) -> Batch:
        """The batch of `step` >= 0; epochs follow each other without end."""


@dataclass(frozen=True)
class PrefixBatches:
    """One row per (user, next event): the events before it, the last `max_history` of them, and the event as target.

    Every event but each user's first is a target once per epoch, of `targets_per_user` (the last ones) where that is
    set, of every `stride`-th counted back from the last one where that is not 1.

    Batch keys: "history" int32 (N, T) item indices, left-aligned, PAD after the end; "lengths" int32 (N,);
    "user" int32 (N,); "target" int32 (N,); and each of `events`, as `SequenceBatches` says.
    """

    batch_size: int = 256
    max_history: int = 20
    targets_per_user: int | None = None
    stride: int = 1
    events: tuple[EventInput, ...] = ()

    def source(self, train: Interactions, *, seed: int) -> "SpanSource":
        """The source over a training part.  Raises DataError where no user has two, or `events` are not known."""
        _check_positive(batch_size=self.batch_size, max_history=self.max_history, stride=self.stride)
        if self.targets_per_user is not None:
            _check_positive(targets_per_user=self.targets_per_user)
        pairs = np.maximum(train.lengths() - 1, 0)
        if self.targets_per_user is not None:
            pairs = np.minimum(pairs, self.targets_per_user)
        spans = _Spans(train, per_user=-(-pairs // self.stride), stride=self.stride, width=self.max_history)
        check_events(train, self.events)
        make = partial(_prefix_batch, train, events=self.events)
        return SpanSource(spans, batch_size=self.batch_size, seed=seed, make=make)


@dataclass(frozen=True)
class SequenceBatches:
    """Whole training sequences for causal models: every position learns to name the event after it.

    A user with more than `max_history` + 1 events is cut, from the end, into pieces of `max_history` inputs each, so
    that every event but the first is a target once per epoch ("chunk", the default); "last" keeps the last piece only,
    as many published SASRec implementations do.  A piece does not see the pieces before it.

    Batch keys: "history" int32 (N, T) inputs, left-aligned, PAD after the end; "targets" int32 (N, T) the event after
    each input, PAD where there is no input; "lengths" int32 (N,) inputs; "user" int32 (N,); and each of `events`, int32
    (N, T): what is known of the input itself, never of its target, 0 where nothing is and after the end.
    """

    batch_size: int = 128
    """Rows per batch; of no effect where `targets_per_batch` is set."""
    max_history: int = 50
    long_sequences: Literal["chunk", "last"] = "chunk"
    targets_per_batch: int | None = None
    """Where set, it decides about the rows in place of `batch_size`: a batch has as many as hold about so many targets
    in the mean over the data at hand, so that steps are alike on short and on long histories."""
    events: tuple[EventInput, ...] = ()
    """What batches also say of each event, for models that read it; see `sememe.data.event_inputs`."""

    def source(self, train: Interactions, *, seed: int) -> "SpanSource":
        """The source over a training part.  Raises DataError where no user has two, or `events` are not known."""
        _check_positive(batch_size=self.batch_size, max_history=self.max_history)
        if self.targets_per_batch is not None:
            _check_positive(targets_per_batch=self.targets_per_batch)
        if self.long_sequences not in ("chunk", "last"):
            raise ConfigError(
                f'long_sequences must be "chunk" or "last", got {self.long_sequences!r}',
                fix='set it to "chunk" (nothing is lost) or "last"',
            )
        pieces = -(-np.maximum(train.lengths() - 1, 0) // self.max_history)
        if self.long_sequences == "last":
            pieces = np.minimum(pieces, 1)
        spans = _Spans(train, per_user=pieces, stride=self.max_history, width=self.max_history)
        check_events(train, self.events)
        make = partial(_sequence_batch, train, events=self.events)
        return SpanSource(spans, batch_size=self._rows(spans), seed=seed, make=make)

    def _rows(self, spans: "_Spans") -> int:
        if self.targets_per_batch is None or len(spans) == 0:
            return self.batch_size
        # Each input has one target, so the lengths add up to the targets.
        return max(1, round(self.targets_per_batch * len(spans) / int(spans.lengths().sum(dtype=np.int64))))


class _Spans:
    """All examples of a log, computed from their number: user u has `per_user[u]`, counted back from the last event.

    Example j of a user ends before the event `length - 1 - j * stride` and holds up to `width` events.
    """

    def __init__(self, log: Interactions, *, per_user: Int64Array, stride: int, width: int) -> None:
        self._offsets = log.offsets
        self._stride = stride
        self._width = width
        self._first = np.concatenate([np.zeros(1, np.int64), np.cumsum(per_user, dtype=np.int64)])

    def __len__(self) -> int:
        return int(self._first[-1])

    def rows(self, examples: Numbers) -> Rows:
        """Where the examples with these numbers lie in the log."""
        users = np.searchsorted(self._first, examples, side="right") - 1
        begin = self._offsets[users]
        ends = self._offsets[users + 1] - 1 - self._stride * (examples - self._first[users])
        return Rows(users.astype(np.int32), np.maximum(ends - self._width, begin), ends)

    def lengths(self) -> npt.NDArray[np.uint16] | Int32Array:
        """(examples,) events in each; small integers, which sort fastest, where they fit."""
        lengths: npt.NDArray[np.uint16] | Int32Array = np.empty(len(self), np.int32)
        if self._width < 2**16:
            lengths = np.empty(len(self), np.uint16)
        for part in chunks(len(self)):
            rows = self.rows(np.arange(part.start, part.stop))
            lengths[part] = rows.ends - rows.starts
        return lengths


def _prefix_batch(log: Interactions, rows: Rows, *, events: tuple[str, ...]) -> Batch:
    return history_arrays(log, rows, events=events) | {"target": log.items[rows.ends]}


def _sequence_batch(log: Interactions, rows: Rows, *, events: tuple[str, ...]) -> Batch:
    return history_arrays(log, rows, events=events) | {"targets": padded(log.items, rows.starts + 1, rows.ends + 1)}


def history_arrays(log: Interactions, rows: Rows, *, events: tuple[str, ...]) -> dict[str, npt.NDArray[np.generic]]:
    """What a batch says of what is known: "history", "lengths", "user" and `events`, as `PrefixBatches` has them."""
    return {
        "history": padded(log.items, rows.starts, rows.ends),
        "lengths": (rows.ends - rows.starts).astype(np.int32),
        "user": rows.users,
        **padded_event_inputs(log, events, starts=rows.starts, ends=rows.ends),
    }


@dataclass(frozen=True, eq=False)
class WithCodes:
    """A source whose batches also carry the codes of their targets."""

    inner: BatchSource
    codes: Codes

    @property
    def steps_per_epoch(self) -> int:
        """As many as the inner source has."""
        return self.inner.steps_per_epoch

    def __call__(self, step: int) -> Batch:
        """The inner source's batch and "target_codes" int32 (N, L), or (N, T, L) for sequences; PAD where no target."""
        batch = self.inner(step)
        targets = batch["target"] if "target" in batch else batch["targets"]
        codes = self.codes.matrix[targets]
        codes[targets == PAD] = PAD
        return {**batch, "target_codes": codes.astype(np.int32, copy=False)}


def with_codes(source: BatchSource, codes: Codes) -> WithCodes:
    """Add "target_codes", the SID of each target, to every batch of `source`."""
    return WithCodes(source, codes)


@dataclass(frozen=True, eq=False)
class EvalBatch:
    """Some requests of an evaluation, what they have seen and what is to be found."""

    batch: Batch
    """Of the last `max_history` known events: what a batch of `PrefixBatches` holds, but for the target."""
    seen: Int32Array
    """(N, S) every item of the whole known history, PAD after the end; an item may occur twice."""
    targets: Int32Array
    """(N, M) items to be found, PAD after the end."""
    rows: Int64Array
    """(N,) which examples these are: positions in the Examples given."""


def request_batches(
    source: Split | Interactions, examples: Examples, *, max_history: int, batch_size: int, events: tuple[str, ...] = ()
) -> Iterator[EvalBatch]:
    """Cut `examples` into batches of similar history length, the longest first, so that memory peaks at the start.

    source: the whole log (or the split made from it), not its training part: histories and targets are read from it.
    events: what batches also say of each known event; see `SequenceBatches`.
    """
    _check_positive(max_history=max_history, batch_size=batch_size)
    log = source.interactions if isinstance(source, Split) else source
    order = np.argsort(-examples.starts, kind="stable")
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        users = examples.users[rows]
        begin = log.offsets[users]
        known, ends = begin + examples.starts[rows], begin + examples.ends[rows]
        assert bool(np.all(ends <= log.offsets[users + 1])), "an example lies outside its user's events"
        yield EvalBatch(
            batch=history_arrays(log, Rows(users, np.maximum(known - max_history, begin), known), events=events),
            seen=padded(log.items, begin, known),
            targets=padded(log.items, known, ends),
            rows=rows.astype(np.int64),
        )


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}", fix=f"set {name} to 1 or more")
