"""What business rules cost a request: three composed predicates over the catalogue against none, and a change of stock.

The catalogue: three levels of 256 codes drawn evenly and a level of numbers that tells equal ones apart.  The model is
item-wise without anything per item (no embeddings, no content), fresh weights: speed does not depend on what weights
have learned.  A request has a history of 20 items, which is left out of its list; batch 1, beam 20.  The rules: in
stock (7 in 10 items), in one of two regions of ten (items have one to three), and not for adults only (1 in 5 is).

Who searches: the compiled kernel, from the history and from one that was read before ("kept"), and the torch engine.
Each request is made with and without rules, one right after the other, and the first of the two by turns; times are
processor seconds of this process, so that other work on the machine weighs on both sides alike.  The composition is
made once and kept, as for a tenant.  A change sells out or restocks 10,000 items: bits of a copy are flipped and
counted, and the composition, no longer right, is made again.

    python -m benchmarks.speed.decode.rules --size small      half a minute
    python -m benchmarks.speed.decode.rules                   minutes
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import polars as pl
import torch

from benchmarks.header import header, write_output
from sememe.core.schema import PAD, BoolArray, Codes, ModelInputs
from sememe.decode.beam import Found, search
from sememe.decode.item_set import ItemSet
from sememe.decode.native.paths import native_status
from sememe.decode.native.search import NativeSearch
from sememe.decode.predicates import AtLeast, OneOf, Positive, Predicate
from sememe.decode.rules import Part, Rules, any_of, none_of
from sememe.decode.trie import Trie
from sememe.models.depth import Depth
from sememe.models.itemwise import ItemWise, ItemWiseModel
from sememe.models.itemwise_export import export_itemwise

ITEMS = {"small": 20_000, "full": 1_000_000}
LEVELS, CODES, NUMBERS = 3, 256, 256
HISTORY, WIDTH, CHANGED = 20, 20, 10_000
PARTS: tuple[str | Part, ...] = ("in stock", any_of("region 1", "region 2"), none_of("adult"))
MOST_RATIO, MOST_CHANGE_MS = 1.15, 10.0
"""What a request with rules may cost of one without, and a change of stock may take, at full size."""

Batch = dict[str, torch.Tensor]
Answer = Callable[[int, ItemSet | None], Found]
"""From the number of a request and what it is allowed to its list."""


@dataclass(frozen=True, eq=False)
class Served:
    """All that answers requests."""

    model: ItemWiseModel
    trie: Trie
    requests: list[Batch]

    def searches(self) -> dict[str, Answer]:
        """Who searches; each gives the list of a request with its history left out."""
        requests, trie = self.requests, self.trie

        def by_torch(number: int, allowed: ItemSet | None) -> Found:
            batch = requests[number]
            return search(self.model, batch, width=WIDTH, k=WIDTH, trie=trie, seen=batch["history"], allowed=allowed)

        if native_status().path is None:
            return {"torch": by_torch}
        kernel = NativeSearch.build(export_itemwise(self.model), trie)
        batches = [{name: values.numpy() for name, values in batch.items()} for batch in requests]
        kept = [kernel.encode(batch) for batch in batches]

        def by_kernel(number: int, allowed: ItemSet | None) -> Found:
            batch = batches[number]
            return kernel.search(batch, width=WIDTH, k=WIDTH, seen=batch["history"], allowed=allowed)

        def by_kernel_kept(number: int, allowed: ItemSet | None) -> Found:
            seen = batches[number]["history"]
            return kernel.search_states(kept[number], width=WIDTH, k=WIDTH, seen=seen, allowed=allowed)

        return {"kernel": by_kernel, "kernel, kept history": by_kernel_kept, "torch": by_torch}


def main() -> None:
    """Measure, print, write the output, and fail where the full size costs more than promised."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=ITEMS, default="full")
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=30, help="of the change of stock")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    items = ITEMS[options.size]
    result: dict[str, Any] = {"what": __doc__.split("\n", 1)[0] if __doc__ else ""}
    result |= header("numpy", "torch", "polars") | {"threads": 1, "items": items, "beam_width": WIDTH, "batch": 1}
    served = make_served(items, options.requests)
    rules = make_rules(served.trie)
    result["rules"] = describe_rules(rules)
    result["requests"] = {
        name: measure_requests(answer, served, rules.allowed(*PARTS)) for name, answer in served.searches().items()
    }
    result["changes"] = measure_changes(rules, repeats=options.repeats)
    write_output(options.out, result)
    for name in ("rules", "requests", "changes"):
        print(name, result[name])
    if options.size == "full":
        costly = [name for name, row in result["requests"].items() if row["ratio_of_medians"] > MOST_RATIO]
        assert not costly, f"rules cost more than promised: {costly}"
        assert result["changes"]["all_ms"]["median"] <= MOST_CHANGE_MS, "a change takes longer than promised"


def make_served(items: int, requests: int) -> Served:
    """Catalogue, model and requests; everything from fixed seeds."""
    rng = np.random.default_rng(0)
    codes = numbered_codes(rng.integers(CODES, size=(items, LEVELS)).astype(np.int32))
    model = ItemWise(item_embedding=False, content=False, depth=Depth(node_vectors=False)).build(
        ModelInputs(num_users=1, num_items=items, codes=codes), seed=0
    )
    histories = rng.integers(items, size=(requests, 1, HISTORY)).astype(np.int32)
    lengths = torch.full((1,), HISTORY, dtype=torch.int32)
    return Served(
        model=model.eval(),
        trie=Trie.build(codes),
        requests=[{"history": torch.from_numpy(history), "lengths": lengths} for history in histories],
    )


def numbered_codes(matrix: np.ndarray) -> Codes:
    """The codes with one more level that numbers the items of a tuple, in order of index."""
    key = np.ravel_multi_index(tuple(matrix.T), (CODES,) * LEVELS)
    order = np.argsort(key, kind="stable")
    is_first = np.append(True, key[order][1:] != key[order][:-1])
    places = np.arange(len(key))
    number = np.empty(len(key), np.int32)
    number[order] = places - np.maximum.accumulate(np.where(is_first, places, 0))
    return Codes(
        matrix=np.column_stack([matrix, number]),
        codebook_sizes=(CODES,) * LEVELS + (NUMBERS,),
        num_semantic_levels=LEVELS,
        collisions="token",
    )


def make_rules(trie: Trie) -> Rules:
    """The predicates of PARTS over a drawn catalogue."""
    rng, items = np.random.default_rng(1), len(trie.positions)
    regions = rng.integers(10, size=(items, 3))
    count = rng.integers(1, 4, size=items)
    frame = pl.DataFrame(
        {
            "stock": (rng.random(items) < 0.7).astype(np.int32),
            "regions": pl.Series([row[:length] for row, length in zip(regions.tolist(), count.tolist(), strict=True)]),
            "age": rng.choice([0, 6, 12, 16, 18], size=items),
        }
    )
    predicates: dict[str, Predicate | BoolArray] = {
        "in stock": Positive("stock"),
        "region 1": OneOf("regions", (1,)),
        "region 2": OneOf("regions", (2,)),
        "adult": AtLeast("age", 18),
    }
    return Rules.start(trie).define(predicates, frame=frame)


def describe_rules(rules: Rules) -> dict[str, Any]:
    """How much is allowed, and what a predicate takes."""
    allowed, one = rules.allowed(*PARTS), rules.compiled["in stock"]
    return {
        "allowed_share": round(allowed.num_members / rules.num_items, 3),
        "bytes_per_item_and_predicate": round((one.item_set.nbytes + one.by_item.nbytes) / rules.num_items, 3),
    }


def measure_requests(answer: Answer, served: Served, allowed: ItemSet) -> dict[str, Any]:
    """Times of all requests with rules and without, by turns, once each has been made to warm up."""
    times: dict[str, list[float]] = {"without": [], "with": []}
    for warm in (True, False):
        for number in range(min(len(served.requests), 20) if warm else len(served.requests)):
            sides: list[tuple[str, ItemSet | None]] = [("without", None), ("with", allowed)]
            for name, given in sides if number % 2 else sides[::-1]:
                started = time.process_time()
                found = answer(number, given)
                if not warm:
                    times[name].append((time.process_time() - started) * 1e3)
                check(found, served.trie, given)
    medians = {name: statistics.median(values) for name, values in times.items()}
    pairs = zip(times["with"], times["without"], strict=True)
    return {
        "without_ms": spread(times["without"]),
        "with_ms": spread(times["with"]),
        "ratio_of_medians": round(medians["with"] / medians["without"], 3),
        "median_of_ratios": round(statistics.median(ruled / free for ruled, free in pairs), 3),
    }


def check(found: Found, trie: Trie, allowed: ItemSet | None) -> None:
    """The list is full and holds nothing that is forbidden."""
    assert bool((found.items != PAD).all()), "a list is short, though there is enough"
    if allowed is not None:
        assert bool(allowed.contains(trie.positions[found.items.long()].numpy()).all()), "a forbidden item is listed"


def measure_changes(rules: Rules, *, repeats: int) -> dict[str, Any]:
    """Times to change the stock of CHANGED items, and to compose anew what uses it."""
    rng = np.random.default_rng(2)
    changing: list[float] = []
    composing: list[float] = []
    for step in range(repeats + 2):
        chosen = rng.choice(rules.num_items, size=CHANGED, replace=False).astype(np.int32)
        values = rng.random(CHANGED) < 0.5
        started = time.process_time()
        rules = rules.change("in stock", chosen, to=values)
        changed = time.process_time()
        rules.allowed(*PARTS)
        if step >= 2:
            changing.append((changed - started) * 1e3)
            composing.append((time.process_time() - changed) * 1e3)
    both = [one + other for one, other in zip(changing, composing, strict=True)]
    return {
        "items": CHANGED,
        "change_ms": spread(changing),
        "compose_ms": spread(composing),
        "all_ms": spread(both),
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median and 99th percentile."""
    return {"median": round(statistics.median(values), 3), "p99": round(float(np.quantile(values, 0.99)), 3)}


if __name__ == "__main__":
    main()
