"""One balanced assignment of a catalogue to clusters: ours against min-cost flow (k-means-constrained), one thread.

All sides get the same vectors and the same centres, and give every cluster floor(n / K) vectors or one more.  Vectors
are drawn: topics of unequal size with falling variances, of length one, as text embeddings are; centres are the
halving start of our k-means.  The error is the sum of squared distances.  Times are processor seconds of this process;
sides are interleaved, and the median of the repeats counts, so that other work on the machine weighs on all alike.  The
flow minimises the sum of distances in whole numbers, not of their squares, so that its error need not be the least.

k-means-constrained is no dependency of Sememe; without it its side is left out, and the output says so:

    pip install k-means-constrained==0.9.1
    python -m benchmarks.speed.sid.balanced --size small      seconds
    python -m benchmarks.speed.sid.balanced                   as many items as Amazon-2014 Beauty
    python -m benchmarks.speed.sid.balanced --size million --repeats 1 --out benchmarks/speed/sid/balanced_million.json

The flow is left out of the last one, where it would take hours.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

from benchmarks.header import header, write_output
from sememe.core.schema import FloatArray, Int64Array
from sememe.sid.assignment import Fill, fill_by_prices, fill_in_turn
from sememe.sid.kmeans import halving_start

SIZES = {"small": (2_000, 64, 32), "beauty": (12_101, 384, 256), "million": (1_000_000, 384, 256)}
"""Vectors, their width, clusters."""
TARGET_SECONDS = {"beauty": 0.5, "million": 20.0}
"""Of the default assignment."""
BLOCK = 100_000
"""Vectors that are drawn at once, and those that the centres are found on."""

Assign = Callable[[FloatArray, FloatArray], Int64Array]
"""From vectors (n, d) and centres (K, d) to labels (n,)."""


def main() -> None:
    """Measure every side on the same world and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="beauty")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    rows, dim, clusters = SIZES[options.size]
    installed = find_spec("k_means_constrained") is not None
    peer = installed and options.size != "million"
    packages = ("numpy", "scipy", *(("k-means-constrained", "ortools") if peer else ()))
    result = {"what": __doc__.split("\n", 1)[0] if __doc__ else "", **header(*packages)}
    rng = np.random.default_rng(0)
    blocks = [make_vectors(min(BLOCK, rows - start), dim, rng=rng) for start in range(0, rows, BLOCK)]
    vectors, sample = np.concatenate(blocks), blocks[0]
    centers = halving_start(sample, np.ones(len(sample), np.float32), num_clusters=clusters)
    sides: dict[str, Assign] = {"prices": labels_of(fill_by_prices), "turns": labels_of(fill_in_turn)}
    if peer:
        sides["min_cost_flow"] = flow_labels
    result["world"] = {"vectors": rows, "dim": dim, "clusters": clusters}
    result["sides"] = compare(sides, vectors, centers, repeats=options.repeats)
    reason = "it would take hours" if installed else "k-means-constrained is not installed"
    result["peer"] = "measured" if peer else f"left out: {reason}"
    result["target_seconds"] = TARGET_SECONDS.get(options.size)
    write_output(options.out, result)
    for name, side in result["sides"].items():
        print(f"{name:14} {side['seconds']:8.3f} s  error {side['error']:.1f}  sizes {side['sizes']}")
    print(result["peer"])


def make_vectors(rows: int, dim: int, *, rng: np.random.Generator) -> FloatArray:
    """(rows, dim) of length one."""
    inner = min(64, dim)
    shares = rng.dirichlet(np.ones(40))
    topics = rng.standard_normal((40, inner))[rng.choice(40, rows, p=shares)]
    hidden = topics + rng.standard_normal((rows, inner)) * np.linspace(1.5, 0.1, inner)
    vectors = hidden @ rng.standard_normal((inner, dim)) + 0.3 * rng.standard_normal((rows, dim))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def labels_of(fill: Fill) -> Assign:
    """`fill` for rows that stand for one vector each."""

    def assign(vectors: FloatArray, centers: FloatArray) -> Int64Array:
        return fill(vectors, np.ones(len(vectors), np.int64), centers).clusters

    return assign


def flow_labels(vectors: FloatArray, centers: FloatArray) -> Int64Array:
    """The assignment step of k-means-constrained, as its own loop calls it."""
    from k_means_constrained.k_means_constrained_ import _labels_constrained  # type: ignore[import-untyped]

    base, extra = divmod(len(vectors), len(centers))
    labels, _ = _labels_constrained(vectors, centers, base, base + (extra > 0), np.zeros(len(vectors)))
    return np.asarray(labels, dtype=np.int64)


def compare(
    sides: dict[str, Assign], vectors: FloatArray, centers: FloatArray, *, repeats: int
) -> dict[str, dict[str, Any]]:
    """Median processor seconds, error and cluster sizes of each side."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    labels: dict[str, Int64Array] = {}
    for _ in range(repeats):
        for name, assign in sides.items():
            start = time.process_time()
            labels[name] = assign(vectors, centers)
            seconds[name].append(time.process_time() - start)
    return {
        name: {
            "seconds": round(statistics.median(seconds[name]), 4),
            "all_seconds": [round(value, 4) for value in seconds[name]],
            "error": round(float(np.square(vectors - centers[found], dtype=np.float64).sum()), 2),
            "sizes": sorted(set(np.bincount(found, minlength=len(centers)).tolist())),
        }
        for name, found in labels.items()
    }


if __name__ == "__main__":
    main()
