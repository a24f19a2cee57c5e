"""What alignment asks of its parts: a policy that can be drawn from, a reward that judges lists, logged feedback to fit
a reward model from.

The policy is a generator as decoding knows it, with one method more, `sample_log_probs`, that carries gradients.  A
reward is a function of a batch and lists of items; where it has to be learned, a `RewardPart` describes it, and a stage
of the run fits it.  A reward that trains a policy never judges it: the judge is another part, and reads the feedback of
other users, or of the uniformly random slice.

Shape legend: N rows, G samples of a row, S items of a sample (1 where items are written one at a time), L code levels
(a session of S items has S * L columns of codes), I items, E events.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sememe.core.schema import Batch, BoolArray, Codes, FloatArray, Int32Array, Interactions
from sememe.decode.protocol import StepModel, TensorBatch


class Policy(StepModel, Protocol):
    """A generator that can be aligned."""

    def sample_log_probs(self, batch: TensorBatch, samples: Tensor) -> Tensor:
        """(N, G, S * L) log-probabilities, at least fp32, of the codes `samples` (N, G, S * L) int64, each given those
        before it, normalised as by `step`; with gradients, and with the histories read once for all samples of a row.

        Codes that name no item are allowed where the model gives them a probability.
        """
        ...


class Reward(Protocol):
    """How good lists are for the users of a batch."""

    @property
    def names(self) -> tuple[str, ...]:
        """Arrays of the batch that `score` reads beside "user", "history" and "lengths": "target", which is what was
        taken next, or "target_COLUMN", what the log says of it (`Prompts.columns`)."""
        ...

    def score(self, batch: Batch, lists: Int32Array) -> FloatArray:
        """(N, G) finite float32, higher is better.

        lists: (N, G, S) item indices, PAD where a list is shorter; a list of nothing but PAD is worth whatever it is.
        The order of a group is that of the policy, most probable first, where the sampler knows it.
        """
        ...


@dataclass(frozen=True, eq=False)
class Feedback:
    """What a reward may be learned from."""

    train: Interactions
    """The training part of the log; what is logged about an event stands in its columns."""
    readable: BoolArray
    """(E,) which of its events the reward may learn from; all of a user's earlier events count as known history."""
    codes: Codes | None
    vectors: FloatArray | None
    """(I, D) item vectors of the recipe."""
    device: torch.device


class FittedReward(Reward, Protocol):
    """A reward that was learned."""

    @property
    def estimate(self) -> Mapping[str, float]:
        """How well it predicts feedback that it was not fitted on.  The gate reads "correlation_low", the beginning
        of a 95 % interval, or "correlation" where a reward tells no interval: a judge of which it is not above 0
        promotes nothing."""
        ...

    def state(self) -> Mapping[str, npt.NDArray[np.generic]]:
        """What `RewardPart.load` needs."""
        ...


@runtime_checkable
class RewardPart(Protocol):
    """The description of a reward that has to be learned."""

    def fit(self, feedback: Feedback, *, seed: int, scratch: Any) -> FittedReward:
        """Learn it.  scratch: a directory that survives a crash, so that a long fit can go on.

        Raises DataError where the log lacks the feedback that it reads."""
        ...

    def load(self, state: Mapping[str, npt.NDArray[np.generic]], *, feedback: Feedback) -> FittedReward:
        """What `FittedReward.state` gave, ready to score."""
        ...


@dataclass(frozen=True, eq=False)
class Groups:
    """What a sampler drew for the rows of a batch."""

    items: Tensor
    """(N, G, S) int64, PAD where a place holds no item: the list ended, or the codes name none."""
    codes: Tensor
    """(N, G, S * L) int64; any code where nothing was drawn."""
    drawn: Tensor
    """(N, G) bool, False where the row had fewer samples to give."""
    log_probs: Tensor | None = None
    """(N, G) fp32 of the whole sample under the policy, where the sampler knows it."""

    @property
    def legal(self) -> Tensor:
        """(N, G) bool: drawn, and every place of it is an item."""
        return self.drawn & (self.items >= 0).all(2)


class Sampler(Protocol):
    """Draws groups of samples from a policy."""

    def draw(self, policy: Policy, batch: TensorBatch, *, trie: Any, seen: Tensor | None, seed: int) -> Groups:
        """G samples for every row; a pure function of the policy's weights, the batch and the seed.

        seen: (N, X) items, PAD-filled, that no sample may hold, or None.
        """
        ...
