"""The native kernel against the torch engine and against what one core can do: item-wise generation, beam 20, top 10.

The model: two layers of width 128, two heads, feed-forward 512, depth networks of 256, fresh weights (speed does not
depend on what they have learned).  The catalogue: 12,101 items, three levels of 256 codes whose prefixes are as uneven
as those of residual k-means (256, 5,807 and 10,451 of them), and a level of numbers that tells equal ones apart.
Histories hold 20 items.  "cached" is one item more behind a kept history, and the search after it; "reading" and
"search" are the two parts of a request.

Variants take turns of 64 requests, of which at batch 1 the first 16 warm the caches and are not counted; the first of
all is told beside (`first_of_turn_ms`).  Each call stands between two runs of a loop of multiply-adds on registers, the
ceiling of the core at that moment.  `share_of_peak` is what the call's floating-point operations would have taken at
that ceiling, over the processor time that it took, the median over calls and the best tenth of them.  Operations are
those of products, attention and comparisons that the kernel needs, a multiply-add being two; gelu, exp and norms are
not counted.  `median_ms`, `p99_ms` and `lowest_ms` are wall clock per request, `cpu_ms` the median of processor time.
A product of large matrices by torch is timed beside it.

    python -m benchmarks.speed.decode.itemwise                 about 15 seconds
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch

from benchmarks.header import header, write_output
from sememe.core.schema import Codes, ModelInputs
from sememe.decode.beam import Found, search
from sememe.decode.native.packed import Precision
from sememe.decode.native.search import HistoryState, NativeSearch
from sememe.decode.trie import Trie
from sememe.models.itemwise import ItemWise, ItemWiseModel
from sememe.models.itemwise_export import export_itemwise
from sememe.nn.trunk import Trunk

ITEMS, HISTORY, WIDTH, K, REQUESTS = 12_101, 20, 20, 10, 64
D, LAYERS, FF, HIDDEN = 128, 2, 512, 256
CEILING_ROUNDS = 12_000
"""About 20 microseconds of multiply-adds on a processor with AVX2."""
TURN, WARMING = 64, 16
"""Requests of one variant before the next has its turn, and how many of them fill the caches first: a server does not
swap its model between requests.  The first one is reported beside."""
NEAR = 1e-4

Batch = dict[str, torch.Tensor]


@dataclass(eq=False)
class Variant:
    """One way to answer, and what was measured of it."""

    name: str
    batch: int
    call: Callable[[int], object]
    """Answers the requests of a turn."""
    flops: float | None = None
    """Per request; None where nobody counts them."""
    prepare: Callable[[int], object] | None = None
    """Done before a call and not timed."""
    first: list[float] = field(default_factory=list)
    """Of each turn, right after the others have had theirs."""
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    share: list[float] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """Milliseconds per request."""
        row: dict[str, Any] = {
            "variant": self.name,
            "batch": self.batch,
            "calls": len(self.wall),
            "median_ms": round(statistics.median(self.wall), 4),
            "p99_ms": round(float(np.percentile(self.wall, 99)), 4),
            "lowest_ms": round(min(self.wall), 4),
            "first_of_turn_ms": round(statistics.median(self.first), 4),
            "cpu_ms": round(statistics.median(self.cpu), 4),
        }
        if self.flops is not None:
            row["mflop"] = round(self.flops / 1e6, 3)
            row["share_of_peak"] = round(statistics.median(self.share), 3)
            row["share_of_peak_best_tenth"] = round(float(np.percentile(self.share, 90)), 3)
        return row


@dataclass(frozen=True, eq=False)
class Sides:
    """The same weights, catalogue and requests for every variant."""

    model: ItemWiseModel
    trie: Trie
    engines: dict[Precision, NativeSearch]
    requests: Batch

    def batches(self, size: int) -> list[Batch]:
        return [
            {name: values[start : start + size] for name, values in self.requests.items()}
            for start in range(0, REQUESTS, size)
        ]

    def by_torch(self, size: int) -> Callable[[int], Found]:
        """Answers the batch of a turn."""
        batches = self.batches(size)
        return lambda turn: search(self.model, batches[turn % len(batches)], width=WIDTH, k=K, trie=self.trie)

    def natively(self, size: int, engine: NativeSearch) -> Callable[[int], Found]:
        """Answers the batch of a turn."""
        batches = [{name: values.numpy() for name, values in batch.items()} for batch in self.batches(size)]
        return lambda turn: engine.search(batches[turn % len(batches)], width=WIDTH, k=K)


def make_codes() -> Codes:
    """Prefixes as uneven as those of residual k-means, and numbers for items that share one."""
    rng = np.random.default_rng(0)
    matrix = np.zeros((ITEMS, 4), np.int64)
    matrix[:, 0] = rng.choice(256, ITEMS, p=rng.dirichlet(np.full(256, 2.0)))
    falling = np.arange(1, 257.0) ** -1.2
    for level in (1, 2):
        # Each prefix has an order of its own in which codes are frequent.
        prefix = matrix[:, :level] @ np.array([1, 257])[:level]
        rank = rng.choice(256, ITEMS, p=falling / falling.sum())
        matrix[:, level] = (rank * 167 + prefix * 59) % 256
    _, place = np.unique(matrix[:, :3], axis=0, return_inverse=True)
    order = np.argsort(place, kind="stable")
    first = np.searchsorted(place[order], place[order])
    matrix[order, 3] = np.arange(ITEMS) - first
    sizes = (256, 256, 256, int(matrix[:, 3].max()) + 1)
    return Codes(matrix=matrix.astype(np.int32), codebook_sizes=sizes, num_semantic_levels=3)


def make_sides() -> Sides:
    """Everything from fixed seeds."""
    codes = make_codes()
    part = ItemWise(trunk=Trunk(layers=LAYERS, d_model=D, heads=2, ff=FF), content=False)
    model = part.build(ModelInputs(num_users=1, num_items=ITEMS, codes=codes), seed=0).eval()
    trie, weights = Trie.build(codes), export_itemwise(model)
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    engines = {precision: NativeSearch.build(weights, trie, precision=precision) for precision in precisions}
    history = np.random.default_rng(1).integers(ITEMS, size=(REQUESTS, HISTORY)).astype(np.int32)
    requests = {"history": torch.from_numpy(history), "lengths": torch.full((REQUESTS,), HISTORY)}
    return Sides(model=model, trie=trie, engines=engines, requests=requests)


def flops_needed(sides: Sides) -> dict[str, float]:
    """Per request, of reading a history anew, of reading one item behind a kept one, and of the search; and of the
    search as the model defines it, each query from the position and the codes by one network."""
    work = sides.engines["fp32"].count_work(sides.requests, width=WIDTH) / REQUESTS
    position = 2 * (4 * D * D + 2 * D * FF)
    keys = 2 * 2 * D * D
    pairs = HISTORY * (HISTORY + 1) / 2
    whole = (LAYERS - 1) * (HISTORY * position + pairs * 4 * D) + HISTORY * keys + position - keys + HISTORY * 4 * D
    more = LAYERS * (position + (HISTORY + 1) * 4 * D)
    asked, compared = work[:, 0], work[:, 1]
    # The position's part of a network's first layer is the same for all hypotheses; the codes' part stands in tables.
    walk = 2 * (asked > 0).sum() * D * HIDDEN + 2 * asked.sum() * HIDDEN * D + 2 * compared.sum() * D
    plain = 2 * asked.sum() * 2 * D * HIDDEN - 2 * asked[0] * D * HIDDEN + 2 * asked.sum() * HIDDEN * D
    plain += 2 * compared.sum() * D
    return {"whole": float(whole), "more": float(more), "search": float(walk), "plain_search": float(plain)}


def make_variants(sides: Sides) -> list[Variant]:
    flops = flops_needed(sides)
    variants = []
    for precision, engine in sides.engines.items():
        name, whole = f"native {precision}", flops["whole"] + flops["search"]
        variants += [Variant(name, size, sides.natively(size, engine), flops=whole) for size in (1, 16, 64)]
        variants.append(_cached(sides, engine, f"{name}, cached", flops["more"] + flops["search"]))
        variants += _parts(sides, engine, name, flops)
    return [*variants, *(Variant("torch fp32", size, sides.by_torch(size)) for size in (1, 16, 64))]


def _parts(sides: Sides, engine: NativeSearch, name: str, flops: dict[str, float]) -> list[Variant]:
    """Reading alone and searching alone, one request at a time."""
    batches = [{part: values.numpy() for part, values in batch.items()} for batch in sides.batches(1)]
    kept = engine.encode(sides.requests)

    def find(turn: int) -> Found:
        return engine.search_states(kept[turn % REQUESTS : turn % REQUESTS + 1], width=WIDTH, k=K)

    reading = Variant(f"{name}, reading", 1, lambda turn: engine.encode(batches[turn % REQUESTS]), flops=flops["whole"])
    return [reading, Variant(f"{name}, search", 1, find, flops=flops["search"])]


def _cached(sides: Sides, engine: NativeSearch, name: str, flops: float) -> Variant:
    """One item behind each history in turn; before each call, the history is the short one again."""
    kept = engine.encode(sides.requests)
    new = np.random.default_rng(2).integers(ITEMS, size=(REQUESTS, 1)).astype(np.int32)

    def prepare(turn: int) -> None:
        state: HistoryState = kept[turn % REQUESTS]
        state.items = state.items[:HISTORY]

    def call(turn: int) -> Found:
        states = kept[turn % REQUESTS : turn % REQUESTS + 1]
        engine.extend(states, new[turn % REQUESTS])
        return engine.search_states(states, width=WIDTH, k=K)

    return Variant(name, 1, call, flops=flops, prepare=prepare)


def ceiling(engine: NativeSearch) -> float:
    """Floating-point operations per second of multiply-adds on registers, now."""
    started = time.perf_counter()
    flops = engine.kernel.multiply_add(engine.place[0], CEILING_ROUNDS)
    return flops / (time.perf_counter() - started)


def measure(variants: list[Variant], engine: NativeSearch, *, seconds: float) -> list[float]:
    """Let the variants take turns; the ceilings that were met."""
    ceilings, end, turn = [ceiling(engine)], time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        for variant in variants:
            # The slow one less often, so that the others are measured often enough.
            if variant.flops is not None or turn % 8 == 0:
                ceilings += _measure_turn(variant, engine)
        turn += 1
    return ceilings


def _measure_turn(variant: Variant, engine: NativeSearch) -> list[float]:
    ceilings = []
    # At batch 1 torch takes so long per request that its caches are warm at once.
    calls = TURN // variant.batch if variant.flops is not None else max(1, 8 // variant.batch)
    for number in range(calls):
        before, wall, cpu = ceiling(engine), *_measure_call(variant, number)
        after = ceiling(engine)
        if number == 0:
            variant.first.append(wall)
        if number * variant.batch >= WARMING or calls < TURN:
            variant.wall.append(wall)
            variant.cpu.append(cpu)
            ceilings += [before, after]
            if variant.flops is not None:
                variant.share.append(variant.flops / (cpu * 1e-3) / ((before + after) / 2))
    return ceilings


def _measure_call(variant: Variant, number: int) -> tuple[float, float]:
    """Milliseconds per request, of the clock and of the processor."""
    if variant.prepare is not None:
        variant.prepare(number)
    cpu, started = time.process_time(), time.perf_counter()
    variant.call(number)
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    return wall / variant.batch * 1e3, cpu / variant.batch * 1e3


def torch_product(size: int = 512, repeats: int = 20) -> float:
    """Floating-point operations per second of torch's product of two square matrices, the best of some."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        torch.mm(left, right)
        times.append(time.perf_counter() - started)
    return 2.0 * size**3 / min(times)


def agreement(sides: Sides) -> dict[str, Any]:
    """How far the native lists are those of torch."""
    expected = sides.by_torch(REQUESTS)(0)
    exact, rounded = (engine.search(sides.requests, width=WIDTH, k=K) for engine in sides.engines.values())
    found = zip(exact.items.tolist(), rounded.items.tolist(), strict=True)
    return {
        "identical_lists": int((exact.items == expected.items).all(1).sum()),
        "of": REQUESTS,
        "largest_score_difference": float((exact.scores - expected.scores).abs().max()),
        "bf16_share_of_top_10": round(float(np.mean([len(set(a) & set(b)) / K for a, b in found])), 4),
    }


def main() -> None:
    """Measure, print, write the output, and fail where the lists differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    sides = make_sides()
    engine = sides.engines["fp32"]
    result: dict[str, Any] = {"what": __doc__.split("\n", 1)[0] if __doc__ else ""} | header("numpy", "torch")
    result |= {"path": engine.path, "threads": 1, "items": ITEMS, "history": HISTORY, "beam_width": WIDTH, "k": K}
    result["agreement"] = agreement(sides)
    result["mflop_per_request"] = {name: round(count / 1e6, 3) for name, count in flops_needed(sides).items()}
    work = engine.count_work(sides.requests, width=WIDTH) / REQUESTS
    result["queries_and_comparisons_per_level"] = work.round(1).tolist()
    result["bytes"] = {precision: each.nbytes for precision, each in sides.engines.items()}
    variants = make_variants(sides)
    ceilings = measure(variants, engine, seconds=options.seconds)
    result["multiply_add_gflops"] = {
        "highest": round(max(ceilings) / 1e9, 1),
        "median": round(statistics.median(ceilings) / 1e9, 1),
    }
    result["torch_512_product_gflops"] = round(torch_product() / 1e9, 1)
    result["rows"] = [variant.row() for variant in variants]
    for row in result["rows"]:
        print(row)
    write_output(options.output, result)
    same = result["agreement"]
    assert same["identical_lists"] >= 0.95 * REQUESTS and same["largest_score_difference"] < NEAR, (
        "the engines disagree"
    )


if __name__ == "__main__":
    main()
