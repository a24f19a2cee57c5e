"""A real process: what it says, how it treats slow clients, and that it leaves without losing a request."""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from serving import COMMAND, start_process

from sememe.cli.serve import parse_settings
from sememe.core.errors import ConfigError
from sememe.serve.client import Ask, Client, NewEvent
from sememe.serve.settings import Batching, ServeSettings


@dataclass(frozen=True, eq=False)
class Process:
    """A running server."""

    url: str
    child: "subprocess.Popen[str]"

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.url.rpartition(":")[2])


@pytest.fixture(scope="module")
def process(
    served_run: Path, tmp_path_factory: pytest.TempPathFactory, quiet_environment: dict[str, str]
) -> Iterator[Process]:
    """A server; the last test that uses it stops it."""
    settings = ("drain_seconds=0.6", "limits.read_seconds=0.5", "limits.header_bytes=8192")
    words = [word for setting in settings for word in ("--set", setting)]
    store = f"sqlite:///{tmp_path_factory.mktemp('store') / 'events.sqlite'}"
    child, url = start_process(str(served_run), "--store", store, *words, environment=quiet_environment)
    yield Process(url, child)
    if child.poll() is None:
        child.kill()
    child.wait()


def test_slow_and_endless_headers_are_cut_off(process: Process) -> None:
    with socket.create_connection(process.address, timeout=5) as slow:
        slow.sendall(b"GET /v1/health HTTP/1.1\r\nhost: localhost\r\nx-slow: ")
        started = time.perf_counter()
        assert slow.recv(100) == b""
        assert 0.3 < time.perf_counter() - started < 3
    with socket.create_connection(process.address, timeout=5) as endless:
        endless.sendall(b"GET /v1/health HTTP/1.1\r\nhost: localhost\r\n")
        for number in range(3):
            endless.sendall(f"x-{number}: {'y' * 4000}\r\n".encode())
            time.sleep(0.02)
        assert endless.recv(12) == b"HTTP/1.1 400"
    with socket.create_connection(process.address, timeout=5) as slow:
        head = (
            "POST /v1/recommend HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\n"
        )
        slow.sendall(f"{head}\r\n{{".encode())
        assert slow.recv(12) == b"HTTP/1.1 408"
    with socket.create_connection(process.address, timeout=5) as kept:
        for _ in range(2):
            kept.sendall(b"GET /v1/health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            told = b""
            while not told.endswith(b'{"status":"ok"}'):
                told += kept.recv(1000)
            assert told.startswith(b"HTTP/1.1 200")
    assert httpx.post(f"{process.url}/v1/recommend", json={"user_id": "x" * 10 * 2**20}).status_code == 413
    assert httpx.get(f"{process.url}/v1/ready").status_code == 200


def test_it_answers_and_leaves_without_losing_a_request(process: Process) -> None:
    with Client(process.url) as client:
        assert client.send_events([NewEvent(user_id="ann", item_id="i03")]).accepted == 1
        assert client.recommend(Ask(user_id="ann")).document["history"]["store"] == 1
        assert len(client.export_user("a%2Fb/c")["events"]) == 0
    stop, answered, refused = threading.Event(), [0] * 4, []

    def ask(number: int) -> None:
        with Client(process.url) as client, httpx.Client() as http:
            while not stop.is_set():
                try:
                    if http.get(f"{process.url}/v1/ready").status_code == 503:
                        return
                except httpx.TransportError as error:
                    refused.append(error)
                    return
                assert len(client.recommend(Ask(user_id="ann")).items) == 10
                answered[number] += 1

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, number) for number in range(4)]
        while min(answered) < 2 and not any(one.done() for one in asking):
            time.sleep(0.02)
        os.kill(process.child.pid, signal.SIGTERM)
        # Those who look at `ready` leave by themselves while all requests are still answered.
        for one in asking:
            one.result(timeout=20)
        stop.set()
    assert refused == [] and min(answered) >= 2
    assert process.child.wait(timeout=20) == 0
    with pytest.raises(OSError):
        socket.create_connection(process.address, timeout=1)


def test_settings_are_set_by_path() -> None:
    wanted = ServeSettings(batching=Batching(workers=1), drain_seconds=0.0)
    assert parse_settings(("batching.workers=1", "drain_seconds=0.0")) == wanted
    for text, problem in (("batching.worker=1", "workers"), ("cache_mb", "has no value"), ("cache_mb=x", "cache_mb")):
        with pytest.raises(ConfigError, match=problem):
            parse_settings((text,))


def test_keys_are_made_by_the_command(tmp_path: Path, quiet_environment: dict[str, str]) -> None:
    file = tmp_path / "keys.json"
    words = ("new-key", str(file), "--name", "shop", "--scope", "read", "--scope", "write", "--per-second", "5")
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, env=quiet_environment, check=True)
    key = done.stdout.split()[-1]
    assert key.startswith("sememe_") and '"shop"' in file.read_text() and key not in file.read_text()
