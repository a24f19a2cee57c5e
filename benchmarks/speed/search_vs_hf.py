"""Our beam searches against Hugging Face `generate`: same weights, same 64 requests, same lists, one thread.

The model is TIGER's at the paper's shape (4 + 4 layers, width 128, 6 heads of 64, feed-forward 1024), fresh weights;
the catalogue is as large as Amazon-2014 Beauty (12,101 items with distinct random codes, 4 levels of 256);
histories hold 20 items, the beam is 20 wide.  Speed does not depend on what the weights have learned.

Both sides rank an item by the sum of its codes' log-probabilities, each normalised over its level.  Hugging Face
normalises over the whole vocabulary, so a logits processor renormalises over the level's block (one slice, one
log-softmax) before its own prefix constraint, whose function looks the allowed tokens up in a dict of prefixes.  Length
penalty 0 turns its length average off.  Nothing ends a sequence early.

`itemwise` is another model: the item-wise generator (two layers of width 128) on the same catalogue and histories, by
the compiled kernel at batch 1, against `generate` at batch 1.  It says what the change of model and engine are worth.

Times are processor seconds of this process divided by 64, medians over interleaved repeats, so that other work on the
machine weighs on both sides alike; the ratio is the median of the ratios of the repeats.  Run from the repository root:

    python -m benchmarks.speed.search_vs_hf
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PrefixConstrainedLogitsProcessor,
    T5ForConditionalGeneration,
)

from benchmarks.header import header, write_output
from sememe.core.schema import Codes, ModelInputs
from sememe.decode.beam import search
from sememe.decode.native.paths import native_status
from sememe.decode.native.search import NativeSearch
from sememe.decode.trie import Trie
from sememe.models.encdec import EncDec, EncDecModel
from sememe.models.hf import hf_inputs, to_hf_t5
from sememe.models.itemwise import ItemWise
from sememe.models.itemwise_export import export_itemwise

REQUESTS, ITEMS, HISTORY, WIDTH = 64, 12_101, 20, 20
SIZES = (256, 256, 256, 256)
TARGETS = {1: 3.0, 16: 8.0, 64: 8.0}
"""Least ratio to reach at each batch size."""
ITEMWISE = 200.0
"""Least ratio of the item-wise kernel."""
TIE = 1e-4
"""Items whose scores differ by less may stand in either order; fp32 sums differ by about 1e-5."""

Batch = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Lists:
    """The lists of all requests."""

    codes: Tensor
    """(REQUESTS, WIDTH, 4)"""
    scores: Tensor
    """(REQUESTS, WIDTH)"""


class LevelNormaliser(LogitsProcessor):  # type: ignore[misc]
    """Renormalise over the codes of the level that comes next; other tokens get -inf."""

    def __init__(self, model: EncDecModel) -> None:
        self.offsets, self.sizes = model.tokens.offsets, model.codebook_sizes

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        level = input_ids.shape[1] - 1
        block = slice(self.offsets[level], self.offsets[level] + self.sizes[level])
        normalised = torch.full_like(scores, -torch.inf)
        normalised[:, block] = scores[:, block].log_softmax(-1)
        return normalised


@dataclass(frozen=True, eq=False)
class Sides:
    """Both implementations over the same weights, catalogue and requests."""

    model: EncDecModel
    hf_model: T5ForConditionalGeneration
    codes: Codes
    trie: Trie
    processors: LogitsProcessorList
    requests: Batch

    def batches(self, size: int) -> list[Batch]:
        return [
            {name: rows[start : start + size] for name, rows in self.requests.items()}
            for start in range(0, REQUESTS, size)
        ]

    def ours(self, size: int) -> Lists:
        found = [search(self.model, batch, width=WIDTH, k=WIDTH, trie=self.trie) for batch in self.batches(size)]
        items = torch.cat([part.items for part in found])
        return Lists(torch.from_numpy(self.codes.matrix)[items].long(), torch.cat([part.scores for part in found]))

    @torch.inference_mode()
    def hugging_face(self, size: int) -> Lists:
        codes, scores = [], []
        for batch in self.batches(size):
            inputs: dict[str, Any] = dict(hf_inputs(self.model, batch))
            answer: Any = self.hf_model.generate(
                **inputs,
                num_beams=WIDTH,
                num_return_sequences=WIDTH,
                min_new_tokens=len(SIZES),
                max_new_tokens=len(SIZES),
                do_sample=False,
                length_penalty=0.0,
                early_stopping=False,
                use_cache=True,
                logits_processor=self.processors,
                return_dict_in_generate=True,
                output_scores=True,
            )
            tokens = answer.sequences[:, 1:] - torch.tensor(self.model.tokens.offsets)
            codes.append(tokens.view(-1, WIDTH, len(SIZES)))
            scores.append(answer.sequences_scores.view(-1, WIDTH))
        return Lists(torch.cat(codes), torch.cat(scores))


def build_sides() -> Sides:
    """The model, its Hugging Face twin and the requests; everything from fixed seeds."""
    rng = np.random.default_rng(0)
    packed = rng.choice(np.prod(SIZES, dtype=np.int64), size=ITEMS, replace=False)
    matrix = np.stack(np.unravel_index(packed, SIZES), axis=1).astype(np.int32)
    codes = Codes(matrix=matrix, codebook_sizes=SIZES, num_semantic_levels=len(SIZES))
    model = EncDec().build(ModelInputs(num_users=REQUESTS, num_items=ITEMS, codes=codes), seed=0).eval()
    requests = {
        "history": torch.from_numpy(rng.integers(ITEMS, size=(REQUESTS, HISTORY)).astype(np.int32)),
        "user": torch.arange(REQUESTS, dtype=torch.int32),
    }
    return Sides(
        model=model,
        hf_model=to_hf_t5(model),
        codes=codes,
        trie=Trie.build(codes),
        processors=LogitsProcessorList([LevelNormaliser(model), prefix_constraint(model, codes)]),
        requests=requests,
    )


def prefix_constraint(model: EncDecModel, codes: Codes) -> PrefixConstrainedLogitsProcessor:
    """What `prefix_allowed_tokens_fn` makes of a dict from each prefix to the tokens that may follow."""
    following: dict[tuple[int, ...], set[int]] = {}
    for row in (codes.matrix + np.array(model.tokens.offsets)).tolist():
        for level, token in enumerate(row):
            following.setdefault(tuple(row[:level]), set()).add(token)
    allowed = {prefix: sorted(tokens) for prefix, tokens in following.items()}
    return PrefixConstrainedLogitsProcessor(lambda _, tokens: allowed[tuple(tokens.tolist()[1:])], num_beams=WIDTH)


def agreement(ours: Lists, theirs: Lists) -> dict[str, Any]:
    """How many requests got the same list, in the same order but for ties; and the largest difference of scores."""
    identical = (ours.codes == theirs.codes).all(-1).all(-1)
    same = [_same_but_ties(ours, theirs, row) for row in range(REQUESTS)]
    return {
        "requests": REQUESTS,
        "identical_lists": int(identical.sum()),
        "same_lists_ties_aside": sum(same),
        "largest_score_difference": float((ours.scores - theirs.scores).abs().max()),
    }


def _same_but_ties(ours: Lists, theirs: Lists, row: int) -> bool:
    """Every item of either list has the same score in the other, or ties with the other's last entry."""
    scored = [
        dict(zip(map(tuple, side.codes[row].tolist()), side.scores[row].tolist(), strict=True))
        for side in (ours, theirs)
    ]
    return all(
        abs(score - right.get(item, min(right.values()))) < TIE
        for left, right in (scored, scored[::-1])
        for item, score in left.items()
    )


def overlap(ours: Lists, exact: Lists) -> float:
    """Mean share of the fp32 list that a list of lower precision holds."""
    match = (ours.codes.unsqueeze(2) == exact.codes.unsqueeze(1)).all(-1).any(-1)
    return float(match.float().mean())


def measure(sides: Sides, *, size: int, repeats: int) -> dict[str, Any]:
    """One row of the output: interleaved times of both sides at a batch size, in fp32."""
    ours, theirs = sides.ours(size), sides.hugging_face(size)
    row = {"batch": size, "precision": "fp32"} | agreement(ours, theirs)
    return row | timings(lambda: sides.ours(size), lambda: sides.hugging_face(size), repeats=repeats)


def measure_bf16(sides: Sides, *, size: int, repeats: int) -> dict[str, Any]:
    """The same under bf16 autocast on both sides; lists are compared with fp32's, since rounding reorders them."""
    exact = sides.ours(size)

    def autocast() -> AbstractContextManager[Any]:
        return torch.autocast("cpu", torch.bfloat16)

    with autocast():
        row = {
            "batch": size,
            "precision": "bf16 autocast",
            "ours_share_of_fp32_lists": round(overlap(sides.ours(size), exact), 3),
            "hf_share_of_fp32_lists": round(overlap(sides.hugging_face(size), exact), 3),
        }
        return row | timings(lambda: sides.ours(size), lambda: sides.hugging_face(size), repeats=repeats)


def measure_itemwise(sides: Sides, *, repeats: int) -> dict[str, Any]:
    """The compiled search of the item-wise generator, one request at a time, against `generate` on TIGER's shape."""
    inputs = ModelInputs(num_users=REQUESTS, num_items=ITEMS, codes=sides.codes)
    model = ItemWise(content=False).build(inputs, seed=0).eval()
    engine = NativeSearch.build(export_itemwise(model), sides.trie)
    histories, length = sides.requests["history"].numpy(), np.array([HISTORY])

    def ours() -> None:
        for start in range(REQUESTS):
            engine.search({"history": histories[start : start + 1], "lengths": length}, width=WIDTH, k=WIDTH)

    row = {"model": "item-wise, compiled kernel", "path": engine.path, "batch": 1, "precision": "fp32"}
    ours()  # fills the caches
    return row | timings(ours, lambda: sides.hugging_face(1), repeats=repeats)


def timings(ours: Callable[[], object], theirs: Callable[[], object], *, repeats: int) -> dict[str, Any]:
    """Median processor milliseconds per request of both sides, and of their ratio, over interleaved repeats."""
    times = [(_milliseconds(ours), _milliseconds(theirs)) for _ in range(repeats)]
    ratios = [other / own for own, other in times]
    return {
        "repeats": repeats,
        "ours_ms_per_request": round(statistics.median(own for own, _ in times), 3),
        "hf_ms_per_request": round(statistics.median(other for _, other in times), 2),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_lowest": round(min(ratios), 2),
        "ratio_highest": round(max(ratios), 2),
    }


def _milliseconds(run: Callable[[], object]) -> float:
    started = time.process_time()
    run()
    return (time.process_time() - started) / REQUESTS * 1e3


def main() -> None:
    """Measure, print, write the output, and fail where a list differs or a ratio is too low."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--bf16-repeats", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    output: dict[str, Any] = header("torch", "transformers", "numpy") | {"threads": 1, "beam_width": WIDTH, "rows": []}
    sides = build_sides()
    for size in TARGETS:
        output["rows"].append(measure(sides, size=size, repeats=arguments.repeats))
        print(output["rows"][-1], flush=True)
    for size in TARGETS if arguments.bf16_repeats else ():
        output["rows"].append(measure_bf16(sides, size=size, repeats=arguments.bf16_repeats))
        print(output["rows"][-1], flush=True)
    if native_status().path:
        output["itemwise"] = measure_itemwise(sides, repeats=arguments.repeats)
        print(output["itemwise"], flush=True)
    write_output(arguments.output, output)
    exact = [row for row in output["rows"] if row["precision"] == "fp32"]
    assert all(row["same_lists_ties_aside"] == REQUESTS for row in exact), "the two searches disagree"
    assert all(row["ratio"] >= TARGETS[row["batch"]] for row in exact), "the search is slower than promised"
    assert output.get("itemwise", {"ratio": ITEMWISE})["ratio"] >= ITEMWISE, "the kernel is slower than promised"


if __name__ == "__main__":
    main()
