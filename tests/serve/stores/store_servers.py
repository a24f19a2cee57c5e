"""Databases for the tests: real servers in directories of their own, which can be killed and started again."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sememe.core.errors import MissingExtraError
from sememe.serve.stores.open import open_store
from sememe.serve.stores.protocol import Store

TIMEOUT = 3.0
START_S = 30.0


class Database:
    """Where a store lies; `crash` and `start` end and begin its server."""

    kind: str
    url: str

    def open(self, *, timeout: float = TIMEOUT, durable: bool = True) -> Store:
        return open_store(self.url, timeout=timeout, durable=durable)

    def clear(self) -> None:
        raise AssertionError("each kind of database has its own way")


class SqliteFile(Database):
    kind = "sqlite"

    def __init__(self, folder: Path) -> None:
        self.file = folder / "events.db"
        self.url = f"sqlite:///{self.file}"

    def clear(self) -> None:
        assert not self.file.exists()


class Server(Database):
    """A server process; `command` starts it in the foreground."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise AssertionError("each kind of server has its own command")

    def start(self) -> None:
        """Begin the server, and wait until a store can be opened."""
        log = (self.folder / "server.log").open("ab")
        with log:
            self.process = subprocess.Popen(
                self.command(), cwd=self.folder, stdout=log, stderr=log, user=self.account(), start_new_session=True
            )
        deadline = time.monotonic() + START_S
        while not self.answers():
            assert self.process.poll() is None and time.monotonic() < deadline, (
                self.folder / "server.log"
            ).read_text()[-2000:]
            time.sleep(0.02)

    def account(self) -> str | None:
        return None

    def answers(self) -> bool:
        raise AssertionError("each kind of server answers in its own way")

    def crash(self) -> None:
        """Kill the server and all its children at once, as a loss of power would."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def freeze(self) -> None:
        """The server stops answering and keeps its connections."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGCONT)

    def remove(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.crash()
        shutil.rmtree(self.folder, ignore_errors=True)


class ValkeyServer(Server):
    kind = "valkey"

    def __init__(self, folder: Path, program: str, *, settings: tuple[str, ...] = ()) -> None:
        super().__init__(folder)
        self.program = program
        self.settings = settings or ("--appendonly", "yes", "--appendfsync", "always")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"valkey://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        fixed = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder), "--save", ""]
        return [self.program, *fixed, *self.settings]

    def answers(self) -> bool:
        return bool(_quietly(lambda: self.client().ping()))

    def client(self):  # type: ignore[no-untyped-def]
        import redis

        return redis.Redis(port=self.port, decode_responses=True, socket_timeout=TIMEOUT)

    def clear(self) -> None:
        self.client().flushall()


class PostgresServer(Server):
    kind = "postgres"

    def __init__(self, folder: Path, programs: Path, account: str | None) -> None:
        super().__init__(folder)
        self.programs = programs
        self._account = account
        self.database = "postgres"
        if account is not None:
            shutil.chown(folder, account)
        initdb = [str(programs / "initdb"), "-D", str(folder / "data"), "-U", "sememe", "-A", "trust", "--no-sync"]
        subprocess.run(
            [*initdb, "-E", "UTF8", "--locale=C"], cwd=folder, user=account, check=True, stdout=subprocess.DEVNULL
        )

    @property
    def url(self) -> str:  # type: ignore[override]
        return f"postgresql://sememe@/{self.database}?host={self.folder}"

    def command(self) -> list[str]:
        # A socket in the server's own directory: no port that another process might take.
        settings = ["listen_addresses=", f"unix_socket_directories={self.folder}", "shared_buffers=16MB"]
        return [
            str(self.programs / "postgres"),
            "-D",
            str(self.folder / "data"),
            *(part for setting in settings for part in ("-c", setting)),
        ]

    def account(self) -> str | None:
        return self._account

    def answers(self) -> bool:
        return _quietly(lambda: self.run("SELECT 1")) == [(1,)]

    def crash(self) -> None:
        # Its children are in sessions of their own; told to quit at once, the first process kills them all.
        assert self.process is not None
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait()

    def freeze(self) -> None:
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: int) -> None:
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for process in (self.process.pid, *map(int, children)):
            os.kill(process, number)

    def run(self, statement: str) -> list[tuple[object, ...]]:
        import psycopg

        with psycopg.connect(self.url, autocommit=True, connect_timeout=3) as connection:
            cursor = connection.execute(statement)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    def clear(self) -> None:
        self.run("DROP SCHEMA public CASCADE")
        self.run("CREATE SCHEMA public")


def start_valkey(*, settings: tuple[str, ...] = ()) -> ValkeyServer:
    """A running Valkey or Redis; skips the test where there is none."""
    _need("redis")
    program = shutil.which("valkey-server") or shutil.which("redis-server")
    if program is None:
        pytest.skip("neither valkey-server nor redis-server is installed")
    server = ValkeyServer(Path(tempfile.mkdtemp(prefix="sememe-valkey-")), program, settings=settings)
    server.start()
    return server


def start_postgres() -> PostgresServer:
    """A running PostgreSQL; skips the test where there is none."""
    _need("postgres")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    program = shutil.which("initdb") or (str(found[-1]) if found else None)
    if program is None:
        pytest.skip("PostgreSQL is not installed: there is no initdb")
    account = None
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        accounts = {entry.pw_name for entry in pwd.getpwall()}
        account = next((name for name in ("postgres", "nobody") if name in accounts), None)
        if account is None:
            pytest.skip("PostgreSQL does not run as root, and there is no account postgres or nobody")
    server = PostgresServer(Path(tempfile.mkdtemp(prefix="sememe-postgres-")), Path(program).parent, account)
    server.start()
    return server


def _need(extra: str) -> None:
    try:
        if extra == "redis":
            import sememe.serve.stores.valkey
        else:
            import sememe.serve.stores.postgres  # noqa: F401
    except MissingExtraError as error:
        pytest.skip(error.problem)


def _quietly(question: Callable[[], object]) -> object:
    """The answer, or None where the server is not there yet."""
    try:
        return question()
    except Exception:  # noqa: BLE001 - whatever the driver raises while a server starts
        return None
