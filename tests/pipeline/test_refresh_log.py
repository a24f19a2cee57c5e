"""A log that grows keeps its rows, and a network that grows what it learned."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from sememe.core.errors import ConfigError
from sememe.core.schema import Catalog, Interactions
from sememe.data.newest import HOUR_MS, NewestPeriod
from sememe.pipeline.prepare import ItemSpace, World
from sememe.pipeline.refresh import NothingNewError, recent_users, warm_start
from sememe.pipeline.refresh_log import EVENT_COLUMNS, Collected, grow_log

LOG = Interactions(
    offsets=np.array([0, 2, 3]),
    items=np.array([0, 1, 1], np.int32),
    user_ids=pl.Series([7, 9]),
    item_ids=pl.Series([10, 20]),
    timestamps=np.array([5, 6, 4]),
    columns={"rating": np.array([1, 2, 3], np.float32), "session": np.array([0, 0, 1])},
)


def grown(log: Interactions, *rows: tuple[Any, ...], unknown_items: bool = True) -> Any:
    catalog = Catalog(frame=pl.DataFrame({"item_id": [10, 20], "title": ["ten", "twenty"]}))
    world = cast(World, SimpleNamespace(interactions=log, catalog=catalog))
    items = pl.DataFrame({"item_id": [30], "title": ["thirty"]})
    events = pl.DataFrame(list(rows), schema=EVENT_COLUMNS, orient="row")
    return grow_log(world, Collected(events=events, items=items), unknown_items=unknown_items)


def test_what_comes_stands_behind_what_was_there() -> None:
    made = grown(
        LOG,
        ("9", "30", 8, None, 4.5),
        ("7", "40", 9, "view", None),
        ("7", "20", 6, None, None),
        ("3", "10", 7, None, None),
        ("9", "10", 7, None, None),
        ("7", "no number", 9, None, None),
        ("nobody", "10", 9, None, None),
    )
    log = made.interactions
    assert log.user_ids.to_list() == [7, 9, 3] and log.item_ids.to_list() == [10, 20, 30, 40]
    assert [log.history(user).tolist() for user in range(3)] == [[0, 1, 3], [1, 0, 2], [0]]
    assert log.timestamps is not None and log.timestamps.tolist() == [5, 6, 9, 4, 7, 8, 7]
    np.testing.assert_array_equal(log.columns["rating"], np.array([1, 2, np.nan, 3, np.nan, 4.5, np.nan], np.float32))
    assert log.columns["session"].tolist() == [0, 0, -1, 1, -1, -1, -1]
    assert made.catalog.frame["title"].to_list() == ["ten", "twenty", "thirty", None]
    assert made.counts["taken"] == 4 and made.counts["that the run has already"] == 1
    assert made.counts["of ids that the run cannot hold"] == 2 and made.counts["new items"] == 2
    # An item of which nothing is known yet may be put later, but not under an id that no item can have.
    rows = (("7", "40", 9, None, None), ("7", "no number", 9, None, None), ("nobody", "40", 9, None, None))
    fewer = grown(LOG, *rows, unknown_items=False)
    assert fewer.interactions.item_ids.to_list() == [10, 20, 30] and fewer.counts["taken"] == 0
    assert fewer.waiting["item_id"].to_list() == ["40"] and made.waiting.is_empty()
    with pytest.raises(ConfigError, match="no times"):
        grown(replace(LOG, timestamps=None), ("7", "10", 9, None, None))


def test_the_newest_hours_are_asked_about_and_those_before_them_pick_the_weights() -> None:
    times = np.array([0, 30, 50, 10, 49, 60, 59]) * HOUR_MS
    log = Interactions(
        offsets=np.array([0, 3, 6, 7]),
        items=np.zeros(7, np.int32),
        user_ids=pl.Series([1, 2, 3]),
        item_ids=pl.Series([1]),
        timestamps=times,
    )
    split = NewestPeriod(hours=20).split(log)
    assert split.train_ends.tolist() == [1, 1, 0]
    assert (split.valid.users.tolist(), split.valid.starts.tolist()) == ([0], [1])
    assert (split.test.users.tolist(), split.test.starts.tolist()) == ([0, 1], [2, 1])


def test_users_of_whom_something_is_new_are_learned_from_and_some_others() -> None:
    users = 40
    log = Interactions(
        offsets=np.arange(users + 1),
        items=np.zeros(users, np.int32),
        user_ids=pl.Series(range(users)),
        item_ids=pl.Series([1]),
        timestamps=np.where(np.arange(users) < 10, 100, 5),
    )
    chosen = recent_users(log, since_ms=50, replay=0.5, seed=0)
    assert chosen[:10].all() and chosen.sum() == 15
    with pytest.raises(NothingNewError, match="nothing to learn"):
        recent_users(log, since_ms=100, replay=1.0, seed=0)


def test_longer_tables_begin_with_what_was_learned() -> None:
    older, newer = nn.Embedding(3, 4), nn.Embedding(5, 4)
    drawn = newer.weight.detach().clone()
    warm_start(newer, older, items=ItemSpace(vectors=None, codes=None, stages={}))
    torch.testing.assert_close(newer.weight[:3], older.weight)
    torch.testing.assert_close(newer.weight[3:], drawn[3:])
    with pytest.raises(ConfigError, match="none of the run's weights"):
        warm_start(nn.Embedding(2, 2), older, items=ItemSpace(vectors=None, codes=None, stages={}))
