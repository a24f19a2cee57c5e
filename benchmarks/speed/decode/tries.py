"""The tree of codes against those of rectokens and flashrec: building it, keeping it, and a beam's walk down it.

The catalogue: distinct tuples of three levels of 256 codes, drawn evenly.  Every side walks with the same scores of
each level, keeps the best 20, and must end with the same 20 tuples.  The walk holds all that a search does beside the
model: which children there are, the scores of the others closed, the best of what is left, their nodes; ours lists the
items too.  This is the torch engine; the compiled kernel is told beside it with a model, which it cannot do without.

rectokens stores the first two levels densely and the last by rows (`CompactCSRTrie.from_sorted_batch`; sorting is
counted, as it is for ours), and steps as its `decode_one_step` does with tensors on a CPU; its rows are padded here,
since the step reads beyond the end of the last ones.  flashrec builds a dictionary of prefixes and then a dense table
(`BeamValidPathTrie`), whose masks are asked for all codes of a level, since with fewer it may lose what the beam wants.
Both are made for a GPU first; on one core their tensor code runs as it is.  Times are processor seconds of this
process, sides interleaved, medians.

The peers are no dependencies of Sememe (flashrec asks for packages of CUDA that its tree does not use):

    pip install --no-deps --target PEERS rectokens==0.2.2 flashrec==0.1.2
    PYTHONPATH=PEERS python -m benchmarks.speed.decode.tries --size small     a minute
    PYTHONPATH=PEERS python -m benchmarks.speed.decode.tries
"""

import argparse
import importlib
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from torch import Tensor

from benchmarks.header import header, write_output
from sememe.core.schema import Codes, Int32Array, ModelInputs
from sememe.decode.beam import search
from sememe.decode.native.paths import native_status
from sememe.decode.native.search import NativeSearch
from sememe.decode.trie import Trie
from sememe.models.depth import Depth
from sememe.models.itemwise import ItemWise
from sememe.models.itemwise_export import export_itemwise

LEVELS, CODES, WIDTH = 3, 256, 20
SIZES = {"small": (12_101,), "full": (12_101, 1_000_000)}
BATCHES = (1, 64)

Walk = Callable[[list[Tensor]], Tensor]
"""Scores per level, (N, 1 or WIDTH, CODES), to the best tuples of each row, (N, WIDTH, LEVELS), best first."""


@dataclass(frozen=True)
class Side:
    """One tree: how it is built of a matrix of codes, what it holds in memory, and its walk."""

    build: Callable[[Int32Array], Any]
    nbytes: Callable[[Any], int]
    walk: Callable[[Any, list[Tensor]], Tensor]


def main() -> None:
    """Measure all sides at every size and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--builds", type=int, default=3)
    parser.add_argument("--walks", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    sides = {"sememe": sememe_side(), "rectokens": rectokens_side(), "flashrec": flashrec_side()}
    result: dict[str, Any] = {"what": __doc__.split("\n", 1)[0] if __doc__ else ""}
    result |= header("numpy", "torch", "rectokens", "flashrec") | {"threads": 1, "beam_width": WIDTH}
    result["catalogues"] = [
        measure(items, sides, builds=options.builds, walks=options.walks) for items in SIZES[options.size]
    ]
    write_output(options.out, result)
    for catalogue in result["catalogues"]:
        print(catalogue)
        check(catalogue)


def check(catalogue: dict[str, Any]) -> None:
    """Fail where a peer builds its tree faster, or steps faster than what a server would use for so many requests."""
    build, alone, many = (catalogue[name] for name in ("build_s", "walk_ms_batch_1", "walk_ms_batch_64"))
    kernel = catalogue["kernel_with_model_ms_batch_1"]
    for peer in ("rectokens", "flashrec"):
        assert build["sememe"] < build[peer], f"{peer} builds faster"
        assert many["sememe"] < many[peer], f"{peer} steps faster for 64 requests"
        assert kernel is None or kernel < alone[peer], f"{peer} steps faster for one request than the kernel"


def measure(items: int, sides: dict[str, Side], *, builds: int, walks: int) -> dict[str, Any]:
    """All sides on one catalogue; asserts that they find the same tuples."""
    rng = np.random.default_rng(0)
    keys = rng.choice(CODES**LEVELS, size=items, replace=False)
    matrix = np.stack(np.unravel_index(keys, (CODES,) * LEVELS), axis=1).astype(np.int32)
    times: dict[str, list[float]] = {name: [] for name in sides}
    trees: dict[str, Any] = {}
    for _ in range(builds):
        for name, side in sides.items():
            trees.pop(name, None)
            start = time.process_time()
            trees[name] = side.build(matrix)
            times[name].append(time.process_time() - start)
    found: dict[str, Any] = {
        "items": items,
        "build_s": {name: round(statistics.median(t), 4) for name, t in times.items()},
    }
    found["bytes_per_item"] = {name: round(side.nbytes(trees[name]) / items, 1) for name, side in sides.items()}
    for batch in BATCHES:
        found[f"walk_ms_batch_{batch}"] = measure_walks(sides, trees, batch=batch, walks=walks)
        found[f"kernel_with_model_ms_batch_{batch}"] = measure_kernel(matrix, batch=batch, walks=walks)
    return found


def measure_kernel(matrix: Int32Array, *, batch: int, walks: int) -> float | None:
    """Milliseconds of the compiled kernel's whole search from kept histories of 20 items; None where none runs.

    Its walk cannot be had alone: this holds the depth decoder's products too, of fresh weights with nothing per item.
    """
    if native_status().path is None:
        return None
    codes = Codes(matrix, (CODES,) * LEVELS, LEVELS)
    model = ItemWise(item_embedding=False, content=False, depth=Depth(node_vectors=False)).build(
        ModelInputs(num_users=1, num_items=len(matrix), codes=codes), seed=0
    )
    kernel = NativeSearch.build(export_itemwise(model.eval()), Trie.build(codes))
    rng, times = np.random.default_rng(batch), []
    for number in range(walks + 3):
        history = rng.integers(len(matrix), size=(batch, 20))
        states = kernel.encode({"history": history, "lengths": np.full(batch, 20)})
        start = time.process_time()
        kernel.search_states(states, width=WIDTH, k=WIDTH)
        if number >= 3:
            times.append(1e3 * (time.process_time() - start))
    return round(statistics.median(times), 3)


def measure_walks(sides: dict[str, Side], trees: dict[str, Any], *, batch: int, walks: int) -> dict[str, float]:
    """Milliseconds per walk of the whole batch."""
    generator = torch.Generator().manual_seed(batch)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(walks + 3):
        # Sides keep their beams in different orders, so every beam is given the same scores.
        rows = [torch.randn(batch, 1, CODES, generator=generator).log_softmax(-1) for _ in range(LEVELS)]
        scores = [row if level == 0 else row.repeat(1, WIDTH, 1) for level, row in enumerate(rows)]
        answers = {}
        for name, side in sides.items():
            start = time.process_time()
            answers[name] = side.walk(trees[name], scores)
            if number >= 3:  # the first ones warm caches and allocators
                times[name].append(1e3 * (time.process_time() - start))
        for name, answer in answers.items():
            assert torch.equal(answer, answers["sememe"]), f"{name} finds other tuples than sememe"
    return {name: round(statistics.median(taken), 3) for name, taken in times.items()}


@dataclass(frozen=True, eq=False)
class GivenScores:
    """Stands where a model would, so that the whole of the library's own search is timed."""

    scores: list[Tensor]
    codebook_sizes: tuple[int, ...] = (CODES,) * LEVELS

    def encode(self, batch: Mapping[str, Tensor]) -> dict[str, int]:
        """The level that is next."""
        return {"level": 0}

    def step(self, state: dict[str, int], codes: Tensor | None, parents: Tensor | None) -> Tensor:
        """(N, B, CODES)"""
        state["level"] += 1
        return self.scores[state["level"] - 1]


def sememe_side() -> Side:
    """The library's tree under its own beam search, the listing of items included."""

    def build(matrix: Int32Array) -> tuple[Trie, Tensor]:
        return Trie.build(Codes(matrix, (CODES,) * LEVELS, LEVELS)), torch.from_numpy(matrix).long()

    def walk(tree: tuple[Trie, Tensor], scores: list[Tensor]) -> Tensor:
        trie, matrix = tree
        batch = {"lengths": scores[0][:, 0, 0]}
        found = search(GivenScores(scores), batch, width=WIDTH, k=WIDTH, trie=trie)
        return matrix[found.items]

    return Side(build, lambda tree: tree[0].nbytes, walk)


def best_of(candidates: Tensor, *, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best WIDTH of candidates (N * B, CODES): their scores, beams within the row and codes, each (N, WIDTH)."""
    beams = len(candidates) // rows
    values, columns = candidates.view(rows, beams * CODES).topk(WIDTH, dim=1)
    return values, columns // CODES, columns % CODES


def rectokens_side() -> Side:
    """Its compact tree: two dense levels, then rows."""
    compact = importlib.import_module("rectokens.schemas.compact_csr_trie").CompactCSRTrie
    transition = importlib.import_module("rectokens.decoding.vntk").vtnk_pytorch

    def build(matrix: Int32Array) -> Any:
        order = np.argsort(np.ravel_multi_index(tuple(matrix.T), (CODES,) * LEVELS))
        tree = compact.from_sorted_batch(torch.from_numpy(matrix[order]).long(), vocab_size=CODES)
        padding = (0, max(tree.layer_max_branches))
        return tree._replace(stacked_cols_vals=torch.nn.functional.pad(tree.stacked_cols_vals, padding, value=-1))

    def walk(tree: Any, scores: list[Tensor]) -> Tensor:
        rows = len(scores[0])
        first = scores[0][:, 0].masked_fill(~tree.dense_mask_by_layer[0], float("-inf"))
        total, _, codes = best_of(first, rows=rows)
        chosen = [codes]
        closed = ~tree.dense_mask_by_layer[1][chosen[0]]
        second = (scores[1] + total.unsqueeze(2)).masked_fill_(closed, float("-inf"))
        total, parents, codes = best_of(second.flatten(0, 1), rows=rows)
        chosen = [chosen[0].gather(1, parents), codes]
        nodes = tree.dense_states[chosen[0], chosen[1]].flatten()
        _, _, logits = transition(scores[2].flatten(0, 1), nodes, tree, 2)
        total, parents, codes = best_of(logits + total.flatten().unsqueeze(1), rows=rows)
        return torch.stack([chosen[0].gather(1, parents), chosen[1].gather(1, parents), codes], dim=2)

    def nbytes(tree: Any) -> int:
        arrays = (tree.row_ptrs, tree.stacked_cols_vals, tree.dense_states, *tree.dense_mask_by_layer)
        return sum(array.nbytes for array in arrays)

    return Side(build, nbytes, walk)


def flashrec_side() -> Side:
    """Its dictionary of prefixes with the dense table that its masks read; the last counts as its memory."""
    make = importlib.import_module("flashrec.search.trie").build_trie_from_sequences
    cpu = torch.device("cpu")

    def build(matrix: Int32Array) -> Any:
        tree = make(matrix.tolist())
        tree.finalize_index(token_base=0, vocab_size=CODES)
        tree._ensure_gpu_cache(cpu)
        return tree

    def walk(tree: Any, scores: list[Tensor]) -> Tensor:
        rows = len(scores[0])
        nodes = tree.bootstrap_node_ids(None, rows, 0, cpu)
        every = torch.arange(CODES)
        total, chosen = torch.zeros(rows, 1), torch.empty(rows, 1, 0, dtype=torch.int64)
        for level, given in enumerate(scores):
            candidates = (given + total.unsqueeze(2)).flatten(0, 1)
            masked = tree.mask_candidates(None, every.expand(len(candidates), -1), candidates, level, node_ids=nodes)
            beams = len(candidates) // rows
            total, parents, codes = best_of(masked, rows=rows)
            flat = (parents + beams * torch.arange(rows).unsqueeze(1)).flatten()
            nodes = tree.advance_node_ids(nodes, flat, codes.flatten())
            chosen = torch.cat(
                [chosen.gather(1, parents.unsqueeze(2).expand(-1, -1, level)), codes.unsqueeze(2)], dim=2
            )
        return chosen

    def nbytes(tree: Any) -> int:
        tables = (tree._allow_table, tree._next_node, tree._csr_keys, tree._csr_child)
        return sum(table.nbytes for table in tables if table is not None)

    return Side(build, nbytes, walk)


if __name__ == "__main__":
    main()
