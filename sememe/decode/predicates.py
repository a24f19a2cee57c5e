"""What can be said of an item by a column of the catalogue: in stock, in a region, for an age, fresh, of a category.

A predicate is for or against: allow what satisfies it, or (`none_of`) what does not.  An item of which the column says
nothing (null, not a number, an empty list) satisfies none: it is not known to be in stock, and not to be for children.

Shape legend: I items, one row of the frame each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol

import numpy as np
import polars as pl

from sememe.core.errors import DataError, did_you_mean
from sememe.core.schema import BoolArray

Limit = float | date | datetime


class Predicate(Protocol):
    """Holds of an item or does not."""

    def holds(self, frame: pl.DataFrame) -> BoolArray:
        """(I,) whether it holds of the item of each row; DataError where the frame cannot say."""
        ...


@dataclass(frozen=True)
class Positive:
    """The column, of numbers or booleans, is above 0: in stock."""

    column: str

    def holds(self, frame: pl.DataFrame) -> BoolArray:
        """(I,)"""
        return _compare(frame, self.column, 0, holds=lambda values: values > 0)


@dataclass(frozen=True)
class AtMost:
    """The number or time in the column is the limit or below: an age rating."""

    column: str
    limit: Limit

    def holds(self, frame: pl.DataFrame) -> BoolArray:
        """(I,)"""
        return _compare(frame, self.column, self.limit, holds=lambda values: values <= self.limit)


@dataclass(frozen=True)
class AtLeast:
    """The number or time in the column is the limit or above: freshness."""

    column: str
    limit: Limit

    def holds(self, frame: pl.DataFrame) -> BoolArray:
        """(I,)"""
        return _compare(frame, self.column, self.limit, holds=lambda values: values >= self.limit)


@dataclass(frozen=True)
class OneOf:
    """The value in the column, or one of those in its list, is among `values`: a region, a category, creators, ids.

    A value that no item has is no error: an id may be on a list before its item comes.
    """

    column: str
    values: tuple[str, ...] | tuple[int, ...]

    def holds(self, frame: pl.DataFrame) -> BoolArray:
        """(I,)"""
        values = _column(frame, self.column)
        rows = pl.DataFrame({"row": np.arange(frame.height), "value": values})
        if isinstance(values.dtype, pl.List | pl.Array):
            rows = rows.explode("value")
        flags = np.zeros(frame.height, np.bool_)
        try:
            flags[rows.filter(pl.col("value").is_in(self.values))["row"].to_numpy()] = True
        except pl.exceptions.PolarsError as error:
            raise _incomparable(frame, self.column, repr(self.values[0])) from error
        return flags


def _column(frame: pl.DataFrame, column: str) -> pl.Series:
    if column not in frame.columns:
        raise DataError(f"the catalogue has no column {column!r}", fix=did_you_mean(column, frame.columns))
    return frame[column]


def _compare(frame: pl.DataFrame, column: str, limit: Limit, *, holds: Callable[[pl.Expr], pl.Expr]) -> BoolArray:
    """Of which values of the column `holds`, a comparison with `limit`, is true."""
    kind = _column(frame, column).dtype
    is_time = kind in (pl.Date, pl.Datetime)
    # A time as a number could be of any unit.
    if is_time != isinstance(limit, date) or not (is_time or kind.is_numeric() or kind == pl.Boolean):
        raise _incomparable(frame, column, repr(limit))
    values = pl.col(column).cast(pl.Int8) if kind == pl.Boolean else pl.col(column)
    # What is not a number would count as the largest of all.
    values = values.fill_nan(None) if kind.is_float() else values
    try:
        flags: BoolArray = frame.select(holds=holds(values).fill_null(value=False))["holds"].to_numpy()
    except pl.exceptions.PolarsError as error:
        raise _incomparable(frame, column, repr(limit)) from error
    return flags


def _incomparable(frame: pl.DataFrame, column: str, other: str) -> DataError:
    return DataError(
        f"column {column!r} holds {frame.schema[column]}, which cannot be compared with {other}",
        fix="give the predicate values of the column's type, or bring the column to theirs",
    )
