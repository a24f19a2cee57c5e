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

from sememe.serve.stores.connections import Pool
from sememe.serve.stores.protocol import (
    Appended,
    Arrival,
    ItemChange,
    ItemRow,
    Recent,
    Stock,
    StoredEvent,
    StoreDownError,
)
from sememe.serve.stores.sqlite_schema import connect, prepare
from sememe.serve.stores.validate import (
    MAX_LIMIT,
    by_column,
    check_cursor,
    check_events,
    check_id,
    check_item_ids,
    check_limit,
    decode_change,
    encode_rows,
    encode_stock,
)

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


class SqliteStore:
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

    def append(self, events: Sequence[StoredEvent]) -> Appended:
        """As in `EventStore`."""
        unique = check_events(events)
        if not unique:
            return Appended(accepted=0, duplicates=0)
        with self._writing() as connection:
            first = cursor = _last(connection, "cursor")
            for event in unique:
                done = connection.execute(APPEND, (cursor + 1, *_row(event)))
                cursor += done.rowcount
            _set_last(connection, "cursor", cursor)
        return Appended(accepted=cursor - first, duplicates=len(events) - (cursor - first))

    def history(self, user_id: str, *, limit: int) -> list[StoredEvent]:
        """As in `EventStore`."""
        return self.histories([user_id], limit=limit)[0]

    def histories(self, user_ids: Sequence[str], *, limit: int) -> list[list[StoredEvent]]:
        """As in `EventStore`."""
        return [[StoredEvent(*row) for row in reversed(rows)] for rows in self._newest(HISTORY, user_ids, limit=limit)]

    def recent(self, user_ids: Sequence[str], *, limit: int) -> list[Recent]:
        """As in `EventStore`."""
        return [by_column(rows) for rows in self._newest(RECENT, user_ids, limit=limit)]

    def since(self, cursor: int, *, limit: int) -> list[Arrival]:
        """As in `EventStore`: numbers are given under the one lock for writing, so none can appear late."""
        rows = self._read(SINCE, (check_cursor(cursor), check_limit(limit)))
        return [Arrival(place, StoredEvent(*event)) for place, *event in rows]

    def export_user(self, user_id: str) -> list[StoredEvent]:
        """As in `EventStore`."""
        return self.history(user_id, limit=MAX_LIMIT)

    def delete_user(self, user_id: str) -> int:
        """As in `EventStore`."""
        check_id(user_id)
        with self._writing() as connection:
            return connection.execute("DELETE FROM events WHERE user_id = ?", (user_id,)).rowcount

    def put_items(self, rows: Sequence[ItemRow]) -> int:
        """As in `CatalogueStore`."""
        return self._change(PUT, {item_id: (fields,) for item_id, fields in encode_rows(rows).items()})

    def remove_items(self, item_ids: Sequence[str]) -> int:
        """As in `CatalogueStore`."""
        return self._change(REMOVE, dict.fromkeys(check_item_ids(item_ids), ()))

    def set_stock(self, stock: Mapping[str, Stock]) -> int:
        """As in `CatalogueStore`."""
        return self._change(SET_STOCK, {item_id: (amount,) for item_id, amount in encode_stock(stock).items()})

    def changes_since(self, version: int, *, limit: int) -> list[ItemChange]:
        """As in `CatalogueStore`."""
        rows = self._read(CHANGES, (check_cursor(version, name="version"), check_limit(limit)))
        return [
            decode_change(number, item_id, fields=fields, removed=bool(removed), stock=stock)
            for number, item_id, fields, removed, stock in rows
        ]

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

    def _newest(self, query: str, user_ids: Sequence[str], *, limit: int) -> list[list[tuple[Any, ...]]]:
        """Rows of each user, newest first."""
        check_limit(limit)
        return self._read_each(query, [(check_id(user_id), limit) for user_id in user_ids])

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

    def _change(self, statement: str, changes: Mapping[str, tuple[Any, ...]]) -> int:
        """Run `statement` with (item id, a version, the values of the item) for each item; gives the last version."""
        with self._writing() as connection:
            last = _last(connection, "version")
            for version, (item_id, values) in enumerate(changes.items(), start=last + 1):
                connection.execute(statement, (item_id, version, *values))
            _set_last(connection, "version", last + len(changes))
        return last + len(changes)


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
