"""What requests notice while one model takes over from another, again and again: failures, and how long they take.

    python -m benchmarks.serve.swap RUN OTHER_RUN

Both runs must be of the same data.  The server is held to one core, wrk to the other, as in `load`.  First the load
alone, then the same load while each of the two models is activated in turn without a pause: the new model is opened,
compared with the old one on 50 histories and swapped in.  `failed` counts whatever is not 200.  Loads are requests at a
steady rate, which leaves some of the core to the opening, and connections that never rest ("rate" 0), which leave none:
a new model then takes what the scheduler spares for a thread of the lowest priority.
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
    parser.add_argument("--rates", type=int, nargs="*", default=[500, 0], help="requests per second; 0: no rest")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=20, help="of each load alone; with swaps it is twice as long")
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
                level(server, users, rate=rate, connections=options.connections, seconds=options.seconds)
                for rate in options.rates
            ]
            after = round(server.memory_mib())
            result["memory_mib"] = {"before": before, "after": after, "most": round(server.most_memory_mib())}
            result["answering"] = httpx.get(f"{server.url}/v1/models").json()["active"]
    write_output(options.out, result)
    for row in result["levels"]:
        print(row)


def level(server: ServerProcess, users: int, *, rate: int, connections: int, seconds: int) -> dict[str, Any]:
    """The load alone, and with swaps."""

    def client(seconds: int) -> list[str]:
        script, last = ("paced.lua", rate) if rate else ("recommend.lua", 0)
        return wrk.command(server.url, users, K, last, connections=connections, seconds=seconds, script=script)

    alone = wrk.read(subprocess.run(client(seconds), capture_output=True, text=True, check=True).stdout)
    before = server.metrics()
    loading = subprocess.Popen(client(2 * seconds), stdout=subprocess.PIPE, text=True)
    time.sleep(0.2)
    swaps = activate_in_turn(server.url, loading)
    assert loading.stdout is not None
    swapping = wrk.read(loading.stdout.read())
    loading.wait()
    after = server.metrics()
    fallbacks = sum(after[name] - before.get(name, 0.0) for name in after if name.startswith(FALLBACKS))
    return {
        "rate": rate,
        "connections": connections,
        "alone": alone,
        "swapping": swapping,
        "swaps_within": len(swaps),
        "seconds_each": swaps,
        "fallbacks": int(fallbacks),
        "p99_times": round(swapping["p99_ms"] / alone["p99_ms"], 2),
    }


def activate_in_turn(url: str, client: "subprocess.Popen[str]") -> list[float]:
    """Seconds of each activation, one after the other, that ended while `client` ran."""
    taken: list[float] = []
    with httpx.Client(base_url=url, timeout=60) as http:
        while client.poll() is None:
            active = http.get("/v1/models").json()["active"]
            (other,) = set(NAMES) - {active}
            told = http.post(f"/v1/models/{other}:activate")
            told.raise_for_status()
            if client.poll() is None:
                taken.append(told.json()["seconds"])
    return taken


if __name__ == "__main__":
    main()
