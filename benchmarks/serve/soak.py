"""An hour at half load: does memory stay flat, and is every request answered?

    python -m benchmarks.serve.soak RUN --minutes 60

The server is held to one core, wrk to the other, as in `load`.  Requests come at a steady rate and are all that an
application asks: mostly lists, some with titles, explained or in batches; events, which are kept; items like others;
exports of users.  Every minute memory is read.  After the first minutes, in which caches fill, it is flat if it stays
within 5 % of what it was then.  Disk space for the events is the one thing that grows.
"""

import argparse
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.header import header, write_output
from benchmarks.serve import wrk
from benchmarks.serve.load import FALLBACKS, K, fill
from benchmarks.serve.process import ServerProcess, conditions, serving
from sememe.pipeline.opened import open_run

FLAT = 0.05


def main() -> None:
    """Load, watch, print and write the output; the exit code is 1 where memory is not flat or a request failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="events are sent to a store in it: give a copy")
    parser.add_argument("--model", default="itemwise:generator")
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--warm", type=int, default=5, help="minutes until memory counts")
    parser.add_argument("--rate", type=int, default=400, help="requests per second")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--slice", type=int, default=60, help="seconds between two looks")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    result: dict[str, Any] = {"what": __doc__.split("\n", 1)[0] if __doc__ else ""}
    result |= header("uvicorn", "torch", "numpy") | {"client": wrk.version(), **conditions()}
    result |= {"model": options.model, "minutes": options.minutes, "asked_per_second": options.rate}
    with tempfile.TemporaryDirectory() as scratch, serving(options.run, ("--model", options.model)) as server:
        users, _ = fill(server, options.run)
        items = Path(scratch) / "items.txt"
        ids = open_run(options.run, model="popularity").world.interactions.item_ids
        items.write_text("\n".join(str(item) for item in ids) + "\n", encoding="utf-8")
        words = (users, K, options.rate, items, f"soak-{time.time_ns()}")
        result |= watch(server, words, connections=options.connections, slices=slices(options), each=options.slice)
    result |= judged(result["memory_mib"], warm=options.warm * 60 // options.slice)
    write_output(options.out, result)
    print({name: value for name, value in result.items() if name not in ("what", "machine", "memory_mib")})
    raise SystemExit(1 if result["failed"] or not result["flat"] else 0)


def slices(options: argparse.Namespace) -> int:
    """How often memory is read."""
    return max(2, options.minutes * 60 // options.slice)


def watch(
    server: ServerProcess, words: tuple[object, ...], *, connections: int, slices: int, each: int
) -> dict[str, Any]:
    """Memory at the end of each slice of `each` seconds, under one load that lasts as long as all of them."""
    asked = wrk.command(server.url, *words, connections=connections, seconds=slices * each, script="paced.lua")
    client = subprocess.Popen(asked, stdout=subprocess.PIPE, text=True)
    began, memory = time.monotonic(), []
    for number in range(slices):
        time.sleep(max(0.0, began + (number + 1) * each - time.monotonic()))
        memory.append(round(server.memory_mib(), 1))
        print(f"{(number + 1) * each} s: {memory[-1]} MiB", flush=True)
    assert client.stdout is not None
    told = wrk.read(client.stdout.read())
    client.wait()
    fallbacks = sum(value for name, value in server.metrics().items() if name.startswith(FALLBACKS))
    rate = round(told["requests"] / told["seconds"], 1)
    return {**told, "requests_per_second": rate, "fallbacks": int(fallbacks), "memory_mib": memory}


def judged(memory: list[float], *, warm: int) -> dict[str, Any]:
    """How far memory went from what it was after `warm` slices."""
    settled = memory[min(warm, len(memory) - 2) :]
    furthest = max(abs(one - settled[0]) for one in settled) / settled[0]
    return {"settled_mib": settled[0], "furthest_percent": round(100 * furthest, 2), "flat": furthest <= FLAT}


if __name__ == "__main__":
    main()
