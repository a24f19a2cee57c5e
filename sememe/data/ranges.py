"""Many slices of one flat array at once, without a Python loop over rows.

Shape legend: N rows, W width of the padded result, E events.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from sememe.core.schema import PAD, Int32Array, Int64Array

CHUNK_EVENTS = 4_000_000
"""Events looked at together where a pass runs over a log that may be larger than memory."""


def padded(values: Int32Array, starts: Int64Array, ends: Int64Array, *, fill: int = PAD) -> Int32Array:
    """(N, W) the slices `values[starts[n]:ends[n]]`, left-aligned, `fill` after the end; W is the longest, at least 1.

    starts, ends: (N,) with 0 <= starts <= ends <= len(values).
    """
    lengths = ends - starts
    width = max(1, int(lengths.max(initial=0)))
    columns = np.arange(width, dtype=np.int64)
    inside = columns < lengths[:, None]
    # Cells after the end read position 0 and are overwritten, so that no index leaves the array.
    places = np.where(inside, starts[:, None] + columns, 0)
    if len(values) == 0:
        return np.full(places.shape, fill, np.int32)
    return np.where(inside, values[places], np.int32(fill)).astype(np.int32, copy=False)


def padded_rows(rows: Sequence[Int32Array], *, fill: int = PAD) -> Int32Array:
    """(N, W) arrays of their own as the rows of one, `fill` after the end of each; W is the longest, at least 1."""
    if len(rows) == 1 and len(rows[0]):
        # A request alone, which is what a server mostly gets: a tenth of the time.
        return rows[0].astype(np.int32)[None]
    ends = np.cumsum([len(row) for row in rows], dtype=np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
    return padded(np.concatenate(rows).astype(np.int32), starts, ends, fill=fill)


def flat_positions(starts: Int64Array, ends: Int64Array) -> Int64Array:
    """(sum of lengths,) all positions of slice 0, then all of slice 1, and so on.  starts, ends: (N,)."""
    lengths = ends - starts
    total = int(lengths.sum())
    before = np.cumsum(lengths) - lengths
    positions: Int64Array = np.repeat(starts - before, lengths)
    positions += np.arange(total, dtype=np.int64)
    return positions


def chunks(num_events: int, *, size: int = CHUNK_EVENTS) -> Iterator[slice]:
    """Slices that cover 0..num_events in order, each of at most `size` events."""
    for start in range(0, num_events, size):
        yield slice(start, min(start + size, num_events))


def count_items(items: Int32Array, *, num_items: int) -> Int64Array:
    """(num_items,) how often each item occurs; reads `items` chunk by chunk, so that a memory map stays on disk."""
    counts: Int64Array = np.zeros(num_items, np.int64)
    for part in chunks(len(items)):
        counts += np.bincount(items[part], minlength=num_items)
    return counts
