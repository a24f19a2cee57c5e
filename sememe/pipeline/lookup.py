"""From ids, as an application has them, to indices."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from sememe.core.schema import Int64Array

Id = int | str
UNKNOWN_ID = -1


@dataclass(frozen=True, eq=False)
class Lookup:
    """The index of each id of a run; ids are sorted, so a search is enough and nothing is kept beside them."""

    ids: pl.Series
    """(n,) Int64 or String, rising."""

    def find(self, wanted: Sequence[Id]) -> Int64Array:
        """(len(wanted),) the index of each id, UNKNOWN_ID where there is none.

        Ids that are all whole numbers are kept as numbers, whatever the file called them: 12 and "12" are the same.
        """
        # A bool is an int to Python, and no id.
        values = [None if isinstance(value, bool) else str(value) for value in wanted]
        cast = pl.Series(values, dtype=pl.String).cast(self.ids.dtype, strict=False)
        known = cast.is_not_null()
        places = self.ids.search_sorted(cast.fill_null(self.ids[0]), side="left")
        inside = places < len(self.ids)
        at = self.ids.gather(places.clip(0, len(self.ids) - 1))
        found = known & inside & (at == cast).fill_null(value=False)
        indices: Int64Array = places.cast(pl.Int64).set(~found, UNKNOWN_ID).to_numpy().copy()
        return indices
