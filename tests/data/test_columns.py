"""Column names: aliases, names given once, ids in one form."""

import polars as pl
import pytest

from sememe.data.columns import (
    EVENT_ALIASES,
    ITEM_ALIASES,
    id_expression,
    match_columns,
    rename_columns,
    sorted_ids,
    unusable_names,
)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["user_id", "item_id", "timestamp"], {"user_id": "user_id", "item_id": "item_id", "timestamp": "timestamp"}),
        (["userId", "movieId", "rating"], {"user_id": "userId", "item_id": "movieId", "rating": "rating"}),
        (["reviewerID", "asin", "overall", "unixReviewTime"],
         {"user_id": "reviewerID", "item_id": "asin", "rating": "overall", "timestamp": "unixReviewTime"}),
        (["user_id", "asin", "parent_asin"], {"user_id": "user_id", "item_id": "parent_asin"}),
        (["UID", "IID", "Datetime", "Weight"],
         {"user_id": "UID", "item_id": "IID", "timestamp": "Datetime", "rating": "Weight"}),
        (["session_id", "item_id", "Query"], {"session_id": "session_id", "item_id": "item_id", "query": "Query"}),
        (["kunde", "artikel"], {}),
    ],
)  # fmt: skip
def test_conventional_names_are_recognised(names, expected):
    assert match_columns(names, aliases=EVENT_ALIASES) == expected


def test_an_exact_name_goes_before_its_spellings():
    assert match_columns(["itemID", "item_id"], aliases=EVENT_ALIASES)["item_id"] == "item_id"
    assert match_columns(["item_id", "asin", "name"], aliases=ITEM_ALIASES) == {"item_id": "item_id", "title": "name"}


def test_a_given_name_wins_and_frees_the_conventional_one():
    matched = match_columns(["user_id", "kunde", "item"], aliases=EVENT_ALIASES, given={"user_id": "kunde"})
    assert matched == {"user_id": "kunde", "item_id": "item"}
    frame = rename_columns(pl.LazyFrame({"user_id": [1], "kunde": [2], "item": [3]}), ["user_id", "kunde", "item"],
                           matched=matched)  # fmt: skip
    assert frame.collect().to_dicts() == [{"user_id": 2, "item_id": 3, "user_id_in_file": 1}]


def test_unusable_given_names_say_what_was_meant():
    tables = {"a.csv": ["kunde", "artikel"]}
    faults = unusable_names({"user_idd": "kunde", "item_id": "artickel", "timestamp": "kunde"}, tables=tables)
    assert set(faults) == {"user_idd", "item_id"}
    assert "'user_idd' is not a column that Sememe knows" in str(faults["user_idd"])
    assert "did you mean 'user_id'?" in str(faults["user_idd"])
    assert "no table has a column of that name (a.csv has kunde, artikel)" in str(faults["item_id"])
    assert "did you mean 'artikel'?" in str(faults["item_id"])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pl.Series([1, None, 3], dtype=pl.Int16), [1, None, 3]),
        (pl.Series([1.0, None, 2.5, float("nan")]), [1, None, None, None]),
        (pl.Series([" a ", "", "   ", None]), ["a", None, None, None]),
        (pl.Series(["x", "y"], dtype=pl.Categorical), ["x", "y"]),
    ],
)
def test_ids_become_integers_or_texts(values, expected):
    frame = pl.DataFrame({"id": values})
    assert frame.select(id_expression("id", values.dtype))["id"].to_list() == expected


def test_ids_are_integers_when_all_are_plain_integers():
    numbers = sorted_ids(pl.Series(["10", "9", None, "-1", "9"]))
    assert numbers["id"].to_list() == [-1, 9, 10]
    assert numbers["key"].to_list() == ["-1", "9", "10"]
    for odd in ("007", "1.0", "+1", "x", "12345678901234567890"):
        texts = sorted_ids(pl.Series(["10", "9", odd]))
        assert texts["id"].to_list() == sorted(["10", "9", odd]), odd
