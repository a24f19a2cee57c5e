"""What is known of whoever asks: the run's events, then the store's, then those of the request.

An event that is both in the run and in the store (a model that was trained on the events collected) counts once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sememe.core.schema import Int32Array
from sememe.pipeline.engine import Serving
from sememe.pipeline.lookup import UNKNOWN_ID
from sememe.serve.stores.protocol import Recent
from sememe.serve.wire import RecommendRequest, Sources


@dataclass(frozen=True, eq=False)
class Known:
    """A history, and where it comes from."""

    user: str | None
    """The user, where the run has events of them."""
    given: list[str]
    """Items of the store and of the request, which come after those of the run."""
    readable: bool
    """Whether there is an item that the model knows."""
    sources: Sources


def known_of(serving: Serving, asked: Sequence[RecommendRequest], stored: Sequence[Recent]) -> list[Known]:
    """What is known for each request, `stored` being what the store holds of its user."""
    # Text that is too long for an id stands for nobody.
    users = serving.users.find(["\0" if one.user_id is None else one.user_id for one in asked])
    gathered = [
        _gather(serving, one, recent, user=int(user)) for one, recent, user in zip(asked, stored, users, strict=True)
    ]
    unread = [row for row, known in enumerate(gathered) if not known.readable and known.given]
    places = serving.items.find([item for row in unread for item in gathered[row].given]) != UNKNOWN_ID
    ends = np.cumsum([len(gathered[row].given) for row in unread])
    for row, end in zip(unread, ends, strict=True):
        known = gathered[row]
        if places[end - len(known.given) : end].any():
            gathered[row] = Known(user=known.user, given=known.given, readable=True, sources=known.sources)
    return gathered


def history_of(serving: Serving, known: Known) -> Int32Array:
    """(T,) the items of a history that the model knows, oldest first."""
    found = serving.items.find(known.given)
    given: Int32Array = found[found != UNKNOWN_ID].astype(np.int32)
    if known.user is None:
        return given
    user = int(serving.users.find([known.user])[0])
    return np.concatenate([serving.run.world.interactions.history(user), given]).astype(np.int32)


def _gather(serving: Serving, asked: RecommendRequest, recent: Recent, *, user: int) -> Known:
    log = serving.run.world.interactions
    count = 0 if user == UNKNOWN_ID else int(log.offsets[user + 1] - log.offsets[user])
    new = _new_items(serving, recent, user=user) if count and recent.item_ids else recent.item_ids
    return Known(
        user=asked.user_id if count else None,
        given=[*new, *asked.history],
        readable=count > 0,
        sources=Sources(run=count, store=len(new), request=len(asked.history)),
    )


def _new_items(serving: Serving, recent: Recent, *, user: int) -> Sequence[str]:
    """Items of those events, in order of time, that the run does not hold."""
    log = serving.run.world.interactions
    start, end = int(log.offsets[user]), int(log.offsets[user + 1])
    if log.timestamps is None or recent.timestamps[0] > log.timestamps[end - 1]:
        return recent.item_ids
    times = log.timestamps[start:end].tolist()
    items = [str(name) for name in serving.items.names(log.items[start:end])]
    held = set(zip(items, times, strict=True))
    events = zip(recent.item_ids, recent.timestamps, strict=True)
    return [item for item, moment in events if (item, moment) not in held]
