"""Batches against a slow twin that lists every example; random access; nothing from beyond the training part."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import PAD, Codes, Interactions
from sememe.data.batches import PrefixBatches, SequenceBatches, request_batches, with_codes
from sememe.data.event_inputs import event_inputs
from sememe.data.splits import LeaveOneOut


def log(histories):
    flat = np.array([item for history in histories for item in history], np.int32)
    return Interactions(
        offsets=np.concatenate([[0], np.cumsum([len(history) for history in histories])]).astype(np.int64),
        items=flat,
        user_ids=pl.Series(range(len(histories))),
        item_ids=pl.Series(range(int(flat.max(initial=-1)) + 1)),
    )


def random_log(*, users=40, longest=30, seed=0):
    """Every event is an item of its own, so that an item says which event it is."""
    lengths = np.random.default_rng(seed).integers(0, longest, users)
    items = iter(range(int(lengths.sum())))
    return log([[next(items) for _ in range(length)] for length in lengths])


def row(values):
    return tuple(int(value) for value in values if value != PAD)


def epoch(source, number=0):
    first = number * source.steps_per_epoch
    return [source(step) for step in range(first, first + source.steps_per_epoch)]


def rows_of(batches, key):
    found = []
    for batch in batches:
        for place in range(len(batch["user"])):
            target = batch[key][place]
            found.append((int(batch["user"][place]), row(batch["history"][place]), row(np.atleast_1d(target))))
    return sorted(found)


@pytest.mark.parametrize(("targets_per_user", "stride"), [(None, 1), (3, 1), (None, 4), (5, 2)])
def test_prefix_batches_hold_every_example_once_per_epoch(targets_per_user, stride):
    train = random_log()
    expected = []
    for user in range(train.num_users):
        history = train.history(user).tolist()
        cuts = list(range(len(history) - 1, 0, -1))[:targets_per_user][::stride]
        expected += [(user, tuple(history[max(0, cut - 7) : cut]), (history[cut],)) for cut in cuts]
    part = PrefixBatches(batch_size=16, max_history=7, targets_per_user=targets_per_user, stride=stride)
    source = part.source(train, seed=3)
    assert source.num_examples == len(expected)
    for number in (0, 2):
        assert rows_of(epoch(source, number), "target") == sorted(expected)


@pytest.mark.parametrize("long_sequences", ["chunk", "last"])
def test_sequence_batches_hold_every_pair_once_per_epoch(long_sequences):
    train = random_log()
    expected = []
    for user in range(train.num_users):
        history = train.history(user).tolist()
        end = len(history) - 1
        while end > 0:
            begin = max(0, end - 7)
            expected.append((user, tuple(history[begin:end]), tuple(history[begin + 1 : end + 1])))
            end = begin if long_sequences == "chunk" else 0
    source = SequenceBatches(batch_size=8, max_history=7, long_sequences=long_sequences).source(train, seed=3)
    assert rows_of(epoch(source), "targets") == sorted(expected)
    if long_sequences == "chunk":
        targets = sorted(target for _, _, row_targets in expected for target in row_targets)
        firsts = set(train.offsets[:-1].tolist())
        assert targets == [event for event in range(train.num_events) if event not in firsts]


def test_rows_follow_from_the_targets_that_a_batch_is_to_hold():
    train = random_log()
    part = SequenceBatches(max_history=7, targets_per_batch=30)
    batches = epoch(part.source(train, seed=3))
    rows = [len(batch["user"]) for batch in batches]
    targets = sum(int((batch["targets"] != PAD).sum()) for batch in batches)
    # About 580 targets in 100 rows: 30 targets are about 5 rows.
    assert max(rows) == round(30 * sum(rows) / targets)
    assert all(count == max(rows) for count in sorted(rows)[1:])
    other = replace(part, batch_size=3).source(train, seed=3)
    assert [len(batch["user"]) for batch in epoch(other)] == rows
    with pytest.raises(ConfigError, match="targets_per_batch"):
        SequenceBatches(targets_per_batch=0).source(train, seed=0)


@pytest.mark.parametrize("part", [PrefixBatches(batch_size=16, max_history=9), SequenceBatches(batch_size=8)])
def test_a_step_gives_the_same_batch_whenever_it_is_asked(part):
    train = random_log()
    source = part.source(train, seed=5)
    steps = range(2 * source.steps_per_epoch + 1)
    in_order = [source(step) for step in steps]
    again = part.source(train, seed=5)
    for step in np.random.default_rng(1).permutation(len(steps)).tolist():
        batch = again(step)
        assert batch.keys() == in_order[step].keys()
        for name, values in batch.items():
            assert values.dtype == np.int32
            np.testing.assert_array_equal(values, in_order[step][name])
    other = part.source(train, seed=6)
    assert any(not np.array_equal(source(step)["user"], other(step)["user"]) for step in range(3))
    first, second = (rows_of([source(step)], "history") for step in (0, source.steps_per_epoch))
    assert first != second, "epochs are shuffled anew"


def test_rows_are_left_aligned_and_padded():
    batch = PrefixBatches(batch_size=8, max_history=2).source(log([[5, 6, 7, 8]]), seed=0)(0)
    order = np.argsort(batch["target"])
    assert batch["history"][order].tolist() == [[5, PAD], [5, 6], [6, 7]]
    assert batch["lengths"][order].tolist() == [1, 2, 2]
    assert batch["target"][order].tolist() == [6, 7, 8]
    batch = SequenceBatches(batch_size=8, max_history=2).source(log([[5, 6, 7, 8]]), seed=0)(0)
    order = np.argsort(batch["lengths"])
    assert batch["history"][order].tolist() == [[5, PAD], [6, 7]]
    assert batch["targets"][order].tolist() == [[6, PAD], [7, 8]]


def test_length_buckets_pad_little():
    train = random_log(users=400, longest=60)
    source = PrefixBatches(batch_size=32, max_history=60).source(train, seed=0)
    batches = epoch(source)
    cells = sum(batch["history"].size for batch in batches)
    events = sum(int(batch["lengths"].sum()) for batch in batches)
    everything = 60 * source.num_examples
    assert cells < 1.1 * events < 0.6 * everything
    assert all(batch["history"].shape[1] == batch["lengths"].max() for batch in batches)


def test_the_last_batch_is_smaller_and_kept():
    source = PrefixBatches(batch_size=4, max_history=3).source(log([list(range(11))]), seed=0)
    assert sorted(len(batch["user"]) for batch in epoch(source)) == [2, 4, 4]


def test_no_batch_reaches_beyond_the_training_part():
    split = LeaveOneOut().split(random_log())
    allowed = set(split.train().items.tolist())
    assert len(allowed) < split.interactions.num_events
    for part, key in ((PrefixBatches(batch_size=64), "target"), (SequenceBatches(batch_size=64), "targets")):
        for batch in epoch(part.source(split.train(), seed=0)):
            assert set(batch["history"].ravel().tolist()) - {PAD} <= allowed
            assert set(batch[key].ravel().tolist()) - {PAD} <= allowed


def test_with_codes_adds_the_codes_of_the_targets():
    train = random_log()
    matrix = np.random.default_rng(0).integers(0, 9, (train.num_items, 3)).astype(np.int32)
    codes = Codes(matrix, (9, 9, 9), 3)
    inner = PrefixBatches(batch_size=16).source(train, seed=0)
    source = with_codes(inner, codes)
    assert source.steps_per_epoch == inner.steps_per_epoch
    batch = source(2)
    np.testing.assert_array_equal(batch["target_codes"], matrix[batch["target"]])
    batch = with_codes(SequenceBatches(batch_size=16).source(train, seed=0), codes)(0)
    empty = batch["targets"] == PAD
    assert empty.any()
    assert np.all(batch["target_codes"][empty] == PAD)
    np.testing.assert_array_equal(batch["target_codes"][~empty], matrix[batch["targets"][~empty]])


def test_request_batches_know_what_was_seen_and_what_is_asked():
    split = LeaveOneOut().split(random_log())
    examples, found = split.test, []
    lengths = []
    for request in request_batches(split, examples, max_history=5, batch_size=7):
        lengths += request.batch["lengths"].tolist()
        for place, example in enumerate(request.rows.tolist()):
            user, start = int(examples.users[example]), int(examples.starts[example])
            history = split.interactions.history(user).tolist()
            assert request.batch["user"][place] == user
            assert row(request.batch["history"][place]) == tuple(history[max(0, start - 5) : start])
            assert row(request.seen[place]) == tuple(history[:start])
            assert row(request.targets[place]) == (history[start],)
            found.append(example)
    assert sorted(found) == list(range(len(examples)))
    assert lengths == sorted(lengths, reverse=True)


def test_sources_work_over_read_only_memory_maps(tmp_path):
    train = random_log()
    np.save(tmp_path / "items.npy", train.items)
    mapped = Interactions(train.offsets, np.load(tmp_path / "items.npy", mmap_mode="r"), train.user_ids, train.item_ids)
    plain, on_disk = (PrefixBatches().source(each, seed=0)(0) for each in (train, mapped))
    for name in plain:
        np.testing.assert_array_equal(plain[name], on_disk[name])
        assert type(on_disk[name]) is np.ndarray


def test_what_cannot_be_batched_is_said():
    with pytest.raises(DataError, match="no user has two events"):
        PrefixBatches().source(log([[0], [1], []]), seed=0)
    with pytest.raises(ConfigError, match="batch_size must be at least 1, got 0"):
        PrefixBatches(batch_size=0).source(log([[0, 1]]), seed=0)
    with pytest.raises(ConfigError, match="targets_per_user"):
        PrefixBatches(targets_per_user=0).source(log([[0, 1]]), seed=0)
    with pytest.raises(ConfigError, match="'all'"):
        SequenceBatches(long_sequences="all").source(log([[0, 1]]), seed=0)


def with_events(train, *, seed=0):
    """Times and types of events that rise and vary, so that every event has some of its own."""
    random = np.random.default_rng(seed)
    times = np.cumsum(random.integers(0, 10**9, train.num_events))
    return replace(train, timestamps=times, columns={"event_type": random.integers(-1, 6, train.num_events)})


@pytest.mark.parametrize("part", [PrefixBatches(batch_size=16, max_history=6), SequenceBatches(8, max_history=6)])
def test_batches_say_of_each_input_what_was_asked_for(part):
    train = with_events(random_log())
    known = event_inputs(train, ("gap", "action"), places=np.arange(train.num_events))
    source, plain = replace(part, events=("gap", "action")).source(train, seed=2), part.source(train, seed=2)
    for said, batch in zip(epoch(source), epoch(plain), strict=True):
        assert said.keys() == batch.keys() | {"gap", "action"}
        assert all(np.array_equal(said[name], values) for name, values in batch.items())
        # An item says which event it is.
        inside = batch["history"] != PAD
        for name in ("gap", "action"):
            assert said[name].dtype == np.int32 and said[name].shape == batch["history"].shape
            np.testing.assert_array_equal(said[name][inside], known[name][batch["history"][inside]])
            assert not said[name][~inside].any()
    assert set(replace(part, events=("gap",)).source(train, seed=2)(0)) == {*plain(0), "gap"}


def test_the_target_of_a_row_says_nothing_of_its_own_event():
    """Whatever the last event of each user was and whenever it came, batches of it as a target are the same."""
    train = with_events(random_log())
    ends = train.offsets[1:][train.lengths() > 0] - 1
    times, types = train.timestamps.copy(), train.columns["event_type"].copy()
    times[ends] += 10**10
    types[ends] = (types[ends] + 2) % 6
    other = replace(train, timestamps=times, columns={"event_type": types})
    parts = (PrefixBatches(targets_per_user=1), SequenceBatches(long_sequences="last"))
    for part in (replace(part, events=("action", "gap")) for part in parts):
        first, second = (part.source(each, seed=0) for each in (train, other))
        for step in range(first.steps_per_epoch):
            for name, values in first(step).items():
                np.testing.assert_array_equal(values, second(step)[name])
    test, both = LeaveOneOut().split(train).test, ("action", "gap")
    asked = [request_batches(each, test, max_history=5, batch_size=7, events=both) for each in (train, other)]
    for one, two in zip(*asked, strict=True):
        for name, values in one.batch.items():
            np.testing.assert_array_equal(values, two.batch[name])


def test_requests_say_of_each_known_event_what_training_would():
    log = with_events(random_log())
    known = event_inputs(log, ("gap", "action"), places=np.arange(log.num_events))
    split = LeaveOneOut().split(log)
    for request in request_batches(split, split.test, max_history=5, batch_size=7, events=("gap", "action")):
        inside = request.batch["history"] != PAD
        for name, values in known.items():
            np.testing.assert_array_equal(request.batch[name][inside], values[request.batch["history"][inside]])
            assert not request.batch[name][~inside].any()


def test_events_that_the_log_does_not_know_are_refused_before_the_first_batch():
    for part in (PrefixBatches(events=("gap",)), SequenceBatches(events=("gap",))):
        with pytest.raises(DataError, match=r'"gap", and these interactions have no timestamps'):
            part.source(random_log(), seed=0)
    with pytest.raises(DataError, match="no column 'event_type'"):
        SequenceBatches(events=("action",)).source(random_log(), seed=0)
