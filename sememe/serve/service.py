"""What the routes call: the model, the stores and the fallback, joined.  No web framework here."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

from sememe.core.errors import ConfigError, DataError, SememeError
from sememe.pipeline.lookup import UNKNOWN_ID
from sememe.serve.activation import Activator, Load, step_back
from sememe.serve.batching import Batcher, OverBudgetError
from sememe.serve.calls import Calls
from sememe.serve.catalogue import CatalogueKeeper
from sememe.serve.histories import HistoryReader
from sememe.serve.lists import OVER_BUDGET, Lists
from sememe.serve.metrics import Metrics
from sememe.serve.models import ModelFolder
from sememe.serve.problems import HttpProblem
from sememe.serve.served import Current, Served, headline
from sememe.serve.settings import ServeSettings
from sememe.serve.shown import ShownLists
from sememe.serve.stores.protocol import ItemRow, Store, StoredEvent, StoreDownError
from sememe.serve.wire import (
    DeleteAnswer,
    Event,
    EventsAnswer,
    HealthAnswer,
    Listed,
    ModelAnswer,
    ReadyAnswer,
    RecommendAnswer,
    RecommendBatchAnswer,
    RecommendRequest,
    SimilarAnswer,
    SimilarRequest,
    StoredEventWire,
    UserAnswer,
)
from sememe.serve.wire_catalogue import (
    ItemsAnswer,
    ItemsRequest,
    RemoveItemsAnswer,
    RemoveItemsRequest,
    StockAnswer,
    StockRequest,
)
from sememe.serve.wire_models import ActivateAnswer, ModelsAnswer

_log = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Parts:
    """What a service is made of."""

    current: Current
    store: Store
    catalogue: CatalogueKeeper
    histories: HistoryReader
    lists: Lists
    models: Activator


@dataclass(frozen=True)
class ModelSource:
    """Where models come from, and how one of them is opened."""

    folder: ModelFolder
    load: Load


class Service:
    """Answers what the API is asked; used from one event loop, between `start` and `stop`."""

    def __init__(
        self,
        served: Served,
        store: Store,
        *,
        settings: ServeSettings,
        metrics: Metrics,
        source: ModelSource | None = None,
    ) -> None:
        """source: where `served` is the active model; its run alone if not given.

        Raises StoreDownError where the folder of exposures cannot be made.
        """
        self._parts = _parts(served, store, settings=settings, metrics=metrics, source=source)
        self.settings, self.metrics, self.draining = settings, metrics, False
        lists = self._parts.lists
        self._batcher = Batcher[RecommendRequest, RecommendAnswer](
            lists.answer, settings=settings.batching, metrics=metrics
        )
        self._calls = Calls(most=settings.limits.calls)
        self._shown = ShownLists(Path(settings.exposures)) if settings.exposures else None
        # Opening a model takes seconds, and must take them from nobody who answers.
        self._opening = ThreadPoolExecutor(1, "sememe-opening", initializer=step_back)
        self._watches: list[asyncio.Task[None]] = []
        metrics.tell_model(version=served.version, row=served.row)
        with contextlib.suppress(StoreDownError):
            self._parts.catalogue.follow(embed=False)

    @property
    def served(self) -> Served:
        """The model that answers now."""
        return self._parts.current.served

    async def start(self) -> None:
        """Begin to follow what other replicas change, and to load what new items will need."""
        watches = (self._warm(), self._follow_catalogue(), self._follow_models())
        self._watches = [asyncio.create_task(watch) for watch in watches]

    async def stop(self) -> None:
        """Finish what is under way, and give back threads and connections."""
        for watch in self._watches:
            watch.cancel()
        self._batcher.close()
        self._calls.close()
        self._opening.shutdown(wait=True, cancel_futures=True)
        self._parts.store.close()
        if self._shown is not None:
            self._shown.close()

    async def recommend(self, asked: RecommendRequest) -> RecommendAnswer:
        """A list for one request; by the fallback where the model takes too long.

        Raises:
            ConfigError: a rule that there is not, or something that the model cannot do.
            HttpProblem: too many wait (429).
        """
        lists = self._parts.lists
        lists.check(asked)
        budget = asked.budget_ms or self.settings.batching.budget_ms
        try:
            answer = await self._batcher.ask(asked, within=budget / 1000)
        except OverBudgetError:
            answer = lists.fall_back(asked, reason=OVER_BUDGET)
        if self._shown is not None:
            self._shown.write([asked], [answer])
        return answer

    async def recommend_batch(self, asked: Sequence[RecommendRequest]) -> RecommendBatchAnswer:
        """A list for each request.  Raises as `recommend` does, for all of them or none."""
        lists = self._parts.lists
        for row, one in enumerate(asked):
            with _named(f"request {row}"):
                lists.check(one)
        budget = self.settings.batching.bulk_budget_ms / 1000
        found = await self._batcher.ask_all(asked, within=budget)
        answers = []
        for one, answer in zip(asked, found, strict=True):
            if isinstance(answer, OverBudgetError):
                answer = lists.fall_back(one, reason=OVER_BUDGET)
            if isinstance(answer, Exception):
                raise answer
            answers.append(answer)
        if self._shown is not None:
            self._shown.write(asked, answers)
        return RecommendBatchAnswer(answers=answers)

    async def similar(self, asked: SimilarRequest) -> SimilarAnswer:
        """Items like others.

        Raises:
            ConfigError: the model knows no likeness, or not the rule.
            DataError: it knows none of the items.
        """
        return await self._calls.run(partial(self._similar, self.served, asked))

    async def append(self, events: Sequence[Event]) -> EventsAnswer:
        """Keep events; when this returns, they are durable.

        Raises:
            StoreDownError: nothing was acknowledged.
        """
        return await self._calls.run(partial(self._append, events, now_ms=time.time_ns() // 1_000_000))

    async def export_user(self, user_id: str) -> UserAnswer:
        """All that is held of a user.  Raises StoreDownError."""
        return await self._calls.run(partial(self._export, user_id))

    async def delete_user(self, user_id: str) -> DeleteAnswer:
        """Delete what the store holds of a user.  Raises StoreDownError."""
        return await self._calls.run(partial(self._delete, user_id))

    async def put_stock(self, asked: StockRequest) -> StockAnswer:
        """Say what can be had.  Raises ConfigError where the model can hold no rules, and StoreDownError."""
        return await self._calls.run(partial(self._parts.catalogue.put_stock, asked.stock))

    async def read(self, call: Callable[[Served], Result]) -> Result:
        """What `call` says of the model that answers, off the event loop.  Raises as it does."""
        return await self._calls.run(partial(call, self.served))

    async def put_items(self, asked: ItemsRequest) -> ItemsAnswer:
        """Take items in.  Raises as `CatalogueKeeper.put_items`."""
        rows = [ItemRow(item.item_id, item.fields) for item in asked.items]
        return await self._calls.run(partial(self._parts.catalogue.put_items, rows))

    async def remove_items(self, asked: RemoveItemsRequest) -> RemoveItemsAnswer:
        """Take items out.  Raises as `CatalogueKeeper.remove_items`."""
        return await self._calls.run(partial(self._parts.catalogue.remove_items, asked.item_ids))

    async def models(self) -> ModelsAnswer:
        """The models there are.  Raises ArtifactError where their folder cannot be read."""
        return await self._calls.run(self._parts.models.list)

    async def activate(self, name: str) -> ActivateAnswer:
        """Have another model answer.  Raises as `Activator.activate`."""
        return await self._open(partial(self._parts.models.activate, name))

    async def roll_back(self) -> ActivateAnswer:
        """Have the model answer that was active before.  Raises as `Activator.roll_back`."""
        return await self._open(self._parts.models.roll_back)

    def model(self) -> ModelAnswer:
        """What answers."""
        served, serving = self.served, self.served.engine.serving
        return ModelAnswer(
            model=served.version,
            recipe=serving.run.recipe.name,
            row=served.row,
            path=serving.path,
            items=served.num_offered,
            items_waiting=self._parts.catalogue.waiting,
            users=serving.run.world.interactions.num_users,
            rules=list(served.rule_names),
            has_vectors=served.nearest.space.vectors is not None,
            metrics=headline(serving.run.metrics, served.row),
        )

    def health(self) -> HealthAnswer:
        """That the process lives."""
        return HealthAnswer(status="ok")

    async def ready(self) -> ReadyAnswer:
        """Whether requests should be sent here.  Raises HttpProblem (503) while the server is being stopped."""
        if self.draining:
            raise HttpProblem(
                "the server is being stopped",
                fix="ask another one, or this one when it is back",
                status=HTTPStatus.SERVICE_UNAVAILABLE,
                retry_after=self.settings.drain_seconds,
            )
        try:
            await self._calls.run(self._parts.store.ping)
        except StoreDownError:
            return ReadyAnswer(status="ready", model=self.served.version, store="down")
        return ReadyAnswer(status="ready", model=self.served.version, store="up")

    def _similar(self, served: Served, asked: SimilarRequest) -> SimilarAnswer:
        parts, items = served.parts(asked.rules), served.known_items(asked.item_ids)
        by = served.nearest.by
        if len(items) == 0:
            raise DataError("the model knows none of these items", fix="give the id of an item of the run")
        excluded = served.known_items(asked.exclude)
        allowed = served.allowed(parts)
        # Some more than are asked for, since those left out may be among them.
        found, scores = served.nearest.find(items, allowed=allowed, k=asked.k + len(excluded))
        kept = [row for row, item in enumerate(found) if item not in excluded][: asked.k]
        ids = [str(name) for name in served.engine.serving.items.names(found[kept])]
        titles: Sequence[str | None] = served.titles(ids) if asked.titles else [None] * len(ids)
        listed = [
            Listed(item_id=item_id, score=score, title=title)
            for item_id, score, title in zip(ids, scores[kept].tolist(), titles, strict=True)
        ]
        unknown = len(asked.item_ids) - len(items) + len(asked.exclude) - len(excluded)
        return SimilarAnswer(items=listed, by=by, model=served.version, unknown=unknown)

    def _append(self, events: Sequence[Event], *, now_ms: int) -> EventsAnswer:
        stored = [
            StoredEvent(
                event_id=event.event_id,
                user_id=event.user_id,
                item_id=event.item_id,
                timestamp=now_ms if event.timestamp is None else event.timestamp,
                event_type=event.event_type,
                value=event.value,
            )
            for event in events
        ]
        with self.metrics.store_call("append"):
            appended = self._parts.store.append(stored)
        unknown = self.served.engine.serving.items.find([event.item_id for event in events]) == UNKNOWN_ID
        return EventsAnswer(
            accepted=appended.accepted, duplicates=appended.duplicates, unknown_items=int(unknown.sum())
        )

    def _export(self, user_id: str) -> UserAnswer:
        with self.metrics.store_call("export_user"):
            events = self._parts.store.export_user(user_id)
        told = [
            StoredEventWire(
                event_id=event.event_id,
                item_id=event.item_id,
                timestamp=event.timestamp,
                event_type=event.event_type,
                value=event.value,
            )
            for event in events
        ]
        shown = [] if self._shown is None else self._shown.export_user(user_id)
        return UserAnswer(user_id=user_id, events=told, trained_on=self._trained_on(user_id), shown=shown)

    def _delete(self, user_id: str) -> DeleteAnswer:
        with self.metrics.store_call("delete_user"):
            deleted = self._parts.store.delete_user(user_id)
        shown = 0 if self._shown is None else self._shown.delete_user(user_id)
        return DeleteAnswer(user_id=user_id, deleted=deleted, shown=shown, trained_on=len(self._trained_on(user_id)))

    def _trained_on(self, user_id: str) -> list[str]:
        """Items of the user's events in the data of the run."""
        serving = self.served.engine.serving
        user = int(serving.users.find([user_id])[0])
        if user == UNKNOWN_ID:
            return []
        history = serving.run.world.interactions.history(user)
        return [str(name) for name in serving.items.names(history)]

    async def _open(self, call: Callable[[], Result]) -> Result:
        """What `call` returns or raises, in the thread that opens models."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._opening, call))

    async def _warm(self) -> None:
        """Load the text encoder, so that the first item that is put need not wait for it."""
        with _logged("the encoder of new items"):
            await self._calls.run(self._parts.catalogue.warm)

    async def _follow_catalogue(self) -> None:
        """Look again and again for what other replicas changed in the catalogue."""
        while True:
            await asyncio.sleep(self.settings.histories.poll_seconds)
            with _logged("the catalogue"):
                await self._calls.run(self._parts.catalogue.follow)

    async def _follow_models(self) -> None:
        """Look again and again which model is to answer."""
        while True:
            await asyncio.sleep(self.settings.histories.poll_seconds)
            with _logged("the model"):
                await self._open(self._parts.models.follow)


def _parts(
    served: Served, store: Store, *, settings: ServeSettings, metrics: Metrics, source: ModelSource | None
) -> Parts:
    if source is None:
        source = ModelSource(ModelFolder(served.living.run.path), partial(Served.load, model=served.row))
    current = Current(served)
    histories = HistoryReader(store, settings=settings.histories, metrics=metrics)
    catalogue = CatalogueKeeper(current, store, metrics)
    return Parts(
        current=current,
        store=store,
        catalogue=catalogue,
        histories=histories,
        lists=Lists(current, histories, metrics),
        models=Activator(source.folder, current, catalogue, load=source.load, canary=settings.canary, metrics=metrics),
    )


@contextlib.contextmanager
def _logged(what: str) -> Iterator[None]:
    """Go on where a look was in vain: the next one may not be."""
    try:
        yield
    except SememeError as error:
        _log.warning("%s stays as it is: %s", what, error.problem)
    except Exception:  # noqa: BLE001 - a look that fails must not end the looking
        _log.exception("%s stays as it is", what)


@contextlib.contextmanager
def _named(place: str) -> Iterator[None]:
    """Put the place before what is wrong there."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{place}: {error.problem}", fix=error.fix) from error
