"""What requests notice while one model takes over from another, again and again: failures, and how long they take.

    python -m benchmarks.serve.swap RUN OTHER_RUN

Both runs must be of the same data.  The server is held to one core, wrk to the other, as in `load`.  First the load
alone, then the same load while each of the two models is activated in turn without a pause: the new model is opened,
compared with the old one on 50 histories and swapped in.  `failed` counts whatever is not 200.
"""

import argparse
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.header import header, write_output
from benchmarks.serve import wrk
from benchmarks.serve.load import FALLBACKS, K, fill
from benchmarks.serve.process import ServerProcess, conditions, serving
from sememe.serve.models import ModelFolder

NAMES = ("monday", "tuesday")


def main() -> None:
    """Measure, print and write the output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs=2)
    parser.add_argument("--model", default="itemwise:generator")
    parser.add_argument("--connections", type=int, nargs="*", default=[2, 8])
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    result: dict[str, Any] = {"what": __doc__.split("\n", 1)[0] if __doc__ else ""}
    result |= header("uvicorn", "torch", "numpy") | {"client": wrk.version(), **conditions()}
    result |= {"model": options.model, "k": K}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "models"
        for name, run in zip(NAMES, options.runs, strict=True):
            shutil.copytree(run, folder / name, ignore=shutil.ignore_patterns("serve", "models"))
        ModelFolder(folder).point_to(NAMES[0])
        with serving(folder, ("--model", options.model)) as server:
            users, _ = fill(server, folder / NAMES[0])
            before = round(server.memory_mib())
            result["levels"] = [
                level(server, users, connections=connections, seconds=options.seconds)
                for connections in options.connections
                for _ in range(options.repeats)
            ]
            after = round(server.memory_mib())
            result["memory_mib"] = {"before": before, "after": after, "most": round(server.most_memory_mib())}
            result["answering"] = httpx.get(f"{server.url}/v1/models").json()["active"]
    write_output(options.out, result)
    for row in result["levels"]:
        print(row)


def level(server: ServerProcess, users: int, *, connections: int, seconds: int) -> dict[str, Any]:
    """The load alone, and with swaps."""
    alone = wrk.measure(server, users, K, 0, connections=connections, seconds=seconds)
    before = server.metrics()
    asked = wrk.command(server.url, users, K, 0, connections=connections, seconds=seconds)
    client = subprocess.Popen(asked, stdout=subprocess.PIPE, text=True)
    time.sleep(0.2)
    swaps = activate_in_turn(server.url, client)
    assert client.stdout is not None
    swapping = wrk.read(client.stdout.read())
    client.wait()
    after = server.metrics()
    fallbacks = sum(after[name] - before.get(name, 0.0) for name in after if name.startswith(FALLBACKS))
    return {
        "connections": connections,
        "alone": alone,
        "swapping": swapping,
        "swaps": len(swaps),
        "seconds_each": swaps,
        "fallbacks": int(fallbacks),
        "p99_times": round(swapping["p99_ms"] / alone["p99_ms"], 2),
    }


def activate_in_turn(url: str, client: "subprocess.Popen[str]") -> list[float]:
    """Seconds of each activation, one after the other as long as `client` runs."""
    taken: list[float] = []
    with httpx.Client(base_url=url, timeout=60) as http:
        while client.poll() is None:
            active = http.get("/v1/models").json()["active"]
            (other,) = set(NAMES) - {active}
            told = http.post(f"/v1/models/{other}:activate")
            told.raise_for_status()
            taken.append(told.json()["seconds"])
    return taken


if __name__ == "__main__":
    main()
