"""What the lists of a run on simulated data are really worth, which only the world that made the data can say.

Lists are made as the evaluation makes them, for the test users and from what is known of them there, seen items left
out; users are in the state that this leaves them in.

Shape legend: N test users, K places.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sememe.core.errors import ConfigError
from sememe.core.schema import PAD, Int32Array
from sememe.data.batches import request_batches
from sememe.data.feedback_world import FeedbackWorld
from sememe.pipeline.opened import Run
from sememe.pipeline.recommend import Recommender

Float64Array = npt.NDArray[np.float64]

BATCH_SIZE = 256


@dataclass(frozen=True, eq=False)
class TrueValues:
    """Of one list for each test user, in the order of the split's test examples."""

    lists: Int32Array
    """(N, K) item indices, PAD after the last one."""
    values: Float64Array
    """(N,) expected values."""
    best: Float64Array
    """(N,) expected values of the best lists of at most K items."""


def true_values(run: Run, world: FeedbackWorld, *, k: int) -> TrueValues:
    """Judge the lists of `run` by the truth.

    Args:
        run: opened with the row that is to be judged.
        world: what made the data, from `sememe.data.feedback_files.read_truth`; in any state, under any indices.
        k: items of a list.

    Raises:
        ConfigError: the data of the run is not simulated, or k < 1.
        DataError: it was made by another world.
    """
    if not run.world.simulated:
        raise ConfigError(
            "the data of this run is not simulated: nobody knows what its lists are worth",
            fix="judge it by a reward model that did not train it",
        )
    if k < 1:
        raise ConfigError(f"lists of {k} items cannot be judged", fix="give k >= 1")
    split = run.world.split
    known = split.interactions.lengths()
    known[split.test.users] = split.test.starts
    now = world.after(split.interactions.prefix(known))
    lists = _lists(run, run.recommender, k=k)
    users = split.test.users
    return TrueValues(
        lists=lists,
        values=now.expected_value(users, lists),
        best=now.expected_value(users, now.optimal_lists(users, k)),
    )


def _lists(run: Run, recommender: Recommender, *, k: int) -> Int32Array:
    """(N, K) what is recommended to each test user."""
    split = run.world.split
    lists: Int32Array = np.full((len(split.test), k), PAD, np.int32)
    requests = request_batches(
        split.interactions,
        split.test,
        max_history=recommender.max_history,
        batch_size=BATCH_SIZE,
        events=recommender.events,
    )
    for request in requests:
        items = recommender.rank(request.batch, k=k, seen=request.seen).items[:, :k]
        lists[request.rows, : items.shape[1]] = items
    return lists
