"""An exported split as cornac's data sets, and cornac's scores as lists; for the scripts that run cornac models.

A user is one session, as cornac's own leave-last-out has it: training sequence, the same and the validation event, the
same and the test event.  The split is made by Sememe, so the order of ties and the numbers of users are Sememe's.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from cornac.data import FeatureModality
from cornac.eval_methods import NextItemEvaluation

from benchmarks.peers.exchange import ExportedSplit, both_lists, join_lists

Event = tuple[int, int, int, int]
"""User, session, item, time; user and session are one, and time is the place in the sequence."""


@dataclass(frozen=True, eq=False)
class CornacSplit:
    """cornac's data sets, and its own numbers for our items."""

    evaluation: Any
    index: dict[int, int]
    """Our item -> cornac's."""

    def items(self) -> npt.NDArray[np.int64]:
        """(I,) our item for each of cornac's."""
        ours = np.empty(len(self.index), np.int64)
        ours[list(self.index.values())] = list(self.index)
        return ours


def cornac_split(split: ExportedSplit, *, validation_users: int | None = None, content: bool = False) -> CornacSplit:
    """Data sets for `fit`.

    Args:
        split: what export_split wrote.
        validation_users: so many of the validation users, drawn once, pick the best epoch; None means all.
        content: whether the model reads item vectors.
    """
    valid = split.sequences("train", "valid")
    users = validation_choice(split, count=validation_users)
    feature = {}
    if content:
        feature["item_feature"] = FeatureModality(features=split.vectors(), ids=list(range(split.num_items)))
    evaluation = NextItemEvaluation.from_splits(
        train_data=list(_events(split.sequences("train").items())),
        val_data=list(_events((user, valid[user]) for user in users)),
        test_data=list(_events(split.sequences("train", "valid", "test").items())),
        fmt="USIT",
        mode="last",
        exclude_unknowns=False,
        **feature,
    )
    return CornacSplit(evaluation=evaluation, index=dict(evaluation.global_iid_map))


def validation_choice(split: ExportedSplit, *, count: int | None) -> list[int]:
    """Validation users in order, at most `count`; without those whose target is in no training sequence, since cornac
    ranks trained items only when it validates."""
    trained = split.part("train")["item"].unique()
    found = split.part("valid").filter(pl.col("item").is_in(trained.implode()))["user"].to_numpy()
    if count is not None and count < len(found):
        found = np.random.default_rng(0).choice(found, count, replace=False)
    return sorted(int(user) for user in found)


def rank_all(model: Any, split: ExportedSplit, data: CornacSplit, *, only_trained: bool) -> pl.DataFrame:
    """Every test user's lists, from `model.score` on the whole known history.

    only_trained: leave out items of no training sequence, as cornac's own evaluation does; a model of item ids never
        moved their vectors, and says nothing about them.
    """
    ours = data.items()
    cold = np.ones(split.num_items, np.bool_)
    cold[split.part("train")["item"].to_numpy()] = False
    lists = []
    for user, history in split.histories.items():
        found = np.asarray(model.score(user, [data.index[item] for item in history]), np.float64)
        scores = np.full(split.num_items, -np.inf)
        # Items that a beam did not reach carry one low number, which is no score.
        scores[ours] = np.where(found > -1e9, found, -np.inf)
        if only_trained:
            scores[cold] = -np.inf
        lists += both_lists(user, scores, seen=history)
    return join_lists(lists)


def _events(sequences: Iterable[tuple[int, list[int]]]) -> Iterable[Event]:
    for user, items in sequences:
        for place, item in enumerate(items):
            yield user, user, item, place
