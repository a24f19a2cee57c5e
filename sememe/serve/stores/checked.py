"""What all stores share: arguments are checked before any database sees them, and rows become what callers read.

A database says how rows are kept and found, and nothing of what they mean.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from sememe.serve.stores.protocol import Appended, Arrival, ItemChange, ItemRow, Recent, Stock, StoredEvent
from sememe.serve.stores.validate import (
    MAX_LIMIT,
    by_column,
    check_cursor,
    check_events,
    check_id,
    check_item_ids,
    check_limit,
    decode_change,
    encode_rows,
    encode_stock,
)

Row = Sequence[Any]
Action = Literal["put", "remove", "stock"]
"""What is done to items: their fields are put, they are removed, or their stock is said."""


class CheckedStore(Protocol):
    """All of `Store` but `ping` and `close`; a store is derived from it, and does the rest in its database's way."""

    def append(self, events: Sequence[StoredEvent]) -> Appended:
        """As in `EventStore`.

        Where a connection broke between a server's work and its reply, the second try counts the events of the first
        as duplicates.
        """
        unique = check_events(events)
        accepted = self._append(unique) if unique else 0
        return Appended(accepted=accepted, duplicates=len(events) - accepted)

    def history(self, user_id: str, *, limit: int) -> list[StoredEvent]:
        """As in `EventStore`."""
        return self.histories([user_id], limit=limit)[0]

    def histories(self, user_ids: Sequence[str], *, limit: int) -> list[list[StoredEvent]]:
        """As in `EventStore`."""
        found = self._newest([check_id(user_id) for user_id in user_ids], limit=check_limit(limit))
        return [[StoredEvent(*row) for row in reversed(rows)] for rows in found]

    def recent(self, user_ids: Sequence[str], *, limit: int) -> list[Recent]:
        """As in `EventStore`."""
        found = self._newest_items([check_id(user_id) for user_id in user_ids], limit=check_limit(limit))
        return [by_column(rows) for rows in found]

    def since(self, cursor: int, *, limit: int) -> list[Arrival]:
        """As in `EventStore`."""
        rows = self._since(check_cursor(cursor), limit=check_limit(limit))
        return [Arrival(place, StoredEvent(*event)) for place, *event in rows]

    def export_user(self, user_id: str) -> list[StoredEvent]:
        """As in `EventStore`."""
        return self.history(user_id, limit=MAX_LIMIT)

    def delete_user(self, user_id: str) -> int:
        """As in `EventStore`."""
        return self._delete_user(check_id(user_id))

    def put_items(self, rows: Sequence[ItemRow]) -> int:
        """As in `CatalogueStore`."""
        return self._change("put", encode_rows(rows))

    def remove_items(self, item_ids: Sequence[str]) -> int:
        """As in `CatalogueStore`."""
        return self._change("remove", dict.fromkeys(check_item_ids(item_ids), ""))

    def set_stock(self, stock: Mapping[str, Stock]) -> int:
        """As in `CatalogueStore`."""
        return self._change("stock", encode_stock(stock))

    def changes_since(self, version: int, *, limit: int) -> list[ItemChange]:
        """As in `CatalogueStore`."""
        rows = self._changes_since(check_cursor(version, name="version"), limit=check_limit(limit))
        return [
            decode_change(int(number), item_id, fields=fields, removed=bool(removed), stock=stock)
            for number, item_id, fields, removed, stock in rows
        ]

    @abstractmethod
    def _append(self, events: Sequence[StoredEvent]) -> int:
        """Keep events, whose ids differ, and give how many were not known."""

    @abstractmethod
    def _newest(self, user_ids: Sequence[str], *, limit: int) -> Sequence[Sequence[Row]]:
        """The newest events of each user, newest first: the fields of StoredEvent."""

    @abstractmethod
    def _newest_items(self, user_ids: Sequence[str], *, limit: int) -> Sequence[Sequence[tuple[str, int]]]:
        """The same: (item id, timestamp)."""

    @abstractmethod
    def _since(self, cursor: int, *, limit: int) -> Sequence[Row]:
        """Events after `cursor`, in the order of arrival: (cursor, the fields of StoredEvent)."""

    @abstractmethod
    def _delete_user(self, user_id: str) -> int: ...

    @abstractmethod
    def _change(self, action: Action, items: Mapping[str, str]) -> int:
        """Do this to items, in their order, and give the last version; items: id -> JSON, or nothing to be removed."""

    @abstractmethod
    def _changes_since(self, version: int, *, limit: int) -> Sequence[Row]:
        """Items that changed, by version: (version, item id, JSON of the fields, removed, JSON of the stock)."""
