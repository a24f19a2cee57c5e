"""The tables of a store in SQLite, and how a file is opened or made.

Events are clustered by (user, time, arrival): the newest 50 of a user lie side by side, so that a history is one walk
through a few pages of the file and no jump for each event.
"""

import sqlite3
import time
from pathlib import Path

from sememe.serve.stores.protocol import SCHEMA, StoreFormatError, newer_store

# "Smem": what the header of our files says, so that the database of another program is never written to.
APPLICATION_ID = 0x536D656D

TABLES = (
    """CREATE TABLE events (
        user_id TEXT NOT NULL,
        timestamp INTEGER NOT NULL,
        cursor INTEGER NOT NULL,
        event_id TEXT NOT NULL,
        item_id TEXT NOT NULL,
        event_type TEXT,
        value REAL,
        PRIMARY KEY (user_id, timestamp, cursor)
    ) WITHOUT ROWID""",
    "CREATE UNIQUE INDEX events_by_id ON events (event_id)",
    "CREATE UNIQUE INDEX events_by_cursor ON events (cursor)",
    """CREATE TABLE items (
        item_id TEXT PRIMARY KEY,
        version INTEGER NOT NULL,
        fields TEXT,
        removed INTEGER NOT NULL,
        stock TEXT
    ) WITHOUT ROWID""",
    "CREATE UNIQUE INDEX items_by_version ON items (version)",
    # The last number given, which deleting events or items must not bring back.
    "CREATE TABLE counters (name TEXT PRIMARY KEY, last INTEGER NOT NULL) WITHOUT ROWID",
    "INSERT INTO counters VALUES ('cursor', 0), ('version', 0)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA}",
)


def connect(path: Path, *, timeout: float) -> sqlite3.Connection:
    """A connection that any one thread may use at a time, without transactions that Python begins by itself."""
    return sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)


def prepare(connection: sqlite3.Connection, path: Path, *, timeout: float) -> None:
    """Make the tables in an empty file, or see that those that are there are ours, and set `connection` up to write.

    Raises StoreFormatError, and sqlite3.Error where the file cannot be used.
    """
    _check_format(connection, path)
    _use_write_ahead_log(connection, timeout=timeout)
    # FULL: a commit returns when its log is on the disk.  In the mode that is usual with a write-ahead log (NORMAL) a
    # loss of power takes the last commits with it.
    connection.execute("PRAGMA synchronous = FULL")
    # What a user had deleted is overwritten in the file, and not merely marked as free.
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _check_format(connection, path) == 0:
            for statement in TABLES:
                connection.execute(statement)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _check_format(connection: sqlite3.Connection, path: Path) -> int:
    """The schema version of the file; 0 for an empty one."""
    # Whether there are tables comes first: another process may be making them, and commits them with the other two.
    tables, application, version = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("schema_version", "application_id", "user_version")
    )
    if tables == 0:
        return 0
    if application != APPLICATION_ID:
        raise StoreFormatError(
            f"{path} is a database of another program", fix="give the path of a store, or of a file that is not there"
        )
    if version != SCHEMA:
        raise newer_store(str(path), version=version)
    return int(version)


def _use_write_ahead_log(connection: sqlite3.Connection, *, timeout: float) -> None:
    # Two processes that open a new file at once may meet here, where SQLite gives up without waiting for the other.
    deadline = time.monotonic() + timeout
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
            continue
        if mode != "wal":
            raise StoreFormatError(
                f"the file system of the store has no shared memory, which its log needs (it stayed in mode {mode!r})",
                fix="put the store on a local disk, or use PostgreSQL or Valkey",
            )
        return
