"""Histories that were read lately, so that a user who comes back with one item more costs one position.

A history is its own key: no user need be known.  A state that is taken out belongs to whoever took it, since reading on
changes it; it comes back under the longer history.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from sememe.core.schema import Int32Array
from sememe.data.ranges import padded_rows
from sememe.decode.native.search import HistoryState, NativeSearch

STEPS_BACK = 4
"""So many new items at most are looked behind: beyond that, reading anew is hardly dearer."""


class HistoryCache:
    """States of the native search, the ones used last, up to so many bytes; safe to share between threads."""

    def __init__(self, *, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.nbytes = 0
        self.hits = 0
        self.misses = 0
        self._states: OrderedDict[bytes, HistoryState] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._states)

    def read(self, search: NativeSearch, histories: Sequence[Int32Array]) -> list[HistoryState]:
        """A state for each history (t,), t >= 1, of item indices, at most as many as the model reads.

        They are the caller's until handed back with `keep`.
        """
        taken = [self._take(history) for history in histories]
        missing = [row for row, state in enumerate(taken) if state is None]
        if missing:
            unread = [histories[row] for row in missing]
            lengths = np.array([len(history) for history in unread], np.int64)
            fresh = search.encode({"history": padded_rows(unread), "lengths": lengths})
            for row, state in zip(missing, fresh, strict=True):
                taken[row] = state
        states = [state for state in taken if state is not None]
        for _ in range(STEPS_BACK):
            behind = [row for row, state in enumerate(states) if state.positions < len(histories[row])]
            if behind:
                newest = np.array([histories[row][states[row].positions] for row in behind], np.int32)
                search.extend([states[row] for row in behind], newest)
        with self._lock:
            self.misses += len(missing)
            self.hits += len(histories) - len(missing)
        return states

    def keep(self, states: Sequence[HistoryState], histories: Sequence[Int32Array]) -> None:
        """Put the states back, each under its history; those not used for longest go."""
        with self._lock:
            for state, history in zip(states, histories, strict=True):
                self._drop(history.tobytes())
                self._states[history.tobytes()] = state
                self.nbytes += state.nbytes
            while self.nbytes > self.most_bytes and self._states:
                self._drop(next(iter(self._states)))

    def clear(self) -> None:
        """Forget everything: another model answers from now on."""
        with self._lock:
            self._states.clear()
            self.nbytes = 0

    def _take(self, history: Int32Array) -> HistoryState | None:
        """The state of the history, or of one that lacks its last few items; it is taken out."""
        with self._lock:
            for end in range(len(history), max(0, len(history) - STEPS_BACK - 1), -1):
                key = history[:end].tobytes()
                if key in self._states:
                    state = self._states[key]
                    self._drop(key)
                    return state
        return None

    def _drop(self, key: bytes) -> None:
        state = self._states.pop(key, None)
        if state is not None:
            self.nbytes -= state.nbytes
