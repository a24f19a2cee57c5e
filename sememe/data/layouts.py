"""Tables that hold a whole history in one row -> one row per event, in the order of the history."""

import polars as pl

from sememe.core.errors import DataError
from sememe.data.feedback_columns import COLUMN_TYPES

SEPARATORS = (";", "|", ",", " ")
"""Tried in this order on history texts such as "a;b;c"."""


def one_row_per_event(frame: pl.LazyFrame, *, separator: str | None, table: str) -> tuple[pl.LazyFrame, str]:
    """The long form of `frame` (canonical column names), and a note that says what was done ("" where nothing was).

    A history is a list column or a delimited text; columns that are lists beside it (times, ratings) run along with it.
    Where there is a single item_id beside a history, it is what came after it.
    """
    schema = frame.collect_schema()
    if isinstance(schema.get("item_id"), pl.List):
        assert "history" not in schema, "one of two list columns would have to win"
        frame, schema = frame.rename({"item_id": "history"}), frame.rename({"item_id": "history"}).collect_schema()
    if "history" not in schema:
        return frame, ""
    note = "each row holds a history"
    if not isinstance(schema["history"], pl.List):
        frame, used = _split_history(frame, separator=separator, table=table)
        note += f", items separated by {used!r}"
    if "user_id" not in schema and "session_id" not in schema:
        frame = frame.with_row_index("user_id")
        note += "; there is no user column, so each row is a user"
    along = [
        name
        for name in ("timestamp", "rating", "position", "event_type", *COLUMN_TYPES)
        if isinstance(frame.collect_schema().get(name), pl.List)
    ]
    items = pl.col("history").cast(pl.List(pl.String))
    if "item_id" in schema:
        if along:
            raise DataError(
                f"{table}: has a history, an item_id after it, and lists beside it ({', '.join(along)})",
                fix="put the last item into the history, or drop one of the columns",
            )
        note += ", followed by item_id"
        items = pl.concat_list(items, pl.col("item_id").cast(pl.String))
    long = frame.with_columns(item_id=items).drop("history").explode("item_id", *along)
    return long, note


def _split_history(frame: pl.LazyFrame, *, separator: str | None, table: str) -> tuple[pl.LazyFrame, str]:
    # Brackets and quotes are what a list looks like after str(): "['a', 'b']".
    text = pl.col("history").cast(pl.String).str.replace_all(r"""[\[\]"'()]""", "").str.strip_chars()
    sample = frame.select(text.alias("history")).head(1000).collect()["history"].drop_nulls()
    joined = "".join(sample.to_list())
    used = separator or next((candidate for candidate in SEPARATORS if candidate in joined), None)
    if used is None and len(sample) and bool(sample.str.contains(r"[^\w\-.:]").any()):
        raise DataError(
            f"{table}: the history {sample[0]!r} has no separator that is known ({SEPARATORS})",
            fix='name it in data.toml: history_separator = "/"',
        )
    parts = text.str.split(used or ";").list.eval(pl.element().str.strip_chars())
    return frame.with_columns(history=parts.list.filter(pl.element() != "")), used or ";"
