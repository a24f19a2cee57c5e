"""The bucketed sort against the plain one, and the buckets it makes."""

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sememe.data.event_order import order_events

DTYPE = [("user", np.int32), ("key", np.int64), ("row", np.int64), ("items", np.int32)]


@settings(max_examples=40)
@given(
    rows=st.lists(st.tuples(st.integers(0, 5), st.integers(-2, 2)), min_size=1, max_size=40),
    per_bucket=st.integers(1, 50),
    shuffle=st.randoms(use_true_random=False),
)
def test_any_arrival_order_and_bucket_size_gives_the_plain_sort(rows, per_bucket, shuffle):
    users = sorted({user for user, _ in rows})
    records = [(users.index(user), key, row, 100 + row) for row, (user, key) in enumerate(rows)]
    expected = [record[3] for record in sorted(records, key=lambda record: record[:3])]
    counts = np.bincount([record[0] for record in records])
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    shuffle.shuffle(records)
    chunks = [np.array(records[start : start + 7], DTYPE) for start in range(0, len(records), 7)]
    ordered = order_events(chunks, offsets=offsets, workdir=None, events_per_bucket=per_bucket)
    assert list(ordered) == ["items"]
    assert ordered["items"].tolist() == expected


def test_the_files_are_plain_npy(tmp_path: Path):
    records = np.array([(1, 0, 0, 5), (0, 0, 1, 6), (1, -1, 2, 7)], DTYPE)
    offsets = np.array([0, 1, 3])
    ordered = order_events([records], offsets=offsets, workdir=tmp_path, events_per_bucket=1)
    assert ordered["items"].tolist() == [6, 7, 5]
    assert np.load(tmp_path / "items.npy").tolist() == [6, 7, 5]
    assert np.load(tmp_path / "items.npy").dtype == np.int32
    assert [path.name for path in tmp_path.iterdir()] == ["items.npy"]
