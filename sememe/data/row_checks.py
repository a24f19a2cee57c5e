"""Checks of single rows of the events, and of users: each rule is a predicate, counted in a stream over the events."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from sememe.data.columns import PLAIN_INTEGER
from sememe.data.file_formats import PLACE
from sememe.data.lenient_scan import place_of
from sememe.data.line_checks import shorten
from sememe.data.problems import EXAMPLES, Example, Problem
from sememe.data.readers import Tables, typed_columns

FAR_FUTURE_MS = 4_102_444_800_000
"""1 January 2100: a later time is in another unit than the others."""
ODD_SHARE = 0.1
"""Up to this share of ids that are no numbers among numbers looks like a mistake; above, like two kinds of id."""

Severity = Literal["error", "warning"]


@dataclass(frozen=True, eq=False)
class Rule:
    """A predicate on the checked events (`checked_events`) that holds where a row is wrong."""

    name: str
    column: str
    holds: pl.Expr
    message: str
    fix: str
    severity: Severity = "error"


class Reporter:
    """Turns places of rows into files and line numbers, and canonical names into the file's own."""

    def __init__(self, tables: Tables, files: Sequence[Path]) -> None:
        self.tables = tables
        self.files = files

    @property
    def events_name(self) -> str:
        """What the events table is called in messages."""
        return self.tables.raw.events.name

    def no_rows(self) -> Problem:
        """The events table has a header and nothing else."""
        return Problem(self.events_name, "empty file", "there is a header and no row", "give at least one event")

    def no_order(self) -> list[Problem]:
        """A problem where nothing but the order of the file says what came after what."""
        if self.tables.order.key is not None or self.tables.order.in_histories:
            return []
        unused = ", ".join(self.tables.unused_columns()) or "none"
        return [
            Problem(
                self.events_name,
                "no time and no position",
                "the order of the file is taken as the order of events, and they cannot be split by time",
                'name the time column: timestamp = "NAME" under [columns] in data.toml, or --column timestamp=NAME '
                f"(columns that are not used: {unused})",
                severity="warning",
            )
        ]

    def problem(self, rule: Rule, rows: pl.DataFrame, *, count: int, items: bool = False) -> Problem:
        """A problem of `count` rows, of which `rows` (place, value) are shown."""
        table = self.tables.raw.items if items else self.tables.raw.events
        assert table is not None, "a problem has a table"
        places = [place_of(int(place)) for place in rows["place"]]
        # Rows of several files are told apart by the file of the first.
        first = places[0][0] if places else 0
        shown = [
            Example(row, shorten(value))
            for (file, row), value in zip(places, rows["value"], strict=True)
            if file == first
        ]
        mapping = self.tables.item_mapping if items else self.tables.mapping
        return Problem(
            file=self.files[first].name if table.files else table.name,
            rule=rule.name,
            message=rule.message,
            fix=rule.fix,
            severity=rule.severity,
            count=count,
            column=mapping.get(rule.column, rule.column),
            examples=tuple(shown),
            place="row" if table.format in ("parquet", "arrow", "memory") else "line",
        )


def checked_events(tables: Tables) -> pl.LazyFrame:
    """`place`, the canonical columns as they are in the file, and each again as it is read, under "read:NAME"."""
    schema = tables.raw_events.collect_schema()
    known = [name for name in schema.names() if name in (*tables.mapping, "user_id", "item_id")]
    reads = [expr.name.prefix("read:") for expr in typed_columns(schema, rule=tables.time_rule)]
    return tables.raw_events.select(pl.col(PLACE).alias("place"), *known, *reads)


def event_rules(tables: Tables) -> list[Rule]:
    """The rules for the columns that the events have."""
    names = tables.raw_events.collect_schema().names()
    rules = [_null_id(name) for name in ("user_id", "item_id") if name in names]
    if "timestamp" in names:
        rules += _time_rules(tables)
    if "position" in names:
        rules.append(
            Rule(
                "unusable position", "position", pl.col("read:position").is_null(),
                "the order of a user's events is by position, and these rows have none that is a whole number",
                "fill the column, or remove it: order is then by time, or as in the file",
            )
        )  # fmt: skip
    if "rating" in names:
        rules.append(
            Rule(
                "mixed types", "rating", pl.col("rating").is_not_null() & pl.col("read:rating").is_null(),
                "these values are no numbers, and the others are", "write numbers, or leave the value empty", "warning",
            )
        )  # fmt: skip
    return rules


def _null_id(name: str) -> Rule:
    return Rule(
        "null id", name, pl.col(f"read:{name}").is_null(),
        f"these rows have no usable {name}: it is empty, or no text and no whole number",
        "fill it in, or remove the rows; a run leaves them out, and stops when they are more than 1%",
    )  # fmt: skip


def _time_rules(tables: Tables) -> list[Rule]:
    assert tables.time_rule is not None, "there is a time column"
    raw, read = pl.col("timestamp"), pl.col("read:timestamp")
    by_time = tables.order.key == "timestamp"
    needed: Severity = "error" if by_time else "warning"
    many = "stops" if by_time else "leaves out all times instead"
    return [
        Rule(
            "missing time", "timestamp", raw.is_null(), "these rows have no time",
            f"fill it in; a run leaves the rows out, and {many} when they are more than 1%", needed,
        ),
        Rule(
            "unparseable time", "timestamp", raw.is_not_null() & read.is_null(),
            f"times are read as {tables.time_rule.text}, and these are not",
            'correct them, or say the form in data.toml: time_unit = "ms" or time_format = "%d.%m.%Y %H:%M"', needed,
        ),
        Rule(
            "negative time", "timestamp", read < 0, "these times are before 1970",
            "correct them; -1 for an unknown time must be left empty instead", needed,
        ),
        Rule(
            "improbable time", "timestamp", read > FAR_FUTURE_MS,
            f"read as {tables.time_rule.text}, these times are after the year 2100: the column may mix units",
            'write one unit throughout, or say it in data.toml: time_unit = "ms"', "warning",
        ),
    ]  # fmt: skip


def broken_rules(rules: Sequence[Rule], reporter: Reporter) -> list[Problem]:
    """A problem for each of `rules` that some event breaks."""
    events = checked_events(reporter.tables)
    sums = [rule.holds.sum().alias(str(number)) for number, rule in enumerate(rules)]
    counts = events.select(sums).collect(engine="streaming").row(0)
    problems = []
    for rule, count in zip(rules, counts, strict=True):
        if count:
            problems.append(reporter.problem(rule, _first_rows(events.filter(rule.holds), rule.column), count=count))
    return problems


def _first_rows(events: pl.LazyFrame, column: str) -> pl.DataFrame:
    return events.select("place", pl.col(column).alias("value")).bottom_k(EXAMPLES, by="place").sort("place").collect()


def odd_ids(tables: Tables, reporter: Reporter) -> list[Problem]:
    """Ids that are no numbers in a text column where almost all are: "N/A", "user", "12.0"."""
    events = checked_events(tables)
    schema = events.collect_schema()
    rules = [
        Rule(
            "mixed types", name, ~pl.col(f"read:{name}").str.contains(PLAIN_INTEGER),
            "these ids are no plain integers, and almost all others are",
            "correct them; if they are ids, nothing needs to be done: all ids are then texts", "warning",
        )
        for name in ("user_id", "item_id")
        if schema.get(f"read:{name}") == pl.String
    ]  # fmt: skip
    if not rules:
        return []
    shares = events.select([rule.holds.mean().alias(rule.column) for rule in rules]).collect(engine="streaming").row(0)
    suspect = [rule for rule, share in zip(rules, shares, strict=True) if share and share <= ODD_SHARE]
    return broken_rules(suspect, reporter) if suspect else []


@dataclass(frozen=True)
class SingleEvents:
    """Users with one event, and how many users there are."""

    problems: list[Problem]
    users: int


def lonely_users(tables: Tables, reporter: Reporter) -> SingleEvents:
    """Users with one event: nothing can be predicted for them from anything."""
    user = pl.col("read:user_id")
    users = checked_events(tables).filter(user.is_not_null()).group_by(user.alias("value"))
    found = users.agg(pl.len().alias("events"), pl.col("place").min()).collect(engine="streaming")
    single = found.filter(pl.col("events") == 1)
    rule = Rule(
        "user with one event", "user_id", pl.lit(value=True), "one event has nothing before or after it to learn from",
        "nothing, or set a filter: --set data.filters.min_length=N", "warning",
    )  # fmt: skip
    rows = single.bottom_k(EXAMPLES, by="place").sort("place")
    problems = [reporter.problem(rule, rows, count=single.height)] if single.height else []
    return SingleEvents(problems, users=found.height)
