"""Indexing: ids sorted, what cannot be used counted, the catalogue aligned, large logs equal to small ones."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from sememe.core.errors import DataError
from sememe.data.dropped import Dropped
from sememe.data.index import build_interactions
from sememe.data.readers import open_tables


def events(*rows: tuple[object, ...], names: tuple[str, ...] = ("user_id", "item_id", "timestamp")) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=list(names), orient="row", strict=False)


def many(bad: pl.DataFrame) -> pl.DataFrame:
    """`bad` after 1000 sound events, so that it stays under the share that may be dropped."""
    good = pl.DataFrame({"user_id": ["u"] * 1000, "item_id": ["a"] * 1000, "timestamp": range(1_000_000, 1_001_000)})
    return pl.concat([good, bad], how="vertical_relaxed")


def test_ids_are_sorted_by_value():
    log = build_interactions(open_tables(events((10, "b", 3), (9, "a", 2), (9, "b", 1)))).interactions
    assert log.user_ids.to_list() == [9, 10]
    assert log.item_ids.to_list() == ["a", "b"]
    assert log.items.tolist() == [1, 0, 1]
    assert log.items.dtype == np.int32
    assert log.timestamps.tolist() == [1000, 2000, 3000]


def test_numbers_in_text_are_numbers_in_order():
    log = build_interactions(open_tables(events(("10", "9", 3), ("9", "10", 2)))).interactions
    assert log.user_ids.to_list() == [9, 10]
    assert log.item_ids.to_list() == [9, 10]


def test_unusable_events_are_counted_with_their_reason():
    bad = events((None, "a", 5), ("u", None, 6), (" ", "a", 7), ("u", "a", None), ("u", "a", -4))
    indexed = build_interactions(open_tables(many(bad)))
    assert indexed.interactions.num_events == 1000
    assert set(indexed.dropped) == {
        Dropped("events with no usable user id", 2),
        Dropped("events with no usable item id", 1),
        Dropped("events with no readable time", 1),
        Dropped("events with a time before 1970", 1),
    }


def test_too_many_unusable_events_are_an_error():
    rows = [("u", "a", str(1_600_000_000 + second)) for second in range(98)] + [("u", "a", "soon"), (None, "a", "1")]
    with pytest.raises(
        DataError, match=r"2 of 100 events cannot be used.*1 events with no readable time.*\n.*sememe check"
    ):
        build_interactions(open_tables(events(*rows)))
    with pytest.raises(DataError, match="the events table has no rows"):
        build_interactions(open_tables(events(("u", "a", 1)).head(0)))


def test_position_must_be_there_for_every_event():
    frame = many(events(("u", "a", 5))).with_columns(position=pl.Series([*range(1000), None]))
    indexed = build_interactions(open_tables(frame))
    assert indexed.dropped == (Dropped("events with no usable position", 1),)


def timed(bad: list[int | None]) -> pl.DataFrame:
    """480 events of one user, the first with the times `bad`; `position` runs against the clock."""
    times = [*bad, *range(1_600_000_000, 1_600_000_480 - len(bad))]
    columns = {"user_id": [1] * 480, "item_id": range(480), "timestamp": times, "position": range(480, 0, -1)}
    return pl.DataFrame(columns)


def test_a_few_unusable_times_cost_their_events_where_position_gives_the_order():
    indexed = build_interactions(open_tables(timed([None, None, -7, None])))
    assert set(indexed.dropped) == {
        Dropped("events with no readable time", 3),
        Dropped("events with a time before 1970", 1),
    }
    log = indexed.interactions
    assert log.num_events == 476
    assert log.item_ids[log.items.tolist()].to_list() == list(range(479, 3, -1))
    assert log.timestamps.tolist() == [1000 * second for second in range(1_600_000_475, 1_599_999_999, -1)]
    assert "times" not in " ".join(indexed.notes)


def test_many_unusable_times_are_all_left_out_where_position_gives_the_order():
    indexed = build_interactions(open_tables(timed([None, None, -7, None, None])))
    assert indexed.dropped == ()
    assert indexed.interactions.timestamps is None
    assert indexed.interactions.items.tolist() == list(range(479, -1, -1))
    assert indexed.notes[-1].startswith("times are left out, and events are not split by time: 5 of 480 events have no")
    assert "order is by position" in indexed.notes[-1]


def test_event_columns_travel_along():
    frame = pl.DataFrame(
        {
            "user_id": [2, 1, 1],
            "item_id": [1, 1, 2],
            "timestamp": [3, 2, 1],
            "rating": ["5", None, "2.5"],
            "event_type": ["view", "buy", None],
            "session_id": ["s2", "s1", "s1"],
            "query": [None, "shoe", "hat"],
        }
    )
    indexed = build_interactions(open_tables(frame))
    columns = indexed.interactions.columns
    np.testing.assert_array_equal(columns["rating"], np.array([2.5, np.nan, 5.0], np.float32))
    assert columns["event_type"].tolist() == [-1, 0, 1]
    assert indexed.vocabularies["event_type"].to_list() == ["buy", "view"]
    assert columns["session"].tolist() == [0, 0, 1]
    assert columns["session"].dtype == np.int64
    assert columns["query"].tolist() == [0, 1, -1]
    assert indexed.vocabularies["query"].to_list() == ["hat", "shoe"]


def test_session_numbers_are_kept_as_they_are():
    frame = pl.DataFrame({"user_id": [1, 1], "item_id": [1, 2], "session_id": [70, 80]})
    indexed = build_interactions(open_tables(frame))
    assert indexed.interactions.columns["session"].tolist() == [70, 80]
    assert "session" not in indexed.vocabularies


ITEMS = pl.DataFrame(
    {"item_id": ["3", "1", "9", "1", None, "7"], "title": ["three", "one", "nine", "again", "none", "seven"]}
)


def test_the_catalogue_is_aligned_and_its_rows_are_counted():
    frame = events((1, 3, 1), (1, 2, 2), (1, 1, 3))
    indexed = build_interactions(open_tables({"events": frame, "items": ITEMS}))
    assert indexed.interactions.item_ids.to_list() == [1, 2, 3]
    assert indexed.catalog.frame["item_id"].to_list() == [1, 2, 3]
    assert indexed.catalog.frame["title"].to_list() == ["one", None, "three"]
    assert indexed.interactions.items.tolist() == [2, 1, 0]
    assert set(indexed.dropped) == {
        Dropped("catalogue rows with no usable item_id", 1),
        Dropped("catalogue rows that repeat an item_id (the first one is kept)", 1),
        Dropped("catalogue items without any event", 2),
    }
    assert "1 of 3 items with events have no row in the items table" in indexed.notes


def test_numbers_of_text_files_become_numbers_and_names_do_not(tmp_path: Path):
    (tmp_path / "interactions.csv").write_text("user_id,item_id\n1,1\n1,2\n\n")
    (tmp_path / "items.csv").write_text("item_id,title,year,price,code\n1,1984,1949,9.5,007\n2,300,,10,8\n")
    indexed = build_interactions(open_tables(tmp_path))
    assert indexed.dropped == (), "a blank line is no event"
    assert indexed.catalog.frame.drop("item_id").to_dicts() == [
        {"title": "1984", "year": 1949, "price": 9.5, "code": "007"},
        {"title": "300", "year": None, "price": 10.0, "code": "8"},
    ]


def test_cold_items_are_kept_on_request():
    frame = events((1, 3, 1), (1, 2, 2), (1, 1, 3))
    indexed = build_interactions(open_tables({"events": frame, "items": ITEMS}), keep_cold_items=True)
    assert indexed.interactions.item_ids.to_list() == [1, 2, 3, 7, 9]
    assert indexed.catalog.frame["title"].to_list() == ["one", None, "three", "seven", "nine"]
    assert indexed.interactions.items.tolist() == [2, 1, 0]


def test_a_cold_item_with_a_text_id_makes_all_ids_texts():
    items = pl.DataFrame({"item_id": ["1", "x"]})
    tables = open_tables({"events": events((1, 1, 1), (1, 10, 2), (1, 9, 3)), "items": items})
    log = build_interactions(tables, keep_cold_items=True).interactions
    assert log.item_ids.to_list() == ["1", "10", "9", "x"]
    assert log.items.tolist() == [0, 1, 2]
    assert build_interactions(tables).interactions.item_ids.to_list() == [1, 9, 10]


def test_vectors_of_the_user():
    items = pl.DataFrame({"item_id": [2, 1], "embedding": [[1.0, 2.0], [3.0, 4.0]]})
    frame = events((1, 1, 1), (1, 2, 2), (1, 3, 3))
    catalog = build_interactions(open_tables({"events": frame, "items": items})).catalog
    np.testing.assert_array_equal(catalog.vectors, np.array([[3, 4], [1, 2], [0, 0]], np.float32))
    assert catalog.vectors.dtype == np.float32
    assert "vector" not in catalog.frame.columns
    fixed = items.with_columns(pl.col("embedding").cast(pl.Array(pl.Float32, 2)))
    same = build_interactions(open_tables({"events": frame, "items": fixed})).catalog
    np.testing.assert_array_equal(catalog.vectors, same.vectors)
    ragged = pl.DataFrame({"item_id": [2, 1], "vector": [[1.0, 2.0], [3.0]]})
    with pytest.raises(DataError, match=r"the items' vectors have lengths \[1, 2\]"):
        build_interactions(open_tables({"events": frame, "items": ragged}))


@pytest.mark.parametrize("per_bucket", [1, 7, 50, 10_000])
def test_buckets_on_disk_give_what_memory_gives(tmp_path: Path, per_bucket: int):
    random = np.random.default_rng(3)
    frame = pl.DataFrame(
        {
            "user_id": [f"user{number}" for number in (random.random(400) ** 3 * 30).astype(int)],
            "item_id": random.integers(0, 20, 400),
            "timestamp": random.integers(1_600_000_000, 1_600_000_009, 400),
            "rating": random.random(400),
        }
    )
    plain = build_interactions(open_tables(frame)).interactions
    for workdir in (tmp_path, None):
        bucketed = build_interactions(open_tables(frame), workdir=workdir, events_per_bucket=per_bucket).interactions
        np.testing.assert_array_equal(plain.offsets, bucketed.offsets)
        np.testing.assert_array_equal(plain.items, bucketed.items)
        np.testing.assert_array_equal(plain.timestamps, bucketed.timestamps)
        np.testing.assert_array_equal(plain.columns["rating"], bucketed.columns["rating"])
        assert isinstance(bucketed.items, np.memmap) == (workdir is not None and per_bucket < 400)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()], "temporary buckets are gone"


def test_feedback_columns_are_read_from_numbers_truth_values_and_texts():
    table = pl.DataFrame(
        {
            "user": [1, 1, 2], "item": [5, 6, 5], "timestamp": [1, 2, 3],
            "is_like": [True, False, None], "follow": ["1", " TRUE", "x"], "exit": [1.0, 0.0, 2.0],
            "play_time": ["3.5", "", "7"], "duration": [4, 5, 6], "propensity": [0.5, 0.25, None],
        }
    )  # fmt: skip
    columns = build_interactions(open_tables(table)).interactions.columns
    expected = {
        "watch_time": np.array([3.5, np.nan, 7], np.float32),
        "duration": np.array([4, 5, 6], np.float32),
        "like": np.array([1, 0, -1], np.int8),
        "follow": np.array([1, 1, -1], np.int8),
        "exit": np.array([1, 0, -1], np.int8),
        "propensity": np.array([0.5, 0.25, np.nan]),
    }
    assert set(columns) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(columns[name], values)
        assert columns[name].dtype == values.dtype
