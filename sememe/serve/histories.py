"""Histories out of the store, and what happens when it is down: answers go on without, and ask again after a while."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sememe.serve.metrics import Metrics
from sememe.serve.settings import Histories
from sememe.serve.stores.protocol import EventStore, Recent, StoreDownError

NOTHING = Recent((), ())

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Stored:
    """What the store holds of several users."""

    events: list[Recent]
    """Per user."""
    down: bool
    """Whether the store could not be asked."""


class HistoryReader:
    """Reads the newest events of users; safe to share between threads."""

    def __init__(
        self,
        store: EventStore,
        *,
        settings: Histories,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._settings, self._metrics, self._clock = store, settings, metrics, clock
        self._ask_again = -float("inf")

    @property
    def down(self) -> bool:
        """Whether the store did not answer lately."""
        return self._clock() < self._ask_again

    def read(self, users: Sequence[str | None]) -> Stored:
        """The events of each of `users`, none where it is None."""
        asked = [user for user in users if user is not None]
        if not asked:
            return Stored([NOTHING for _ in users], down=False)
        if self.down:
            return Stored([NOTHING for _ in users], down=True)
        try:
            with self._metrics.store_call("histories"):
                found = iter(self._store.recent(asked, limit=self._settings.newest))
        except StoreDownError as error:
            # Every request of the next moment would wait as long for nothing.
            self._ask_again = self._clock() + self._settings.retry_seconds
            self._metrics.store_failures.labels(operation="histories").inc()
            _log.warning("answers go on without the store for %g s: %s", self._settings.retry_seconds, error.problem)
            return Stored([NOTHING for _ in users], down=True)
        return Stored([NOTHING if user is None else next(found) for user in users], down=False)
