"""Event inputs against the definition by hand, event by event."""

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import Interactions
from sememe.data import event_inputs as module
from sememe.data.event_inputs import (
    HOUR_MS,
    NUM_GAPS,
    POSITIVE,
    check_events,
    count_actions,
    count_gaps,
    event_inputs,
    padded_event_inputs,
    refuse_unread,
    user_event_inputs,
)
from sememe.data.index import build_interactions
from sememe.data.readers import open_tables

BOTH = ("action", "gap")


def random_log(*, seed: int = 0, users: int = 30) -> Interactions:
    """Users without events among them, at both ends too; gaps from none to years, and some types unknown."""
    random = np.random.default_rng(seed)
    lengths = random.integers(0, 9, users)
    lengths[[0, 1, 7, 8, -1]] = 0
    lengths[3] = 1
    total = int(lengths.sum())
    gaps = (HOUR_MS * (2.0 ** random.uniform(-3, 16, total) - 0.125)).astype(np.int64) * random.integers(0, 2, total)
    return Interactions(
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=random.integers(0, 5, total).astype(np.int32),
        user_ids=pl.Series(range(users)),
        item_ids=pl.Series(range(5)),
        timestamps=np.cumsum(gaps),
        columns={"event_type": random.integers(-1, 4, total).astype(np.int32)},
    )


def whole(log: Interactions) -> dict[str, np.ndarray]:
    return event_inputs(log, BOTH, places=np.arange(log.num_events, dtype=np.int64))


def hours_apart(*hours: float) -> Interactions:
    """One user's events; the first is at 1 000 000 hours."""
    times = 1_000_000 * HOUR_MS + np.cumsum([0, *(round(gap * HOUR_MS) for gap in hours)]).astype(np.int64)
    empty = Interactions(np.array([0, len(times)]), np.zeros(len(times), np.int32), pl.Series([0]), pl.Series([0]))
    return replace(empty, timestamps=times)


def test_values_are_those_of_the_definition() -> None:
    log = random_log()
    found = whole(log)
    assert log.timestamps is not None
    for user in range(log.num_users):
        for place in range(int(log.offsets[user]), int(log.offsets[user + 1])):
            assert found["action"][place] == log.columns["event_type"][place] + 1
            expected = 0
            if place > log.offsets[user]:
                hours = (int(log.timestamps[place]) - int(log.timestamps[place - 1])) / HOUR_MS
                expected = 1 + min(math.floor(math.log2(1 + hours)), 14)
            assert found["gap"][place] == expected
    assert all(values.dtype == np.int32 for values in found.values())
    assert found["action"].min() == 0 and found["gap"].max() == NUM_GAPS - 1 and len(set(found["gap"].tolist())) > 8


def test_gaps_at_the_edges() -> None:
    millisecond = 1 / HOUR_MS
    log = hours_apart(0, 1 - millisecond, 1, 3 - millisecond, 3, 2**14 - 1 - millisecond, 2**14 - 1, 2**20)
    assert whole_gaps(log) == [0, 1, 1, 2, 2, 3, 14, 15, 15]
    # Where position is the order, times can go back.
    assert whole_gaps(hours_apart(5, -2)) == [0, 3, 1]


def whole_gaps(log: Interactions) -> list[int]:
    found: list[int] = event_inputs(log, ["gap"], places=np.arange(log.num_events, dtype=np.int64))["gap"].tolist()
    return found


def test_a_time_that_is_not_known_leaves_both_gaps_beside_it_unknown() -> None:
    log = hours_apart(1, 1, 1, 1)
    assert log.timestamps is not None
    log.timestamps[2] = np.iinfo(np.int64).min
    assert whole_gaps(log) == [0, 2, 0, 0, 2]


def test_slices_are_laid_out_as_histories_are() -> None:
    log = random_log()
    every = whole(log)
    starts, ends = np.array([4, 0, 9, 6]), np.array([7, 0, 10, 12])
    for name, rows in padded_event_inputs(log, BOTH, starts=starts, ends=ends).items():
        assert rows.dtype == np.int32 and rows.shape == (4, 6)
        for row, start, end in zip(rows, starts, ends, strict=True):
            assert row.tolist() == [*every[name][start:end].tolist(), *[0] * (6 - end + start)]
    nothing = padded_event_inputs(log, BOTH, starts=np.array([3]), ends=np.array([3]))
    assert nothing["gap"].tolist() == nothing["action"].tolist() == [[0]]
    assert padded_event_inputs(log, (), starts=starts, ends=ends) == {}


def test_a_users_events_and_any_order_of_places() -> None:
    log = random_log()
    every = whole(log)
    for user in range(log.num_users):
        for name, values in user_event_inputs(log, BOTH, user=user).items():
            assert values.tolist() == every[name][log.offsets[user] : log.offsets[user + 1]].tolist()
    places = np.random.default_rng(1).permutation(log.num_events)[:20]
    for name, values in event_inputs(log, BOTH, places=places).items():
        assert values.tolist() == every[name][places].tolist()


def test_what_lies_after_an_event_does_not_change_what_is_said_of_it() -> None:
    log = random_log()
    ends = np.minimum(log.lengths(), 3)
    cut = log.prefix(ends)
    kept = np.concatenate([np.arange(start, start + end) for start, end in zip(log.offsets[:-1], ends, strict=True)])
    for name, values in whole(cut).items():
        assert values.tolist() == whole(log)[name][kept].tolist()


def test_memory_maps_are_read_where_they_are_asked(tmp_path) -> None:
    log = random_log()
    np.save(tmp_path / "times.npy", log.timestamps)
    np.save(tmp_path / "types.npy", log.columns["event_type"])
    times, types = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("times", "types"))
    mapped = replace(log, timestamps=times, columns={"event_type": types})
    for name, values in whole(mapped).items():
        assert type(values) is np.ndarray
        np.testing.assert_array_equal(values, whole(log)[name])
    assert count_actions(mapped) == count_actions(log)


def test_sizes_of_the_vocabularies(monkeypatch) -> None:
    log = random_log()
    assert (count_actions(log), count_gaps(log)) == (5, 16)
    whole_log = count_actions(log)
    monkeypatch.setattr(module, "chunks", lambda total: (slice(start, start + 3) for start in range(0, total, 3)))
    assert count_actions(log) == whole_log > whole(log)["action"].max()
    bare = replace(log, timestamps=None, columns={})
    assert (count_actions(bare), count_gaps(bare)) == (0, 0)
    nothing = replace(log, columns={"event_type": np.full(log.num_events, -1, np.int32)})
    assert count_actions(nothing) == 1
    assert count_actions(nothing.prefix(np.zeros(log.num_users, np.int64))) == 1


def test_codes_are_those_that_reading_gives() -> None:
    events = [("a", "x", 1, "view"), ("a", "y", 2, None), ("a", "x", 3, "buy"), ("b", "y", 5, "view")]
    table = pl.DataFrame(events, schema=["user_id", "item_id", "timestamp", "event_type"], orient="row")
    indexed = build_interactions(open_tables(table, columns=None))
    assert indexed.vocabularies["event_type"].to_list() == ["buy", "view"]
    assert whole(indexed.interactions)["action"].tolist() == [2, 0, 1, 2]
    assert count_actions(indexed.interactions) == 3


def test_what_the_log_does_not_know_is_named() -> None:
    log = random_log()
    with pytest.raises(DataError, match=r"(?s)\"action\", and these interactions have no column 'event_type'.*no fur"):
        event_inputs(replace(log, columns={}), ["action"], places=np.array([0]))
    with pytest.raises(DataError, match=r"\"gap\", and these interactions have no timestamps"):
        check_events(replace(log, timestamps=None), ["action", "gap"])
    with pytest.raises(ConfigError, match=r"(?s)'gaps', which batches cannot hold.*did you mean 'gap'"):
        check_events(log, ["gaps"])


def test_what_a_model_does_not_read_is_not_taken_in_silence() -> None:
    refuse_unread(["gap"], read=("action", "gap"))
    with pytest.raises(ConfigError, match=r"events has \['gaps'\], which this model does not read"):
        refuse_unread({"gaps": []}, read=("gap",))


def test_what_was_liked_or_followed_was_positive_and_what_is_unknown_is_neither() -> None:
    flags = {"like": [1, 0, 0, -1, -1, 1], "follow": [0, 1, 0, 0, -1, -1]}
    log = Interactions(
        offsets=np.array([0, 4, 6]),
        items=np.zeros(6, np.int32),
        user_ids=pl.Series(range(2)),
        item_ids=pl.Series(range(1)),
        columns={name: np.array(values, np.int8) for name, values in flags.items()},
    )
    found = event_inputs(log, ("positive",), places=np.arange(6, dtype=np.int64))["positive"]
    assert found.tolist() == [2, 2, 1, 1, 0, 2] and POSITIVE == 2
    only = replace(log, columns={"like": log.columns["like"]})
    assert user_event_inputs(only, ("positive",), user=0)["positive"].tolist() == [2, 1, 1, 0]
    with pytest.raises(DataError, match="like and follow"):
        check_events(replace(log, columns={}), ("positive",))
