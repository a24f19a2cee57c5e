"""Connections that threads lend themselves: the one given back last goes out first, so that few stay open."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from sememe.serve.stores.protocol import StoreDownError


class Closable(Protocol):
    """A connection."""

    def close(self) -> None: ...


C = TypeVar("C", bound=Closable)


class Pool(Generic[C]):
    """At most `most` connections at a time, opened when they are needed."""

    def __init__(self, connect: Callable[[], C], *, most: int, timeout: float, name: str) -> None:
        self._connect = connect
        self._free = threading.Semaphore(most)
        self._idle: deque[C] = deque()
        self._timeout = timeout
        self._name = name
        self._most = most
        self._closed = False

    def take(self) -> C:
        """A connection for this thread alone; it must be given back.

        Raises StoreDownError where all are out for the whole timeout or the pool is closed, and whatever opening a
        new one raises.
        """
        if not self._free.acquire(timeout=self._timeout):
            raise StoreDownError(
                f"all {self._most} connections to {self._name} were busy for {self._timeout} s",
                fix="send fewer requests at a time, or open the store with more connections",
            )
        try:
            self.refuse_if_closed()
            try:
                return self._idle.pop()
            except IndexError:
                return self._connect()
        except BaseException:
            self._free.release()
            raise

    def give_back(self, connection: C, *, broken: bool = False) -> None:
        """End the loan; a broken connection is closed and not lent again."""
        if broken or self._closed:
            connection.close()
        else:
            self._idle.append(connection)
        self._free.release()
        if self._closed:  # it may have been closed between the question and the append
            self.drop_idle()

    def drop_idle(self) -> None:
        """Close the connections that nobody uses: after a restart of the server they are dead, and new ones are not."""
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:
                return
            connection.close()

    def refuse_if_closed(self) -> None:
        """Raises StoreDownError after `close`."""
        if self._closed:
            raise StoreDownError(f"{self._name} was closed", fix="open the store again")

    def close(self) -> None:
        """Close all connections: those that are out when they come back."""
        self._closed = True
        self.drop_idle()
