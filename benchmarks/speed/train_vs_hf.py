"""Training steps of the item-wise generator against Hugging Face's T5 at TIGER's shape: targets per second, one thread.

A target is a user and a next item.  TIGER reads a history and learns one target; the item-wise generator learns one at
every position.  Both get histories of 20 items drawn from a catalogue as large as Amazon-2014 Beauty (12,101 items with
distinct random codes, 4 levels of 256); each step is forward, backward, clipping and AdamW, with dropout as in use.
Both heads of the item-wise generator are trained, with the recipe's 2,048 shared negatives.

Times are processor seconds of this process; sides are interleaved, and the ratio is the median of the repeats' ratios,
so that other work on the machine weighs on both alike.  Run from the repository root:

    python -m benchmarks.speed.train_vs_hf
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.header import header, write_output
from benchmarks.speed.search_vs_hf import HISTORY, ITEMS, SIZES
from sememe.core.schema import Codes, Interactions, ModelInputs
from sememe.models.encdec import EncDec
from sememe.models.hf import hf_inputs, to_hf_t5
from sememe.recipes import itemwise
from sememe.train.device import to_tensors
from sememe.train.optim import AdamW

TARGET = 100.0
HF_ROWS = 64
USERS = 2_000
WIDTH = 448
"""Of the item vectors: 384 of the text encoder, 64 of co-occurrence."""

Step = Callable[[int], int]
"""Trains on the batch of that number and says how many targets it had."""


def make_world(rng: np.random.Generator) -> tuple[Codes, Interactions, np.ndarray[Any, Any]]:
    """Codes, a log of histories of HISTORY items and the one after, and item vectors; all drawn."""
    packed = rng.choice(np.prod(SIZES, dtype=np.int64), size=ITEMS, replace=False)
    matrix = np.stack(np.unravel_index(packed, SIZES), axis=1).astype(np.int32)
    log = Interactions(
        offsets=np.arange(USERS + 1, dtype=np.int64) * (HISTORY + 1),
        items=rng.integers(ITEMS, size=USERS * (HISTORY + 1)).astype(np.int32),
        user_ids=pl.Series(range(USERS)),
        item_ids=pl.Series(range(ITEMS)),
    )
    codes = Codes(matrix=matrix, codebook_sizes=SIZES, num_semantic_levels=len(SIZES))
    return codes, log, rng.standard_normal((ITEMS, WIDTH)).astype(np.float32)


def item_wise(codes: Codes, log: Interactions, vectors: np.ndarray[Any, Any]) -> Step:
    """The recipe's own model, batches, loss and optimiser."""
    recipe = itemwise()
    assert recipe.batches is not None and recipe.train is not None
    counts = np.bincount(log.items, minlength=ITEMS)
    inputs = ModelInputs(
        num_users=USERS, num_items=ITEMS, codes=codes, item_vectors=vectors, train_counts=counts.astype(np.int64)
    )
    model: nn.Module = recipe.model.build(inputs, seed=0).train()  # type: ignore[union-attr]
    source = recipe.batches.source(log, seed=0)
    optimizer = recipe.train.optimizer.build(model)

    def step(number: int) -> int:
        batch = to_tensors(source(number), torch.device("cpu"))
        descend(model, optimizer, recipe.objective(model(batch), batch))
        return int((batch["targets"] >= 0).sum())

    return step


def hugging_face(codes: Codes, log: Interactions) -> Step:
    """T5 at the shape of TIGER's paper; the loss is cross-entropy over the vocabulary, as its own."""
    ours = EncDec().build(ModelInputs(num_users=USERS, num_items=ITEMS, codes=codes), seed=0)
    model = to_hf_t5(ours).train()
    optimizer = AdamW().build(model)
    rows = torch.from_numpy(log.items.reshape(USERS, HISTORY + 1))

    def step(number: int) -> int:
        chosen = (torch.arange(HF_ROWS) + number * HF_ROWS) % USERS
        target = torch.from_numpy(codes.matrix)[rows[chosen, -1].long()].long()
        batch: dict[str, Tensor] = {
            "history": rows[chosen, :-1],
            "user": chosen.to(torch.int32),
            "target_codes": target,
        }
        logits = model(**hf_inputs(ours, batch)).logits
        labels = target + torch.tensor(ours.tokens.offsets)
        descend(model, optimizer, F.cross_entropy(logits.flatten(0, 1), labels.flatten()))
        return HF_ROWS

    return step


def descend(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Backward, clip, step."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def rate(step: Step, *, first: int, steps: int) -> float:
    """Targets per processor second."""
    started = time.process_time()
    targets = sum(step(number) for number in range(first, first + steps))
    return targets / (time.process_time() - started)


def main() -> None:
    """Measure, print, and write train_vs_hf.json beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    codes, log, vectors = make_world(np.random.default_rng(0))
    ours, theirs = item_wise(codes, log, vectors), hugging_face(codes, log)
    for warm_up in (ours, theirs):
        rate(warm_up, first=0, steps=1)
    pairs = []
    for repeat in range(arguments.repeats):
        pairs.append((rate(ours, first=1 + 8 * repeat, steps=8), rate(theirs, first=1 + 2 * repeat, steps=2)))
        print(f"item-wise {pairs[-1][0]:,.0f}, T5 {pairs[-1][1]:,.1f} targets per second")
    ratio = statistics.median(mine / other for mine, other in pairs)
    print(f"ratio {ratio:.0f} (to reach: {TARGET:.0f})")
    content = {
        **header("torch", "transformers"),
        "command": f"python -m benchmarks.speed.train_vs_hf --repeats {arguments.repeats}",
        "targets_per_second": {"item_wise": [p[0] for p in pairs], "hugging_face_t5": [p[1] for p in pairs]},
        "ratio": ratio,
        "to_reach": TARGET,
    }
    write_output(Path(__file__).with_suffix(".json"), content)


if __name__ == "__main__":
    main()
