"""The one way from a history to recommended items: evaluation, the command line and the server all call it.

Legend: N rows, T items of the longest history, t items of a row's history, S seen items, K recommendations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sememe.core.schema import PAD, Batch, Int32Array, Ranked
from sememe.data.event_inputs import UNKNOWN, refuse_unread
from sememe.data.ranges import padded_rows
from sememe.pipeline.recipe import Decoder, FittedReranker
from sememe.train.device import to_tensors


@dataclass(frozen=True, eq=False)
class Recommender:
    """A trained model with all that it needs to answer."""

    model: Any
    """A torch module, or a fitted counting model."""
    decode: Decoder
    trie: Any
    """The trie of the item codes on the model's device; None for models that do not generate codes."""
    max_history: int
    """The model reads at most so many of the latest items."""
    device: torch.device
    rerank: FittedReranker | None = None
    """Where there is one, it takes the place of `decode`."""
    events: tuple[str, ...] = ()
    """What the model reads of each event beside its item; see `sememe.data.event_inputs`."""

    def rank(self, batch: Batch, *, k: int, seen: Int32Array | None) -> Ranked:
        """Rank the catalogue for a prepared batch.

        Args:
            batch: "history" (N, T), "lengths" (N,), "user" (N,), and each of `events` (N, T).
            k: how many items to return.
            seen: (N, S) items to leave out, PAD-filled, or None to leave nothing out.
        """
        if not isinstance(self.model, torch.nn.Module):
            return self.decode.recommend(self.model, batch, k=k, trie=None, seen=seen)
        tensors = to_tensors(batch, self.device)
        blocked = None if seen is None else torch.from_numpy(np.ascontiguousarray(seen)).to(self.device)
        self.model.eval()
        # Always fp32: with bf16 for large batches only, offline and served lists would differ by rounded ties.
        with torch.inference_mode():
            if self.rerank is not None:
                return self.rerank.recommend(self.model, batch, tensors, k=k, seen=seen, offered=self._offered())
            return self.decode.recommend(self.model, tensors, k=k, trie=self.trie, seen=blocked)

    def _offered(self) -> torch.Tensor | None:
        """(I,) bool on the CPU: which items the trie holds; None where it holds all, or there is none."""
        if self.trie is None or self.trie.num_items == len(self.trie.positions):
            return None
        offered: torch.Tensor = (self.trie.positions != PAD).cpu()
        return offered

    def recommend(
        self,
        histories: Sequence[Int32Array],
        *,
        users: Int32Array | None = None,
        k: int = 10,
        leave_out: Sequence[Int32Array] | None = None,
        events: Mapping[str, Sequence[Int32Array]] | None = None,
    ) -> Ranked:
        """Recommend for histories of item indices, oldest first.

        Args:
            histories: one array per row; at least one item each.
            users: (N,) user indices, or None where the users are unknown to the model.
            k: how many items to return per row.
            leave_out: per row, items that must not be recommended (usually the history itself).
            events: of what the model reads, what is known: one (t,) array per row.  Of the rest, nothing is.
        """
        refuse_unread(events or {}, read=self.events)
        recent = [history[-self.max_history :] for history in histories]
        batch = {
            "history": padded_rows(recent),
            "lengths": np.array([len(history) for history in recent], dtype=np.int32),
            "user": np.full(len(recent), PAD, np.int32) if users is None else users.astype(np.int32),
            **{name: self._event_input((events or {}).get(name), histories) for name in self.events},
        }
        return self.rank(batch, k=k, seen=None if leave_out is None else padded_rows(leave_out))

    def _event_input(self, values: Sequence[Int32Array] | None, histories: Sequence[Int32Array]) -> Int32Array:
        """(N, T) `values` of the events that are read, UNKNOWN where none are given and after the end."""
        values = values or [np.full(len(history), UNKNOWN, np.int32) for history in histories]
        assert [len(row) for row in values] == [len(history) for history in histories], "one value for each event"
        return padded_rows([row[-self.max_history :] for row in values], fill=UNKNOWN)
