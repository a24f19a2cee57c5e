"""What was understood of a source, in words: files, columns, times, order, and one user's events as an example."""

from collections.abc import Mapping

import polars as pl

from sememe.data.readers import Tables

EXAMPLE_EVENTS = 8
_LOOK_ROWS = 100_000


def describe_tables(tables: Tables) -> str:
    """The mapping in force and one example sequence, as text to print before anything is computed."""
    lines = [f"events: {tables.raw.events.name}", *_mapping_lines(tables.mapping)]
    if tables.unused_columns():
        lines.append(f"    not used: {', '.join(tables.unused_columns())}")
    if tables.raw.items is not None:
        lines += [f"items: {tables.raw.items.name}", *_mapping_lines(tables.item_mapping)]
    if tables.time_rule is not None:
        lines.append(f"times: {tables.time_rule.text}")
    lines.append(f"order: {tables.order.text}")
    lines += [f"note: {note}" for note in tables.notes]
    example = example_sequence(tables)
    return "\n".join([*lines, *([f"example: {example}"] if example else [])])


def _mapping_lines(mapping: Mapping[str, str]) -> list[str]:
    return [f"    {canonical} <- {own}" for canonical, own in mapping.items()]


def example_sequence(tables: Tables) -> str:
    """The first events of the first user of the file, with titles where there are any; "" where there is no event."""
    names = tables.events.collect_schema().names()
    if "user_id" not in names or "item_id" not in names:
        return ""
    look = tables.events.head(_LOOK_ROWS).filter(pl.col("user_id").is_not_null() & pl.col("item_id").is_not_null())
    first = look.select("user_id").head(1).collect()
    if not first.height:
        return ""
    user = first["user_id"][0]
    events = look.filter(pl.col("user_id") == user).collect()
    if tables.order.key is not None:
        events = events.sort(tables.order.key, maintain_order=True, nulls_last=True)
    items = events["item_id"].cast(pl.String).head(EXAMPLE_EVENTS).to_list()
    titles = _titles(tables, items)
    shown = [f"{item} {titles[item]!r}" if titles.get(item) else item for item in items]
    more = f" ... ({events.height} events)" if events.height > len(items) else ""
    return f"user {user}: {' -> '.join(shown)}{more}"


def _titles(tables: Tables, items: list[str]) -> dict[str, str]:
    if tables.items is None or "title" not in tables.items.collect_schema().names():
        return {}
    key = pl.col("item_id").cast(pl.String)
    rows = tables.items.filter(key.is_in(items)).select(key, pl.col("title").cast(pl.String)).collect()
    return dict(zip(rows["item_id"], rows["title"], strict=True))
