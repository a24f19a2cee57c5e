"""The tables of a store in PostgreSQL, and how a database is opened or made into one."""

from typing import Any

from sememe.serve.stores.protocol import SCHEMA, DurabilityError, StoreFormatError, newer_store

# Keys of advisory locks, which are numbers that programs agree on: "Smem" and one letter.
SCHEMA_LOCK = 0x536D656D53
ARRIVAL_LOCK = 0x536D656D41

# Ids are compared byte by byte (COLLATE "C"): the order of a language is slower, and indexes that were built with it
# are wrong after an upgrade of the system's C library.
TABLES = (
    "CREATE TABLE sememe_counters (name text PRIMARY KEY, last bigint NOT NULL)",
    """CREATE TABLE sememe_events (
        cursor bigint PRIMARY KEY,
        event_id text COLLATE "C" NOT NULL UNIQUE,
        user_id text COLLATE "C" NOT NULL,
        item_id text COLLATE "C" NOT NULL,
        timestamp bigint NOT NULL,
        event_type text,
        value double precision
    )""",
    "CREATE INDEX sememe_events_by_user ON sememe_events (user_id, timestamp, cursor)",
    "CREATE SEQUENCE sememe_arrivals CACHE 1",
    """CREATE TABLE sememe_items (
        item_id text COLLATE "C" PRIMARY KEY,
        version bigint NOT NULL,
        fields text,
        removed boolean NOT NULL,
        stock text
    )""",
    # Not UNIQUE: a change of several items gives the version of one to another for a moment, which is refused at once.
    "CREATE INDEX sememe_items_by_version ON sememe_items (version)",
    f"INSERT INTO sememe_counters VALUES ('schema', {SCHEMA}), ('version', 0)",
)


def prepare(connection: Any, *, name: str) -> None:
    """Make the tables where there are none, or see that those that are there can be read.

    Raises StoreFormatError, and psycopg.Error where the server does not let us.
    """
    (encoding,) = connection.execute("SHOW server_encoding").fetchone()
    if encoding != "UTF8":
        raise StoreFormatError(
            f"{name} has the encoding {encoding}, which does not hold every id",
            fix="make the database with CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0",
        )
    with connection.transaction():
        # Two replicas that start at once would both find no tables and both make them.
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (SCHEMA_LOCK,))
        (tables,) = connection.execute("SELECT to_regclass('sememe_counters')").fetchone()
        if tables is None:
            for statement in TABLES:
                connection.execute(statement)
        (version,) = connection.execute("SELECT last FROM sememe_counters WHERE name = 'schema'").fetchone()
    if version != SCHEMA:
        raise newer_store(name, version=version)


def check_durable(connection: Any, *, name: str) -> None:
    """Raises DurabilityError where the server does not write commits to its disk."""
    (fsync,) = connection.execute("SHOW fsync").fetchone()
    if fsync != "on":
        raise DurabilityError(
            f"{name} has fsync {fsync}, and would forget acknowledged events in a crash",
            fix="set fsync = on in postgresql.conf and reload it, or open the store with durable=False",
        )
