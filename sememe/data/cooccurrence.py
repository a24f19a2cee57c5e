"""Who is met together with whom, in the sequences of a log.

Shape legend: U users, I items, E events.
"""

from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from sememe.core.schema import Interactions

BLOCK_EVENTS = 4_000_000
"""Pairs that are made and added up at once."""


def cooccurrence(train: Interactions, *, window: int, decay: float) -> sp.csr_matrix:
    """Symmetric (I, I) float64: sum of decay ** (distance - 1) over a user's pairs of events; no item meets itself."""
    num_items = train.num_items
    total = sp.csr_matrix((num_items, num_items), dtype=np.float64)
    users = train.users()
    for distance in range(1, min(window, int(train.lengths().max(initial=0)) - 1) + 1):
        for start in range(0, train.num_events - distance, BLOCK_EVENTS):
            stop = min(start + BLOCK_EVENTS, train.num_events - distance)
            left, right = train.items[start:stop], train.items[start + distance : stop + distance]
            pair = (users[start:stop] == users[start + distance : stop + distance]) & (left != right)
            weight = np.full(int(pair.sum()), decay ** (distance - 1))
            total = total + sp.csr_matrix((weight, (left[pair], right[pair])), shape=total.shape)
    return sp.csr_matrix(total + total.T)


def turned(train: Interactions) -> Interactions:
    """The log with users and items in each other's place: for each item, the users that took it in the order of time.

    Where times are equal or unknown, users stand in their own order.  Columns of events are left out.
    """
    users = train.users()
    when = np.zeros(train.num_events, np.int64) if train.timestamps is None else train.timestamps
    order = np.lexsort((users, when, train.items))
    counts = np.bincount(train.items, minlength=train.num_items)
    return replace(
        train,
        offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)]),
        items=users[order],
        user_ids=train.item_ids,
        item_ids=train.user_ids,
        timestamps=None if train.timestamps is None else train.timestamps[order],
        columns={},
    )
