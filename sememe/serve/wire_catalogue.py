"""What goes over the wire about the catalogue: items that come, change and go, and what of them can be had."""

from pydantic import Field, JsonValue, StrictBool

from sememe.serve.wire import ID_LENGTH, MOST_BULK, NAME_LENGTH, Id, IdText, Name, Pieces, Wire, named_keys

MOST_FIELDS = 64


class StockRequest(Wire):
    """Which items can be had; items that nothing was ever said of can."""

    stock: dict[IdText, StrictBool | Pieces] = Field(
        min_length=1, max_length=100_000, json_schema_extra=named_keys(ID_LENGTH)
    )
    """Whether an item can be had, or how many pieces of it there are."""


class StockAnswer(Wire):
    """What holds from now on, here, and at other replicas as soon as they look."""

    changed: int
    unknown_items: int
    """Kept too, for when these items come."""
    version: int


class PutItem(Wire):
    """An item that comes, or of which something new is said."""

    item_id: Id
    fields: dict[Name, JsonValue] = Field(
        default_factory=dict, max_length=MOST_FIELDS, json_schema_extra=named_keys(NAME_LENGTH)
    )
    """By column of the run's catalogue, such as title, categories, price; `vector` where the run was made of such.
    They take the place of what was said before; of an item of the run, what is not said stays."""


class ItemsRequest(Wire):
    """Items, taken all or none."""

    items: list[PutItem] = Field(min_length=1, max_length=MOST_BULK)


class ItemsAnswer(Wire):
    """What is in lists from now on, here, and at other replicas as soon as they look."""

    changed: int
    new_items: int
    """Items that the model did not know."""
    waiting: list[str]
    """Those of the items that are kept, and could not be taken in: no code was left, say; the server's log tells."""
    unread_fields: list[str]
    """Names that the run's catalogue has no column for: kept, and read by nothing."""
    version: int


class RemoveItemsRequest(Wire):
    """Items that are in no list any more, until they are put again."""

    item_ids: list[Id] = Field(min_length=1, max_length=MOST_BULK)


class RemoveItemsAnswer(Wire):
    """What is in no list from now on, here, and at other replicas as soon as they look."""

    removed: int
    unknown_items: int
    version: int
