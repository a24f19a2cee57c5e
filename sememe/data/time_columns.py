"""Times in whatever form a table has them -> milliseconds since 1970, UTC.

Numbers are read by their size, dates and texts by their form; a time without a zone is UTC.  The rule that was found is
printed, so that a wrong guess is seen before a model is trained on it.
"""

from dataclasses import dataclass
from typing import Literal

import polars as pl

from sememe.core.errors import DataError

MILLISECONDS = {"s": 1000.0, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
"""Milliseconds in one unit."""

# Upper ends for a count of the unit since 1970: 1e11 s is the year 5138, 1e11 ms is March 1973, and so on by thousands.
_LARGEST = (("s", 1e11), ("ms", 1e14), ("us", 1e17))

_ZONED = (
    "%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f %#z", "%Y-%m-%dT%H:%M%#z",
    "%Y-%m-%d %H:%M%#z", "%+",
)  # fmt: skip
_NAIVE = (
    "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S%.f UTC",
    "%Y/%m/%d %H:%M:%S%.f", "%Y/%m/%d %H:%M", "%Y-%m-%d", "%Y/%m/%d",
)  # fmt: skip


@dataclass(frozen=True)
class TimeRule:
    """How the column `timestamp` of a table is read."""

    kind: Literal["date", "number", "text"]
    unit: str = ""
    """One of `MILLISECONDS`, for numbers."""
    formats: tuple[str, ...] = ()
    """For texts: tried in turn."""

    @property
    def text(self) -> str:
        """The rule in words."""
        names = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
        if self.kind == "number":
            return f"{names[self.unit]} since 1970 UTC"
        if self.kind == "date":
            return "dates or date-times, UTC where no zone is given"
        return f"text such as {' or '.join(self.formats)}, UTC where no zone is given"


def number_unit(values: pl.Series) -> str:
    """The unit of a column of numbers, by the size of the median positive one; seconds where there is none."""
    positive = values.filter((values > 0) & values.is_finite())
    typical = positive.median() if len(positive) else None
    if not isinstance(typical, float):
        return "s"
    return next((unit for unit, largest in _LARGEST if typical < largest), "ns")


def detect_time(sample: pl.Series, *, unit: str | None = None, time_format: str | None = None) -> TimeRule:
    """Find how `sample`, the first values of a time column, is to be read.

    unit and time_format: what the person said in data.toml; they win.  A text column of which no value can be read
    gives a rule that reads none: the rows are counted, and the check shows them.
    """
    if unit is not None and unit not in MILLISECONDS:
        raise DataError(f"time_unit is {unit!r}", fix=f"use one of {', '.join(MILLISECONDS)}")
    if sample.dtype.is_temporal():
        return TimeRule("date")
    if time_format is not None:
        return TimeRule("text", formats=(time_format,))
    if sample.dtype.is_numeric():
        return TimeRule("number", unit=unit or number_unit(sample.drop_nulls().cast(pl.Float64)))
    values = sample.cast(pl.String).str.strip_chars().drop_nulls()
    numbers = values.cast(pl.Float64, strict=False).drop_nulls()
    formats = _formats_in(values)
    if unit is not None or (len(numbers) and len(numbers) >= _readable(values, formats)):
        return TimeRule("number", unit=unit or number_unit(numbers))
    return TimeRule("text", formats=formats)


def _formats_in(values: pl.Series) -> tuple[str, ...]:
    """The formats that read something in `values` which no format before them reads."""
    found = []
    for pattern in (*_NAIVE, *_ZONED):
        if not len(values):
            break
        parsed = values.str.to_datetime(pattern, strict=False, time_unit="us")
        if parsed.null_count() < len(values):
            found.append(pattern)
            values = values.filter(parsed.is_null())
    return tuple(found) or ("%Y-%m-%dT%H:%M:%S%.f",)


def _readable(values: pl.Series, formats: tuple[str, ...]) -> int:
    frame = values.alias("timestamp").to_frame()
    read = frame.select(milliseconds(TimeRule("text", formats=formats), dtype=values.dtype))
    return len(values) - read["timestamp"].null_count()


def milliseconds(rule: TimeRule, *, dtype: pl.DataType, name: str = "timestamp") -> pl.Expr:
    """The column `name` of type `dtype` as Int64 milliseconds; null where `rule` cannot read a value."""
    column = pl.col(name)
    if rule.kind == "date":
        return column.cast(pl.Datetime("us")).dt.epoch("ms").alias(name)
    if rule.kind == "number":
        return _number_milliseconds(column, dtype=dtype, unit=rule.unit).alias(name)
    text = column.cast(pl.String).str.strip_chars()
    readings = [text.str.to_datetime(p, strict=False, time_unit="us").dt.epoch("ms") for p in rule.formats]
    return pl.coalesce(readings).alias(name)


def _number_milliseconds(column: pl.Expr, *, dtype: pl.DataType, unit: str) -> pl.Expr:
    if dtype.is_integer():
        return _whole_milliseconds(column.cast(pl.Int64, strict=False), unit=unit)
    if dtype.is_float():
        return _float_milliseconds(column, unit=unit)
    text = column.cast(pl.String).str.strip_chars()
    # Integers first: nanoseconds do not fit into a float without loss.
    whole = _whole_milliseconds(text.cast(pl.Int64, strict=False), unit=unit)
    return pl.coalesce(whole, _float_milliseconds(text.cast(pl.Float64, strict=False), unit=unit))


def _whole_milliseconds(column: pl.Expr, *, unit: str) -> pl.Expr:
    if unit == "s":
        # More than 9.2e15 s overflows as milliseconds; such a value is no time.
        return pl.when(column.abs() < 9 * 10**15).then(column) * 1000
    return column // {"ms": 1, "us": 1000, "ns": 1_000_000}[unit]


def _float_milliseconds(column: pl.Expr, *, unit: str) -> pl.Expr:
    usable = pl.when(column.is_finite()).then(column)
    return (usable * MILLISECONDS[unit]).round(0).cast(pl.Int64, strict=False)
