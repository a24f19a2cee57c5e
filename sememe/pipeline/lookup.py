"""From ids, as an application has them, to indices, and back."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from sememe.core.schema import Int64Array

Id = int | str
UNKNOWN_ID = -1

WHOLE = re.compile(r"[+-]?[0-9]{1,19}", re.ASCII)
LEAST, MOST = -(2**63), 2**63 - 1


@dataclass(frozen=True, eq=False)
class Lookup:
    """The index of each id of a run, found by a search among the sorted ids."""

    ids: pl.Series
    """(n,) Int64 or String, all different; an id with a NUL character in it is never found.  Those of a first run rise;
    what came later stands behind them."""

    def __len__(self) -> int:
        return len(self.ids)

    def find(self, wanted: Sequence[Id]) -> Int64Array:
        """(len(wanted),) the index of each id, UNKNOWN_ID where there is none.

        Ids that are all whole numbers are kept as numbers, whatever the file called them: 12 and "12" are the same.
        """
        keys = self._keys
        whole = _all_whole(wanted) if keys.dtype.kind == "i" else None
        if whole is not None:
            return self._rows(whole)
        asked = [_plain(value) for value in wanted]
        values = _numbers(asked) if keys.dtype.kind == "i" else _octets(asked, width=keys.dtype.itemsize)
        known = np.array([value is not None for value in values], np.bool_)
        searched = np.array([keys[0] if value is None else value for value in values], keys.dtype)
        return np.where(known, self._rows(searched), UNKNOWN_ID)

    def find_each(self, wanted: Sequence[Sequence[Id]]) -> list[Int64Array]:
        """What `find` gives for each of `wanted`, by one search: most of a short one's time goes before the looking."""
        found = self.find([value for one in wanted for value in one])
        return np.split(found, np.cumsum([len(one) for one in wanted])[:-1]) if wanted else []

    def names(self, indices: npt.NDArray[np.integer[Any]]) -> list[Id]:
        """The id of each of `indices` (m,), all at least 0."""
        found: list[Any] = self._keys[indices].tolist()
        return found if self._keys.dtype.kind == "i" else [octets.decode() for octets in found]

    @cached_property
    def _keys(self) -> npt.NDArray[Any]:
        """(n,) int64, or UTF-8 in cells of one width, which sorts as text does: a search in polars takes a hundred
        times as long as one in an array."""
        if self.ids.dtype.is_integer():
            return self.ids.to_numpy()
        octets = [text.encode() for text in self.ids.to_list()]
        return np.array(octets, f"S{max(1, *map(len, octets))}" if octets else "S1")

    @cached_property
    def _order(self) -> Int64Array | None:
        """(n,) the indices in the order of their ids; None where that is their own."""
        keys = self._keys
        return None if bool((keys[:-1] < keys[1:]).all()) else np.argsort(keys, kind="stable").astype(np.int64)

    @cached_property
    def _sorted(self) -> npt.NDArray[Any]:
        return self._keys if self._order is None else self._keys[self._order]

    def _rows(self, searched: npt.NDArray[Any]) -> Int64Array:
        """(m,) the index of each of `searched` (m,), UNKNOWN_ID for those that are not there."""
        places = _places(self._sorted, searched)
        return places if self._order is None else np.where(places == UNKNOWN_ID, places, self._order[places])


def _places(keys: npt.NDArray[Any], searched: npt.NDArray[Any]) -> Int64Array:
    """Where each of `searched` (m,) stands in `keys`, UNKNOWN_ID for those that do not."""
    places: Int64Array = np.searchsorted(keys, searched).astype(np.int64, copy=False)
    inside = np.minimum(places, len(keys) - 1)
    return np.where(keys[inside] == searched, inside, UNKNOWN_ID)


def _all_whole(wanted: Sequence[Id]) -> Int64Array | None:
    """`wanted` as numbers where all are whole ones, or all are digits alone, as most are; None where one may not be."""
    if all(type(value) is int and LEAST <= value <= MOST for value in wanted):
        return np.array(wanted, np.int64)
    try:
        digits = "".join(wanted)  # type: ignore[arg-type]
        return np.array([*map(int, wanted)], np.int64) if digits.isascii() and digits.isdigit() else None
    except (TypeError, ValueError, OverflowError):
        # A number beside text; an empty text; more than fits.
        return None


def _plain(value: Any) -> Id | None:
    """Text or a whole number of Python's; None for what is no id, as a bool is not, though it is an int to Python."""
    if isinstance(value, str) or type(value) is int:
        return value
    return int(value) if isinstance(value, np.integer) else None


def _numbers(asked: Iterable[Id | None]) -> list[int | None]:
    found: list[int | None] = []
    for value in asked:
        whole = isinstance(value, int) or (value is not None and WHOLE.fullmatch(value) is not None)
        number = int(value) if whole and value is not None else None
        found.append(number if number is not None and LEAST <= number <= MOST else None)
    return found


def _octets(asked: Iterable[Id | None], *, width: int) -> list[bytes | None]:
    """UTF-8 of what could be an id; numpy fills cells with NUL, and would take an id with some more of them for it."""
    found: list[bytes | None] = []
    for value in asked:
        octets = b"\0" if value is None else str(value).encode("utf-8", "surrogatepass")
        found.append(None if len(octets) > width or b"\0" in octets else octets)
    return found
