"""Prompts: moments of the training part at which the policy is asked, with what was taken next.

Shape legend: N rows, T history positions, E events.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from sememe.align.labels import check_labels, label_values
from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import Batch, FloatArray, Int64Array, Interactions
from sememe.core.seeding import generator
from sememe.data.event_inputs import EventInput, padded_event_inputs
from sememe.data.ranges import padded
from sememe.data.sessions import find_sessions
from sememe.data.splits import Examples


@dataclass(frozen=True)
class Prompts:
    """Each event of the training part but a user's first ones is a prompt once per epoch, in random order.

    Batch keys: "history" int32 (N, T) the events before it, left-aligned, PAD after the end; "lengths" int32 (N,);
    "user" int32 (N,); "target" int32 (N,) the item that was taken; "target_COLUMN" (N,) for each of `columns`;
    "history_LABEL" float32 (N, T) for each of `told`, NaN where nothing is known.
    """

    batch_size: int = 64
    newest: int | None = None
    """Of each user only so many of the latest events; None: all."""
    least_history: int = 1
    """An event is a prompt where at least so many events lie before it."""
    sessions: bool = False
    """Whether only the first event of a session is a prompt, for models that write whole sessions."""
    columns: tuple[str, ...] = ()
    """Columns of the log that are told of the target: "rating", say, for rewards that read it."""
    told: tuple[str, ...] = ()
    """Labels (`sememe.align.labels`) that are told of the events of the history, for rewards that read them."""

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
        check_labels(train, (*self.columns, *self.told))
        lengths = train.lengths()
        after = np.arange(train.num_events) - np.repeat(train.offsets[:-1], lengths)
        asked = after >= self.least_history
        if self.newest is not None:
            asked &= after >= np.repeat(lengths - self.newest, lengths)
        if self.sessions:
            begins = np.zeros(train.num_events, np.bool_)
            begins[find_sessions(train).starts] = True
            asked &= begins
        places = np.flatnonzero(asked)
        if len(places) == 0:
            raise DataError(
                f"no event that could be a prompt has {self.least_history} events before it in the training part",
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
        self._labels: dict[tuple[int, str], FloatArray] = {}
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
            **{f"history_{name}": self._told(log, name, starts=starts, ends=places) for name in self.plan.told},
            **padded_event_inputs(log, self._events, starts=starts, ends=places),
        }

    def at(self, log: Interactions, places: Int64Array) -> "PromptSource":
        """The same at the events `places` of `log`, of which the training part is a part.

        Raises DataError where there is none."""
        if len(places) == 0:
            raise DataError(
                "no held-out user is left to be asked", fix="lower align.look_users, or ask of the training part"
            )
        return PromptSource(self.plan, log, places, seed=self._seed, max_history=self._max_history, events=self._events)

    def _told(self, log: Interactions, label: str, *, starts: Int64Array, ends: Int64Array) -> FloatArray:
        """(N, T) a label of the events `starts:ends`, NaN after the end."""
        if (id(log), label) not in self._labels:
            self._labels[id(log), label] = label_values(log, label)
        places = starts[:, None] + np.arange(max(1, int((ends - starts).max(initial=0))))
        inside = places < ends[:, None]
        return np.where(inside, self._labels[id(log), label][np.where(inside, places, 0)], np.float32(np.nan))

    def _shuffled(self, epoch: int) -> Int64Array:
        return generator(self._seed, "prompts", epoch).permutation(self._places)


def held_out_places(log: Interactions, examples: Examples) -> Int64Array:
    """(examples,) where in the whole log the first target of each example stands."""
    places: Int64Array = log.offsets[examples.users] + examples.starts
    return places
