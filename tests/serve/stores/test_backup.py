"""Each store is backed up while it is written to, and what was acknowledged before is there after it was put back."""

import shutil
import subprocess
import tempfile
import time
from contextlib import closing
from pathlib import Path

import pytest
from store_servers import PostgresServer, ValkeyServer, start_valkey

from sememe.serve.stores.open import open_store
from sememe.serve.stores.protocol import ItemRow, Store, StoredEvent

DOCS = (Path(__file__).parents[3] / "docs" / "operations.md").read_text(encoding="utf-8")


def event(number: int) -> StoredEvent:
    return StoredEvent(f"e{number}", f"user {number % 7}", f"item {number}", number, None, 1.5)


def fill(store: Store, *, start: int) -> None:
    store.append([event(number) for number in range(start, start + 50)])


def is_whole(store: Store) -> None:
    """It holds what was there before the backup, none of what came later, and takes more."""
    arrivals = store.since(0, limit=1000)
    kept = [one.event for one in arrivals]
    assert [one.cursor for one in arrivals] == sorted({one.cursor for one in arrivals})
    assert sorted(kept, key=lambda one: one.timestamp) == [event(number) for number in range(50)]
    (change,) = store.changes_since(0, limit=10)
    assert change.item_id == "new"
    assert store.append([event(0)]).duplicates == 1 and store.append([event(500)]).accepted == 1


def documented(command: str) -> str:
    """A command that the page on operations prints."""
    assert f"    {command}\n" in DOCS or f"    {command}  " in DOCS, command
    return command


def test_sqlite(tmp_path: Path) -> None:
    if shutil.which("sqlite3") is None:
        pytest.skip("the program sqlite3 is not installed")
    command = documented("sqlite3 store.sqlite \".backup 'backup.sqlite'\"")
    with closing(open_store(f"sqlite:///{tmp_path / 'store.sqlite'}")) as store:
        fill(store, start=0)
        store.put_items([ItemRow("new", {"title": "New"})])
        subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
        fill(store, start=50)
    with closing(open_store(f"sqlite:///{tmp_path / 'backup.sqlite'}")) as restored:
        is_whole(restored)


def test_postgresql(postgres_server: PostgresServer, tmp_path: Path) -> None:
    dump = documented("pg_dump --format=custom --file=backup.dump postgresql://sememe@db/sememe")
    restore = documented("pg_restore --clean --if-exists --no-owner --dbname=postgresql://sememe@db/sememe backup.dump")

    def run(command: str) -> None:
        words = command.replace("postgresql://sememe@db/sememe", postgres_server.url).split()
        # Beside the server that is running: a dump is made by programs of its own version.
        beside = (postgres_server.programs / "postgres").resolve().parent / words[0]
        program = str(beside) if beside.is_file() else shutil.which(words[0])
        if program is None:
            pytest.skip(f"the program {words[0]} is not installed")
        subprocess.run([program, *words[1:]], cwd=tmp_path, check=True)

    postgres_server.clear()
    with closing(postgres_server.open()) as store:
        fill(store, start=0)
        store.put_items([ItemRow("new", {"title": "New"})])
        run(dump)
        fill(store, start=50)
    run(restore)
    with closing(postgres_server.open()) as restored:
        is_whole(restored)
    postgres_server.clear()


def test_valkey() -> None:
    """A snapshot is not read where an append-only file is asked for, so that one is made of it first."""
    server = start_valkey()
    cli = shutil.which("valkey-cli") or shutil.which("redis-cli")
    if cli is None:
        server.remove()
        pytest.skip("neither valkey-cli nor redis-cli is installed")
    copy: ValkeyServer | None = None
    try:
        with closing(server.open()) as store:
            fill(store, start=0)
            store.put_items([ItemRow("new", {"title": "New"})])
            words = documented("valkey-cli --rdb backup.rdb").split()
            subprocess.run(
                [cli, "-p", str(server.port), *words[1:]], cwd=server.folder, check=True, capture_output=True
            )
            fill(store, start=50)
        folder = Path(tempfile.mkdtemp(prefix="sememe-valkey-"))
        shutil.copy(server.folder / "backup.rdb", folder / "dump.rdb")
        copy = ValkeyServer(folder, server.program, settings=("--appendonly", "no"))
        copy.start()
        subprocess.run(
            [cli, "-p", str(copy.port), *documented("valkey-cli config set appendonly yes").split()[1:]],
            check=True,
            capture_output=True,
        )
        deadline = time.monotonic() + 20
        while copy.client().info("persistence")["aof_rewrite_in_progress"] or not list(folder.glob("**/*.aof*")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        copy.client().shutdown()
        assert copy.process is not None
        copy.process.wait(timeout=10)
        copy.settings = ("--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction")
        copy.start()
        with closing(copy.open()) as restored:
            is_whole(restored)
    finally:
        for one in (server, copy):
            if one is not None:
                one.remove()
