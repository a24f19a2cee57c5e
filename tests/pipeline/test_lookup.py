"""Ids become indices, however they were written."""

import numpy as np
import polars as pl
import pytest

from sememe.pipeline.lookup import Lookup


@pytest.mark.parametrize(
    ("ids", "wanted", "found"),
    [
        (pl.Series([3, 10, 20]), [10, "20", 3, 4, "x", 99, -1, True], [1, 2, 0, -1, -1, -1, -1, -1]),
        (pl.Series(["3", "a", "b"]), ["b", 3, "aa", "", "zz", False], [2, 0, -1, -1, -1, -1]),
        (pl.Series([7]), [], []),
        (pl.Series([3, 10, 20]), ["10", "020", "3"], [1, 2, 0]),
        (pl.Series([3, 10, 20]), ["10", ""], [1, -1]),
        (pl.Series([3, 10, 20]), ["10", "\u0663"], [1, -1]),
        (pl.Series([3, 10, 20]), ["10", str(10**30), "1" * 5000], [1, -1, -1]),
        (
            pl.Series([3, 10]),
            [np.int32(10), np.int64(3), np.uint8(4), 3.0, np.float32(10), None, b"3"],
            [1, 0] + [-1] * 5,
        ),
        (pl.Series(["3", "a"]), [np.int64(3), 3.0, None, np.str_("a")], [0, -1, -1, 1]),
    ],
)
def test_each_id_is_found_or_told_to_be_unknown(ids: pl.Series, wanted: list[int | str], found: list[int]) -> None:
    assert Lookup(ids).find(wanted).tolist() == found


@pytest.mark.parametrize("ids", [pl.Series([-5, 3, 10, 2**63 - 1]), pl.Series(["", "+5", "10", "a", "ab", "ä", "漢"])])
def test_what_is_found_is_what_a_table_of_the_ids_would_give(ids: pl.Series) -> None:
    lookup = Lookup(ids)
    table = {str(value): index for index, value in enumerate(ids)}
    strings = [
        "-5",
        "3",
        "10",
        "a",
        "a\0",
        "\0",
        "ab",
        "abc",
        "ä",
        "漢",
        "漢字",
        "",
        " 10",
        "1_0",
        str(2**63),
        "\ud800",
    ]
    assert lookup.find(strings).tolist() == [table.get(text, -1) for text in strings]
    assert lookup.find([10, 2**70]).tolist() == [table["10"], -1]
    assert lookup.names(np.array([2, 0])) == [ids[2], ids[0]]
    assert [type(name) for name in lookup.names(np.array([1]))] == [type(ids[1])]


@pytest.mark.parametrize("ids", [pl.Series([3, 10, 20, 5]), pl.Series(["a", "c", "b", "aa"])])
def test_ids_that_came_later_are_found_behind_the_others(ids: pl.Series) -> None:
    lookup = Lookup(ids)
    assert lookup.find(ids.to_list()).tolist() == [0, 1, 2, 3] and len(lookup) == 4
    assert lookup.find([*ids.to_list()[::-1], 4, "zz"]).tolist() == [3, 2, 1, 0, -1, -1]
    assert lookup.names(np.array([3, 0])) == [ids[3], ids[0]]


@pytest.mark.parametrize("ids", [pl.Series([3, 10, 20]), pl.Series(["3", "a"])])
def test_several_lists_are_found_as_each_alone(ids: pl.Series) -> None:
    lookup, lists = Lookup(ids), [["3", "a"], [], [3], ["10", "x", ""]]
    assert [found.tolist() for found in lookup.find_each(lists)] == [lookup.find(one).tolist() for one in lists]
    assert lookup.find_each([]) == []
