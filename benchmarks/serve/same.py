"""Whether a server gives the very lists that `sememe recommend` prints.

    python -m benchmarks.serve.same runs/itemwise_beauty

A thousand requests, eight at a time, so that they meet in shared searches: users of the data by their id, histories of
the request, and users whose events are in the store alone.  Each list is compared with that of `Run.recommend`, which
`sememe recommend` prints, asked one by one in another process than the server's.  `equal` counts lists with the same
items in the same order; `score_difference` is the largest one between a served score and the other.
"""

import argparse
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.header import header, write_output
from benchmarks.serve.load import fill
from benchmarks.serve.process import serving
from sememe.pipeline.opened import Run, open_run

K, AT_ONCE, READ = 10, 8, 50
KINDS = ("user of the run", "history of the request", "history in the store")


@dataclass(frozen=True)
class Asked:
    """A request, served and offline."""

    kind: str
    served: dict[str, Any]
    offline: dict[str, Any]


def main() -> None:
    """Compare, print and write the output; the exit code is 1 where a list differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--model", action="append", help="rows of the run that answer")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    result: dict[str, Any] = {"what": __doc__.split("\n", 1)[0] if __doc__ else ""} | header("torch", "numpy")
    result |= {"requests": options.requests, "k": K}
    result["models"] = [
        compare(options.run, model, requests=options.requests) for model in options.model or ["itemwise:generator"]
    ]
    write_output(options.out, result)
    print(*result["models"], sep="\n")
    raise SystemExit(any(row["equal"] < row["asked"] for model in result["models"] for row in model["rows"]))


def compare(path: Path, model: str, *, requests: int) -> dict[str, Any]:
    """Numbers of one row of the run."""
    run = open_run(path, model=model)
    asked = drawn(run, requests)
    with tempfile.TemporaryDirectory() as scratch:
        # A list that comes late is not the model's.
        words = ("--model", model, "--store", f"sqlite:///{scratch}/store.sqlite", "--set", "batching.budget_ms=60000")
        with serving(path, words, core=None) as server:
            fill(server, path)
            with httpx.Client(base_url=server.url, timeout=120) as http, ThreadPoolExecutor(AT_ONCE) as pool:
                answers = list(pool.map(lambda one: http.post("/v1/recommend", json=one.served).json(), asked))
    rows: dict[str, dict[str, Any]] = {
        kind: {"kind": kind, "asked": 0, "equal": 0, "score_difference": 0.0} for kind in KINDS
    }
    for one, answer in zip(asked, answers, strict=True):
        frame, row = run.recommend(**one.offline, k=K), rows[one.kind]
        row["asked"] += 1
        same = [item["item_id"] for item in answer["items"]] == [str(item) for item in frame["item"]]
        row["equal"] += same and answer["degraded"] == []
        if same:
            scores = np.array([item["score"] for item in answer["items"]])
            gap = float(np.abs(scores - frame["score"].to_numpy()).max())
            row["score_difference"] = max(row["score_difference"], gap)
    return {"model": model, "rows": list(rows.values())}


def drawn(run: Run, requests: int) -> list[Asked]:
    """Requests of all kinds for users drawn by a fixed seed."""
    log = run.world.interactions
    users = np.random.default_rng(0).choice(log.num_users, requests, replace=requests > log.num_users).tolist()
    return [_asked(KINDS[number % len(KINDS)], run, user) for number, user in enumerate(users)]


def _asked(kind: str, run: Run, user: int) -> Asked:
    log = run.world.interactions
    history = [log.item_ids[int(item)] for item in log.history(user)]
    if kind == KINDS[0]:
        return Asked(kind, {"user_id": str(log.user_ids[user])}, {"user": log.user_ids[user]})
    if kind == KINDS[1]:
        return Asked(kind, {"history": _texts(history)}, {"history": history})
    return Asked(kind, {"user_id": f"shop-{user}"}, {"history": history[-READ:]})


def _texts(ids: Sequence[Any]) -> list[str]:
    return [str(one) for one in ids]


if __name__ == "__main__":
    main()
