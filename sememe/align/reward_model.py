"""A reward learned from feedback: the session reward model, fitted on the sessions that may be read.

Shape legend: N rows, G samples of a row, S items of a list, T history positions, E events, O labels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sememe.align.labels import check_labels, label_values
from sememe.align.protocol import Feedback
from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import PAD, Batch, BoolArray, FloatArray, Int32Array, Interactions
from sememe.core.seeding import generator
from sememe.data.ranges import padded
from sememe.data.sessions import SESSION, Sessions, find_sessions
from sememe.metrics.significance import resampled_means
from sememe.models.reward import RewardLoss, SessionRewardModel, SessionRewardNet
from sememe.train.device import to_tensors
from sememe.train.loop import fit
from sememe.train.optim import AdamW
from sememe.train.plan import TrainPlan

Float64Array = npt.NDArray[np.float64]

HELD_OUT = 0.1
"""Share of the readable users on whom the fit is estimated, and who are not learned from."""
RESAMPLES = 1000
"""Of the users on whom the fit is estimated."""
LISTS_AT_ONCE = 8192
"""Lists that are scored together; bounds the memory."""


@dataclass(frozen=True)
class SessionReward:
    """How a reward is learned from sessions, and what of it counts.

    Labels are those of `sememe.align.labels`, in 0..1; of a list, a label is the mean over its items.  The same labels
    are told of the history.
    """

    labels: tuple[str, ...] = ("watch_share", "like", "follow", "dislike")
    weights: tuple[float, ...] = (1.0, 1.0, 1.0, -1.0)
    """What each is worth; one that counts against is negative."""
    score: str = "weighted"
    """weighted: the sum of the towers' probabilities times the weights; p_score: the final tower's probability."""
    list_items: int = 5
    """Lists are cut to so many items to learn from, and to random parts of these, so that shorter ones are known."""
    max_history: int = 50
    net: SessionRewardNet = SessionRewardNet()
    train: TrainPlan = field(
        default_factory=lambda: TrainPlan(
            epochs=None,
            steps=600,
            optimizer=AdamW(lr=5e-3, weight_decay=0.1, decay_embeddings=True),
            precision="fp32",
            validate_every=50,
            monitor="correlation",
        )
    )
    batch_size: int = 256

    @property
    def names(self) -> tuple[str, ...]:
        """Arrays of the batch that the fitted reward reads."""
        return tuple(f"history_{label}" for label in self.labels)

    def fit(self, feedback: Feedback, *, seed: int, scratch: Path) -> "FittedSessionReward":
        """Learn it.  Raises DataError where the log lacks a column, or no session may be read."""
        self._check()
        check_labels(feedback.train, self.labels)
        lists = _Lists.of(self, feedback)
        users = generator(seed, "reward users").permutation(np.unique(lists.sessions.users))
        held_out = np.isin(lists.sessions.users, users[: max(1, round(HELD_OUT * len(users)))])
        known, asked = lists.only(~held_out), lists.only(held_out)
        if not len(known.sessions) or not len(asked.sessions):
            raise DataError(
                f"{len(lists.sessions)} sessions may be read to learn a reward from, which is too few",
                fix="give more feedback, or leave more of it to this reward",
            )
        model = self._build(feedback, seed=seed)
        source = _ListSource(known, batch_size=self.batch_size, seed=seed)
        made = FittedSessionReward(self, model, feedback)
        fit(
            model,
            source,
            RewardLoss(self.weights),
            self.train,
            out=scratch,
            seed=seed,
            validate=lambda _: made.compared(asked),
        )
        return replace(made, estimate={**made.compared(asked), **made.interval(asked)})

    def load(self, state: Mapping[str, npt.NDArray[np.generic]], *, feedback: Feedback) -> "FittedSessionReward":
        """What `FittedSessionReward.state` gave."""
        model = self._build(feedback, seed=0)
        model.load_state_dict({name: torch.from_numpy(np.array(values)) for name, values in state.items()})
        return FittedSessionReward(self, model.to(feedback.device).eval(), feedback)

    def _build(self, feedback: Feedback, *, seed: int) -> SessionRewardModel:
        return self.net.build(
            num_items=feedback.train.num_items,
            vectors=feedback.vectors,
            labels=len(self.labels),
            seed=seed,
        )

    def _check(self) -> None:
        if not self.labels or len(self.labels) != len(self.weights):
            raise ConfigError(
                f"a reward has {len(self.labels)} labels and {len(self.weights)} weights",
                fix="give one weight for each label",
            )
        if self.score not in ("weighted", "p_score"):
            raise ConfigError(f"score is {self.score!r}", fix='set it to "weighted" or "p_score"')


@dataclass(frozen=True, eq=False)
class FittedSessionReward:
    """A `Reward`."""

    part: SessionReward
    model: SessionRewardModel
    feedback: Feedback
    estimate: Mapping[str, float] = field(default_factory=dict)
    """Of users that were not learned from: "correlation" of the score with what came, over sessions, and
    "correlation_low", where its 95 % interval over users begins.  Both are a little too good, since the best step of
    the training is chosen by the first."""

    @property
    def names(self) -> tuple[str, ...]:
        """Arrays of the batch that are read."""
        return self.part.names

    @torch.no_grad()
    def score(self, batch: Batch, lists: Int32Array) -> FloatArray:
        """(N, G)"""
        rows, group, _ = lists.shape
        told = [np.asarray(batch[name], np.float32) for name in self.names]
        asked = {"history": np.asarray(batch["history"]), "told": np.stack(told, 2)}
        at_once = max(1, LISTS_AT_ONCE // group)
        self.model.to(self.feedback.device).eval()
        found = []
        for start in range(0, rows, at_once):
            part = slice(start, start + at_once)
            repeated = {name: np.repeat(values[part], group, axis=0) for name, values in asked.items()}
            outputs = self.model(
                to_tensors({**repeated, "lists": lists[part].reshape(-1, lists.shape[2])}, self.feedback.device)
            )
            found.append(self._score(outputs).view(-1, group).cpu().numpy())
        return np.concatenate(found).astype(np.float32)

    def _score(self, outputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if self.part.score == "p_score":
            return outputs["score_logits"].sigmoid()
        weights = torch.tensor(self.part.weights, device=outputs["label_logits"].device)
        return outputs["label_logits"].sigmoid() @ weights

    def compared(self, lists: "_Lists") -> dict[str, float]:
        """How the scores of known lists go with what came of them."""
        return {"correlation": float(_correlations(_moments(*self._scored(lists)).mean(0, keepdims=True))[0])}

    def interval(self, lists: "_Lists") -> dict[str, float]:
        """Where the interval of that correlation begins: users are resampled with all of their sessions."""
        users, places = np.unique(lists.sessions.users, return_inverse=True)
        if len(users) < 2:
            # One user says nothing of others.
            return {"correlation_low": -1.0}
        sums = np.zeros((len(users), 6))
        np.add.at(sums, places, _moments(*self._scored(lists)))
        drawn = resampled_means(sums, random=generator(0, "correlation"), resamples=RESAMPLES)
        return {"correlation_low": float(np.quantile(_correlations(drawn), 0.025))}

    def _scored(self, lists: "_Lists") -> tuple[FloatArray, FloatArray]:
        """(R,) what known lists are said to be worth, (R,) what came of them."""
        batch = lists.batch(np.arange(len(lists.sessions)), starts=lists.sessions.starts, ends=lists.sessions.ends)
        told = {name: batch["told"][:, :, place] for place, name in enumerate(self.names)}
        scores = self.score({"history": batch["history"], **told}, batch["lists"][:, None])[:, 0]
        worth: FloatArray = np.nan_to_num(batch["labels"]) @ np.asarray(self.part.weights, np.float32)
        return scores, worth

    def state(self) -> Mapping[str, npt.NDArray[np.generic]]:
        """The weights."""
        return {name: value.cpu().numpy() for name, value in self.model.state_dict().items()}


@dataclass(frozen=True, eq=False)
class _Lists:
    """Sessions that may be read, with what came of them."""

    part: SessionReward
    log: Interactions
    sessions: Sessions
    labels: FloatArray
    """(E, O), NaN unknown"""

    @classmethod
    def of(cls, part: SessionReward, feedback: Feedback) -> "_Lists":
        log = feedback.train
        sessions = find_sessions(log) if SESSION in log.columns else _single_events(log)
        readable = sessions.sums(~feedback.readable) == 0
        labels = np.stack([label_values(log, name) for name in part.labels], 1)
        later = sessions.starts > log.offsets[sessions.users]
        return cls(part, log, sessions.only(readable & later), labels)

    def only(self, chosen: BoolArray) -> "_Lists":
        """Those of some sessions."""
        return replace(self, sessions=self.sessions.only(chosen))

    def batch(self, rows: npt.NDArray[np.int64], *, starts: Any, ends: Any) -> dict[str, npt.NDArray[Any]]:
        """What the model reads of the lists of events `starts:ends`, parts of the sessions `rows`, and their labels."""
        log, before = self.log, self.sessions.starts[rows]
        ends = np.minimum(ends, starts + self.part.list_items)
        first = np.maximum(before - self.part.max_history, log.offsets[self.sessions.users[rows]])
        places = first[:, None] + np.arange(max(1, int((before - first).max(initial=0))))
        inside = places < before[:, None]
        told = np.where(inside[:, :, None], self.labels[np.where(inside, places, 0)], np.float32(np.nan))
        asked = starts[:, None] + np.arange(self.part.list_items)
        listed = asked < ends[:, None]
        labels = np.where(listed[:, :, None], self.labels[np.where(listed, asked, 0)], np.nan)
        known = np.isfinite(labels).sum(1)
        means = np.where(known > 0, np.nan_to_num(labels).sum(1) / np.maximum(known, 1), np.nan)
        return {
            "history": padded(log.items, first, before),
            "told": told,
            "lists": np.where(listed, log.items[np.where(listed, asked, 0)], np.int32(PAD)).astype(np.int32),
            "labels": means.astype(np.float32),
        }


class _ListSource:
    """Random sessions, each cut to a random part of it: a pure function of the seed and the step."""

    def __init__(self, lists: _Lists, *, batch_size: int, seed: int) -> None:
        self._lists, self._batch_size, self._seed = lists, batch_size, seed

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self._lists.sessions) // self._batch_size)

    def __call__(self, step: int) -> Batch:
        random = generator(self._seed, "reward lists", step)
        rows = random.integers(0, len(self._lists.sessions), self._batch_size)
        starts, ends = self._lists.sessions.starts[rows], self._lists.sessions.ends[rows]
        length = random.integers(1, np.minimum(ends - starts, self._lists.part.list_items), endpoint=True)
        first = starts + random.integers(0, ends - starts - length, endpoint=True)
        return self._lists.batch(rows, starts=first, ends=first + length)


def _moments(scores: FloatArray, worth: FloatArray) -> Float64Array:
    """(R, 6) of each list what `_correlations` adds up."""
    # Centred first: differences of large sums of squares would lose digits.
    ours, theirs = (values.astype(np.float64) - values.mean(dtype=np.float64) for values in (scores, worth))
    return np.stack([np.ones(len(ours)), ours, theirs, ours**2, theirs**2, ours * theirs], axis=1)


def _correlations(sums: Float64Array) -> Float64Array:
    """(M,) the correlation that each row of sums (M, 6) of moments gives; 0 where one side does not vary."""
    means = sums[:, 1:] / sums[:, :1]
    left, right = means[:, 2] - means[:, 0] ** 2, means[:, 3] - means[:, 1] ** 2
    varied = (left > 1e-12) & (right > 1e-12)
    spread = np.sqrt(np.where(varied, left * right, 1.0))
    found: Float64Array = np.where(varied, (means[:, 4] - means[:, 0] * means[:, 1]) / spread, 0.0)
    return found


def _single_events(log: Interactions) -> Sessions:
    places = np.arange(log.num_events, dtype=np.int64)
    return Sessions(log.users(), places, places + 1)
