"""Sessions: which of them are good, as lists to judge, and as batches whose target is a whole session.

A session is a run of events of one user with the same number in the column "session".  `SessionBatches` gives, for each
chosen session that its user had events before:

    "history"          int32   (N, T)  items of the events before the session, the last `max_history`, left-aligned,
                                       PAD after the end
    "history_session"  int32   (N, T)  how many sessions back: 1 in the session just before the target, 2 in the one
                                       before that, 0 after the end.  A separator belongs where it changes.
    "lengths"          int32   (N,)    events in `history`, at least 1
    "user"             int32   (N,)
    "targets"          int32   (N, S)  items of the target session in order, its first S = `session_items`, PAD after
                                       the end
    "session_lengths"  int32   (N,)    items in `targets`, at least 1
    "target_<column>"  float32 (N, S)  for each of `feedback`, e.g. "target_like": that column of the log for each
                                       target; NaN where unknown and after the end
    and each of `events`, int32 (N, T), as `sememe.data.event_inputs` says.

`with_codes` adds "target_codes" int32 (N, S, L), PAD where there is no target.

S is fixed: shorter sessions are padded, so that every batch has the same number of decoder positions.

Shape legend: E events, R sessions, N rows of a batch, T history positions, S places of a session, L code levels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import PAD, Batch, BoolArray, FloatArray, Int32Array, Int64Array, Interactions
from sememe.data.batches import history_arrays
from sememe.data.event_inputs import EventInput, check_events
from sememe.data.feedback_columns import FLAGS, UNKNOWN_FLAG
from sememe.data.ranges import padded
from sememe.data.spans import Numbers, Rows, SpanSource

Float64Array = npt.NDArray[np.float64]

SESSION = "session"


@dataclass(frozen=True, eq=False)
class Sessions:
    """Sessions of a log, in the order of their events: session r is the events `starts[r]:ends[r]`."""

    users: Int32Array
    """(R,)"""
    starts: Int64Array
    """(R,) flat positions."""
    ends: Int64Array
    """(R,)"""

    def __len__(self) -> int:
        return len(self.users)

    def only(self, chosen: BoolArray) -> "Sessions":
        """Those with `chosen` (R,)."""
        return Sessions(self.users[chosen], self.starts[chosen], self.ends[chosen])

    def sums(self, values: npt.NDArray[np.generic]) -> Float64Array:
        """(R,) the sum of `values` (E,) over each session's events."""
        running = np.concatenate([np.zeros(1), np.cumsum(values, dtype=np.float64)])
        totals: Float64Array = running[self.ends] - running[self.starts]
        return totals


def find_sessions(log: Interactions) -> Sessions:
    """All sessions of `log`.

    Raises:
        DataError: the log has no column "session".
    """
    numbers = _column(log, SESSION)
    begins = np.ones(log.num_events, np.bool_)
    begins[1:] = numbers[1:] != numbers[:-1]
    firsts = log.offsets[:-1]
    begins[firsts[firsts < log.num_events]] = True
    starts = np.flatnonzero(begins).astype(np.int64)
    ends = np.append(starts[1:], log.num_events).astype(np.int64)
    users = np.searchsorted(log.offsets, starts, side="right") - 1
    return Sessions(users.astype(np.int32), starts, ends)


@dataclass(frozen=True)
class GoodSessions:
    """Which sessions are worth imitating: enough of them was really watched, for long enough, and something was done.

    An item was really watched where at least `watched_share` of it was.  OneRec (arXiv 2502.18965, 3.1) asks for 5
    watched videos, a total above a threshold and an interaction, and names neither of the last two.  A bound of 0 asks
    for nothing, and its columns need not be there.
    """

    watched: int = 5
    watched_share: float = 0.5
    watch_seconds: float = 0.0
    """Least total."""
    interactions: int = 1
    """Least likes and follows together, as far as the log knows of either."""

    def choose(self, log: Interactions, sessions: Sessions) -> BoolArray:
        """(R,) which of `sessions` are good; what is unknown counts as not done.

        Raises:
            ConfigError: a bound below 0.
            DataError: the log lacks a column that a bound looks at.
        """
        if min(self.watched, self.watched_share, self.watch_seconds, self.interactions) < 0:
            raise ConfigError(f"{self} has a bound below 0", fix="give bounds of at least 0; 0 asks for nothing")
        good = np.ones(len(sessions), np.bool_)
        if self.watched:
            watch, duration = _column(log, "watch_time"), _column(log, "duration")
            good &= sessions.sums(watch >= self.watched_share * duration) >= self.watched
        if self.watch_seconds:
            good &= sessions.sums(np.nan_to_num(_column(log, "watch_time"))) >= self.watch_seconds
        if self.interactions:
            known = [name for name in ("like", "follow") if name in log.columns] or ["like"]
            done = [sessions.sums(_column(log, name) == 1) for name in known]
            good &= np.sum(done, axis=0) >= self.interactions
        return good


EVERY_SESSION = GoodSessions(watched=0, interactions=0)
"""No session is left out."""


@dataclass(frozen=True)
class SessionBatches:
    """One row per chosen session with events before it; the module says what a batch holds."""

    batch_size: int = 128
    max_history: int = 50
    session_items: int = 5
    good: GoodSessions = GoodSessions()
    events: tuple[EventInput, ...] = ()
    feedback: tuple[str, ...] = ()
    """Columns of the log that batches also hold, for the targets."""

    def source(self, train: Interactions, *, seed: int) -> SpanSource:
        """The source over a training part.

        Raises:
            ConfigError: a size below 1.
            DataError: no good session has events before it, or a column is missing.
        """
        for name in ("batch_size", "max_history", "session_items"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"{name} must be at least 1, got {getattr(self, name)}", fix=f"set {name} to 1 or more"
                )
        check_events(train, self.events)
        every = find_sessions(train)
        good = self.good.choose(train, every)
        spans = _SessionSpans(train, every.only(good), width=self.max_history)
        if len(spans) == 0:
            raise DataError(
                f"no session to learn from: {int(good.sum()):,} of {len(every):,} sessions are good ({self.good}), and "
                "none of them has events of its user before it",
                fix="lower the bounds of batches.good, or give data with more sessions per user",
            )
        columns = {name: _as_numbers(train, name) for name in self.feedback}
        make = partial(_session_batch, train, spans=spans, plan=self, columns=columns)
        return SpanSource(spans, batch_size=self.batch_size, seed=seed, make=make)


class _SessionSpans:
    """Examples that end where a session begins."""

    def __init__(self, log: Interactions, sessions: Sessions, *, width: int) -> None:
        begins = log.offsets[sessions.users]
        later = sessions.starts > begins
        self._sessions = sessions.only(later)
        self._starts = np.maximum(begins[later], self._sessions.starts - width)

    def __len__(self) -> int:
        return len(self._sessions)

    def rows(self, examples: Numbers) -> Rows:
        sessions = self._sessions
        return Rows(sessions.users[examples], self._starts[examples], sessions.starts[examples])

    def lengths(self) -> Int32Array:
        return (self._sessions.starts - self._starts).astype(np.int32)

    def session_ends(self, starts: Int64Array) -> Int64Array:
        """(N,) where the sessions end that begin at `starts` (N,)."""
        found: Int64Array = self._sessions.ends[np.searchsorted(self._sessions.starts, starts)]
        return found


def _session_batch(
    log: Interactions, rows: Rows, *, spans: _SessionSpans, plan: SessionBatches, columns: Mapping[str, FloatArray]
) -> Batch:
    batch = history_arrays(log, rows, events=plan.events)
    ends = np.minimum(spans.session_ends(rows.ends), rows.ends + plan.session_items)
    targets = _fixed(padded(log.items, rows.ends, ends), width=plan.session_items)
    batch |= {"targets": targets, "session_lengths": (ends - rows.ends).astype(np.int32)}
    batch["history_session"] = _sessions_back(log, rows)
    places = rows.ends[:, None] + np.arange(plan.session_items)
    inside = targets != PAD
    for name, values in columns.items():
        batch[f"target_{name}"] = np.where(inside, values[np.where(inside, places, 0)], np.float32(np.nan))
    return batch


def _sessions_back(log: Interactions, rows: Rows) -> Int32Array:
    """(N, T) sessions from each event of the history to the one that begins at `rows.ends`; 0 after the end."""
    numbers = log.columns[SESSION]
    places = rows.starts[:, None] + np.arange(int((rows.ends - rows.starts).max()))
    inside = places < rows.ends[:, None]
    here, following = (numbers[np.where(inside, places + step, 0)] for step in (0, 1))
    changes = inside & (here != following)
    # From the right: each change between an event and the target is one session further back.
    back = np.flip(np.cumsum(np.flip(changes, axis=1), axis=1), axis=1)
    return np.where(inside, back, 0).astype(np.int32)


@dataclass(frozen=True, eq=False)
class LoggedLists:
    """Sessions as lists that were shown, for estimates of what other policies are worth.

    Arrays of shape (N, S) hold the first S events of each session, and after the end what changes nothing: item PAD,
    propensity 1, reward 0.
    """

    users: Int32Array
    """(N,)"""
    items: Int32Array
    """(N, S)"""
    propensities: Float64Array
    """(N, S)"""
    rewards: Float64Array
    """(N, S)"""
    known: Int64Array
    """(N,) events of the user before the list."""
    random_exposure: BoolArray
    """(N,) whether all of the list was shown by the uniformly random policy."""


def logged_lists(log: Interactions, *, length: int, reward: str = "rating") -> LoggedLists:
    """The sessions of `log`, each cut after `length` items.

    reward: the column that says what an event was worth.

    Raises:
        DataError: a column is missing, or a propensity or reward is unknown.
    """
    sessions = find_sessions(log)
    ends = np.minimum(sessions.ends, sessions.starts + length)
    places = sessions.starts[:, None] + np.arange(length)
    inside = places < ends[:, None]
    shown = np.where(inside, places, 0)
    values = {}
    for name, neutral in (("propensity", 1.0), (reward, 0.0)):
        values[name] = np.where(inside, _column(log, name)[shown], neutral).astype(np.float64)
        if not bool(np.isfinite(values[name]).all()):
            raise DataError(
                f"the column {name!r} is unknown for some events", fix="leave out the sessions in which it is not known"
            )
    random = log.columns.get("random_exposure", np.zeros(log.num_events, np.int8))
    uniform: BoolArray = np.asarray((~inside | (random[shown] == 1)).all(axis=1))
    return LoggedLists(
        users=sessions.users,
        items=np.where(inside, log.items[shown], np.int32(PAD)),
        propensities=values["propensity"],
        rewards=values[reward],
        known=sessions.starts - log.offsets[sessions.users],
        random_exposure=uniform,
    )


def _fixed(items: Int32Array, *, width: int) -> Int32Array:
    """`items` (N, at most width) with PAD up to `width`."""
    return np.pad(items, ((0, 0), (0, width - items.shape[1])), constant_values=PAD)


def _as_numbers(log: Interactions, name: str) -> FloatArray:
    """(E,) float32, NaN where a flag is unknown."""
    values = _column(log, name).astype(np.float32)
    if name in FLAGS:
        values[values == UNKNOWN_FLAG] = np.nan
    return values


def _column(log: Interactions, name: str) -> npt.NDArray[Any]:
    if name not in log.columns:
        raise DataError(
            f"sessions ask for the column {name!r}, and these interactions have only {sorted(log.columns) or 'none'}",
            fix=f"name the column of your file that holds it ({name}), or do not ask for it",
        )
    return log.columns[name]
