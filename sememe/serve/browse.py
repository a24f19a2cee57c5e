"""Looking around: items by title, the tree of semantic IDs branch by branch, the report of the run.

What is worked out once per model is kept as long as the model is.

Shape legend: I items, L code levels, m items asked about.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import polars as pl
import torch
from pydantic import BaseModel

from sememe.core.errors import ConfigError
from sememe.core.schema import PAD, BoolArray, Int64Array
from sememe.decode.trie import Trie
from sememe.pipeline.engine import NO_TREE
from sememe.pipeline.lookup import UNKNOWN_ID
from sememe.pipeline.run_report import gather_report
from sememe.serve.browse_wire import (
    CodeBranch,
    CodePart,
    CodeQuery,
    CodesAnswer,
    FoundItem,
    FoundItems,
    ItemQuery,
    ReportAnswer,
)
from sememe.serve.living import offered_items
from sememe.serve.served import Served
from sememe.serve.service import Service

MOST_PARTS = 6000
"""Branches of branches in one answer; a picture of more shows nothing."""
TITLES = 3
"""Of each branch."""

Made = TypeVar("Made")


class PerModel(Generic[Made]):
    """What is made of a model once, and goes when the model goes."""

    def __init__(self, make: Callable[[Served], Made]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._made: WeakKeyDictionary[Served, Made] = WeakKeyDictionary()

    def __call__(self, served: Served) -> Made:
        with self._lock:
            if served not in self._made:
                self._made[served] = self._make(served)
            return self._made[served]


@dataclass(frozen=True, eq=False)
class Shelf:
    """The items of a model, as a person looks for them."""

    ids: pl.Series
    """(I,) text."""
    titles: pl.Series
    """(I,) text."""
    searched: pl.Series
    """(I,) the titles in small letters, with a space before."""
    events: Int64Array
    """(I,) in the data of the run."""
    offered: BoolArray
    """(I,) whether the model can list it."""
    trie: Trie | None

    @classmethod
    def of(cls, served: Served) -> "Shelf":
        """Read the catalogue of `served`."""
        serving = served.engine.serving
        ids = serving.items.ids.cast(pl.String)
        titles = _titles(served, ids)
        trie: Trie | None = serving.answerer.recommender.trie
        return cls(
            ids=ids,
            titles=titles,
            searched=" " + titles.str.to_lowercase(),
            events=np.bincount(serving.run.world.interactions.items, minlength=len(ids)),
            offered=offered_items(serving),
            trie=trie,
        )

    def told(self, items: Int64Array) -> list[FoundItem]:
        """`items` (m,) for whoever asked."""
        codes = None if self.trie is None else codes_of(self.trie, items)
        rows = zip(items.tolist(), self.ids.gather(items), self.titles.gather(items), strict=True)
        return [
            FoundItem(
                item_id=item_id,
                title=title,
                events=int(self.events[item]),
                codes=None if codes is None or codes[row][0] < 0 else codes[row].tolist(),
            )
            for row, (item, item_id, title) in enumerate(rows)
        ]

    def find(self, query: str) -> Int64Array:
        """Items that `query` fits, the best first: its id, then titles that begin with it, then by events."""
        words = query.lower().split()
        text = " ".join(words)
        fits = np.ones(len(self.ids), np.bool_)
        for word in words:
            # Words are found from their beginning: "star" is no part of "mustard".
            fits &= (
                self.searched.str.contains(f" {word}", literal=True).to_numpy()
                | self.searched.str.contains(f"({word}", literal=True).to_numpy()
            )
        named = self.ids.str.starts_with(query.strip()).to_numpy() if words else fits
        found = np.flatnonzero((fits | named) & self.offered)
        exact = (self.ids == query.strip()).to_numpy()[found]
        begins = self.searched.str.starts_with(f" {text}").to_numpy()[found]
        return found[np.lexsort((found, -self.events[found], ~begins, ~exact))]


async def search_items(service: Service, asked: ItemQuery, _: str) -> BaseModel:
    """Items by words or ids."""
    return await service.read(partial(_search, asked=asked))


async def look_at_codes(service: Service, asked: CodeQuery, _: str) -> BaseModel:
    """A branch of the tree.

    Raises ConfigError where the model has no tree, or the tree no such branch.
    """
    return await service.read(partial(_branch, asked=asked))


async def report(service: Service, _: Any, __: str) -> BaseModel:
    """The report of the run that answers.  Raises ArtifactError where its directory is gone."""
    return await service.read(_REPORTS)


def codes_of(trie: Trie, items: Int64Array) -> Int64Array:
    """(m, L) the semantic IDs of `items` (m,); PAD for those that are not in the tree."""
    positions = trie.positions[torch.from_numpy(items).to(trie.device)]
    columns = [codes[trie.node_at(positions, depth=level + 1)] for level, codes in enumerate(trie.child_codes)]
    found: Int64Array = torch.stack([column.long() for column in columns], dim=1).cpu().numpy()
    return np.where((positions == PAD).cpu().numpy()[:, np.newaxis], PAD, found)


def _titles(served: Served, ids: pl.Series) -> pl.Series:
    """(I,) what to print for each item."""
    frame = served.engine.serving.run.world.catalog.frame
    if frame.height != len(ids):
        return pl.Series("title", served.titles(ids.to_list()), dtype=pl.String)
    if "title" not in frame.columns:
        return ids.alias("title")
    title = pl.col("title").cast(pl.String)
    shown = pl.when(title.str.len_chars() > 0).then(title).otherwise(pl.col("item_id").cast(pl.String))
    return frame.select(shown.alias("title"))["title"]


def _report(served: Served) -> ReportAnswer:
    gathered = gather_report(served.engine.serving.run, row=served.row)
    # As JSON, so that tuples become lists, which is what the checks know.
    return ReportAnswer.model_validate(gathered.to_json(), strict=False)


def _search(served: Served, asked: ItemQuery) -> FoundItems:
    shelf = _SHELVES(served)
    if asked.id:
        places = served.engine.serving.items.find(asked.id)
        found = places[places != UNKNOWN_ID]
        return FoundItems(items=shelf.told(found), total=len(found))
    found = shelf.find(asked.query)
    return FoundItems(items=shelf.told(found[: asked.limit]), total=len(found))


def _branch(served: Served, asked: CodeQuery) -> CodesAnswer:
    shelf, prefix = _SHELVES(served), asked.codes()
    trie = shelf.trie
    if trie is None:
        raise ConfigError(NO_TREE, fix="serve a generator")
    depth, node = len(prefix), _node(trie, prefix)
    start, end = _span(trie, node, depth=depth)
    order = trie.items[start:end].cpu().numpy().astype(np.int64)
    best = order[np.argsort(-shelf.events[order], kind="stable")[: asked.limit]]
    codes = served.nearest.space.codes
    return CodesAnswer(
        prefix=prefix,
        levels=trie.num_levels,
        semantic_levels=trie.num_levels if codes is None else codes.num_semantic_levels,
        items=end - start,
        branches=[] if depth == trie.num_levels else _branches(shelf, trie, node, depth=depth),
        listed=shelf.told(best),
    )


def _node(trie: Trie, prefix: list[int]) -> int:
    """The node of depth len(prefix) whose items begin with these codes."""
    node = 0
    if len(prefix) > trie.num_levels:
        raise ConfigError(
            f"{len(prefix)} codes were given, and semantic IDs of this model have {trie.num_levels}", fix="give fewer"
        )
    for depth, code in enumerate(prefix):
        first, last = trie.child_starts[depth][node : node + 2].tolist()
        found = (trie.child_codes[depth][first:last].long() == code).nonzero()
        if len(found) == 0:
            raise ConfigError(
                f"no item has codes that begin with {','.join(map(str, prefix[: depth + 1]))}",
                fix="go down from the root: GET /v1/codes tells its branches",
            )
        node = first + int(found[0])
    return node


def _span(trie: Trie, node: int, *, depth: int) -> tuple[int, int]:
    """Positions of the first item below a node and of the first one after it."""
    start, end = trie.first_position(torch.tensor([node, node + 1], device=trie.device), depth=depth).tolist()
    return start, end


def _branches(shelf: Shelf, trie: Trie, node: int, *, depth: int) -> list[CodeBranch]:
    """What `node` of `depth` parts into."""
    first, last = trie.child_starts[depth][node : node + 2].tolist()
    starts = trie.first_position(torch.arange(first, last + 1, device=trie.device), depth=depth + 1).tolist()
    codes = trie.child_codes[depth][first:last].tolist()
    parts = _parts(trie, first, last, depth=depth + 1)
    return [
        CodeBranch(
            code=code,
            items=starts[row + 1] - starts[row],
            titles=_best_titles(shelf, trie.items[starts[row] : starts[row + 1]].cpu().numpy()),
            parts=None if parts is None else parts[row],
        )
        for row, code in enumerate(codes)
    ]


def _parts(trie: Trie, first: int, last: int, *, depth: int) -> list[list[CodePart]] | None:
    """What each of the nodes first..last-1 of `depth` parts into; None at the last level, and where it is too much."""
    if depth == trie.num_levels:
        return None
    bounds = trie.child_starts[depth][first : last + 1].tolist()
    if bounds[-1] - bounds[0] > MOST_PARTS:
        return None
    starts = trie.first_position(torch.arange(bounds[0], bounds[-1] + 1, device=trie.device), depth=depth + 1)
    counts, codes = starts.diff().tolist(), trie.child_codes[depth][bounds[0] : bounds[-1]].tolist()
    every = [CodePart(code=code, items=count) for code, count in zip(codes, counts, strict=True)]
    return [every[low - bounds[0] : high - bounds[0]] for low, high in zip(bounds[:-1], bounds[1:], strict=True)]


def _best_titles(shelf: Shelf, items: Any) -> list[str]:
    best = items[np.argsort(-shelf.events[items], kind="stable")[:TITLES]]
    return [str(title) for title in shelf.titles.gather(best)]


_SHELVES = PerModel(Shelf.of)
_REPORTS = PerModel(_report)
