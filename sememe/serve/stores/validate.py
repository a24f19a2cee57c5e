"""What a store takes: checked before any database sees it, so that all of them refuse the same."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sememe.core.errors import DataError
from sememe.serve.stores.protocol import ItemChange, ItemRow, Recent, Stock, StoredEvent

# Three ids of this size fit into a row of any index of PostgreSQL (2,704 bytes a key).
MAX_ID_BYTES = 1024
# Valkey orders events by a double, which holds all integers up to here.
MAX_TIMESTAMP = 2**53 - 1
MAX_STOCK = 2**53 - 1
# Databases count rows in at least 32 bits.
MAX_LIMIT = 2**31 - 1


def check_id(value: str, *, name: str = "user_id") -> str:
    """`value`, which is an id that every store can hold.  Raises DataError."""
    if not isinstance(value, str):
        raise DataError(f"{name} is {_shown(value)}, and an id is text", fix="send the id as a string")
    if value.isascii() and "\0" not in value and 0 < len(value) <= MAX_ID_BYTES:
        return value
    if not value:
        raise DataError(f"{name} is empty", fix="send an id of at least one character")
    if "\0" in value:
        raise DataError(f"{name} {_shown(value)} holds a NUL character", fix="send the id without it")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise DataError(f"{name} {_shown(value)} is not valid Unicode: {error.reason}", fix="send UTF-8") from error
    if size > MAX_ID_BYTES:
        raise DataError(
            f"{name} {_shown(value)} has {size} bytes, and at most {MAX_ID_BYTES} are kept",
            fix="send a shorter id, such as a hash of it",
        )
    return value


def check_limit(limit: int) -> int:
    """`limit`, which is a number of rows.  Raises DataError."""
    if type(limit) is not int or not 1 <= limit <= MAX_LIMIT:
        raise DataError(f"limit is {_shown(limit)}, and 1 to {MAX_LIMIT} rows can be had", fix="give a limit >= 1")
    return limit


def check_cursor(cursor: int, *, name: str = "cursor") -> int:
    """`cursor`, or a version: a place in an order that begins at 1.  Raises DataError."""
    if type(cursor) is not int or not 0 <= cursor <= MAX_TIMESTAMP:
        raise DataError(
            f"{name} is {_shown(cursor)}, and it is a whole number from 0",
            fix=f"give 0, or the last {name} that the store gave",
        )
    return cursor


def check_events(events: Sequence[StoredEvent]) -> list[StoredEvent]:
    """The events, the first one of each id, with values as floats.  Raises DataError, which names the place of one."""
    unique: dict[str, StoredEvent] = {}
    for place, event in enumerate(events):
        try:
            checked = _check_event(event)
        except DataError as error:
            raise DataError(f"event {place}: {error.problem}", fix=error.fix) from error
        unique.setdefault(checked.event_id, checked)
    return list(unique.values())


def _check_event(event: StoredEvent) -> StoredEvent:
    for name in ("event_id", "user_id", "item_id"):
        check_id(getattr(event, name), name=name)
    if event.event_type is not None:
        check_id(event.event_type, name="event_type")
    time = event.timestamp
    if type(time) is not int or abs(time) > MAX_TIMESTAMP:
        raise DataError(
            f"timestamp is {_shown(time)}, and it is a whole number within +-{MAX_TIMESTAMP}",
            fix="send milliseconds since 1970 (UTC)",
        )
    return event if event.value is None else replace(event, value=_finite(event.value))


def _finite(value: Any) -> float:
    if type(value) in (int, float):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise DataError(f"value is {_shown(value)}, and it is a finite number", fix="send a finite number, or none")


def encode_rows(rows: Sequence[ItemRow]) -> dict[str, str]:
    """Item id -> JSON of its fields; the last row of an item counts.  Raises DataError, which names a place."""
    encoded: dict[str, str] = {}
    for place, row in enumerate(rows):
        try:
            item_id = check_id(row.item_id, name="item_id")
            # What is put last must also come last in the order of versions.
            encoded.pop(item_id, None)
            encoded[item_id] = _encode_fields(row.fields)
        except DataError as error:
            raise DataError(f"item {place}: {error.problem}", fix=error.fix) from error
    return encoded


def _encode_fields(fields: Any) -> str:
    fix = "send an object of text, finite numbers, true, false, null, lists and objects"
    if not isinstance(fields, Mapping) or not all(isinstance(name, str) for name in fields):
        raise DataError(f"the fields are {_shown(fields)}, and they are JSON by name", fix=fix)
    try:
        text = json.dumps(dict(fields), ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"the fields cannot be written as JSON: {error}", fix=fix) from error
    return text


def check_item_ids(item_ids: Iterable[str]) -> list[str]:
    """The ids, each once, in their order.  Raises DataError."""
    return list(dict.fromkeys(check_id(item_id, name="item_id") for item_id in item_ids))


def encode_stock(stock: Mapping[str, Stock]) -> dict[str, str]:
    """Item id -> JSON of its stock.  Raises DataError."""
    for item_id, amount in stock.items():
        check_id(item_id, name="item_id")
        if type(amount) not in (bool, int) or not 0 <= amount <= MAX_STOCK:
            raise DataError(
                f"the stock of {_shown(item_id)} is {_shown(amount)}, and it is true, false or a number of pieces",
                fix="send true, false, or a whole number from 0",
            )
    return {item_id: json.dumps(amount) for item_id, amount in stock.items()}


def decode_change(version: int, item_id: str, *, fields: str | None, removed: bool, stock: str | None) -> ItemChange:
    """A change from what the store keeps of it; `fields` and `stock` are JSON."""
    return ItemChange(
        version=version,
        item_id=item_id,
        fields=None if fields is None else json.loads(fields),
        removed=removed,
        stock=None if stock is None else json.loads(stock),
    )


def by_column(rows: Sequence[tuple[str, int]]) -> Recent:
    """The (item id, timestamp) of a user's events, newest first, turned round."""
    if not rows:
        return Recent((), ())
    item_ids, timestamps = zip(*reversed(rows), strict=True)
    return Recent(item_ids, timestamps)


def _shown(value: object) -> str:
    """`value` in the words of Python, cut to a length that a message can hold."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."
