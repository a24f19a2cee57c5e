"""Ids become indices, however they were written."""

import polars as pl
import pytest

from sememe.pipeline.lookup import Lookup


@pytest.mark.parametrize(
    ("ids", "wanted", "found"),
    [
        (pl.Series([3, 10, 20]), [10, "20", 3, 4, "x", 99, -1, True], [1, 2, 0, -1, -1, -1, -1, -1]),
        (pl.Series(["3", "a", "b"]), ["b", 3, "aa", "", "zz", False], [2, 0, -1, -1, -1, -1]),
        (pl.Series([7]), [], []),
    ],
)
def test_each_id_is_found_or_told_to_be_unknown(ids: pl.Series, wanted: list[int | str], found: list[int]) -> None:
    assert Lookup(ids).find(wanted).tolist() == found
