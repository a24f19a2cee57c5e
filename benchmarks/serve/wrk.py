"""The client: wrk (Debian's package `wrk`), held to the other core, with requests made by recommend.lua."""

import json
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.serve.process import CLIENT_CORE, ServerProcess

SCRIPTS = Path(__file__).parent
PREFIX = "RESULT "


def version() -> str:
    """Of wrk.  Raises FileNotFoundError where it is not installed: apt-get install wrk."""
    told = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout
    return " ".join(told.split()[:2])


def command(url: str, *words: object, connections: int, seconds: float, script: str = "recommend.lua") -> list[str]:
    """wrk as it is called; `words` are those of the script."""
    return [
        *("taskset", "-c", str(CLIENT_CORE), "wrk", "--threads", "1", "--connections", str(connections)),
        *("--duration", f"{seconds:g}s", "--timeout", "30s", "--script", str(SCRIPTS / script), url, "--"),
        *(str(word) for word in words),
    ]


def measure(server: ServerProcess, *words: object, connections: int, seconds: float) -> dict[str, Any]:
    """Requests, seconds, milliseconds per request as the client sees them, and how many failed (no 2xx counts too)."""
    asked = command(server.url, *words, connections=connections, seconds=seconds)
    return read(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)


def read(told: str) -> dict[str, Any]:
    """What the script printed at the end."""
    (line,) = [line for line in told.splitlines() if line.startswith(PREFIX)]
    found: dict[str, Any] = json.loads(line.removeprefix(PREFIX))
    return found
