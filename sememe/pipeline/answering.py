"""One search for several requests: by the compiled kernel where it runs, else by torch, with the rules of each row.

Shape legend: N rows, T items of the longest history, S items to leave out, I items of the run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from sememe.core.schema import PAD, Batch, BoolArray, Int32Array, Ranked
from sememe.data.event_inputs import UNKNOWN
from sememe.data.ranges import padded_rows
from sememe.decode.allowed import Allowed, AllowedByRow
from sememe.decode.beam import BeamSearch
from sememe.decode.item_set import ItemSet
from sememe.decode.native.search import NativeSearch
from sememe.pipeline.graphs import Graphs
from sememe.pipeline.history_cache import HistoryCache
from sememe.pipeline.recommend import Recommender
from sememe.train.device import to_tensors

NATIVE_ROWS, TORCH_ROWS = 64, 256
"""At most so many requests are searched together: the compiled search gains nothing beyond, torch little."""


@dataclass(frozen=True, eq=False)
class Asked:
    """A request in indices."""

    history: Int32Array
    """(t,) at least one item, oldest first."""
    leave_out: Int32Array
    """(s,)"""
    allowed: ItemSet | None
    k: int
    user: int = PAD
    events: dict[str, Int32Array] | None = None
    """Name -> (t,) of what the model reads of events; None where nothing is known."""


@dataclass(frozen=True, eq=False)
class Answerer:
    """A model with what searches it."""

    recommender: Recommender
    search: NativeSearch | None
    """The compiled search, where it can answer."""
    cache: HistoryCache
    graphs: Graphs | None = None
    """Searches recorded on a GPU, where there is one."""

    def groups(self, asked: Sequence[Asked]) -> list[list[int]]:
        """Rows of `asked` that one search can answer, not too many at once."""
        found: dict[tuple[int, int], list[int]] = {}
        for row, one in enumerate(asked):
            found.setdefault(self._group(one), []).append(row)
        most = TORCH_ROWS if self.search is None else NATIVE_ROWS
        return [rows[start : start + most] for rows in found.values() for start in range(0, len(rows), most)]

    def answer(self, asked: Sequence[Asked]) -> Ranked:
        """Lists for one of the `groups`, as long as the longest that is asked for."""
        k = max(one.k for one in asked)
        seen = padded_rows([one.leave_out for one in asked]) if any(len(one.leave_out) for one in asked) else None
        if self.recommender.rerank is not None:
            return self._rerank(asked, k=k, seen=seen)
        allowed = self._allowed(asked)
        if self.search is not None:
            return self._search_natively(self.search, asked, k=k, seen=seen, allowed=allowed)
        if not isinstance(self.recommender.model, torch.nn.Module):
            return self.recommender.rank(self.batch(asked), k=k, seen=seen)
        return self._search(asked, k=k, seen=seen, allowed=allowed)

    def _group(self, one: Asked) -> tuple[int, int]:
        """What a list begins with depends on k beyond the beam's width; a last word takes one rule set at a time."""
        if self.recommender.rerank is not None:
            return 0, id(one.allowed)
        decode = self.recommender.decode
        width = getattr(decode, "width", getattr(getattr(decode, "search", None), "width", 0))
        return (0 if one.k <= width else one.k), 0

    def _search_natively(
        self, search: NativeSearch, asked: Sequence[Asked], *, k: int, seen: Int32Array | None, allowed: Allowed
    ) -> Ranked:
        decode = self.recommender.decode
        assert isinstance(decode, BeamSearch), "the compiled search is built for a beam"
        windows = [self._window(one.history) for one in asked]
        states = self.cache.read(search, windows)
        widths = {"width": max(decode.width, k), "first_width": decode.first_width}
        found = search.search_states(states, **widths, k=k, seen=seen, allowed=allowed)
        self.cache.keep(states, windows)
        return found.to_ranked(source="beam:code_log_prob")

    def _search(self, asked: Sequence[Asked], *, k: int, seen: Int32Array | None, allowed: Allowed) -> Ranked:
        recommender, batch = self.recommender, self.batch(asked)
        if self.graphs is not None:
            found = self.graphs.search(batch, k=k, seen=seen, allowed=allowed)
            if found is not None:
                return found.to_ranked(source="beam:code_log_prob")
        tensors = to_tensors(batch, recommender.device)
        blocked = None if seen is None else torch.from_numpy(seen).to(recommender.device)
        rules = {} if allowed is None else {"allowed": allowed}
        with torch.inference_mode():
            return recommender.decode.recommend(
                recommender.model, tensors, k=k, trie=recommender.trie, seen=blocked, **rules
            )

    def _rerank(self, asked: Sequence[Asked], *, k: int, seen: Int32Array | None) -> Ranked:
        """All rows have the same rules: the fitted last word takes one set of offered items."""
        recommender, allowed = self.recommender, asked[0].allowed
        batch = self.batch(asked)
        if allowed is None:
            return recommender.rank(batch, k=k, seen=seen)
        assert recommender.rerank is not None, "asked for only where there is one"
        flags = self._flags(allowed)
        tensors = to_tensors(batch, recommender.device)
        with torch.inference_mode():
            ranked = recommender.rerank.recommend(
                recommender.model, batch, tensors, k=k, seen=seen, offered=torch.from_numpy(flags)
            )
        left = [int(flags.sum() - flags[np.unique(one.leave_out)].sum()) for one in asked]
        return Ranked(ranked.items, ranked.scores, ranked.source, ranked.tied_beyond, np.array(left, np.int64))

    def _flags(self, allowed: ItemSet) -> BoolArray:
        """(I,)"""
        trie = self.recommender.trie
        flags = np.zeros(len(trie.positions), np.bool_)
        flags[trie.items.cpu().numpy()[allowed.flags()]] = True
        return flags

    @cached_property
    def _everything(self) -> ItemSet:
        """What a row without rules goes by beside others with some."""
        return ItemSet.every(self.recommender.trie)

    def _allowed(self, asked: Sequence[Asked]) -> Allowed:
        """One set for all rows, or one for each; rows without rules are allowed everything."""
        if all(one.allowed is None for one in asked):
            return None
        assert self.recommender.trie is not None, "rules are kept on a tree"
        sets = [self._everything if one.allowed is None else one.allowed for one in asked]
        distinct = list(dict.fromkeys(sets))
        if len(distinct) == 1:
            return distinct[0]
        number = {item_set: place for place, item_set in enumerate(distinct)}
        return AllowedByRow(tuple(distinct), np.array([number[item_set] for item_set in sets], np.int64))

    def batch(self, asked: Sequence[Asked]) -> Batch:
        """What the model reads of `asked`: "history" (N, T), "lengths" (N,), "user" (N,), and events (N, T)."""
        windows = [self._window(one.history) for one in asked]
        events = {
            name: padded_rows([self._window(_event(one, name)) for one in asked], fill=UNKNOWN)
            for name in self.recommender.events
        }
        return {
            "history": padded_rows(windows),
            "lengths": np.array([len(window) for window in windows], np.int32),
            "user": np.array([one.user for one in asked], np.int32),
            **events,
        }

    def _window(self, values: Int32Array) -> Int32Array:
        return values[-self.recommender.max_history :]


def _event(one: Asked, name: str) -> Int32Array:
    return np.full(len(one.history), UNKNOWN, np.int32) if one.events is None else one.events[name]
