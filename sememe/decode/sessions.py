"""Lists written item after item: each depends on those before it, and none comes twice.

OneRec version 1 (2025, arXiv 2502.18965) writes a session of several items at once, where TIGER and the later OneRec
write one.  Here an item is searched by the beam of `decode.beam`, with what is listed left out, and then listed; the
model goes on from there.  With `lists` = 1 the best item is taken at each place.  With more, so many lists of a user
stay alive, and those are kept whose codes are most probable in all: an item that is second best alone may lead to the
better list.

The score of a place is the log-probability of all codes of the list up to it, so that scores fall along a list.

Shape legend: N rows, A live lists of a row, M = N * A of them, j places filled, k places listed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from sememe.core.errors import ConfigError
from sememe.core.schema import PAD, Ranked
from sememe.decode.allowed import Allowed, AllowedByRow
from sememe.decode.beam import search
from sememe.decode.eligible import Eligible
from sememe.decode.protocol import Seen, TensorBatch
from sememe.decode.trie import Trie
from sememe.nn.select import rank_best

NEVER = float("-inf")


class ListModel(Protocol):
    """A model that writes the next item of a list, level by level."""

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """(L,)"""
        ...

    @property
    def session(self) -> int:
        """Items of the longest list that it learned to write."""
        ...

    def read(self, batch: TensorBatch) -> Any:
        """What it makes of N histories, read once."""
        ...

    def open_list(self, memories: Any, *, rows: Tensor | None, listed: Tensor) -> Any:
        """A state for `step` that writes the item after `listed` (M, j); rows: (M,) which history each list is of."""
        ...

    def step(self, state: Any, codes: Tensor | None, parents: Tensor | None) -> Tensor:
        """As `StepModel.step`, for M rows."""
        ...


@dataclass(frozen=True, eq=False)
class NextItem:
    """A `ListModel` that has read its users, as a `StepModel` whose requests are lists to go on with.

    Requests: "row" (M,) whose history, "listed" (M, j) the items so far, PAD where a list has ended.
    """

    model: ListModel
    memories: Any

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """(L,)"""
        return self.model.codebook_sizes

    def encode(self, batch: Mapping[str, Tensor]) -> Any:
        """Ready to write the next item of each list."""
        return self.model.open_list(self.memories, rows=batch["row"], listed=batch["listed"])

    def step(self, state: Any, codes: Tensor | None = None, parents: Tensor | None = None) -> Tensor:
        """The model's own step."""
        return self.model.step(state, codes, parents)


@dataclass(frozen=True, eq=False)
class Lists:
    """Lists under way."""

    items: Tensor
    """(N, A, j) int64, PAD from where a list has ended, and where a row has fewer lists."""
    scores: Tensor
    """(N, A, j) fp32: of the list up to each place; -inf from where it has ended."""
    total: Tensor
    """(N, A) fp32: of the whole list; -inf where a row has fewer lists."""

    @classmethod
    def empty(cls, rows: int, *, device: torch.device) -> "Lists":
        """One list a row, with nothing in it."""
        nothing = torch.empty(rows, 1, 0, device=device)
        return cls(items=nothing.long(), scores=nothing, total=torch.zeros(rows, 1, device=device))

    def best(self) -> "Lists":
        """The best list of each row."""
        return Lists(self.items[:, :1], self.scores[:, :1], self.total[:, :1])


@dataclass(frozen=True)
class SessionSearch:
    """Recommend by writing a list item after item, each by a beam over the trie."""

    width: int = 20
    """Prefixes of an item that are kept."""
    lists: int = 1
    """Lists of a user that are kept.  More than one are searched together up to the session that the model learned, and
    the best is shown; a longer list goes on from it item by item."""

    def recommend(
        self, model: ListModel, batch: TensorBatch, *, k: int, trie: Trie, seen: Seen = None, allowed: Allowed = None
    ) -> Ranked:
        """A list of k items per row, that `allowed` holds and `seen` (N, S) does not, in the order they were written.

        Raises:
            ConfigError: a width below 1, or a model that writes single items.
        """
        lists = self.search(model, batch, k=k, trie=trie, seen=seen, allowed=allowed)
        eligible = Eligible.build(trie, seen=seen, allowed=allowed, num_rows=len(lists.items)).counts()
        return Ranked(
            items=lists.items[:, 0, :k].int().cpu().numpy(),
            scores=lists.scores[:, 0, :k].cpu().numpy(),
            source="session:code_log_prob",
            eligible=None if eligible is None else eligible.cpu().numpy(),
        )

    @torch.inference_mode()
    def search(
        self, model: ListModel, batch: TensorBatch, *, k: int, trie: Trie, seen: Seen = None, allowed: Allowed = None
    ) -> Lists:
        """The lists that are alive at the end, best first, of k places or of a session, where those are searched
        together and that is longer; errors as in `recommend`."""
        if min(self.width, self.lists) < 1:
            raise ConfigError(f"width is {self.width} and lists {self.lists}", fix="set both to 1 or more")
        if not hasattr(model, "open_list"):
            raise ConfigError(
                f"{type(model).__name__} writes single items, not lists",
                fix="use BeamSearch, or a model such as OneRec",
            )
        steps = NextItem(model, model.read(batch))
        rows = len(next(iter(batch.values())))
        given = None if seen is None else torch.as_tensor(seen, device=trie.device).long()
        lists, together = Lists.empty(rows, device=trie.device), model.session if self.lists > 1 else 0
        for place in range(max(k, together)):
            if place == together:
                lists = lists.best()
            keep = self.lists if place < together else 1
            lists = self._extend(steps, lists, keep=keep, trie=trie, seen=given, allowed=allowed)
        return lists

    def describe(self) -> str:
        """How lists come about, in a line."""
        many = f", {self.lists} lists kept" if self.lists > 1 else ""
        return f"lists written item by item{many}, each by a beam of {self.width} by code score"

    def _extend(
        self, steps: NextItem, lists: Lists, *, keep: int, trie: Trie, seen: Tensor | None, allowed: Allowed
    ) -> Lists:
        """Each list with one item more, and of each row the `keep` best of them."""
        rows, alive, places = lists.items.shape
        row = torch.arange(rows, device=trie.device).repeat_interleave(alive)
        listed = lists.items.flatten(0, 1)
        found = search(
            steps,
            {"row": row, "listed": listed},
            width=max(self.width, keep),
            k=keep,
            trie=trie,
            seen=listed if seen is None else torch.cat([seen[row], listed], 1),
            allowed=_of_lists(allowed, alive),
        )
        # A list that has ended stays, with nothing at the new place, in case that all of its row have.
        ended = (found.items[:, :1] == PAD) & torch.arange(keep, device=trie.device).eq(0)
        gains = found.scores.masked_fill(ended, 0.0).view(rows, alive, keep)
        totals = (lists.total.unsqueeze(2) + gains).flatten(1)
        chosen = rank_best(totals, k=min(keep, totals.shape[1]))
        parents = chosen.columns // keep
        before = parents.unsqueeze(2).expand(-1, -1, places)
        item = found.items.view(rows, -1).gather(1, chosen.columns).unsqueeze(2)
        # Where a row has fewer lists, there is nothing in the others.
        items = torch.cat([lists.items.gather(1, before), item], 2).masked_fill(
            chosen.values.unsqueeze(2) == NEVER, PAD
        )
        scores = torch.cat([lists.scores.gather(1, before), chosen.values.unsqueeze(2)], 2)
        return Lists(items, scores.masked_fill(items == PAD, NEVER), total=chosen.values)


def _of_lists(allowed: Allowed, lists: int) -> Allowed:
    """What `lists` lists of each row are allowed."""
    if isinstance(allowed, AllowedByRow):
        return replace(allowed, set_of_row=allowed.set_of_row.repeat(lists))
    return allowed
