"""The catalogue as the API changes it: kept in the store, in force at every replica that shares it.

Whoever changes something writes it to the store first, and takes it from there as all replicas do: there is one order
of changes, and what was acknowledged comes back after a restart.
"""

import contextlib
import logging
import threading
from collections.abc import Mapping, Sequence

import numpy as np

from sememe.core.errors import ConfigError, DataError, NothingToEmbedError, SememeError
from sememe.core.schema import FloatArray
from sememe.pipeline.engine import NO_TREE
from sememe.pipeline.lookup import UNKNOWN_ID
from sememe.serve.item_fields import Fields, catalogue_rows, check_growable, embed_known, embed_rows, unread_fields
from sememe.serve.living import needs_vector, offered_items, take_in
from sememe.serve.metrics import Metrics
from sememe.serve.rule_file import IN_STOCK
from sememe.serve.served import Current, Served
from sememe.serve.stock import put_stock
from sememe.serve.stores.protocol import CatalogueStore, ItemChange, ItemRow, Stock
from sememe.serve.wire_catalogue import ItemsAnswer, RemoveItemsAnswer, StockAnswer

PAGE = 1000
TOGETHER = 256
"""So many new items at most are taken in at once."""
WARMING = 16
"""Items of the run that an encoder is warmed with; some may have no text."""

_log = logging.getLogger(__name__)


class CatalogueKeeper:
    """Follows the catalogue of a store; safe to share between threads."""

    def __init__(self, current: Current, store: CatalogueStore, metrics: Metrics) -> None:
        self._current, self._store, self._metrics = current, store, metrics
        self._known: dict[str, ItemChange] = {}
        self._pending: dict[str, ItemChange] = {}
        self._refused: dict[str, str] = {}
        self._embedded: dict[str, tuple[Fields, FloatArray]] = {}
        self._version = 0
        # Two changes of what answers at once would lose one; embedding takes its time, and must not hold up the rest.
        self._turn, self._embedding = threading.RLock(), threading.Lock()
        self._warming = threading.Lock()

    @property
    def waiting(self) -> int:
        """Items that were put, and that the model that answers has not taken in."""
        return len(self._pending) + len(self._refused)

    def put_stock(self, stock: Mapping[str, Stock]) -> StockAnswer:
        """Keep what is said of `stock`, and put it in force here.

        Raises:
            ConfigError: the model has no tree to put rules on; nothing is kept.
            StoreDownError: nothing was acknowledged.
        """
        serving = self._current.served.engine.serving
        if serving.rules is None:
            raise ConfigError(NO_TREE, fix="serve a generator to keep stock")
        with self._metrics.store_call("set_stock"):
            version = self._store.set_stock(stock)
        self.follow(embed=False)
        unknown = int((serving.items.find(list(stock)) == UNKNOWN_ID).sum())
        return StockAnswer(changed=len(stock), unknown_items=unknown, version=version)

    def put_items(self, rows: Sequence[ItemRow]) -> ItemsAnswer:
        """Keep items, and have them recommended here; whatever is wrong with one of them, none is kept.

        Raises:
            ConfigError: the row that answers cannot take in new items, and there are some.
            DataError: a field is of the wrong kind, or says nothing that the embedder reads.
            MissingExtraError: the text encoder is not installed.
            StoreDownError: nothing was acknowledged.
        """
        served = self._current.served
        ids, fields = [row.item_id for row in rows], [row.fields for row in rows]
        run = served.living.run
        catalogue_rows(run, ids, fields)
        known = served.engine.serving.items.find(ids).tolist()
        came = {
            row.item_id: row.fields
            for row, index in zip(rows, known, strict=True)
            if index == UNKNOWN_ID or not served.living.is_of_run(index)
        }
        if came:
            check_growable(run, served.row)
            self._embed(served, came)
        with self._metrics.store_call("put_items"):
            version = self._store.put_items(rows)
        self.follow()
        return ItemsAnswer(
            changed=len(set(ids)),
            new_items=len({item_id for item_id, index in zip(ids, known, strict=True) if index == UNKNOWN_ID}),
            waiting=[item_id for item_id in dict.fromkeys(ids) if item_id in self._refused or item_id in self._pending],
            unread_fields=unread_fields(run, fields),
            version=version,
        )

    def remove_items(self, item_ids: Sequence[str]) -> RemoveItemsAnswer:
        """Take items out of all lists, for good or until they are put again.

        Raises:
            DataError: no item would be left; nothing is kept.
            StoreDownError: nothing was acknowledged.
        """
        serving = self._current.served.engine.serving
        found = serving.items.find(item_ids)
        known = found[found != UNKNOWN_ID]
        left = offered_items(serving)
        left[known] = False
        if not left.any():
            raise DataError("no item would be left to recommend", fix="put other items before")
        with self._metrics.store_call("remove_items"):
            version = self._store.remove_items(item_ids)
        self.follow(embed=False)
        unknown = int((found == UNKNOWN_ID).sum())
        return RemoveItemsAnswer(removed=len(np.unique(known)), unknown_items=unknown, version=version)

    def follow(self, *, embed: bool = True) -> None:
        """Put in force what changed in the store since the last time.

        embed: whether new items are embedded too, which takes longer than all else.

        Raises StoreDownError.
        """
        with self._turn:
            changes = self._read()
            self._known |= changes
            for item_id in changes:
                self._pending.pop(item_id, None)
                self._refused.pop(item_id, None)
            if changes:
                self._current.served = self._at_once(self._current.served, changes)
        if embed:
            while self._take_waiting():
                pass

    def warm(self) -> None:
        """Load what new items are embedded with, which takes seconds, before one of them needs it.

        Raises MissingExtraError where the text encoder is not installed, ConfigError where it cannot be had.
        """
        living = self._current.served.living
        if living.growable:
            with self._warming, contextlib.suppress(NothingToEmbedError):  # it reads brought vectors, and loads nothing
                embed_known(living.run, living.row, count=WARMING)

    def swap(self, served: Served) -> None:
        """Have another model answer from now on, with all that the store says of items in force.

        New items are embedded for it while the old one goes on, so that none is missing in between.
        """
        with self._embedding:
            before = dict(self._known)
            self._refused, self._embedded = {}, {}
            new = [key for key, change in before.items() if served.living.growable and needs_vector(served, change)]
            vectors: dict[str, FloatArray] = {}
            for start in range(0, len(new), TOGETHER):
                vectors |= self._embed_each(
                    served, {key: before[key].fields or {} for key in new[start : start + TOGETHER]}
                )
            with self._turn:
                self._pending = {}
                newer = self._at_once(served, self._known)
                able = {key: self._known[key] for key in vectors if self._known[key] is before[key]}
                self._pending = {key: change for key, change in self._pending.items() if key not in able}
                self._current.served = self._stocked(self._taken(newer, list(able.values()), vectors), able)

    def _read(self) -> dict[str, ItemChange]:
        changes: dict[str, ItemChange] = {}
        while True:
            with self._metrics.store_call("changes_since"):
                page = self._store.changes_since(self._version, limit=PAGE)
            for change in page:
                changes[change.item_id] = change
                self._version = change.version
            if len(page) < PAGE:
                return changes

    def _at_once(self, served: Served, changes: Mapping[str, ItemChange]) -> Served:
        """`served` with what needs no vector in force; the rest waits."""
        ready = []
        for change in changes.values():
            if not needs_vector(served, change):
                ready.append(change)
            elif served.living.growable:
                self._pending[change.item_id] = change
            else:
                self._refused[change.item_id] = "the row that answers takes in no new items"
        return self._stocked(self._taken(served, ready, {}), changes)

    def _taken(self, served: Served, changes: Sequence[ItemChange], vectors: Mapping[str, FloatArray]) -> Served:
        """`served` with `changes` in force: all of them, or those that can be."""
        if not changes:
            return served
        try:
            return take_in(served, changes, vectors)
        except SememeError as error:
            if len(changes) == 1:
                self._refuse(changes[0].item_id, error)
                return served
        for change in changes:
            served = self._taken(served, [change], vectors)
        return served

    def _stocked(self, served: Served, changes: Mapping[str, ItemChange]) -> Served:
        """`served` with the stock that `changes` tell, of items that it knows."""
        rules = served.engine.serving.rules
        if rules is None:
            return served
        # Of an item that was put or removed, and nothing said of its stock, nothing is known again.
        said = {item_id: change.stock is None or bool(change.stock) for item_id, change in changes.items()}
        if IN_STOCK in rules.names or any(change.stock is not None for change in changes.values()):
            put_stock(served, said)
        return served

    def _take_waiting(self) -> bool:
        """Take in some of the items that wait for a vector; whether there may be more."""
        with self._embedding:
            served = self._current.served
            chosen = dict(list(self._pending.items())[:TOGETHER])
            if not chosen:
                return False
            vectors = self._embed_each(served, {key: change.fields or {} for key, change in chosen.items()})
            with self._turn:
                if self._current.served.version != served.version:
                    return True
                # What was changed again meanwhile waits, or is gone.
                ready = {key: change for key, change in chosen.items() if self._pending.get(key) is change}
                for key in ready:
                    del self._pending[key]
                able = {key: change for key, change in ready.items() if key in vectors}
                if able:
                    newer = self._taken(self._current.served, list(able.values()), vectors)
                    self._current.served = self._stocked(newer, able)
        return True

    def _embed_each(self, served: Served, fields: Mapping[str, Fields]) -> dict[str, FloatArray]:
        """Vectors of those of the items that have one; the others are refused."""
        try:
            return self._embed(served, fields)
        except SememeError:
            found: dict[str, FloatArray] = {}
        for item_id, one in fields.items():
            try:
                found |= self._embed(served, {item_id: one})
            except SememeError as error:
                self._refuse(item_id, error)
        return found

    def _embed(self, served: Served, fields: Mapping[str, Fields]) -> dict[str, FloatArray]:
        """Vectors of items, those of the last call kept: who puts an item needs its vector twice."""
        with self._warming:  # waits while the encoder is being loaded, so that it is not loaded twice
            pass
        kept = {
            item_id: vector
            for item_id, (said, vector) in self._embedded.items()
            if item_id in fields and said == fields[item_id]
        }
        ids = [item_id for item_id in fields if item_id not in kept]
        if ids:
            made = embed_rows(served.living.run, served.row, ids, [fields[item_id] for item_id in ids])
            kept |= dict(zip(ids, made, strict=True))
            self._embedded = {item_id: (fields[item_id], kept[item_id]) for item_id in fields}
        return kept

    def _refuse(self, item_id: str, error: SememeError) -> None:
        self._refused[item_id] = error.problem
        _log.warning("item %r is not taken in: %s", item_id, error.problem)
