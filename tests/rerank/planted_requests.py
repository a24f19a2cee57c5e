"""Requests whose answers are known, a model that gives random scores, and a signal that knows the answers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import torch
from torch import Tensor

from sememe.core.schema import PAD, Batch, FloatArray, Int32Array, Interactions
from sememe.rerank.signals import Evidence

ITEMS = 30
USERS = 600
NO_EVIDENCE = Evidence(
    train=Interactions(
        np.array([0, ITEMS]), np.arange(ITEMS, dtype=np.int32), pl.Series([0]), pl.Series(np.arange(ITEMS))
    ),
    vectors=None,
    vector_widths=(),
)


@dataclass(frozen=True)
class Request:
    """Some requests of an evaluation."""

    batch: Batch
    seen: Int32Array
    targets: Int32Array


def answers() -> Int32Array:
    """(USERS,) what each user takes next."""
    return np.random.default_rng(7).integers(0, ITEMS, USERS).astype(np.int32)


def requests(users: range, *, size: int = 64) -> Iterator[Request]:
    """A request per user, in batches; histories of 1 to 5 items that are not the answer."""
    wanted = answers()
    for start in range(users.start, users.stop, size):
        chosen = np.arange(start, min(start + size, users.stop), dtype=np.int32)
        history = np.full((len(chosen), 5), PAD, np.int32)
        for row, user in enumerate(chosen):
            others = np.setdiff1d(np.arange(ITEMS), wanted[user])
            length = 1 + user % 5
            history[row, :length] = np.random.default_rng(user).choice(others, length, replace=False)
        batch = {"history": history, "lengths": np.sum(history != PAD, axis=1, dtype=np.int32), "user": chosen}
        yield Request(batch=batch, seen=history, targets=wanted[chosen, None])


class RandomModel:
    """Scores of items and of codes that have nothing to do with the answer, a table each."""

    def __init__(self, *, items: int = ITEMS) -> None:
        random = torch.Generator().manual_seed(3)
        self.scores = torch.randn(USERS, items, generator=random)
        self.codes = -5 * torch.rand(USERS, items, generator=random)

    def score_items(self, batch: dict[str, Tensor]) -> Tensor:
        return self.scores[batch["user"].long()]

    def code_log_prob(self, batch: dict[str, Tensor], items: Tensor) -> Tensor:
        return self.codes[batch["user"].long()].gather(1, items)

    @contextmanager
    def as_new(self, items: Tensor) -> Iterator[None]:
        """This model knows nothing of items: there is nothing to forget."""
        yield


@dataclass(frozen=True)
class Planted:
    """A random share of each item, and a number that is highest at the answer for a share `right` of the users."""

    right: float = 1.0

    def check(self, *, parts: int) -> None:
        assert parts == 0, "there are no item vectors here"

    def fit(self, evidence: Evidence) -> "FittedPlanted":
        rng = np.random.default_rng(11)
        share = rng.random((USERS, ITEMS)).astype(np.float32)
        told = rng.standard_normal((USERS, ITEMS)).astype(np.float32)
        knows = np.flatnonzero(rng.random(USERS) < self.right)
        told[knows, answers()[knows]] = 6.0
        return FittedPlanted(share / share.sum(1, keepdims=True), told)

    def load(self, state: dict[str, FloatArray], evidence: Evidence) -> "FittedPlanted":
        return FittedPlanted(state["share"], state["told"])


@dataclass(frozen=True, eq=False)
class FittedPlanted:
    share: FloatArray
    told: FloatArray
    names: tuple[str, ...] = field(default=("share", "told"))

    def features(self, batch: Batch) -> list[FloatArray]:
        return [self.share[batch["user"]], self.told[batch["user"]]]

    def state(self) -> dict[str, FloatArray]:
        return {"share": self.share, "told": self.told}


def as_tensors(batch: Batch) -> dict[str, Tensor]:
    """The batch as the pipeline gives it to a model."""
    return {name: torch.from_numpy(np.asarray(array)).long() for name, array in batch.items()}
