"""Put events into CSR order (by user, then time) with a bounded amount of memory.

Events arrive in any order, in chunks.  Each goes to a bucket: a range of user indices that holds about
`EVENTS_PER_BUCKET` events, kept in memory for a small log and in a file for a large one.  Buckets are then sorted one
by one and written one after the other, so memory depends on the bucket, never on the log.

Shape legend: U users, E events, C events of a chunk.
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from sememe.core.schema import Int64Array

Array = npt.NDArray[Any]
Records = npt.NDArray[np.void]

EVENTS_PER_BUCKET = 4_000_000
"""About 40 bytes each: a bucket with its sort order takes some 300 MB."""


def order_events(
    chunks: Iterable[Records], *, offsets: Int64Array, workdir: Path | None, events_per_bucket: int = EVENTS_PER_BUCKET
) -> dict[str, Array]:
    """All fields of the events but `user`, `key` and `row`, (E,) each, sorted by (user, key, row).

    chunks: structured arrays (C,) with the fields user (int32), key (int64), row (int64: place in the file), payload.
    offsets: (U + 1,) where each user's events go.
    workdir: where a log of more than one bucket is kept: `<field>.npy`, returned as read-only memory maps.  None: such
        a log is sorted in temporary files, and the result held in memory.
    """
    edges = _bucket_edges(offsets, events_per_bucket=events_per_bucket)
    if len(edges) == 2:
        records = _joined(chunks)
        return _payload(_sorted(records))
    with tempfile.TemporaryDirectory(prefix="sememe-buckets-", dir=workdir) as scratch:
        buckets = _spread(chunks, edges=edges, scratch=Path(scratch))
        if workdir is None:
            ordered = np.concatenate([_sorted(np.fromfile(path, dtype)) for path, dtype in buckets])
            return _payload(ordered)
        return _write_columns(buckets, total=int(offsets[-1]), workdir=workdir)


def _bucket_edges(offsets: Int64Array, *, events_per_bucket: int) -> Int64Array:
    """User indices at which buckets begin, and U at the end; a user is never divided."""
    total, users = int(offsets[-1]), len(offsets) - 1
    marks = np.arange(0, max(total, 1), events_per_bucket, dtype=np.int64)
    begins = np.searchsorted(offsets[:-1], marks, side="left")
    return np.unique(np.append(np.minimum(begins, users), users))


def _joined(chunks: Iterable[Records]) -> Records:
    parts = list(chunks)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _sorted(records: Records) -> Records:
    order = np.lexsort((records["row"], records["key"], records["user"]))
    result: Records = records[order]
    return result


def _payload(records: Records) -> dict[str, Array]:
    names = records.dtype.names or ()
    return {name: np.ascontiguousarray(records[name]) for name in names if name not in ("user", "key", "row")}


def _spread(chunks: Iterable[Records], *, edges: Int64Array, scratch: Path) -> list[tuple[Path, np.dtype[np.void]]]:
    """Append every event to the file of its bucket; files in order of users."""
    paths = [scratch / f"{number:05d}.bin" for number in range(len(edges) - 1)]
    dtype: np.dtype[np.void] | None = None
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("wb")) for path in paths]
        for records in chunks:
            dtype = records.dtype
            bucket = np.searchsorted(edges, records["user"], side="right") - 1
            grouped = records[np.argsort(bucket, kind="stable")]
            ends = np.cumsum(np.bincount(bucket, minlength=len(files)))
            for file, start, end in zip(files, np.append(0, ends[:-1]), ends, strict=True):
                grouped[start:end].tofile(file)
    assert dtype is not None, "several buckets have events"
    return [(path, dtype) for path in paths]


def _write_columns(buckets: list[tuple[Path, np.dtype[np.void]]], *, total: int, workdir: Path) -> dict[str, Array]:
    names = [name for name in (buckets[0][1].names or ()) if name not in ("user", "key", "row")]
    paths = {name: workdir / f"{name}.npy" for name in names}
    with ExitStack() as stack:
        files = {name: stack.enter_context(path.open("wb")) for name, path in paths.items()}
        for name, file in files.items():
            _write_header(file, dtype=buckets[0][1][name], total=total)
        for payload in _sorted_payloads(buckets):
            for name, file in files.items():
                payload[name].tofile(file)
    return {name: np.load(path, mmap_mode="r") for name, path in paths.items()}


def _sorted_payloads(buckets: list[tuple[Path, np.dtype[np.void]]]) -> Iterator[Mapping[str, Array]]:
    for path, dtype in buckets:
        yield _payload(_sorted(np.fromfile(path, dtype)))
        path.unlink()


def _write_header(file: BinaryIO, *, dtype: np.dtype[Any], total: int) -> None:
    """The head of an .npy file whose values are appended: a memory map written to would count as our memory."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (total,)}
    np.lib.format.write_array_header_1_0(file, header)
