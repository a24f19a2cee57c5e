"""What can be had: said through the API, kept in the store, in force as a rule in every replica that shares it."""

import threading
from collections.abc import Mapping

import numpy as np

from sememe.core.errors import ConfigError
from sememe.pipeline.engine import NO_TREE
from sememe.pipeline.lookup import UNKNOWN_ID
from sememe.serve.metrics import Metrics
from sememe.serve.rule_file import IN_STOCK
from sememe.serve.served import Current, Served
from sememe.serve.stores.protocol import CatalogueStore, Stock
from sememe.serve.wire import StockAnswer

PAGE = 1000


class StockKeeper:
    """Follows the stock of a store; safe to share between threads."""

    def __init__(self, current: Current, store: CatalogueStore, metrics: Metrics) -> None:
        self._current, self._store, self._metrics = current, store, metrics
        self._known: dict[str, bool] = {}
        self._version = 0
        # Two changes of rules at once would lose one.
        self._turn = threading.Lock()

    def put(self, stock: Mapping[str, Stock]) -> StockAnswer:
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
        self.follow()
        unknown = int((serving.items.find(list(stock)) == UNKNOWN_ID).sum())
        return StockAnswer(changed=len(stock), unknown_items=unknown, version=version)

    def follow(self) -> None:
        """Put in force what changed in the store since the last time.  Raises StoreDownError."""
        with self._turn:
            changed: dict[str, bool] = {}
            while True:
                with self._metrics.store_call("changes_since"):
                    page = self._store.changes_since(self._version, limit=PAGE)
                for change in page:
                    # Of an item that was put or removed, and nothing said of its stock, nothing is known again.
                    stock = True if change.stock is None else bool(change.stock)
                    if change.stock is not None or change.item_id in self._known:
                        changed[change.item_id] = stock
                    self._version = change.version
                if len(page) < PAGE:
                    break
            if changed:
                self._known |= changed
                put_stock(self._current.served, changed)

    def apply(self, served: Served) -> None:
        """Put all that is known in force at another model, before it answers.  Raises ConfigError as `put` does."""
        with self._turn:
            if self._known:
                put_stock(served, self._known)


def put_stock(served: Served, stock: Mapping[str, bool]) -> None:
    """Put in force which items can be had; those that `stock` does not name, and that nobody named before, can.

    Raises ConfigError where the model has no tree to put rules on.
    """
    rules = served.engine.rules
    if IN_STOCK not in rules.names:
        rules = rules.define({IN_STOCK: np.ones(rules.num_items, np.bool_)})
    found = served.engine.serving.items.find(list(stock))
    known = found != UNKNOWN_ID
    values = np.fromiter(stock.values(), np.bool_, len(stock))
    served.engine.put_rules(rules.change(IN_STOCK, found[known], to=values[known]))
