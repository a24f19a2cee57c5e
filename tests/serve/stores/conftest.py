"""Stores for the tests; servers are started once, and emptied before each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from store_servers import Database, PostgresServer, SqliteFile, ValkeyServer, start_postgres, start_valkey

from sememe.serve.stores.protocol import Store


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    server = start_valkey()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    server = start_postgres()
    yield server
    server.remove()


@pytest.fixture(params=["sqlite", "valkey", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """An empty database of each kind."""
    found: Database = (
        SqliteFile(tmp_path) if request.param == "sqlite" else request.getfixturevalue(f"{request.param}_server")
    )
    found.clear()
    return found


@pytest.fixture
def store(database: Database) -> Iterator[Store]:
    store = database.open()
    yield store
    store.close()
