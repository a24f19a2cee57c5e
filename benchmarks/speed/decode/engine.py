"""What a request takes of `sememe.Engine`, ids looked up and answers told, on one thread: a finished item-wise run.

    sememe run itemwise --data amazon2014_beauty --out runs/itemwise_beauty
    python -m benchmarks.speed.decode.engine runs/itemwise_beauty

Requests are the last 20 items of users who have so many, top 10, seen items left out.  "cold" has never seen the
history; "kept" has read all of it but the newest item; "same" has read all of it; "rules" adds a rule that allows seven
items in ten.  "kernel" is the compiled search alone, from a kept history, for what the rest of an
engine costs.  Variants take turns of 64 requests; times are milliseconds of the clock per request, of which the first 8
of a turn are not counted.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch

from benchmarks.header import header, write_output
from sememe.decode.beam import BeamSearch
from sememe.pipeline.engine import Engine, Request
from sememe.pipeline.history_cache import HistoryCache

HISTORY, K, TURN, WARMING = 20, 10, 64, 8
BEAMS = (BeamSearch(width=20), BeamSearch(width=20, first_width=30), BeamSearch(width=50))


def main() -> None:
    """Measure, print and write the output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    engine = Engine.load(options.run, model="itemwise:generator")
    ids = engine.serving.items.ids
    chosen = np.random.default_rng(0).random(len(ids)) < 0.7
    engine.put_rules(engine.rules.define({"chosen": chosen}))
    histories = long_histories(engine)
    result: dict[str, Any] = {"what": __doc__.split("\n", 1)[0] if __doc__ else ""} | header("numpy", "torch")
    result |= {
        "path": engine.path,
        "threads": 1,
        "items": len(ids),
        "history": HISTORY,
        "k": K,
        "engine_bytes": engine.nbytes,
    }
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(options.rounds):
        for beam in BEAMS:
            for name, call, requests in variants(with_beam(engine, beam), histories):
                times.setdefault((beam.describe(), name), []).extend(turn(call, requests))
    result["rows"] = [
        {
            "beam": beam,
            "request": name,
            "median_ms": round(statistics.median(taken), 4),
            "p99_ms": round(float(np.percentile(taken, 99)), 4),
        }
        for (beam, name), taken in times.items()
    ]
    write_output(options.out, result)
    for row in result["rows"]:
        print(row)


def long_histories(engine: Engine) -> list[list[Any]]:
    """The last HISTORY items of users that have so many, TURN of them, as ids."""
    interactions = engine.serving.run.world.interactions
    users = np.flatnonzero(interactions.lengths() >= HISTORY)[:TURN]
    ids = engine.serving.items.ids
    return [ids.gather(interactions.history(user)[-HISTORY:]).to_list() for user in users.tolist()]


def with_beam(engine: Engine, beam: BeamSearch) -> Engine:
    """The same engine with another beam and an empty cache."""
    answerer = engine.serving.answerer
    other = replace(
        answerer,
        recommender=replace(answerer.recommender, decode=beam),
        cache=HistoryCache(most_bytes=answerer.cache.most_bytes),
    )
    return Engine(replace(engine.serving, answerer=other))


def variants(engine: Engine, histories: list[list[Any]]) -> list[tuple[str, Callable[[Any], object], list[Any]]]:
    """Name, call and requests, in the order in which they have to be made."""

    def ask(request: Request) -> object:
        return engine.recommend([request])

    whole = [Request(history=history, k=K) for history in histories]
    ruled = [replace(request, rules=("chosen",)) for request in whole]
    for history in histories:
        ask(Request(history=history[:-1], k=K))
    answerer = engine.serving.answerer
    search, beam = answerer.search, answerer.recommender.decode
    assert isinstance(beam, BeamSearch), "with_beam put one there"
    found: list[tuple[str, Callable[[Any], object], list[Any]]] = [
        ("kept", ask, whole),
        ("same", ask, whole),
        ("same, rules", ask, ruled),
    ]
    if search is not None:
        indices = [engine.serving.items.find(history) for history in histories]
        length = np.array([HISTORY])
        states = [search.encode({"history": items[None], "lengths": length}) for items in indices]

        def alone(number: int) -> object:
            seen = indices[number][None].astype(np.int32)
            return search.search_states(states[number], width=beam.width, first_width=beam.first_width, k=K, seen=seen)

        found.append(("kernel", alone, list(range(len(histories)))))
    empty = with_beam(engine, beam)
    found.append(("cold", lambda request: empty.recommend([request]), whole))
    return found


def turn(call: Callable[[Any], object], requests: list[Any]) -> list[float]:
    """Milliseconds of each call after the first ones."""
    times = []
    for request in requests:
        start = time.perf_counter()
        call(request)
        times.append(1e3 * (time.perf_counter() - start))
    return times[WARMING:]


if __name__ == "__main__":
    main()
