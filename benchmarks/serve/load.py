"""What a server answers in a second on one core, over HTTP and out of its SQLite store, and what that takes.

    sememe run itemwise --data amazon2014_beauty --out runs/itemwise_beauty
    python -m benchmarks.serve.load runs/itemwise_beauty

The server is started by its command and held to one core, wrk to the other.  All events of the data are sent to it as
those of users that the run does not know ("shop-0", "shop-1", ...), so that histories come from the store alone; each
request asks for ten items for a user drawn at random, so that hardly any history is in the server's cache.  `failed`
counts whatever is not 200, `fallbacks` the answers that did not come from the model.  Each level of load is measured
several times: all rates are told, and the rest is that of the best one.

"of_a_request_ms" is from one connection, so that nobody waits for anybody: what the client sees, of that what the
server's own clock sees from the first byte of a body to the answer's last, and of that the search and the store.
"processor_ms" is processor time per request at each level: of the event loop, and of all other threads.  "memory_mib"
is what is resident when the server is ready, after all loads, and at most ever.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from benchmarks.header import header, write_output
from benchmarks.serve import wrk
from benchmarks.serve.process import ServerProcess, conditions, serving
from sememe.pipeline.opened import open_run

K, BULK, BATCH = 10, 1000, 200
LEVELS = (1, 2, 4, 8, 16, 32)
BATCH_LEVELS = (1, 2)
HISTORIES = 'sememe_store_seconds_sum{operation="histories"}'
REQUESTS = 'sememe_request_seconds_sum{route="post /v1/recommend"}'
FALLBACKS = "sememe_fallbacks_total"


def main() -> None:
    """Measure, print and write the output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="events are sent to a store in it: give a copy")
    parser.add_argument("--model", action="append", help="rows of the run that answer")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=8, help="of each measurement")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    result: dict[str, Any] = {"what": __doc__.split("\n", 1)[0] if __doc__ else ""}
    result |= header("fastapi", "uvicorn", "uvloop", "httptools", "pydantic", "torch", "numpy")
    result |= {
        "client": wrk.version(),
        **conditions(),
        "k": K,
        "seconds": options.seconds,
        "batch": BATCH,
        "models": [],
    }
    for model in options.model or ["itemwise:generator"]:
        result["models"].append(measure(options.run, model, repeats=options.repeats, seconds=options.seconds))
        write_output(options.out, result)
        print(result["models"][-1])


def measure(run: Path, model: str, *, repeats: int, seconds: int) -> dict[str, Any]:
    """All numbers of one row of `run`; each repetition has a server of its own."""
    found: dict[str, Any] = {"model": model, "ready_seconds": [], "memory_mib": [], "levels": [], "batches": []}
    levels: dict[int, list[dict[str, Any]]] = {}
    batches: dict[int, list[dict[str, Any]]] = {}
    for _ in range(repeats):
        with serving(run, ("--model", model)) as server:
            found["ready_seconds"].append(round(server.ready_seconds, 2))
            users, sent = fill(server, run)
            found |= {"users": users, "events": sent}
            ready = round(server.memory_mib())
            for connections in LEVELS:
                levels.setdefault(connections, []).append(
                    level(server, users, connections=connections, seconds=seconds)
                )
            for connections in BATCH_LEVELS:
                told = level(server, users, connections=connections, seconds=seconds, rows=BATCH)
                batches.setdefault(connections, []).append(told)
            loaded, most = round(server.memory_mib()), round(server.most_memory_mib())
            found["memory_mib"].append({"ready": ready, "loaded": loaded, "most": most})
    found["path"] = path_of(run, model)
    found["levels"] = [best(told) for told in levels.values()]
    found["batches"] = [best(told) for told in batches.values()]
    return found


def fill(server: ServerProcess, run: Path) -> tuple[int, int]:
    """Send all events of the data as those of new users, where they were not sent before: (users, events)."""
    log = open_run(run, model="popularity").world.interactions
    sent = 0
    with httpx.Client(base_url=server.url, timeout=30) as client:
        for events in bulks(log):
            client.post("/v1/events", json={"events": events}).raise_for_status()
            sent += len(events)
    return log.num_users, sent


def bulks(log: Any) -> Iterator[list[dict[str, Any]]]:
    """The events of `log`, BULK at a time; one second lies between those of a user."""
    ids, gathered = log.item_ids, []
    for user in range(log.num_users):
        for number, item in enumerate(log.history(user).tolist()):
            place = {"event_id": f"{user}-{number}", "user_id": f"shop-{user}", "timestamp": 1000 * number}
            gathered.append({**place, "item_id": str(ids[item])})
            if len(gathered) == BULK:
                yield gathered
                gathered = []
    if gathered:
        yield gathered


def level(server: ServerProcess, users: int, *, connections: int, seconds: int, rows: int = 0) -> dict[str, Any]:
    """One measurement; rows: users in a batch request, 0 for single ones."""
    before, used = server.metrics(), server.processor()
    told = wrk.measure(server, users, K, rows, connections=connections, seconds=seconds)
    after, used = server.metrics(), server.processor().since(used)
    answered = told["requests"] * max(1, rows)

    def spent(name: str, *, of: int) -> float:
        return round(1e3 * (after.get(name, 0.0) - before.get(name, 0.0)) / of, 4)

    changed = [after[name] - before.get(name, 0.0) for name in after if name.startswith(FALLBACKS)]
    found = {"connections": connections, "users_per_second": round(answered / told["seconds"], 1), **told}
    found |= {
        "fallbacks": int(sum(changed)),
        "processor_ms": {
            "loop": round(1e3 * used.loop / answered, 4),
            "workers": round(1e3 * used.workers / answered, 4),
        },
    }
    if connections == 1 and not rows:
        found["of_a_request_ms"] = {
            "client": told["mean_ms"],
            "server": spent(REQUESTS, of=told["requests"]),
            "engine": spent("sememe_engine_seconds_sum", of=told["requests"]),
            "store": spent(HISTORIES, of=told["requests"]),
        }
    return found


def best(told: list[dict[str, Any]]) -> dict[str, Any]:
    """The one of most users in a second, with the rates of all."""
    chosen = max(told, key=lambda one: one["users_per_second"])
    return {**chosen, "all_users_per_second": [one["users_per_second"] for one in told]}


def path_of(run: Path, model: str) -> str:
    """What searches."""
    from sememe.pipeline.engine import Engine

    return Engine.load(run, model=model).path


if __name__ == "__main__":
    main()
