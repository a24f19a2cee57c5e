"""Events that are in the log twice: same user, item, time and kind.

To remember 100 M events would take gigabytes, so their 64-bit hashes are spread over files by hash, and each file is
looked through alone.  Two different events share a hash with probability 3e-4 in a log of 100 M: a warning may then
count one too many.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from sememe.data.problems import EXAMPLES, Problem
from sememe.data.readers import Tables
from sememe.data.row_checks import Reporter, Rule, checked_events

FILES = 32
CHUNK_ROWS = 1_000_000
_RECORD = np.dtype([("hash", np.uint64), ("place", np.int64)])

Records = npt.NDArray[np.void]


def repeated_events(tables: Tables, reporter: Reporter) -> list[Problem]:
    """A problem where events repeat an earlier one; none where nothing tells two events of one item apart."""
    schema = checked_events(tables).collect_schema().names()
    if "read:timestamp" not in schema and "read:position" not in schema:
        return []
    parts = [
        f"read:{name}" for name in ("user_id", "item_id", "timestamp", "position", "event_type", "session_id", "query")
    ]
    keys = [name for name in parts if name in schema]
    events = checked_events(tables).filter(pl.col("read:user_id").is_not_null() & pl.col("read:item_id").is_not_null())
    hashed = events.select(pl.struct(keys).hash(seed=0).alias("hash"), "place")
    count, places = 0, np.empty(0, np.int64)
    with tempfile.TemporaryDirectory(prefix="sememe-repeats-") as scratch:
        for records in _by_hash(hashed, scratch=Path(scratch)):
            repeats = _later_places(records)
            count += len(repeats)
            places = np.sort(np.concatenate([places, repeats]))[:EXAMPLES]
    if not count:
        return []
    shown = ", ".join(name.removeprefix("read:") for name in keys)
    rule = Rule(
        "duplicate event", "item_id", pl.lit(value=True), f"these events repeat an earlier one in {shown}",
        "nothing if both happened; otherwise remove them, or --set data.filters.dedupe=exact", "warning",
    )  # fmt: skip
    rows = events.filter(pl.col("place").is_in(places)).select("place", pl.col("item_id").alias("value"))
    return [reporter.problem(rule, rows.collect(engine="streaming").sort("place"), count=count)]


def _by_hash(hashed: pl.LazyFrame, *, scratch: Path) -> Iterator[Records]:
    """All (hash, place) records, those of one hash together."""
    paths = [scratch / f"{number}.bin" for number in range(FILES)]
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("wb")) for path in paths]
        for chunk in hashed.collect_batches(chunk_size=CHUNK_ROWS, maintain_order=False, engine="streaming"):
            _append(_records(chunk), files)
    for path in paths:
        yield np.fromfile(path, _RECORD)
        path.unlink()


def _records(chunk: pl.DataFrame) -> Records:
    records: Records = np.empty(chunk.height, _RECORD)
    records["hash"], records["place"] = chunk["hash"].to_numpy(), chunk["place"].to_numpy()
    return records


def _append(records: Records, files: list[Any]) -> None:
    bucket = (records["hash"] >> np.uint64(40)) % np.uint64(FILES)
    grouped = records[np.argsort(bucket, kind="stable")]
    ends = np.cumsum(np.bincount(bucket.astype(np.int64), minlength=FILES))
    for file, start, end in zip(files, np.append(0, ends[:-1]), ends, strict=True):
        grouped[start:end].tofile(file)


def _later_places(records: Records) -> npt.NDArray[np.int64]:
    """Places of all records but the first of each hash."""
    order = np.lexsort((records["place"], records["hash"]))
    hashes = records["hash"][order]
    again = np.flatnonzero(hashes[1:] == hashes[:-1]) + 1
    result: npt.NDArray[np.int64] = records["place"][order[again]]
    return result
