"""Connections to PostgreSQL that give up waiting, set up as a store needs them."""

import math
import time
from collections.abc import Generator
from typing import Any

from sememe.core.errors import ConfigError, MissingExtraError

try:
    import psycopg
except ImportError as missing:
    raise MissingExtraError("psycopg", extra="postgres", purpose="a store in PostgreSQL") from missing

PostgresError = psycopg.Error
OperationalError = psycopg.OperationalError

# A client that was stopped in the middle of a transaction holds its locks no longer than this.
IDLE_TRANSACTION_S = 10


class NoAnswerError(OperationalError):
    """The server took longer than the connection's deadline."""


class TimedConnection(psycopg.Connection[tuple[Any, ...]]):
    """A connection whose waiting ends at `deadline`, whatever became of the server.

    The server's own timeouts do not help where the server hangs, or is cut off without a word.
    """

    deadline = math.inf
    """When to give up, on the clock of time.monotonic()."""

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        """As in psycopg, which calls it for every exchange with the server."""
        try:
            return super().wait(_until(gen, self.deadline), *args, **kwargs)
        except NoAnswerError:
            self.close()
            raise


def check_address(url: str, *, name: str) -> None:
    """Raises ConfigError where libpq cannot read `url`; what it says of it may hold a password, and is not told."""
    try:
        psycopg.conninfo.conninfo_to_dict(url)
    except PostgresError:
        raise ConfigError(
            f"the address of the store {name} cannot be read, or has an option that PostgreSQL does not know",
            fix="give one like postgresql://USER:PASSWORD@HOST:PORT/DATABASE",
        ) from None


def connect(url: str, *, timeout: float) -> TimedConnection:
    """A connection without transactions of its own accord.  Raises psycopg.Error.

    The driver waits at least 2 s for a server that takes the connection and says nothing.
    """
    connection = TimedConnection.connect(url, autocommit=True, connect_timeout=max(2, math.ceil(timeout)))
    try:
        connection.deadline = time.monotonic() + timeout
        # Later statements of a transaction must see what was committed before them, whatever the server's default.
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        # A commit is acknowledged when it is on the disk, also where the server's default is otherwise.
        if connection.execute("SHOW synchronous_commit").fetchone() == ("off",):
            connection.execute("SET synchronous_commit = on")
        settings = {"statement_timeout": timeout, "idle_in_transaction_session_timeout": IDLE_TRANSACTION_S}
        for name, seconds in settings.items():
            connection.execute("SELECT set_config(%s, %s, false)", (name, str(math.ceil(seconds * 1000))))
    except BaseException:
        connection.close()
        raise
    return connection


def _until(gen: Generator[Any, Any, Any], deadline: float) -> Generator[Any, Any, Any]:
    """`gen`, ended at `deadline`.  psycopg resumes it when the server says something, and ten times a second."""
    ready = None
    try:
        while True:
            ready = yield gen.send(ready)
            if not ready and time.monotonic() > deadline:
                gen.close()
                raise NoAnswerError("no answer in time")
    except StopIteration as stop:
        return stop.value
