"""A catalogue that lives: how long until new items have codes and the search's tree holds them, and the tree itself.

Adding: n new items to a catalogue of N with three levels of 256 codes and a collision level, then the tree edited
instead of built anew.  Vectors are drawn as in `balanced`; codebooks are residuals drawn from them, not fitted, since
only the time to use them is measured.  The tree: N items whose first three codes are drawn evenly, told apart by a
number.

Times are processor seconds of this process, the median of the repeats; bytes are those of the tree's arrays.

    python -m benchmarks.speed.sid.catalogue --size small      seconds
    python -m benchmarks.speed.sid.catalogue                   a few minutes, 6 GiB
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

from benchmarks.header import header, write_output
from benchmarks.speed.sid.balanced import make_vectors
from sememe.core.schema import Codes, FloatArray
from sememe.decode.trie import Trie
from sememe.decode.trie_edit import edit_trie
from sememe.sid.catalogue import LiveCatalogue
from sememe.sid.collisions import CollisionToken
from sememe.sid.encode import settle_catalog
from sememe.sid.kmeans import nearest_centers
from sememe.sid.rqkmeans import FittedResidualKMeans

SIZES = {"small": ((2_000, 50, 64), (20_000,)), "full": ((100_000, 1_000, 384), (1_000_000, 10_000_000))}
"""Items of the catalogue, how many come, width of their vectors; items of the trees."""
LEVELS, CODES, NUMBERS = 3, 256, 256
COME = 1_000
"""Items that come to and go from the trees."""
TARGETS = {1_000_000: {"build_seconds": 2.0, "bytes": 16_000_000}, 10_000_000: {"build_seconds": 30.0}}
LONG = 5_000_000
"""Trees of more items are built once."""


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    (items, come, dim), trees = SIZES[options.size]
    result = {"what": __doc__.split("\n", 1)[0] if __doc__ else "", **header("numpy", "scipy", "torch", "polars")}
    result["adding"] = measure_adding(items, come, dim, repeats=options.repeats)
    result["trees"] = [measure_tree(count, repeats=1 if count > LONG else options.repeats) for count in trees]
    write_output(options.out, result)
    for name, seconds in result["adding"]["seconds"].items():
        print(f"{come:,} to {items:,} items: {name:18} {seconds:8.4f} s")
    for tree in result["trees"]:
        print(
            f"tree of {tree['items']:,}: {tree['build_seconds']:.3f} s, {tree['bytes'] / 1e6:.1f} MB; "
            f"{tree['come']:,} more {tree['add_seconds']:.4f} s, fewer {tree['remove_seconds']:.4f} s"
        )


def measure_adding(items: int, come: int, dim: int, *, repeats: int) -> dict[str, Any]:
    """From new vectors to a tree that holds the new items."""
    vectors = make_vectors(items + come, dim, rng=np.random.default_rng(0))
    tokenizer = drawn_tokenizer(vectors[:items], rng=np.random.default_rng(1))
    settled = settle_catalog(
        CollisionToken(size=NUMBERS, most=4096), tokenizer=tokenizer, vectors=vectors[:items], seed=0
    )
    catalogue = LiveCatalogue.start(
        settled.codes, item_ids=np.arange(items).tolist(), tokenizer=tokenizer, vectors=vectors[:items]
    )
    tree, ids = Trie.build(catalogue.codes), list(range(items, items + come))
    newer = catalogue.add(ids, vectors=vectors[items:])
    change = newer.changes_since(catalogue)
    sides: dict[str, Callable[[], object]] = {
        "codes": lambda: catalogue.add(ids, vectors=vectors[items:]),
        "what changed": lambda: newer.changes_since(catalogue),
        "tree edited": lambda: edit_trie(tree, newer.codes, gone=change.gone, come=change.come),
        "tree built anew": lambda: Trie.build(newer.codes, offered=newer.live),
    }
    return {
        "items": items,
        "come": come,
        "dim": dim,
        "codebook_sizes": list(settled.codes.codebook_sizes),
        "seconds": {name: clocked(call, repeats=repeats) for name, call in sides.items()},
    }


def measure_tree(items: int, *, repeats: int) -> dict[str, Any]:
    """Build a tree of unique codes; then COME items more, and as many fewer."""
    codes = drawn_codes(items + COME, rng=np.random.default_rng(0))
    offered = np.arange(items + COME) < items
    come = np.flatnonzero(~offered)
    tree = Trie.build(codes, offered=offered)
    wider = edit_trie(tree, codes, gone=come[:0], come=come)
    return {
        "items": items,
        "come": COME,
        "build_seconds": clocked(lambda: Trie.build(codes, offered=offered), repeats=repeats),
        "bytes": tree.nbytes,
        "add_seconds": clocked(lambda: edit_trie(tree, codes, gone=come[:0], come=come), repeats=repeats),
        "remove_seconds": clocked(lambda: edit_trie(wider, codes, gone=come, come=come[:0]), repeats=repeats),
        "targets": TARGETS.get(items),
    }


def clocked(call: Callable[[], object], *, repeats: int) -> float:
    """Median processor seconds."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return round(statistics.median(seconds), 5)


def drawn_tokenizer(vectors: FloatArray, *, rng: np.random.Generator) -> FittedResidualKMeans:
    """Codebooks drawn from a sample's residuals, level after level."""
    residual = vectors[rng.choice(len(vectors), min(len(vectors), 20 * CODES), replace=False)]
    codebooks = []
    for _ in range(LEVELS):
        codebook = residual[rng.choice(len(residual), CODES, replace=False)]
        codebooks.append(codebook)
        residual = residual - codebook[nearest_centers(residual, codebook)[0]]
    return FittedResidualKMeans(tuple(codebooks))


def drawn_codes(items: int, *, rng: np.random.Generator) -> Codes:
    """Even codes of three levels, and the number that tells equal ones apart."""
    semantic = rng.integers(CODES, size=(items, LEVELS), dtype=np.int32)
    return CollisionToken(size=NUMBERS).resolve(semantic, (CODES,) * LEVELS)


if __name__ == "__main__":
    main()
