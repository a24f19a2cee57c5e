"""The items table -> one row per item index, aligned with the events.

Shape legend: I items, dim the length of a vector.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from sememe.core.errors import DataError
from sememe.core.schema import FloatArray
from sememe.data.columns import PLAIN_INTEGER, sorted_ids
from sememe.data.dropped import Dropped

_TEXTS = ("item_id", "title", "categories", "brand", "description")
_DECIMAL = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?$"


@dataclass(frozen=True, eq=False)
class CatalogRows:
    """Items in the order of their indices."""

    frame: pl.DataFrame
    """(I rows) item_id and the features; null features where the items table has no row."""
    keys: pl.DataFrame
    """(I rows) `key`: the item's id as text, as it is written in the events."""
    vectors: FloatArray | None
    dropped: tuple[Dropped, ...]
    notes: tuple[str, ...]


def read_catalog(
    items: pl.LazyFrame | None, *, event_keys: pl.Series, keep_cold_items: bool, typed: bool = True
) -> CatalogRows:
    """Align the items table with the items that have events.

    event_keys: the distinct item ids of the events, in any order.
    keep_cold_items: keep items of the table that have no event.
    typed: False where the table comes from a format in which everything is text: columns of numbers become numbers.
    """
    with_events = event_keys.cast(pl.String).alias("key")
    if items is None:
        ids = sorted_ids(with_events)
        bare = ids.select(pl.col("id").alias("item_id"))
        return CatalogRows(
            bare, ids.select("key"), None, (), ("there is no items table: items have ids and nothing else",)
        )
    table = items.collect(engine="streaming")
    rows = (
        (table if typed else _with_numbers(table))
        .with_columns(pl.col("item_id").cast(pl.String).alias("key"))
        .drop("item_id")
    )
    named = rows.filter(pl.col("key").is_not_null())
    single = named.unique("key", keep="first", maintain_order=True)
    known = single.filter(pl.col("key").is_in(with_events.implode()))
    kept = single if keep_cold_items else known
    ids = sorted_ids(pl.concat([with_events, kept["key"]]))
    frame = ids.join(kept, on="key", how="left", maintain_order="left").rename({"id": "item_id"})
    vectors = vectors_of(frame["vector"]) if "vector" in frame.columns else None
    dropped = [
        Dropped("catalogue rows with no usable item_id", rows.height - named.height),
        Dropped("catalogue rows that repeat an item_id (the first one is kept)", named.height - single.height),
        Dropped("catalogue items without any event", single.height - kept.height),
    ]
    notes: list[str] = []
    if missing := len(with_events) - known.height:
        notes.append(f"{missing:,} of {len(with_events):,} items with events have no row in the items table")
    return CatalogRows(
        frame=frame.drop("key", *(["vector"] if vectors is not None else [])),
        keys=ids.select("key"),
        vectors=vectors,
        dropped=tuple(drop for drop in dropped if drop.count),
        notes=tuple(notes),
    )


def _with_numbers(table: pl.DataFrame) -> pl.DataFrame:
    """`table` with columns of numbers as numbers; names and descriptions stay texts, whatever they look like."""
    numbers = []
    for name in table.columns:
        column = table[name].drop_nulls()
        if name in _TEXTS or not len(column):
            continue
        if bool(column.str.contains(PLAIN_INTEGER).all()):
            numbers.append(pl.col(name).cast(pl.Int64))
        elif bool(column.str.contains(_DECIMAL).all()):
            numbers.append(pl.col(name).cast(pl.Float64))
    return table.with_columns(numbers)


def vectors_of(column: pl.Series) -> FloatArray:
    """float32 (I, dim) from a column of lists; zero where an item has none.

    Raises DataError where it holds no lists of numbers, or lists of several lengths.
    """
    if isinstance(column.dtype, pl.Array):
        column = column.arr.to_list()
    if not isinstance(column.dtype, pl.List):
        raise DataError(
            f"the items' vector column holds {column.dtype}, not lists of numbers",
            fix="store vectors as a list column (Parquet, JSONL), or rename the column",
        )
    lengths = column.list.len().drop_nulls().unique().to_list()
    if len(lengths) != 1:
        raise DataError(f"the items' vectors have lengths {sorted(lengths)}", fix="give every vector the same length")
    filled = column.fill_null(pl.Series([[0.0] * lengths[0]], dtype=column.dtype).first())
    return filled.explode().to_numpy().astype(np.float32).reshape(len(column), lengths[0])
