"""Checks of the items table alone, and against the events."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from sememe.data.file_formats import PLACE
from sememe.data.problems import EXAMPLES, Problem
from sememe.data.readers import Tables
from sememe.data.row_checks import Reporter, Rule, checked_events

_ALWAYS = pl.lit(value=True)

NULL_ID = Rule(
    "null id", "item_id", _ALWAYS, "these rows of the items table have no usable item_id",
    "fill it in, or remove the rows; a run leaves them out",
)  # fmt: skip
REPEATED = Rule(
    "duplicate item", "item_id", _ALWAYS, "these rows repeat an item_id; the first row of each is used",
    "remove the rows that are out of date", "warning",
)  # fmt: skip
NO_METADATA = Rule(
    "item without metadata", "item_id", _ALWAYS, "these items have events and no row in the items table",
    "add them to the items table; with content-based codes such items all look alike", "warning",
)  # fmt: skip
NO_EVENTS = Rule(
    "metadata without events", "item_id", _ALWAYS, "these items have no event; a run leaves them out",
    "nothing, or keep them: data.keep_cold_items=true", "warning",
)  # fmt: skip


@dataclass(frozen=True)
class ItemsChecked:
    """Problems of items, and the numbers of items."""

    problems: list[Problem]
    counts: Mapping[str, int]


def check_items(tables: Tables, reporter: Reporter) -> ItemsChecked:
    """Null and repeated ids of the items table, items without metadata, metadata without events."""
    # Ids are compared as text: one file may say 12 and another "12".
    read = pl.col("read:item_id").cast(pl.String)
    events = checked_events(tables).filter(read.is_not_null()).group_by(read.alias("value"))
    used = events.agg(pl.col("place").min()).collect(engine="streaming")
    counts = {"items": used.height}
    if tables.items is None:
        return ItemsChecked([], counts)
    rows = tables.items.select(pl.col("item_id").cast(pl.String).alias("value"), pl.col(PLACE).alias("place"))
    table = rows.collect(engine="streaming")
    named = table.drop_nulls("value")
    single = named.unique("value", keep="first", maintain_order=True)
    found = [
        (NULL_ID, table.filter(pl.col("value").is_null()), True),
        (REPEATED, named.join(single, on="place", how="anti"), True),
        (NO_METADATA, used.join(single, on="value", how="anti"), False),
        (NO_EVENTS, single.join(used, on="value", how="anti"), True),
    ]
    problems = [
        reporter.problem(rule, broken.bottom_k(EXAMPLES, by="place").sort("place"), count=broken.height, items=of_items)
        for rule, broken, of_items in found
        if broken.height
    ]
    return ItemsChecked(problems, {**counts, "catalogue_items": single.height})
