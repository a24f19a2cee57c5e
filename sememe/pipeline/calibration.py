"""Whether a generator's probabilities come true, for metrics.json: those of listed items, beside what came next.

Only a beam by code score says probabilities: an item's is the product of its codes', each given those before it.  Items
that share a semantic ID share it evenly.  Seen items are left in, since the generator knows nothing of leaving out.

Shape legend: N rows, K items of a list, I items.
"""

from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from sememe.core.schema import PAD, Codes, Int32Array, Int64Array, Ranked
from sememe.core.seeding import derive_seed
from sememe.data.splits import Split
from sememe.metrics.calibration import reliability
from sememe.pipeline.evaluate import Judged, Label

PROBABLE = "beam:code_log_prob"
"""Source of the lists whose scores are log-probabilities."""


def calibration_rows(judged: Judged, label: Label, *, split: Split, codes: Codes | None) -> list[dict[str, Any]]:
    """The line of metrics.json's "calibration" for one model; none where its lists tell no probabilities.

    Args:
        judged: of the test part.
        label: which line this is.
        split: of the run.
        codes: the semantic IDs that the lists were written in.
    """
    if codes is None or judged.ranked.source != PROBABLE or label.split != "test" or label.mask_seen:
        return []
    listed = judged.ranked.items != PAD
    if not listed.any():
        return []
    log, examples = split.interactions, split.test
    # Of several targets, the one that comes next.
    targets = log.items[log.offsets[examples.users] + examples.starts]
    found = reliability(
        item_probabilities(judged.ranked, codes=codes),
        judged.ranked.items == targets[:, np.newaxis],
        listed=listed,
        seed=derive_seed(0, "calibration"),
    )
    line = {"model": label.model, "seed": label.seed, "users": len(targets), "k": listed.shape[1]}
    return [{**line, **asdict(found)}]


def item_probabilities(ranked: Ranked, *, codes: Codes) -> npt.NDArray[np.float64]:
    """(N, K) what the generator gives each listed item; 0 where none is listed."""
    return np.where(ranked.items == PAD, 0.0, np.exp(ranked.scores.astype(np.float64))) / _sharing(ranked.items, codes)


def _sharing(items: Int32Array, codes: Codes) -> Int64Array:
    """(N, K) how many items have the semantic ID of each."""
    _, tuples, sizes = np.unique(codes.matrix, axis=0, return_inverse=True, return_counts=True)
    found: Int64Array = sizes[tuples.reshape(-1)][items]
    return found
