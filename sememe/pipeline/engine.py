"""A finished run that answers requests: one process, many threads, rules, the compiled search where it runs.

    engine = Engine.load("runs/mine", model="itemwise:generator")
    answers = engine.recommend([Request(history=["b1", "b7"], k=10, rules=("in stock",))])

Every list is the one that `sememe recommend` and the evaluation give; what differs is where it is computed.  A row that
is a beam of the item-wise generator is searched by the compiled kernel where it runs, and any other by torch;
`Engine.path` says which, and why.

Shape legend: N requests, T items of a history.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import polars as pl
import torch

from sememe.core.errors import ConfigError, DataError, did_you_mean
from sememe.core.schema import PAD, Int32Array, Int64Array, Ranked
from sememe.data.event_inputs import UNKNOWN, user_event_inputs
from sememe.decode.beam import BeamSearch
from sememe.decode.item_set import ItemSet
from sememe.decode.native.paths import native_status
from sememe.decode.native.search import NativeSearch
from sememe.decode.rules import Part, Rules
from sememe.decode.trie import Trie
from sememe.models.itemwise import ItemWiseModel
from sememe.models.itemwise_export import export_itemwise, unsupported
from sememe.pipeline.answering import Answerer, Asked
from sememe.pipeline.graphs import Graphs
from sememe.pipeline.history_cache import HistoryCache
from sememe.pipeline.lookup import UNKNOWN_ID, Id, Lookup
from sememe.pipeline.opened import Run, open_run
from sememe.pipeline.recommend import Recommender

CACHE_BYTES = 256 * 2**20
NO_TREE = "rules are kept on the tree of semantic IDs, and this model has none"

Native = Literal["auto", "off", "required"]
Precision = Literal["fp32", "bf16"]
"""Of the compiled search's weights; sums are fp32 either way."""


@dataclass(frozen=True)
class Request:
    """Who is to be recommended what."""

    history: Sequence[Id] = ()
    """Item ids, oldest first; ids that the run does not know are passed over and told in the answer."""
    user: Id | None = None
    """A user of the run's data, whose history there comes before `history`."""
    k: int = 10
    rules: tuple[str | Part, ...] = ()
    """Each must hold of a recommended item: names of the engine's rules, or `any_of` or `none_of` several."""
    exclude: Sequence[Id] = ()
    """Items to leave out, beside those of the history."""
    repeat_seen: bool = False
    """Whether items of the history may come back."""

    @property
    def names(self) -> list[Id]:
        """All item ids in it."""
        return [*self.history, *self.exclude]


@dataclass(frozen=True)
class Answer:
    """A list, best first."""

    items: tuple[Id, ...]
    scores: tuple[float, ...]
    source: str
    """Where the scores come from."""
    k: int
    """How many were asked for."""
    eligible: int | None
    """How many items the rules allowed that were not left out; None where no rule was given."""
    unknown: tuple[Id, ...]
    """Ids of the request that the run does not know."""

    @property
    def short(self) -> bool:
        """Whether there was less to give than was asked for."""
        return len(self.items) < self.k


@dataclass(frozen=True)
class Setup:
    """How what searches is made; `Engine.load` says what each is."""

    native: Native = "auto"
    precision: Precision = "fp32"
    cache_bytes: int = CACHE_BYTES


@dataclass(frozen=True, eq=False)
class Serving:
    """All that an answer is made of; replaced as a whole, so that no answer mixes two."""

    run: Run
    """Its catalogue has a row for each of `items`, those that came since the run among them; its log has not."""
    answerer: Answerer
    path: str
    rules: Rules | None
    items: Lookup
    users: Lookup
    setup: Setup = Setup()
    gone: Int32Array = field(default_factory=lambda: np.zeros(0, np.int32))
    """Items that no list may hold; empty for a model with a tree, which does not hold them then."""


class Engine:
    """Answers requests from any thread; made by `load`."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        model: str | None = None,
        seed: int | None = None,
        native: Native = "auto",
        precision: Precision = "fp32",
        cache_bytes: int = CACHE_BYTES,
        modules: Sequence[str] = (),
    ) -> "Engine":
        """Open a run and answer one request, so that the first real one is not the slow one.

        Args:
            path: directory of a finished run.
            model: the row that answers, as in `open_run`.
            seed: which seed's model; the recipe's first one where None.
            native: whether the compiled search is used where it can be, never, or must be.
            precision: of the compiled search's weights; with bf16 it is a little faster, and a list may exchange a few
                items that score nearly the same (docs/performance.md).
            cache_bytes: room for histories that the compiled search has read.
            modules: as in `open_run`.

        Raises:
            ArtifactError: no finished run, a damaged stage, or stages that do not belong together.
            ConfigError: no such row or seed, a setting that there is not, or native="required" where torch has to
                answer.
        """
        _check_choice("native", native, get_args(Native))
        _check_choice("precision", precision, get_args(Precision))
        run = open_run(Path(path), model=model, seed=seed, modules=modules)
        setup, trie = Setup(native, precision, cache_bytes), run.recommender.trie
        searching = _searching(run.recommender, setup)
        serving = Serving(
            run=run,
            answerer=searching.answerer,
            path=searching.path,
            rules=None if trie is None else Rules.start(trie),
            items=Lookup(run.world.interactions.item_ids),
            users=Lookup(run.world.interactions.user_ids),
            setup=setup,
        )
        engine = cls(serving)
        engine.recommend([Request(history=[run.world.interactions.item_ids[0]])])
        return engine

    @property
    def serving(self) -> Serving:
        """What answers now: take it once, and all that is read from it belongs together."""
        return self._serving

    @property
    def path(self) -> str:
        """What searches: "native" and its instructions, or "torch" and why."""
        return self._serving.path

    @property
    def rules(self) -> Rules:
        """The rules in force.  Raises ConfigError for a model that has no tree of items to put them on."""
        if self._serving.rules is None:
            raise ConfigError(NO_TREE, fix="use a generator")
        return self._serving.rules

    def put_rules(self, rules: Rules) -> None:
        """Answer by `rules` from now on; requests that are under way go on with those they began with.

        Raises DataError where they are those of another tree.
        """
        if rules.trie is not self.rules.trie:
            raise DataError(
                "these rules belong to another tree of items than the engine's",
                fix="make them from engine.rules: engine.put_rules(engine.rules.define(...))",
            )
        self._serving = replace(self._serving, rules=rules)

    @property
    def nbytes(self) -> int:
        """Bytes of weights, tree and cached histories; not those of the data that was opened with the run, of ids, of
        rules, and of what other threads work in."""
        answerer = self._serving.answerer
        model, trie = answerer.recommender.model, answerer.recommender.trie
        # The compiled search reads the tree's own arrays.
        searched = trie if answerer.search is None else answerer.search
        return _model_bytes(model) + (0 if searched is None else searched.nbytes) + answerer.cache.nbytes

    def recommend(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer per request, in order.

        Raises:
            DataError: an unknown user, a history without a known item, or k < 1.
            ConfigError: a rule that there is not.
        """
        serving = self._serving
        found = serving.items.find_each([request.names for request in requests])
        resolved = [resolve(serving, one, found=rows) for one, rows in zip(requests, found, strict=True)]
        asked = [one.asked for one in resolved]
        answers: dict[int, Answer] = {}
        for rows in serving.answerer.groups(asked):
            ranked = serving.answerer.answer([asked[row] for row in rows])
            for place, row in enumerate(rows):
                answers[row] = _told(serving, resolved[row], ranked, place=place)
        return [answers[row] for row in range(len(requests))]


def offering(serving: Serving, trie: Trie) -> Serving:
    """`serving` with other items offered, of those that its model has codes for.

    trie: made of the one before by `edit_trie`.
    """
    answerer = serving.answerer
    recommender = replace(answerer.recommender, trie=trie)
    if answerer.graphs is not None:
        return _with_search(serving, recommender)
    search = None if answerer.search is None else answerer.search.with_trie(trie)
    assert serving.rules is not None, "a tree has rules"
    return replace(
        serving,
        answerer=Answerer(recommender, search, answerer.cache),
        rules=serving.rules.follow(trie),
    )


def grown_serving(serving: Serving, recommender: Recommender, *, more: pl.DataFrame) -> Serving:
    """`serving` by a recommender that `sememe.pipeline.live.follow` made of its own for a catalogue that changed.

    more: the rows of the items that came, in the order of their indices, with the columns of the run's catalogue.
    """
    newer = _with_search(serving, recommender, more=more)
    ids = serving.items.ids
    came = more["item_id"].cast(ids.dtype).alias(ids.name)
    return replace(newer, items=Lookup(pl.concat([ids, came]))) if more.height else newer


def _with_search(serving: Serving, recommender: Recommender, *, more: pl.DataFrame | None = None) -> Serving:
    searching, world = _searching(recommender, serving.setup), serving.run.world
    assert serving.rules is not None, "a tree has rules"
    if more is not None and more.height:
        frame = pl.concat([world.catalog.frame, more.select(world.catalog.frame.columns)])
        world = replace(world, catalog=replace(world.catalog, frame=frame))
    return replace(
        serving,
        run=replace(serving.run, world=world, recommender=recommender),
        answerer=searching.answerer,
        path=searching.path,
        rules=serving.rules.follow(recommender.trie, frame=more if more is not None and more.height else None),
    )


@dataclass(frozen=True, eq=False)
class Resolved:
    """A request in indices."""

    asked: Asked
    k: int
    """As many as were asked for, however few items there are."""
    unknown: tuple[Id, ...]
    """Ids that the run does not know."""


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{name} is {value!r}, which there is not", fix=did_you_mean(value, known))


@dataclass(frozen=True, eq=False)
class _Searching:
    answerer: Answerer
    path: str


def _searching(recommender: Recommender, setup: Setup) -> _Searching:
    """What answers for `recommender`.  Raises ConfigError where the compiled search must, and cannot."""
    search, reason = _native_search(recommender, wanted=setup.native, precision=setup.precision)
    if search is None and setup.native == "required":
        raise ConfigError(f"the compiled search cannot answer: {reason}", fix='load the engine with native="auto"')
    if isinstance(recommender.model, torch.nn.Module):
        recommender.model.eval()
    graphs = Graphs.build(recommender) if recommender.device.type == "cuda" else None
    problem = None if graphs is None else graphs.record_all()
    if problem is not None:
        graphs, reason = None, f"{reason}; {problem}"
    path = f"torch: {reason}" if graphs is None else f"torch, recorded as CUDA graphs: {reason}"
    return _Searching(
        answerer=Answerer(recommender, search, HistoryCache(most_bytes=setup.cache_bytes), graphs),
        path=path if search is None else f"native: {search.path}",
    )


def _native_search(
    recommender: Recommender, *, wanted: Native, precision: Precision
) -> tuple[NativeSearch | None, str]:
    """The compiled search for this row of a run, or why there is none."""
    if wanted == "off":
        return None, "the compiled search is switched off"
    if not isinstance(recommender.model, ItemWiseModel):
        return None, f"{type(recommender.model).__name__} is not the item-wise generator"
    if recommender.rerank is not None or type(recommender.decode) is not BeamSearch:
        return None, "this row is not a beam by code score alone"
    if recommender.device.type != "cpu":
        return None, f"the model is on {recommender.device}"
    reason, status = unsupported(recommender.model), native_status()
    if reason is not None or status.path is None:
        return None, reason or status.reason
    weights = export_itemwise(recommender.model)
    return NativeSearch.build(weights, recommender.trie, precision=precision), status.reason


def _model_bytes(model: Any) -> int:
    if not isinstance(model, torch.nn.Module):
        return sum(array.nbytes for array in model.state().values())
    tensors = [*model.parameters(), *model.buffers()]
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())


def resolve(serving: Serving, request: Request, *, found: Int64Array | None = None) -> Resolved:
    """`request` in indices; found: those of its `names`, where they are known.  Raises as `Engine.recommend` does."""
    if request.k < 1:
        raise DataError(f"k is {request.k}, and at least 1 item must be asked for", fix="give k >= 1")
    names = request.names
    found = (serving.items.find(names) if found is None else found).astype(np.int32)
    given, excluded = found[: len(request.history)], found[len(request.history) :]
    history, excluded = given[given != UNKNOWN_ID], excluded[excluded != UNKNOWN_ID]
    user, events = PAD, None
    if request.user is not None:
        user = _user(serving, request.user)
        events = _events(serving, user, more=len(history))
        history = np.concatenate([serving.run.world.interactions.history(user), history]).astype(np.int32)
    if len(history) == 0:
        raise DataError("the history holds no item that the run knows", fix="give the id of an item of the run")
    left_out = [serving.gone, excluded] if request.repeat_seen else [serving.gone, history, excluded]
    asked = Asked(
        history=history,
        leave_out=np.concatenate(left_out),
        allowed=_allowed(serving, request),
        # A longer list than there are items would only cost room.
        k=min(request.k, len(serving.items)),
        user=user,
        events=events,
    )
    return Resolved(asked, request.k, tuple(name for name, row in zip(names, found, strict=True) if row == UNKNOWN_ID))


def _user(serving: Serving, user: Id) -> int:
    index = int(serving.users.find([user])[0])
    if index == UNKNOWN_ID:
        raise DataError(
            f"there is no user {user!r} in this run",
            fix=f"give a history; user ids of this data look like {serving.users.ids[:3].to_list()}",
        )
    return index


def _events(serving: Serving, user: int, *, more: int) -> dict[str, Int32Array]:
    """What the model reads of the events of a user of the data, and of `more` of which nothing is known."""
    known = user_event_inputs(serving.run.world.interactions, serving.answerer.recommender.events, user=user)
    return {name: np.pad(values, (0, more), constant_values=UNKNOWN) for name, values in known.items()}


def _allowed(serving: Serving, request: Request) -> ItemSet | None:
    if not request.rules:
        return None
    if serving.rules is None:
        raise ConfigError(NO_TREE, fix="use a generator")
    return serving.rules.allowed(*request.rules)


def _told(serving: Serving, one: Resolved, ranked: Ranked, *, place: int) -> Answer:
    """Row `place` of `ranked`, in ids."""
    items = ranked.items[place, : one.asked.k]
    listed = items[items != PAD]
    return Answer(
        items=tuple(serving.items.names(listed)),
        scores=tuple(ranked.scores[place, : len(listed)].tolist()),
        source=ranked.source,
        k=one.k,
        eligible=None if ranked.eligible is None or one.asked.allowed is None else int(ranked.eligible[place]),
        unknown=one.unknown,
    )
