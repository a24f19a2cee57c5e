"""What every store does, whichever database is behind it.

    store = open_store("sqlite:///events.db")
    store.append([StoredEvent("e1", "ann", "b7", timestamp=1_700_000_000_000)])
    store.history("ann", limit=50)

Two promises hold for all of them.  What `append` and the writers of the catalogue returned from is durable.  A call
either happens as a whole or not at all, and one that raised StoreDownError may be repeated: events are told apart by
their ids, and the catalogue keeps the newest state of each item.

All ids are text of 1 to 1,024 bytes in UTF-8 without NUL; whatever else breaks a rule is a DataError.  Every method may
be called from many threads at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sememe.core.errors import SememeError

SCHEMA = 1
"""Version of what a store holds; one more with every change that an older Sememe could not read."""

Stock = bool | int
"""Whether an item can be had, or how many pieces of it there are."""


class StoreDownError(SememeError):
    """A store cannot be reached, is full, locked or damaged: what was asked of it has not been acknowledged."""


class StoreFormatError(SememeError):
    """A database is not a store of Sememe, is one of a newer version, or cannot hold what a store must."""


class DurabilityError(SememeError):
    """A server would forget acknowledged events in a crash, as it is set up."""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A user did something with an item."""

    event_id: str
    """Chosen by the sender and unique in the store: the same event sent twice is kept once."""
    user_id: str
    item_id: str
    timestamp: int
    """Milliseconds since 1970 (UTC)."""
    event_type: str | None = None
    value: float | None = None
    """A rating, a watch time: finite."""


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of the events of one call."""

    accepted: int
    duplicates: int
    """Events whose id the store, or the call, held already; what it held stays, whatever else the events say."""


@dataclass(frozen=True, slots=True)
class Recent:
    """The newest events of a user, oldest first, by column: made in a fifth of the time that events take."""

    item_ids: tuple[str, ...]
    timestamps: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Arrival:
    """An event and its place in the order in which events arrived."""

    cursor: int
    """Greater than that of every event that arrived before; numbers may be missing, and none is used twice."""
    event: StoredEvent


@dataclass(frozen=True, slots=True)
class ItemRow:
    """An item to put into the catalogue."""

    item_id: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    """JSON by field name; it replaces all fields that the item had."""


@dataclass(frozen=True, slots=True)
class ItemChange:
    """The newest state of an item that changed."""

    version: int
    """The version of the catalogue that this state came with; no two items share one."""
    item_id: str
    fields: dict[str, Any] | None
    """None for an item that was never put, or was removed: what a run knows of it stands."""
    removed: bool
    stock: Stock | None
    """None where nothing was said of it."""


class EventStore(Protocol):
    """Keeps who did what, in the order of time and in the order of arrival."""

    def append(self, events: Sequence[StoredEvent]) -> Appended:
        """Keep all of `events` durably, or none; those whose id is known are passed over.

        Raises:
            DataError: an event breaks a rule; it is named by its place.
            StoreDownError: nothing was acknowledged.
        """
        ...

    def history(self, user_id: str, *, limit: int) -> list[StoredEvent]:
        """The newest `limit` events of a user, oldest first, by (timestamp, arrival); none for an unknown user."""
        ...

    def histories(self, user_ids: Sequence[str], *, limit: int) -> list[list[StoredEvent]]:
        """`history` of each of `user_ids`, in their order."""
        ...

    def recent(self, user_ids: Sequence[str], *, limit: int) -> list[Recent]:
        """Items and times of `histories`, and nothing else of them: what a request for recommendations reads."""
        ...

    def since(self, cursor: int, *, limit: int) -> list[Arrival]:
        """At most `limit` events that arrived after `cursor` (0: from the first), in the order of arrival.

        A reader that goes on from the last cursor it got sees every event once, also those whose append was under way
        while it read.
        """
        ...

    def export_user(self, user_id: str) -> list[StoredEvent]:
        """All events of a user, as in `history`."""
        ...

    def delete_user(self, user_id: str) -> int:
        """Forget a user: how many events were deleted.  Cursors of the others stand; the ids may come again."""
        ...

    def ping(self) -> None:
        """Raises StoreDownError where the store does not answer."""
        ...

    def close(self) -> None:
        """Give all connections back; calls from now on raise StoreDownError."""
        ...


class CatalogueStore(Protocol):
    """Keeps what changed in the catalogue since a run was made, so that every replica can follow.

    Every changed item gets a version of its own, rising and never used twice.  A writer gives the newest version there
    is when it is done; all it changed has a version up to that one.
    """

    def put_items(self, rows: Sequence[ItemRow]) -> int:
        """Put items into the catalogue, or replace their fields; one that was removed is back.

        Of several rows of an item the last one counts.  What is known of its stock stands.
        """
        ...

    def remove_items(self, item_ids: Sequence[str]) -> int:
        """Take items out of the catalogue, whether they were put or belong to the run, and forget their stock."""
        ...

    def set_stock(self, stock: Mapping[str, Stock]) -> int:
        """Say which items can be had, or how many pieces; an item that was removed stays removed."""
        ...

    def changes_since(self, version: int, *, limit: int) -> list[ItemChange]:
        """At most `limit` items that changed after `version` (0: from the first), in the order of their versions."""
        ...


class Store(EventStore, CatalogueStore, Protocol):
    """Events and catalogue in one database, which all replicas of a server share."""


def newer_store(name: str, *, version: int) -> StoreFormatError:
    """The refusal of a store of another schema version, of which the only ones there can be are newer."""
    return StoreFormatError(
        f"{name} has schema version {version}, and this version of Sememe reads version {SCHEMA}",
        fix="open it with the version of Sememe that wrote it, or a newer one",
    )
