"""A store in PostgreSQL (12 or newer), which several machines share.

    createdb --encoding=UTF8 --template=template0 sememe

The tables are made in the first schema of the user's search path.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from sememe.serve.stores.checked import Action, CheckedStore
from sememe.serve.stores.connections import Pool
from sememe.serve.stores.postgres_connection import (
    NoAnswerError,
    OperationalError,
    PostgresError,
    TimedConnection,
    check_address,
    connect,
)
from sememe.serve.stores.postgres_schema import ARRIVAL_LOCK, check_durable, prepare
from sememe.serve.stores.protocol import StoredEvent, StoreDownError

MOST_CONNECTIONS = 16
# In the order of the fields of StoredEvent.
COLUMNS = "event_id, user_id, item_id, timestamp, event_type, value"
HISTORY = f"SELECT {COLUMNS} FROM sememe_events WHERE user_id = %s ORDER BY timestamp DESC, cursor DESC LIMIT %s"
NEWEST = f"""FROM unnest(%s::text[]) WITH ORDINALITY AS wanted (wanted_id, place)
    CROSS JOIN LATERAL (
        SELECT cursor, {COLUMNS} FROM sememe_events WHERE user_id = wanted_id
        ORDER BY timestamp DESC, cursor DESC LIMIT %s
    ) AS newest
    ORDER BY place, timestamp DESC, cursor DESC"""
HISTORIES = f"SELECT place, {COLUMNS} {NEWEST}"
RECENT = f"SELECT place, item_id, timestamp {NEWEST}"
SINCE = f"SELECT cursor, {COLUMNS} FROM sememe_events WHERE cursor > %s ORDER BY cursor LIMIT %s"
# Numbers are given in the order of the call; rows are inserted in the order of their ids, so that two calls with the
# same events wait for each other and do not each hold what the other one needs.
APPEND = f"""WITH numbered AS MATERIALIZED (
        SELECT nextval('sememe_arrivals') AS cursor, sent.*
        FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[], %s::text[], %s::double precision[])
            AS sent ({COLUMNS})
    )
    INSERT INTO sememe_events (cursor, {COLUMNS}) SELECT cursor, {COLUMNS} FROM numbered ORDER BY event_id COLLATE "C"
    ON CONFLICT (event_id) DO NOTHING"""
NEW_VERSIONS = "UPDATE sememe_counters SET last = last + %s WHERE name = 'version' RETURNING last"
CHANGED = """SELECT item_id, %s + place, {} FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY
    AS changed (item_id, given, place) ON CONFLICT (item_id) DO UPDATE SET version = excluded.version"""
PUT = f"""INSERT INTO sememe_items (item_id, version, fields, removed) {CHANGED.format("given, false")},
    fields = excluded.fields, removed = false"""
REMOVE = f"""INSERT INTO sememe_items (item_id, version, removed) {CHANGED.format("true")},
    fields = NULL, removed = true, stock = NULL"""
SET_STOCK = f"""INSERT INTO sememe_items (item_id, version, stock, removed) {CHANGED.format("given, false")},
    stock = excluded.stock"""
CHANGE: Mapping[Action, str] = {"put": PUT, "remove": REMOVE, "stock": SET_STOCK}
CHANGES = (
    "SELECT version, item_id, fields, removed, stock FROM sememe_items WHERE version > %s ORDER BY version LIMIT %s"
)

FIX = "see that the server runs, can be reached and has disk left, then send the request again"

T = TypeVar("T")


class PostgresStore(CheckedStore):
    """Events and catalogue in tables of a PostgreSQL database; made by `open`."""

    def __init__(self, url: str, *, name: str, timeout: float) -> None:
        self._url = url
        self._name = name
        self._timeout = timeout
        self._pool: Pool[TimedConnection] = Pool(
            lambda: connect(url, timeout=timeout), most=MOST_CONNECTIONS, timeout=timeout, name=f"the store {name}"
        )

    @classmethod
    def open(cls, url: str, *, name: str, timeout: float = 5.0, durable: bool = True) -> "PostgresStore":
        """Open the store in the database at `url`, and make its tables where there are none.

        Args:
            url: `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`, with any option of libpq.
            name: what messages call the store.
            timeout: seconds to wait for an answer; for a connection, at least 2.
            durable: whether to refuse a server that may forget what it acknowledged.

        Raises:
            ConfigError: no address of a database.
            StoreDownError: there is no answer, or tables may not be made.
            StoreFormatError: a store of a newer version, or a database that does not hold all text.
            DurabilityError: the server may forget acknowledged events, and `durable`.
        """
        check_address(url, name=name)
        store = cls(url, name=name, timeout=timeout)
        try:
            if durable:
                store._asked(lambda connection: check_durable(connection, name=name))
            store._asked(lambda connection: prepare(connection, name=name))
        except BaseException:
            store.close()
            raise
        return store

    def ping(self) -> None:
        """As in `EventStore`."""
        self._read("SELECT 1", ())

    def close(self) -> None:
        """As in `EventStore`."""
        self._pool.close()

    def _append(self, events: Sequence[StoredEvent]) -> int:
        columns = [[getattr(event, name) for event in events] for name in COLUMNS.split(", ")]

        def work(connection: TimedConnection) -> int:
            with connection.transaction():
                # Held until the commit, together with other appends: see `_since`.
                connection.execute("SELECT pg_advisory_xact_lock_shared(%s)", (ARRIVAL_LOCK,))
                return connection.execute(APPEND, columns).rowcount

        return self._asked(work)

    def _newest(self, user_ids: Sequence[str], *, limit: int) -> list[list[tuple[Any, ...]]]:
        if len(user_ids) == 1:
            return [self._read(HISTORY, (user_ids[0], limit))]
        return self._newest_of_each(HISTORIES, user_ids, limit=limit)

    def _newest_items(self, user_ids: Sequence[str], *, limit: int) -> Sequence[Sequence[tuple[str, int]]]:
        found: list[Any] = self._newest_of_each(RECENT, user_ids, limit=limit)
        return found

    def _since(self, cursor: int, *, limit: int) -> list[tuple[Any, ...]]:
        """As in `EventStore.since`.

        Numbers come from a sequence, which gives them when an append begins, and appends may commit in another order: a
        reader that saw number 8 would never go back for the 7 that was committed late.  Appends therefore share a lock
        from before their first number to their commit, and reading here takes the same lock alone: it waits for the
        appends that are under way, and those that come later wait for it and get greater numbers.  Appends do not wait
        for each other.
        """

        def work(connection: TimedConnection) -> list[tuple[Any, ...]]:
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (ARRIVAL_LOCK,))
                return connection.execute(SINCE, (cursor, limit)).fetchall()

        return self._asked(work)

    def _delete_user(self, user_id: str) -> int:
        def work(connection: TimedConnection) -> int:
            with connection.transaction():
                # Alone: an append with the ids that are being deleted could otherwise wait for this, and this for it.
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (ARRIVAL_LOCK,))
                return connection.execute("DELETE FROM sememe_events WHERE user_id = %s", (user_id,)).rowcount

        return self._asked(work)

    def _change(self, action: Action, items: Mapping[str, str]) -> int:
        def work(connection: TimedConnection) -> int:
            with connection.transaction():
                # The row of the counter is locked until the commit: changes are committed in the order of versions.
                row = connection.execute(NEW_VERSIONS, (len(items),)).fetchone()
                assert row is not None
                connection.execute(CHANGE[action], (row[0] - len(items), list(items), list(items.values())))
                return int(row[0])

        return self._asked(work)

    def _changes_since(self, version: int, *, limit: int) -> list[tuple[Any, ...]]:
        return self._read(CHANGES, (version, limit))

    def _newest_of_each(self, query: str, user_ids: Sequence[str], *, limit: int) -> list[list[tuple[Any, ...]]]:
        """Rows of each user, newest first."""
        found: list[list[tuple[Any, ...]]] = [[] for _ in user_ids]
        for place, *row in self._read(query, (list(user_ids), limit)):
            found[place - 1].append(tuple(row))
        return found

    def _read(self, query: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        return self._asked(lambda connection: connection.execute(query, values).fetchall())

    def _asked(self, work: Callable[[TimedConnection], T]) -> T:
        """What `work` gives; where a restart of the server has cut the connection, with a new one."""
        start = time.monotonic()
        try:
            try:
                return self._lent(work)
            except OperationalError as error:
                if isinstance(error, NoAnswerError) or time.monotonic() - start > self._timeout / 2:
                    raise
                # All may be asked twice: events are told apart by id, and states of items replace each other.
                self._pool.drop_idle()
                return self._lent(work)
        except PostgresError as error:
            told = str(error).strip().splitlines()
            raise StoreDownError(
                f"the store {self._name} did not do its work: {told[0] if told else type(error).__name__}", fix=FIX
            ) from error

    def _lent(self, work: Callable[[TimedConnection], T]) -> T:
        connection = self._pool.take()
        try:
            connection.deadline = time.monotonic() + self._timeout
            return work(connection)
        finally:
            self._pool.give_back(connection, broken=connection.closed)
