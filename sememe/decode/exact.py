"""Exact ranking of the whole catalogue: the truth that a search is measured against, and how item scorers recommend.

`ExactCodes` scores every semantic ID by teacher forcing.  It shares no search code with `beam`: no pruning, no walk
over the trie, seen items masked after scoring.  Both use the same order among equal scores (`select`).

Shape legend: N rows, I items, V leaves (distinct semantic IDs), C leaves of a chunk, L levels, S seen items and M
targets of a row.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sememe.core.errors import ConfigError
from sememe.core.schema import PAD, Int32Array, Int64Array, Ranked
from sememe.decode.allowed import Allowed
from sememe.decode.eligible import Eligible
from sememe.decode.protocol import ItemArray, ItemScorer, Seen, StepModel, TensorBatch
from sememe.decode.trie import Trie
from sememe.nn.select import rank_best, refuse_nan

NEVER = float("-inf")

UNREACHABLE = 2**31 - 1
"""`RankCounts.better` of a target that no list of any length would hold: it is masked, or scores -inf."""

ScoreArray = Tensor | npt.NDArray[np.float32]


@dataclass(frozen=True)
class ExactCodes:
    """Recommend by the log-probability of every item's codes, each item scored."""

    chunk: int = 8192
    """Hypotheses (rows times semantic IDs) per model step; bounds the memory, 50 kB each for TIGER's paper size."""

    def score_items(self, model: StepModel, batch: TensorBatch, *, trie: Trie) -> Tensor:
        """(N, I) fp32 log-probabilities on the trie's device; items that share a semantic ID score exactly the same.

        Items that the trie does not hold have -inf.
        """
        by_position = self._score_positions(model, batch, trie=trie)
        absent = trie.positions == PAD
        return by_position[:, trie.positions.clamp(min=0).long()].masked_fill_(absent, NEVER)

    def recommend(
        self, model: StepModel, batch: TensorBatch, *, k: int, trie: Trie, seen: Seen = None, allowed: Allowed = None
    ) -> Ranked:
        """The k best items that `allowed` holds and `seen` (N, S) does not; equal scores in order of semantic ID, then
        index."""
        scores = self._score_positions(model, batch, trie=trie)
        eligible = Eligible.build(trie, seen=seen, allowed=allowed, num_rows=len(scores))
        scores = eligible.mask_forbidden(scores)
        positions = None
        if seen is not None:
            items = torch.as_tensor(seen, device=trie.device)
            positions = torch.where(items == PAD, PAD, trie.positions[items.clamp(min=0).long()])
        ranked = _top(mask_seen(scores, positions), k=k, labels=trie.items, source="exact:code_log_prob")
        return _with_counts(ranked, eligible)

    def describe(self) -> str:
        """How lists come about, in a line."""
        return "exact code scores of all items"

    @torch.inference_mode()
    def _score_positions(self, model: StepModel, batch: TensorBatch, *, trie: Trie) -> Tensor:
        """(N, I), columns in the trie's order of items."""
        assert not getattr(model, "training", False), "dropout is on: call model.eval() before scoring"
        leaves = trie.leaf_codes()
        rows = len(next(iter(batch.values())))
        chunks = torch.split(leaves, max(1, self.chunk // rows))
        scores = torch.cat([_teacher_force(model, batch, chunk) for chunk in chunks], dim=1)
        return scores.repeat_interleave(trie.leaf_sizes(), dim=1)


@dataclass(frozen=True)
class ExactItems:
    """Recommend by a model's own score of every item."""

    def recommend(
        self,
        model: ItemScorer,
        batch: Any,
        *,
        k: int,
        trie: Trie | None = None,
        seen: Seen = None,
        allowed: Allowed = None,
    ) -> Ranked:
        """The k best items that `allowed` holds and `seen` (N, S) does not; equal scores in order of item index.

        Items that `trie`, where there is one, does not hold are left out.  Works with torch and numpy scorers alike;
        `batch` goes to the model as it is.

        Raises:
            ConfigError: there is `allowed`, and no `trie` to tell whose positions it holds.
        """
        assert not getattr(model, "training", False), "dropout is on: call model.eval() before scoring"
        with torch.inference_mode():
            scores = torch.as_tensor(model.score_items(batch))
        if trie is not None and trie.num_items < len(trie.positions):
            scores = scores.masked_fill(trie.positions == PAD, NEVER)
        labels = torch.arange(scores.shape[1], device=scores.device)
        if allowed is None:
            return _top(mask_seen(scores, seen), k=k, labels=labels, source="exact:item_score")
        if trie is None:
            raise ConfigError(
                "item sets are over the positions of a tree, and there is none", fix="give the tree that they are of"
            )
        eligible = Eligible.build(trie, seen=seen, allowed=allowed, num_rows=len(scores))
        scores = eligible.mask_forbidden(scores, positions=trie.positions.clamp(min=0).long())
        ranked = _top(mask_seen(scores, seen), k=k, labels=labels, source="exact:item_score")
        return _with_counts(ranked, eligible)

    def describe(self) -> str:
        """How lists come about, in a line."""
        return "exact scores of all items"


@dataclass(frozen=True, eq=False)
class RankCounts:
    """Where each target stands in the whole catalogue: its rank is anything in better + 1 .. better + 1 + tied."""

    better: Int64Array
    """(N, M) items with a higher score; UNREACHABLE where no list would hold the target, PAD where there is none."""
    tied: Int64Array
    """(N, M) other items with the same score; 0 where `better` is UNREACHABLE or PAD."""


def count_better(scores: ScoreArray, targets: Int32Array, *, seen: ItemArray | None = None) -> RankCounts:
    """Rank of every target among all items that are not seen, ties apart, without making a list.

    scores: (N, I); targets: (N, M) item indices, PAD where a row has fewer; seen: (N, S) likewise.

    Raises:
        ArtifactError: a score is not a number.
    """
    allowed = mask_seen(scores, seen)
    refuse_nan(allowed)
    index = torch.as_tensor(targets, device=allowed.device).long()
    own = allowed.gather(1, index.clamp(min=0))
    # One pass per target column: (N, I) compared at a time, never (N, M, I).
    better = torch.stack([(allowed > column.unsqueeze(1)).sum(dim=1) for column in own.T], dim=1)
    tied = torch.stack([(allowed == column.unsqueeze(1)).sum(dim=1) for column in own.T], dim=1) - 1
    unreachable, absent = own == NEVER, index == PAD
    better = better.masked_fill(unreachable, UNREACHABLE).masked_fill(absent, PAD)
    tied = tied.masked_fill(unreachable | absent, 0)
    return RankCounts(better=better.cpu().numpy(), tied=tied.cpu().numpy())


def mask_seen(scores: ScoreArray, seen: ItemArray | None) -> Tensor:
    """(N, I) scores as a tensor with -inf at the columns `seen` (N, S; PAD is no column); the input stays as it is."""
    values = torch.as_tensor(scores)
    if seen is None:
        return values
    columns = torch.as_tensor(seen, device=values.device).long()
    row, place = (columns != PAD).nonzero(as_tuple=True)
    return values.index_put((row, columns[row, place]), torch.tensor(NEVER, dtype=values.dtype, device=values.device))


def _teacher_force(model: StepModel, batch: TensorBatch, leaves: Tensor) -> Tensor:
    """(N, C) log-probabilities of the semantic IDs `leaves` (C, L), each followed on its own."""
    state = model.encode(batch)
    first = model.step(state, None, None)
    rows, count = len(first), len(leaves)
    scores = first[:, 0].gather(1, leaves[:, 0].expand(rows, count))
    parents = torch.zeros(rows, count, dtype=torch.int64, device=leaves.device)
    for level in range(1, leaves.shape[1]):
        log_probs = model.step(state, leaves[:, level - 1].expand(rows, count), parents)
        wanted = leaves[:, level].expand(rows, count)
        scores = scores + log_probs.gather(2, wanted.unsqueeze(2)).squeeze(2)
        # From here on every semantic ID has a beam of its own.
        parents = torch.arange(count, device=leaves.device).expand(rows, count)
    return scores


def _with_counts(ranked: Ranked, eligible: Eligible) -> Ranked:
    counts = eligible.counts()
    return ranked if counts is None else replace(ranked, eligible=counts.cpu().numpy())


def _top(scores: Tensor, *, k: int, labels: Tensor, source: str) -> Ranked:
    """The k best columns of (N, I), named by `labels` (I,); shorter lists are filled with PAD."""
    rows, count = scores.shape
    best = rank_best(scores, k=min(k, count))
    listed = best.values > NEVER
    items = torch.where(listed, labels[best.columns], PAD)
    last = best.values[:, -1:]
    tied = (scores == last).sum(dim=1) - (best.values == last).sum(dim=1)
    wide_items = np.full((rows, k), PAD, np.int32)
    wide_scores = np.full((rows, k), NEVER, np.float32)
    wide_items[:, : items.shape[1]] = items.cpu().numpy()
    wide_scores[:, : items.shape[1]] = best.values.cpu().numpy()
    return Ranked(
        items=wide_items,
        scores=wide_scores,
        source=source,
        tied_beyond=torch.where(listed[:, -1], tied, 0).cpu().numpy(),
    )
