"""Tables -> Interactions and Catalog: ids become indices, events get their order, what cannot be used is counted.

Two streams over the events: the first counts events per user and finds the items, the second writes every event to its
place (`event_order`).  Memory holds the ids and one bucket of events, not the log.  Where position is the order and
there are times too, a stream before them counts the times that cannot be used.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import polars.exceptions as pl_errors

from sememe.core.errors import DataError
from sememe.core.schema import Catalog, Interactions
from sememe.data.catalog_rows import CatalogRows, read_catalog
from sememe.data.columns import sorted_ids
from sememe.data.dropped import Dropped
from sememe.data.event_order import EVENTS_PER_BUCKET, Records, order_events
from sememe.data.feedback_columns import COLUMN_TYPES, filled_column
from sememe.data.file_formats import USE_CHECK
from sememe.data.readers import Tables

MOST_DROPPED = 0.01
"""Share of the events that may be unusable before this is an error and not a count."""
CHUNK_ROWS = 1_000_000

_TEXT_COLUMNS = ("event_type", "query")
_NULL_CODE = -1

_FAULTS: Mapping[str, Mapping[str, pl.Expr]] = {
    "user_id": {"no usable user id": pl.col("user_id").is_null()},
    "item_id": {"no usable item id": pl.col("item_id").is_null()},
    "position": {"no usable position": pl.col("position").is_null()},
    "timestamp": {"no readable time": pl.col("timestamp").is_null(), "a time before 1970": pl.col("timestamp") < 0},
}
"""Column -> what can be wrong with it, and where that holds."""


@dataclass(frozen=True, eq=False)
class Indexed:
    """What came out of the tables, and what was left out."""

    interactions: Interactions
    """`columns` may hold rating (float32, NaN where unknown), session (int64), event_type and query (int32 codes), and
    what `feedback_columns` tells of."""
    catalog: Catalog
    dropped: tuple[Dropped, ...]
    """Only reasons that happened."""
    order_rule: str
    notes: tuple[str, ...] = ()
    vocabularies: Mapping[str, pl.Series] = field(default_factory=dict)
    """Column of `interactions.columns` that holds codes -> the text of each code; code -1 is "unknown"."""


@dataclass(frozen=True)
class _Needed:
    """What an event must have."""

    columns: tuple[str, ...]
    """Keys of `_FAULTS`."""
    note: str = ""
    """Why times are not among them where the order does not need them, "" otherwise."""


@dataclass(frozen=True, eq=False)
class _Survey:
    """What the first stream over the events found."""

    users: pl.DataFrame
    """(key, id, events), sorted by id."""
    item_keys: pl.Series
    texts: Mapping[str, pl.Series]
    """Sorted distinct values of the columns that become codes."""
    reasons: Mapping[str, int]
    total: int
    needed: _Needed


def build_interactions(
    tables: Tables,
    *,
    workdir: Path | None = None,
    keep_cold_items: bool = False,
    events_per_bucket: int = EVENTS_PER_BUCKET,
) -> Indexed:
    """Index `tables`: users and items sorted by id, events by user and then by the order rule.

    workdir: an existing directory for the arrays of a log with more than `events_per_bucket` events; they are memory
        maps there as long as they are used.  None: the arrays are in memory.
    keep_cold_items: also give an index to items that are in the items table and in no event.

    Raises:
        DataError: no usable event, more than `MOST_DROPPED` of them unusable, or a file that cannot be read.
    """
    try:
        survey = _survey(tables)
        _refuse_too_many(survey)
        catalog = read_catalog(
            tables.items,
            event_keys=survey.item_keys,
            keep_cold_items=keep_cold_items,
            typed=tables.raw.items is None or tables.raw.items.typed,
        )
        return _index(tables, survey, catalog, workdir=workdir, events_per_bucket=events_per_bucket)
    except pl_errors.PolarsError as error:
        names = ", ".join(path.name for path in tables.files) or "the table"
        raise DataError(f"{names}: cannot be read: {str(error).strip().splitlines()[0]}", fix=USE_CHECK) from error


def _needed(tables: Tables) -> _Needed:
    """Ids and the order key; times too where position is the order, unless more than `MOST_DROPPED` have none."""
    key = tables.order.key
    columns = ("user_id", "item_id", *([key] if key else []))
    if "timestamp" in columns or "timestamp" not in tables.events.collect_schema():
        return _Needed(columns)
    usable = tables.events.filter(_reason(columns).is_null())
    counts = usable.select(_reason(["timestamp"]).count(), pl.len()).collect(engine="streaming")
    bad, total = counts.row(0)
    if bad <= MOST_DROPPED * total:
        return _Needed((*columns, "timestamp"))
    return _Needed(
        columns,
        f"times are left out, and events are not split by time: {bad:,} of {total:,} events have no usable time "
        f"(at most {MOST_DROPPED:.0%} may lack one); order is by position",
    )


def _reason(columns: Sequence[str]) -> pl.Expr:
    """Why an event that needs `columns` cannot be used, or null where it can."""
    faults = [(text, holds) for name in columns for text, holds in _FAULTS[name].items()]
    return pl.coalesce(pl.when(holds).then(pl.lit(f"events with {text}")) for text, holds in faults).alias("reason")


def _survey(tables: Tables) -> _Survey:
    names = tables.events.collect_schema().names()
    texts = [name for name in _text_columns(tables) if name in names]
    needed = _needed(tables)
    marked = tables.events.with_columns(_reason(needed.columns))
    usable = marked.filter(pl.col("reason").is_null())
    queries = [
        marked.group_by("reason").agg(pl.len().alias("count")),
        usable.group_by(pl.col("user_id").alias("key")).agg(pl.len().alias("events")),
        usable.select(pl.col("item_id").alias("key")).unique(),
        *[usable.select(pl.col(name)).unique() for name in texts],
    ]
    counts, users, items, *values = pl.collect_all(queries, engine="streaming")
    reasons = {row["reason"]: row["count"] for row in counts.drop_nulls("reason").sort("reason").to_dicts()}
    return _Survey(
        users=sorted_ids(users["key"]).join(users, on="key", how="left", maintain_order="left"),
        item_keys=items["key"],
        texts={name: frame[name].drop_nulls().sort() for name, frame in zip(texts, values, strict=True)},
        reasons=reasons,
        total=int(counts["count"].sum()),
        needed=needed,
    )


def _text_columns(tables: Tables) -> tuple[str, ...]:
    """Columns whose values become codes; sessions only where their ids are texts."""
    session_is_text = tables.events.collect_schema().get("session_id") == pl.String
    return (*_TEXT_COLUMNS, "session_id") if session_is_text else _TEXT_COLUMNS


def _refuse_too_many(survey: _Survey) -> None:
    bad = sum(survey.reasons.values())
    listed = ", ".join(f"{count:,} {reason}" for reason, count in survey.reasons.items())
    if survey.total == 0:
        raise DataError("the events table has no rows", fix="give a file with at least one event")
    if bad > MOST_DROPPED * survey.total:
        raise DataError(
            f"{bad:,} of {survey.total:,} events cannot be used ({listed}), "
            f"and at most {MOST_DROPPED:.0%} may be left out",
            fix=USE_CHECK,
        )


def _index(
    tables: Tables, survey: _Survey, catalog: CatalogRows, *, workdir: Path | None, events_per_bucket: int
) -> Indexed:
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(survey.users["events"].to_numpy(), dtype=np.int64)])
    chunks = _chunks(tables, survey, catalog)
    columns = order_events(chunks, offsets=offsets, workdir=workdir, events_per_bucket=events_per_bucket)
    notes = [*tables.notes, *catalog.notes, *([survey.needed.note] if survey.needed.note else [])]
    return Indexed(
        interactions=Interactions(
            offsets=offsets,
            items=columns.pop("items"),
            user_ids=survey.users["id"].alias("user_id"),
            item_ids=catalog.frame["item_id"],
            timestamps=columns.pop("timestamps", None),
            columns=columns,
        ),
        catalog=Catalog(frame=catalog.frame, vectors=catalog.vectors),
        dropped=(*[Dropped(reason, count) for reason, count in survey.reasons.items()], *catalog.dropped),
        order_rule=tables.order.text,
        notes=tuple(notes),
        vocabularies={("session" if name == "session_id" else name): texts for name, texts in survey.texts.items()},
    )


def _chunks(tables: Tables, survey: _Survey, catalog: CatalogRows) -> Iterator[Records]:
    """The usable events as structured arrays, in no particular order: `row` remembers it."""
    users = survey.users.lazy().select(
        pl.col("key").alias("user_id"), pl.int_range(pl.len(), dtype=pl.Int32).alias("user")
    )
    items = catalog.keys.lazy().select(
        pl.col("key").alias("item_id"), pl.int_range(pl.len(), dtype=pl.Int32).alias("items")
    )
    # Both sides of a join need one type; keys of a catalogue can be texts where the events have integers.
    item_dtype = tables.events.collect_schema()["item_id"]
    items = items.filter(pl.col("item_id").cast(item_dtype, strict=False).is_not_null()).with_columns(
        pl.col("item_id").cast(item_dtype)
    )
    frame = tables.events.with_row_index("row").filter(_reason(survey.needed.columns).is_null())
    frame = frame.join(users, on="user_id", how="inner").join(items, on="item_id", how="inner")
    for name, values in survey.texts.items():
        codes = pl.LazyFrame({name: values, f"{name}_code": np.arange(len(values), dtype=np.int32)})
        frame = frame.join(codes, on=name, how="left")
    wanted = _wanted(tables, has_time="timestamp" in survey.needed.columns)
    selected = frame.select([expr.alias(name) for name, expr in wanted.items()])
    for chunk in selected.collect_batches(chunk_size=CHUNK_ROWS, maintain_order=False, engine="streaming"):
        yield _records(chunk)


def _wanted(tables: Tables, *, has_time: bool) -> dict[str, pl.Expr]:
    names = tables.events.collect_schema().names()
    key = pl.lit(0) if tables.order.key is None else pl.col(tables.order.key)
    wanted = {
        "user": pl.col("user"),
        "key": key.cast(pl.Int64),
        "row": pl.col("row").cast(pl.Int64),
        "items": pl.col("items"),
    }
    if has_time:
        wanted["timestamps"] = pl.col("timestamp")
    if "rating" in names:
        wanted["rating"] = pl.col("rating").fill_null(float("nan"))
    texts = _text_columns(tables)
    if "session_id" in names:
        session = pl.col("session_id_code" if "session_id" in texts else "session_id")
        wanted["session"] = session.cast(pl.Int64).fill_null(_NULL_CODE)
    for name in _TEXT_COLUMNS:
        if name in names:
            wanted[name] = pl.col(f"{name}_code").fill_null(_NULL_CODE)
    return wanted | {name: filled_column(name) for name in COLUMN_TYPES if name in names}


def _records(chunk: pl.DataFrame) -> Records:
    arrays = {name: chunk[name].to_numpy() for name in chunk.columns}
    records: Records = np.empty(chunk.height, dtype=[(name, array.dtype) for name, array in arrays.items()])
    for name, array in arrays.items():
        records[name] = array
    return records
