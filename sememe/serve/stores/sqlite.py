"""A store in one file: nothing to install, and the fastest to read.

One process or several on one machine may use it; for several machines use Valkey or PostgreSQL.  Readers never wait, as
the log in front of the file (WAL) keeps what they look at.  Writers take turns, and each waits for the disk.
"""

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sememe.serve.stores.checked import Action, CheckedStore
from sememe.serve.stores.connections import Pool
from sememe.serve.stores.protocol import StoredEvent, StoreDownError
from sememe.serve.stores.sqlite_schema import connect, prepare

MOST_READERS = 64
# In the order of the fields of StoredEvent.
COLUMNS = "event_id, user_id, item_id, timestamp, event_type, value"
NEWEST = "FROM events WHERE user_id = ? ORDER BY timestamp DESC, cursor DESC LIMIT ?"
HISTORY = f"SELECT {COLUMNS} {NEWEST}"
RECENT = f"SELECT item_id, timestamp {NEWEST}"
SINCE = f"SELECT cursor, {COLUMNS} FROM events WHERE cursor > ? ORDER BY cursor LIMIT ?"
APPEND = f"INSERT INTO events (cursor, {COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (event_id) DO NOTHING"
PUT = """INSERT INTO items (item_id, version, fields, removed) VALUES (?, ?, ?, 0)
    ON CONFLICT (item_id) DO UPDATE SET version = excluded.version, fields = excluded.fields, removed = 0"""
REMOVE = """INSERT INTO items (item_id, version, removed) VALUES (?, ?, 1)
    ON CONFLICT (item_id) DO UPDATE SET version = excluded.version, fields = NULL, removed = 1, stock = NULL"""
SET_STOCK = """INSERT INTO items (item_id, version, removed, stock) VALUES (?, ?, 0, ?)
    ON CONFLICT (item_id) DO UPDATE SET version = excluded.version, stock = excluded.stock"""
CHANGE: Mapping[Action, str] = {"put": PUT, "remove": REMOVE, "stock": SET_STOCK}
CHANGES = "SELECT version, item_id, fields, removed, stock FROM items WHERE version > ? ORDER BY version LIMIT ?"

FIXES = {
    "SQLITE_FULL": "free space on its disk, then send the request again",
    "SQLITE_BUSY": "another process holds it: end that one, or open the store with a longer timeout",
    "SQLITE_LOCKED": "another process holds it: end that one, or open the store with a longer timeout",
    "SQLITE_READONLY": "let this process write to the file and to its directory",
    "SQLITE_CANTOPEN": "let this process write to its directory, and see that the path is no directory",
    "SQLITE_NOTADB": "it is no SQLite database, or damaged: give another path, or restore it from a backup",
    "SQLITE_CORRUPT": "it is damaged: restore it from a backup",
    "SQLITE_IOERR": "see that its disk is whole and not full",
}


class SqliteStore(CheckedStore):
    """Events and catalogue in one SQLite file; made by `open`."""

    def __init__(self, path: Path, writer: sqlite3.Connection, *, timeout: float) -> None:
        self._path = path
        self._timeout = timeout
        # SQLite lets one connection write at a time.  Threads queue at a lock, which is fair and wakes at once; only
        # other processes are met with SQLite's own waiting, which sleeps and asks again.
        self._writer = writer
        self._turn = threading.Lock()
        self._readers: Pool[sqlite3.Connection] = Pool(
            self._connect_reader, most=MOST_READERS, timeout=timeout, name=f"the store {path}"
        )

    @classmethod
    def open(cls, path: Path | str, *, timeout: float = 5.0) -> "SqliteStore":
        """Open the store in a file, and make it where there is none.

        Args:
            path: the file; two more, with -wal and -shm added to its name, lie beside it while it is open.
            timeout: seconds to wait for another writer.

        Raises:
            StoreDownError: the file cannot be opened or made.
            StoreFormatError: it is a database of another program, or a store of a newer version.
        """
        path = Path(path)
        writer = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            writer = connect(path, timeout=timeout)
            prepare(writer, path, timeout=timeout)
        except BaseException as error:
            if writer is not None:
                writer.close()
            if isinstance(error, sqlite3.Error | OSError):
                raise _down(path, "be opened", error) from error
            raise
        return cls(path, writer, timeout=timeout)

    def ping(self) -> None:
        """As in `EventStore`."""
        self._read("SELECT last FROM counters WHERE name = ?", ("cursor",))

    def close(self) -> None:
        """As in `EventStore`."""
        self._readers.close()
        with self._turn:
            self._writer.close()

    def _connect_reader(self) -> sqlite3.Connection:
        connection = connect(self._path, timeout=self._timeout)
        connection.execute("PRAGMA query_only = ON")
        return connection

    def _append(self, events: Sequence[StoredEvent]) -> int:
        with self._writing() as connection:
            first = cursor = _last(connection, "cursor")
            for event in events:
                done = connection.execute(APPEND, (cursor + 1, *_row(event)))
                cursor += done.rowcount
            _set_last(connection, "cursor", cursor)
        return cursor - first

    def _newest(self, user_ids: Sequence[str], *, limit: int) -> list[list[tuple[Any, ...]]]:
        return self._read_each(HISTORY, [(user_id, limit) for user_id in user_ids])

    def _newest_items(self, user_ids: Sequence[str], *, limit: int) -> Sequence[Sequence[tuple[str, int]]]:
        found: list[Any] = self._read_each(RECENT, [(user_id, limit) for user_id in user_ids])
        return found

    def _since(self, cursor: int, *, limit: int) -> list[tuple[Any, ...]]:
        # Numbers are given under the one lock for writing, so none can appear late.
        return self._read(SINCE, (cursor, limit))

    def _delete_user(self, user_id: str) -> int:
        with self._writing() as connection:
            return connection.execute("DELETE FROM events WHERE user_id = ?", (user_id,)).rowcount

    def _change(self, action: Action, items: Mapping[str, str]) -> int:
        with self._writing() as connection:
            last = _last(connection, "version")
            for version, (item_id, value) in enumerate(items.items(), start=last + 1):
                values = () if action == "remove" else (value,)
                connection.execute(CHANGE[action], (item_id, version, *values))
            _set_last(connection, "version", last + len(items))
        return last + len(items)

    def _changes_since(self, version: int, *, limit: int) -> list[tuple[Any, ...]]:
        return self._read(CHANGES, (version, limit))

    def _read(self, query: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        return self._read_each(query, [values])[0]

    def _read_each(self, query: str, values: Sequence[tuple[Any, ...]]) -> list[list[tuple[Any, ...]]]:
        connection = None
        broken = True
        try:
            connection = self._readers.take()
            rows = [connection.execute(query, one).fetchall() for one in values]
            broken = False
        except sqlite3.Error as error:
            raise _down(self._path, "be read", error) from error
        finally:
            if connection is not None:
                self._readers.give_back(connection, broken=broken)
        return rows

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """The writing connection in a transaction, which is committed, or taken back where the block raises."""
        if not self._turn.acquire(timeout=self._timeout):
            raise StoreDownError(
                f"the store {self._path} was busy writing for {self._timeout} s", fix="send fewer requests at a time"
            )
        try:
            self._readers.refuse_if_closed()
            self._writer.execute("BEGIN IMMEDIATE")
            yield self._writer
            self._writer.execute("COMMIT")
        except BaseException as error:
            # A full disk may have ended the transaction already, or show itself only at the commit.
            with suppress(sqlite3.Error):
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise _down(self._path, "be written to", error) from error
            raise
        finally:
            self._turn.release()


def _row(event: StoredEvent) -> tuple[Any, ...]:
    return event.event_id, event.user_id, event.item_id, event.timestamp, event.event_type, event.value


def _last(connection: sqlite3.Connection, name: str) -> int:
    (last,) = connection.execute("SELECT last FROM counters WHERE name = ?", (name,)).fetchone()
    return int(last)


def _set_last(connection: sqlite3.Connection, name: str, last: int) -> None:
    connection.execute("UPDATE counters SET last = ? WHERE name = ?", (last, name))


def _down(path: Path, what: str, error: Exception) -> StoreDownError:
    code = getattr(error, "sqlite_errorname", "")
    fixes = [fix for name, fix in FIXES.items() if code.startswith(name)]
    return StoreDownError(
        f"the store {path} cannot {what}: {error}", fix=fixes[0] if fixes else "see that its disk is whole and not full"
    )
