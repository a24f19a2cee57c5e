"""Whatever people have -> lazy tables with canonical columns.  Nothing is read here but headers and a first sample.

`open_tables` finds the files, matches the columns, settles times and order, and can say all of it in words.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from sememe.core.artifact import hash_files
from sememe.core.errors import DataError
from sememe.data.columns import (
    EVENT_ALIASES,
    ITEM_ALIASES,
    id_expression,
    match_columns,
    rename_columns,
    unusable_names,
)
from sememe.data.data_toml import DataToml, render_data_toml
from sememe.data.feedback_columns import COLUMN_TYPES, FLAGS, flag
from sememe.data.file_formats import PLACE, RawTable
from sememe.data.layouts import one_row_per_event
from sememe.data.locate import Located, locate
from sememe.data.time_columns import TimeRule, detect_time, milliseconds

SAMPLE_ROWS = 10_000
"""Rows that are looked at to tell the unit of times."""


@dataclass(frozen=True, eq=False)
class OrderRule:
    """How a user's events are ordered; ties are broken by the order of the file."""

    key: str | None
    """The column that decides, or None for the order of the file alone."""
    in_histories: bool = field(default=False, kw_only=True)
    """Whether a row of the file holds a history, whose order is then meant as the order of events."""

    @property
    def text(self) -> str:
        """The rule in words."""
        if self.key is None:
            return f"events of a user are in the order of the {'histories' if self.in_histories else 'file'}"
        return f"events of a user are ordered by {self.key}, ties in the order of the file"


@dataclass(frozen=True, eq=False)
class Tables:
    """An opened source.  Frames are lazy: each use reads the files again, as a stream."""

    events: pl.LazyFrame
    """user_id and item_id (Int64 or String), and where known timestamp (Int64, ms UTC), position (Int64), rating
    (Float32), event_type, session_id, query, and those of `feedback_columns`; then all other columns.  Null where a
    value cannot be used."""
    items: pl.LazyFrame | None
    """item_id, and where known title, categories, brand, description, price, vector; then all other columns."""
    raw_events: pl.LazyFrame
    """The same columns and rows as `events`, with the values as they are in the file."""
    files: tuple[Path, ...]
    mapping: Mapping[str, str]
    """Canonical event column -> the file's own name."""
    item_mapping: Mapping[str, str]
    order: OrderRule
    time_rule: TimeRule | None
    raw: Located
    notes: tuple[str, ...] = ()
    settings: DataToml = field(default_factory=DataToml)

    def content_hash(self) -> str:
        """SHA-256 of all that decides what is read: the tables' contents, which is which, and how they are understood.

        The paths of the files do not count, their names and contents do.
        """
        settings = asdict(self.settings)
        # Said only where it is so: the hash of what happened is what it was before anything could be simulated.
        if not settings["simulated"]:
            del settings["simulated"]
        reading = {
            "events": _table_hash(self.raw.events),
            "items": _table_hash(self.raw.items) if self.raw.items else None,
            "settings": settings,
            "mapping": dict(self.mapping),
            "item_mapping": dict(self.item_mapping),
            "order": asdict(self.order),
            "time_rule": asdict(self.time_rule) if self.time_rule else None,
        }
        return hashlib.sha256(json.dumps(reading, sort_keys=True).encode()).hexdigest()

    def unused_columns(self) -> tuple[str, ...]:
        """Columns of the events file that have no meaning for Sememe and are passed over, in the file's order."""
        used = {PLACE, *self.mapping.values()}
        return tuple(name for name in self.raw.events.frame.collect_schema().names() if name not in used)

    def data_toml(self) -> str:
        """The text of a data.toml that says the names in force, to be put beside the files."""
        columns = {**self.item_mapping, **self.mapping}
        renamed = {canonical: own for canonical, own in columns.items() if canonical != own}
        return render_data_toml(
            DataToml(
                events=tuple(path.name for path in self.raw.events.files),
                items=tuple(path.name for path in self.raw.items.files) if self.raw.items else (),
                columns=renamed,
                time_unit=self.settings.time_unit,
                time_format=self.settings.time_format,
                history_separator=self.settings.history_separator,
                simulated=self.settings.simulated,
            )
        )


def _table_hash(table: RawTable) -> list[str]:
    """Names of the files in the order of reading and the hash of their contents; of a table in memory its rows'."""
    if table.files:
        return [*[path.name for path in table.files], hash_files(list(table.files))]
    frame = table.frame.collect()
    return [str(frame.schema), hashlib.sha256(frame.hash_rows(seed=0).to_numpy().tobytes()).hexdigest()]


def open_tables(source: Any, *, columns: Mapping[str, str] | None = None) -> Tables:
    """Open `source` and settle what each column means.

    source: a file, a directory, a table in memory (polars, pandas, Arrow), or {"events": ..., "items": ...} of these.
    columns: Sememe's name -> the source's own name, for columns that have no conventional name; wins over data.toml.

    Raises:
        DataError: nothing readable was found, a given name fits no column, or a required column is missing.
    """
    settled = settle_columns(locate(source), columns=columns)
    if settled.faults:
        raise settled.faults[0].error
    return settled.tables


@dataclass(frozen=True, eq=False)
class Fault:
    """Something about the columns that must be put right before the tables can be used."""

    rule: str
    file: str
    column: str
    """The canonical name."""
    error: DataError


@dataclass(frozen=True, eq=False)
class Settled:
    """Tables, and their faults."""

    tables: Tables
    faults: tuple[Fault, ...]


def settle_columns(located: Located, *, columns: Mapping[str, str] | None = None) -> Settled:
    """Settle what each column of `located` means; all faults are collected, so that a check can show them at once."""
    settings = located.settings
    given = {**settings.columns, **(columns or {})}
    unusable = unusable_names(given, tables=_names_of(located))
    faults = [Fault("unknown column", located.events.name, name, error) for name, error in unusable.items()]
    matched = _match_events(located.events, given=given)
    raw, layout_note = _long_events(located.events, matched=matched, settings=settings)
    notes = [*located.notes, layout_note]
    if "user_id" not in raw.collect_schema() and "session_id" in raw.collect_schema():
        raw = raw.with_columns(user_id=pl.col("session_id"))
        matched = {"user_id": matched["session_id"], **matched}
        notes.append("there is no user column, so each session is a user")
    faults += _missing(raw, table=located.events)
    rule = _time_rule(raw, settings=settings)
    items, item_mapping = _open_items(located.items, event_item=matched.get("item_id"), given=given)
    if located.items is not None and items is None:
        faults.append(_no_column("item_id", located.items))
    key = "position" if "position" in raw.collect_schema() else ("timestamp" if rule else None)
    tables = Tables(
        events=_typed_events(raw, rule=rule),
        items=items,
        raw_events=raw,
        files=(*located.events.files, *(located.items.files if located.items else ())),
        mapping=matched,
        item_mapping=item_mapping,
        order=OrderRule(key, in_histories=bool(layout_note)),
        time_rule=rule,
        raw=located,
        notes=tuple(note for note in notes if note),
        settings=settings,
    )
    return Settled(tables, tuple(faults))


def _names_of(located: Located) -> dict[str, list[str]]:
    tables = [table for table in (located.events, located.items) if table is not None]
    return {table.name: table.frame.collect_schema().names() for table in tables}


def _match_events(table: RawTable, *, given: Mapping[str, str]) -> dict[str, str]:
    schema = table.frame.collect_schema()
    matched = match_columns(schema.names(), aliases=EVENT_ALIASES, given=given)
    if "history" in matched and "history" not in given:
        dtype = schema[matched["history"]]
        # A text beside an item column is more likely a remark than a history, and a number is a count.
        is_text_history = dtype == pl.String and "item_id" not in matched
        if not (isinstance(dtype, pl.List) or is_text_history):
            del matched["history"]
    return matched


def _long_events(table: RawTable, *, matched: Mapping[str, str], settings: DataToml) -> tuple[pl.LazyFrame, str]:
    renamed = rename_columns(table.frame, table.frame.collect_schema().names(), matched=matched)
    return one_row_per_event(renamed, separator=settings.history_separator, table=table.name)


def _missing(frame: pl.LazyFrame, *, table: RawTable) -> list[Fault]:
    names = frame.collect_schema().names()
    return [_no_column(name, table) for name in ("user_id", "item_id") if name not in names]


def _no_column(name: str, table: RawTable) -> Fault:
    own = ", ".join(column for column in table.frame.collect_schema().names() if column != PLACE)
    error = DataError(
        f"{table.name}: no column was recognised as {name}; it has {own}",
        fix=f'name it once: [columns] {name} = "YOUR COLUMN" in data.toml beside the file, '
        f'or columns={{"{name}": "YOUR COLUMN"}}',
    )
    return Fault("missing column", table.name, name, error)


def _time_rule(frame: pl.LazyFrame, *, settings: DataToml) -> TimeRule | None:
    if "timestamp" not in frame.collect_schema():
        return None
    sample = frame.select("timestamp").head(SAMPLE_ROWS).collect()["timestamp"]
    return detect_time(sample, unit=settings.time_unit, time_format=settings.time_format)


def _typed_events(frame: pl.LazyFrame, *, rule: TimeRule | None) -> pl.LazyFrame:
    schema = frame.collect_schema()
    return frame.with_columns(typed_columns(schema, rule=rule))


def typed_columns(schema: pl.Schema, *, rule: TimeRule | None) -> list[pl.Expr]:
    """Expressions that read the raw event columns, each under its own name; null where a value cannot be used."""
    exprs = [id_expression(name, schema[name]) for name in ("user_id", "item_id", "session_id") if name in schema]
    if rule is not None:
        exprs.append(milliseconds(rule, dtype=schema["timestamp"]))
    if "position" in schema:
        exprs.append(_number("position", pl.Int64, dtype=schema["position"]))
    if "rating" in schema:
        exprs.append(_number("rating", pl.Float32, dtype=schema["rating"]))
    exprs += [pl.col(name).cast(pl.String) for name in ("event_type", "query") if name in schema]
    feedback = [(name, to, schema[name]) for name, to in COLUMN_TYPES.items() if name in schema]
    exprs += [flag(name) if name in FLAGS else _number(name, to, dtype=dtype) for name, to, dtype in feedback]
    return exprs


def _number(name: str, target: type[pl.DataType], *, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if not dtype.is_numeric():
        # "3.0" is a number, and a cast of text to an integer would not read it.
        column = column.cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False)
    return column.cast(target, strict=False)


def _open_items(
    table: RawTable | None, *, event_item: str | None, given: Mapping[str, str]
) -> tuple[pl.LazyFrame | None, dict[str, str]]:
    if table is None:
        return None, {}
    names = table.frame.collect_schema().names()
    if "item_id" not in given and event_item in names:
        # Of several id columns (item_id, asin) the one that the events use is the id.
        given = {**given, "item_id": str(event_item)}
    matched = match_columns(names, aliases=ITEM_ALIASES, given={k: v for k, v in given.items() if k in ITEM_ALIASES})
    if "item_id" not in matched:
        return None, matched
    frame = rename_columns(table.frame, names, matched=matched)
    return frame.with_columns(id_expression("item_id", frame.collect_schema()["item_id"])), matched
