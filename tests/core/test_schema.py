import numpy as np
import polars as pl
import pytest

from sememe.core.schema import PAD, Catalog, Interactions, Ranked


@pytest.fixture
def log() -> Interactions:
    return Interactions(
        offsets=np.array([0, 3, 3, 5]),
        items=np.array([4, 1, 2, 0, 4], np.int32),
        user_ids=pl.Series(["ann", "bob", "cem"]),
        item_ids=pl.Series([10, 20, 30, 40, 50]),
        timestamps=np.array([1, 2, 3, 1, 9]),
        columns={"rating": np.array([5, 4, 3, 2, 1], np.float32)},
    )


def test_a_log_knows_its_sizes_and_histories(log: Interactions) -> None:
    assert (log.num_users, log.num_items, log.num_events) == (3, 5, 5)
    assert log.lengths().tolist() == [3, 0, 2]
    assert log.users().tolist() == [0, 0, 0, 2, 2]
    assert log.history(2).tolist() == [0, 4]


def test_a_prefix_cuts_every_column_and_keeps_the_users(log: Interactions) -> None:
    cut = log.prefix(np.array([2, 0, 1]))
    assert cut.offsets.tolist() == [0, 2, 2, 3]
    assert cut.items.tolist() == [4, 1, 0]
    assert cut.timestamps is not None and cut.timestamps.tolist() == [1, 2, 1]
    assert cut.columns["rating"].tolist() == [5, 4, 2]
    assert cut.num_users == 3 and cut.num_items == 5


def test_a_log_without_some_items_keeps_users_items_and_all_columns_in_step(log: Interactions) -> None:
    less = log.without_items(np.array([4, 2, 3], np.int32))
    assert less.offsets.tolist() == [0, 1, 1, 2]
    assert less.items.tolist() == [1, 0] and less.items.dtype == np.int32
    assert less.timestamps is not None and less.timestamps.tolist() == [2, 1]
    assert less.columns["rating"].tolist() == [4, 2]
    assert less.num_users == 3 and less.num_items == 5
    assert log.num_events == 5, "the log itself stays"
    none = log.without_items(np.arange(5, dtype=np.int32))
    assert none.offsets.tolist() == [0] * 4 and none.num_events == 0 and none.history(2).tolist() == []
    assert log.without_items(np.zeros(0, np.int32)).items.tolist() == log.items.tolist()
    plain = Interactions(log.offsets, log.items, log.user_ids, log.item_ids).without_items(np.array([1], np.int32))
    assert plain.timestamps is None and plain.items.tolist() == [4, 2, 0, 4]


def test_a_prefix_longer_than_the_history_is_our_fault(log: Interactions) -> None:
    with pytest.raises(AssertionError, match="outside"):
        log.prefix(np.array([4, 0, 0]))


def test_a_title_falls_back_to_the_id() -> None:
    catalog = Catalog(pl.DataFrame({"item_id": [7, 8], "title": ["Heat", None]}))
    assert [catalog.title(0), catalog.title(1)] == ["Heat", "8"]


def test_ranked_rows_carry_the_ids_people_use_and_skip_padding() -> None:
    ranked = Ranked(
        items=np.array([[2, 0], [1, PAD]], np.int32),
        scores=np.array([[0.5, 0.25], [0.75, -np.inf]], np.float32),
        source="test",
    )
    frame = ranked.to_frame(pl.Series(["ann", "bob"]), pl.Series([10, 20, 30]))
    assert frame.rows() == [
        ("ann", 30, 0.5, 1, "test"),
        ("ann", 10, 0.25, 2, "test"),
        ("bob", 20, 0.75, 1, "test"),
    ]
