"""A server as its users start it: a process of its own, held to one core, looked at from outside."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, TextIO

import httpx

COMMAND = (sys.executable, "-c", "from sememe.cli.main import main; main()")
SERVER_CORE, CLIENT_CORE = 0, 1
TICKS = os.sysconf("SC_CLK_TCK")
PATIENCE = 120.0
LISTENING = "listening on "


@dataclass(frozen=True)
class ProcessorTime:
    """Seconds of the processor."""

    loop: float
    """Of the event loop, which speaks HTTP and JSON."""
    workers: float
    """Of all other threads: the store, the search, lists."""

    def since(self, before: "ProcessorTime") -> "ProcessorTime":
        """What was used in between."""
        return ProcessorTime(self.loop - before.loop, self.workers - before.workers)


@dataclass(frozen=True, eq=False)
class ServerProcess:
    """A running server."""

    url: str
    child: "subprocess.Popen[str]"
    ready_seconds: float
    """From the command to the first 200 of `GET /v1/ready`."""

    def memory_mib(self) -> float:
        """Resident now."""
        return _status_kib(self.child.pid, "VmRSS") / 1024

    def most_memory_mib(self) -> float:
        """Resident at most, ever."""
        return _status_kib(self.child.pid, "VmHWM") / 1024

    def processor(self) -> ProcessorTime:
        """What was used so far."""
        loop = _seconds(Path(f"/proc/{self.child.pid}/task/{self.child.pid}/stat"))
        return ProcessorTime(loop, _seconds(Path(f"/proc/{self.child.pid}/stat")) - loop)

    def metrics(self, headers: Mapping[str, str] | None = None) -> dict[str, float]:
        """All numbers of `GET /metrics`, by name with labels."""
        response = httpx.get(f"{self.url}/metrics", headers=headers)
        response.raise_for_status()
        lines = response.text.splitlines()
        pairs = [line.rpartition(" ") for line in lines if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in pairs}

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.child.kill()
        self.child.wait()


def start(path: Path, words: Sequence[str] = (), *, core: int | None = SERVER_CORE) -> ServerProcess:
    """Start `sememe serve path words...`; core: None leaves the choice to the system.

    Raises RuntimeError with what it said where it does not come up.
    """
    pinned = () if core is None else ("taskset", "-c", str(core))
    command = [*pinned, *COMMAND, "serve", str(path), "--port", "0", *words]
    began = time.perf_counter()
    # A file, as a pipe that nobody reads would have the server wait once it is full; "a", as both move its one cursor.
    with tempfile.TemporaryFile("a+") as said:
        child = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, text=True)
        try:
            url = _address(child, said, until=began + PATIENCE)
        except BaseException:
            child.kill()
            raise
    return ServerProcess(url, child, time.perf_counter() - began)


def _address(child: "subprocess.Popen[str]", said: TextIO, *, until: float) -> str:
    """Where the server listens, once it is ready."""
    url = ""
    while time.perf_counter() < until and child.poll() is None:
        if url and httpx.get(f"{url}/v1/ready").status_code == HTTPStatus.OK:
            return url
        said.seek(0)
        url = next((line.split()[-1] for line in said if line.startswith(LISTENING) and line.endswith("\n")), "")
        if not url:
            time.sleep(0.01)
    said.seek(0)
    raise RuntimeError(f"the server is never ready:\n{said.read()}")


@contextmanager
def serving(path: Path, words: Sequence[str] = (), *, core: int | None = SERVER_CORE) -> Iterator[ServerProcess]:
    """`start`, and an end whatever happens."""
    server = start(path, words, core=core)
    try:
        yield server
    finally:
        server.kill()


def conditions() -> dict[str, Any]:
    """How the system's scheduler treats what is started from here, beside whatever else runs on the machine."""
    group = Path("/proc/self/autogroup")
    told = group.read_text().split("nice") if group.exists() else ["", "0"]
    return {
        "server_core": SERVER_CORE,
        "client_core": CLIENT_CORE,
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "nice_of_scheduling_group": int(told[-1]),
    }


def _status_kib(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise RuntimeError(f"the system does not tell {name}")


def _seconds(stat: Path) -> float:
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
