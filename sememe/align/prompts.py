"""Prompts: moments of the training part at which the policy is asked, with what was taken next.

Shape legend: N rows, T history positions, E events.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import Batch, FloatArray, Int64Array, Interactions
from sememe.core.seeding import generator
from sememe.data.event_inputs import EventInput, padded_event_inputs
from sememe.data.feedback_columns import FLAGS, UNKNOWN_FLAG
from sememe.data.ranges import padded
from sememe.data.splits import Examples


@dataclass(frozen=True)
class Prompts:
    """Each event of the training part but a user's first ones is a prompt once per epoch, in random order.

    Batch keys: "history" int32 (N, T) the events before it, left-aligned, PAD after the end; "lengths" int32 (N,);
    "user" int32 (N,); "target" int32 (N,) the item that was taken; "target_COLUMN" (N,) for each of `columns`;
    "history_COLUMN" float32 (N, T) for each of `told`, NaN where nothing is known.
    """

    batch_size: int = 64
    newest: int | None = None
    """Of each user only so many of the latest events; None: all."""
    least_history: int = 1
    """An event is a prompt where at least so many events lie before it."""
    columns: tuple[str, ...] = ()
    """Columns of the log that are told of the target: "rating", say, for rewards that read it."""
    told: tuple[str, ...] = ()
    """Columns that are told of the events of the history, for rewards that read them: flags as 0 and 1, seconds by
    their logarithm."""

    def source(
        self, train: Interactions, *, seed: int, max_history: int, events: tuple[EventInput, ...] = ()
    ) -> "PromptSource":
        """The source over a training part.

        Raises:
            ConfigError: a number below 1.
            DataError: there is no event with something before it, or a column is not in the log.
        """
        for name in ("batch_size", "least_history", "newest"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"prompts.{name} is {getattr(self, name)}", fix="set it to 1 or more")
        check_columns(train, (*self.columns, *self.told))
        lengths = train.lengths()
        after = np.arange(train.num_events) - np.repeat(train.offsets[:-1], lengths)
        asked = after >= self.least_history
        if self.newest is not None:
            asked &= after >= np.repeat(lengths - self.newest, lengths)
        places = np.flatnonzero(asked)
        if len(places) == 0:
            raise DataError(
                f"no event of the training part has {self.least_history} events before it",
                fix="lower prompts.least_history, or check the filters and the split",
            )
        return PromptSource(self, train, places, seed=seed, max_history=max_history, events=events)


class PromptSource:
    """Random access to prompts: a pure function of the data, the seed and the step."""

    def __init__(
        self,
        plan: Prompts,
        log: Interactions,
        places: Int64Array,
        *,
        seed: int,
        max_history: int,
        events: tuple[EventInput, ...],
    ) -> None:
        self.plan = plan
        self._log, self._places, self._seed = log, places, seed
        self._max_history, self._events = max_history, events
        self._order = lru_cache(maxsize=1)(self._shuffled)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in which every prompt is given once; the last one may be smaller."""
        return -(-len(self._places) // self.plan.batch_size)

    def __call__(self, step: int) -> Batch:
        """The prompts of `step` >= 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        chosen = self._order(epoch)[place * self.plan.batch_size : (place + 1) * self.plan.batch_size]
        return self.ask(self._log, chosen)

    def ask(self, log: Interactions, places: Int64Array) -> dict[str, npt.NDArray[np.generic]]:
        """The prompts at the events `places` (N,) of `log`, which may be the whole log that the training part is of."""
        users = (np.searchsorted(log.offsets, places, side="right") - 1).astype(np.int32)
        starts = np.maximum(places - self._max_history, log.offsets[users])
        return {
            "history": padded(log.items, starts, places),
            "lengths": (places - starts).astype(np.int32),
            "user": users,
            "target": np.asarray(log.items[places], np.int32),
            **{f"target_{name}": np.asarray(log.columns[name][places]) for name in self.plan.columns},
            **{f"history_{name}": _told(log, name, starts=starts, ends=places) for name in self.plan.told},
            **padded_event_inputs(log, self._events, starts=starts, ends=places),
        }

    def _shuffled(self, epoch: int) -> Int64Array:
        return generator(self._seed, "prompts", epoch).permutation(self._places)


def held_out_places(log: Interactions, examples: Examples) -> Int64Array:
    """(examples,) where in the whole log the first target of each example stands."""
    places: Int64Array = log.offsets[examples.users] + examples.starts
    return places


def _told(log: Interactions, name: str, *, starts: Int64Array, ends: Int64Array) -> FloatArray:
    places = starts[:, None] + np.arange(max(1, int((ends - starts).max(initial=0))))
    inside = places < ends[:, None]
    values = readable_column(log.columns[name][np.where(inside, places, 0)], name=name)
    return np.where(inside, values, np.float32(np.nan))


def readable_column(values: npt.NDArray[np.generic], *, name: str) -> FloatArray:
    """A column of feedback as numbers that a network can read, NaN where it is unknown; seconds by their logarithm."""
    numbers = np.array(values, np.float32)
    if name in FLAGS:
        numbers[numbers == UNKNOWN_FLAG] = np.nan
        return numbers
    return (np.log1p(np.maximum(numbers, 0.0)) / 5.0).astype(np.float32)


def check_columns(log: Interactions, columns: tuple[str, ...]) -> None:
    """Raise DataError where the log lacks one of `columns`."""
    for name in columns:
        if name not in log.columns:
            raise DataError(
                f"the reward reads the column {name!r}, and these interactions have "
                f"{sorted(log.columns) or 'no further columns'}",
                fix=f"name the column of your file that holds it ({name}), or use a reward that does not read it",
            )
