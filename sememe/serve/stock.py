"""What can be had: said through the API, in force as a rule of the model that answers."""

from collections.abc import Mapping

import numpy as np

from sememe.pipeline.lookup import UNKNOWN_ID
from sememe.serve.rule_file import IN_STOCK
from sememe.serve.served import Served


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
