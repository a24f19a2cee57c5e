"""What was shown to whom and how likely it was to be shown, in Parquet files: the log that off-policy evaluation reads.

    FOLDER/20260131T120000.123Z-5f0c...-000001.parquet

Rows gather in memory and are written as a part when there are enough of them or the oldest has waited long enough.  A
part appears whole or not at all: it is written under another name, fsynced, and renamed.  A crash loses the rows that
were not written yet, at most those of `max_age` seconds; this is a log of what was shown, and nothing is acknowledged.
Several processes may log into one folder.
"""

import fcntl
import logging
import math
import os
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

import polars as pl
from polars.exceptions import PolarsError

from sememe.core.errors import ArtifactError, ConfigError, DataError
from sememe.serve.stores.protocol import StoreDownError
from sememe.serve.stores.validate import MAX_LIMIT, MAX_TIMESTAMP, check_id

SCHEMA = pl.Schema(
    {
        "request_id": pl.String(),
        "user_id": pl.String(),
        "timestamp": pl.Int64(),
        "model": pl.String(),
        "item_ids": pl.List(pl.String()),
        "positions": pl.List(pl.Int32()),
        "scores": pl.List(pl.Float64()),
        "propensities": pl.List(pl.Float64()),
        "source": pl.String(),
    }
)
# Rows that are kept in memory while none can be written, in parts.
MOST_PARTS_WAITING = 8
# A file that a killed process left half written is removed when it has not been touched for this long.
LEFTOVER_S = 3600

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Exposure:
    """One list that was shown."""

    request_id: str
    user_id: str | None
    timestamp: int
    """Milliseconds since 1970 (UTC)."""
    model: str
    item_ids: Sequence[str]
    positions: Sequence[int]
    """Where each item stood, from 0."""
    scores: Sequence[float]
    propensities: Sequence[float] | None
    """How likely each item was to be shown where it stood, in (0, 1]; None where nothing was drawn at random."""
    source: str
    """Where the list came from, such as "engine" or "fallback:popularity"."""


class ExposureLog:
    """Gathers exposures and writes them in parts; safe to share between threads.

        with ExposureLog("runs/mine/exposures") as log:
            log.write([exposure])

    Args:
        folder: where the parts go; made where it is not there.
        max_rows: a part is written when this many rows have gathered.
        max_age: or when the oldest of them is so many seconds old.

    Raises ConfigError for a limit that is not positive, StoreDownError where the folder cannot be made.
    """

    def __init__(self, folder: Path | str, *, max_rows: int = 50_000, max_age: float = 60.0) -> None:
        if max_rows < 1 or not max_age > 0:
            raise ConfigError(
                f"an exposure log got max_rows={max_rows}, max_age={max_age}", fix="give both greater than 0"
            )
        self._folder = Path(folder)
        self._max_rows, self._max_age = max_rows, max_age
        self._rows: list[Exposure] = []
        self._oldest = math.inf
        self._dropped = 0
        self._parts = 0
        self._name = uuid.uuid4().hex
        self._closed = False
        self._changed = threading.Condition()
        # Held while parts are written or rewritten, so that a row is never both in a part and on its way to another.
        self._writing = threading.Lock()
        _prepare(self._folder)
        self._roller = threading.Thread(target=self._roll, name="exposure-log", daemon=True)
        self._roller.start()

    @property
    def dropped(self) -> int:
        """Rows that were lost because none could be written for too long."""
        return self._dropped

    def write(self, rows: Iterable[Exposure]) -> None:
        """Take rows; returns at once, and a thread writes them.

        Raises:
            DataError: a row breaks a rule; none of `rows` is taken.
            StoreDownError: the log is closed.
        """
        checked = [_check(row) for row in rows]
        with self._changed:
            if self._closed:
                raise StoreDownError(f"the exposure log {self._folder} was closed", fix="open it again")
            if checked and not self._rows:
                self._oldest = time.monotonic()
            self._rows += checked
            surplus = len(self._rows) - MOST_PARTS_WAITING * self._max_rows
            if surplus > 0:
                del self._rows[:surplus]
                self._dropped += surplus
            self._changed.notify_all()

    def flush(self) -> None:
        """Write all rows now.  Raises StoreDownError where that fails; the rows wait for the next time."""
        with self._writing:
            rows = self._taken()
            try:
                while rows:
                    self._write_part(rows[: self._max_rows])
                    del rows[: self._max_rows]
            except (OSError, PolarsError) as error:
                raise StoreDownError(
                    f"the exposure log {self._folder} cannot be written: {error}",
                    fix="free space on its disk, and let this process write to the folder",
                ) from error
            finally:
                self._put_back(rows)

    def delete_user(self, user_id: str) -> int:
        """Remove a user's rows, those in memory and those in the folder: how many there were.

        Rows that another process has not written yet are not found.  Raises StoreDownError where a part cannot be
        written anew, ArtifactError where one is damaged.
        """
        check_id(user_id)
        self.flush()
        with self._writing, _only_deleter(self._folder):
            return sum(_delete_from(part, user_id) for part in _parts(self._folder))

    def close(self) -> None:
        """Write all rows and end the thread.  Raises StoreDownError where they cannot be written."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._roller.join()
        self.flush()

    def __enter__(self) -> "ExposureLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _roll(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (wait := self._wait()) > 0:
                    self._changed.wait(None if wait == math.inf else wait)
                if self._closed:
                    return
            try:
                self.flush()
            except StoreDownError as error:
                _log.warning("%s; %d rows wait in memory", error.problem, len(self._rows))
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, timeout=self._max_age)

    def _wait(self) -> float:
        """Seconds until a part is due."""
        if len(self._rows) >= self._max_rows:
            return 0.0
        return self._oldest + self._max_age - time.monotonic()

    def _taken(self) -> list[Exposure]:
        with self._changed:
            rows, self._rows, self._oldest = self._rows, [], math.inf
        return rows

    def _put_back(self, rows: list[Exposure]) -> None:
        with self._changed:
            if rows:
                self._rows = rows + self._rows
                self._oldest = time.monotonic()

    def _write_part(self, rows: list[Exposure]) -> None:
        self._parts += 1
        now = datetime.now(UTC).isoformat(timespec="milliseconds")[:23]
        name = f"{now.replace('-', '').replace(':', '')}Z-{self._name}-{self._parts:06d}.parquet"
        columns = {column: [getattr(row, column) for row in rows] for column in SCHEMA}
        _write(pl.DataFrame(columns, schema=SCHEMA), self._folder / name)


def read_exposures(folder: Path | str) -> pl.DataFrame:
    """All rows of a log in the order of time, one row per list that was shown; none where there is no part.

    Columns are the fields of `Exposure`; `frame.explode("item_ids", "positions", "scores")` gives a row per item.
    Raises ArtifactError for a damaged part.
    """
    frames = [_read(part) for part in _parts(Path(folder))]
    return pl.concat([SCHEMA.to_frame(), *frames]).sort("timestamp", maintain_order=True)


def _prepare(folder: Path) -> None:
    """Make the folder, and remove what killed processes left half written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*.parquet.tmp"):
            if time.time() - leftover.stat().st_mtime > LEFTOVER_S:
                leftover.unlink(missing_ok=True)
    except OSError as error:
        raise StoreDownError(
            f"the exposure log {folder} cannot be opened: {error}", fix="give a folder that this process may write to"
        ) from error


@contextmanager
def _only_deleter(folder: Path) -> Iterator[None]:
    """Wait for other processes that delete: two that rewrite one part would each bring back what the other removed."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _parts(folder: Path) -> list[Path]:
    return sorted(part for part in folder.glob("*.parquet") if not part.name.startswith("."))


def _read(part: Path) -> pl.DataFrame:
    try:
        frame = pl.read_parquet(part, glob=False)
    except FileNotFoundError:  # it held but one user, who was deleted meanwhile
        return SCHEMA.to_frame()
    except (PolarsError, OSError) as error:
        raise ArtifactError(
            f"the part {part} of the exposure log cannot be read: {error}", fix="restore it from a backup, or remove it"
        ) from error
    if frame.schema != SCHEMA:
        raise ArtifactError(f"{part} is no part of an exposure log: it has other columns", fix="move it elsewhere")
    return frame


def _delete_from(part: Path, user_id: str) -> int:
    frame = _read(part)
    kept = frame.filter(pl.col("user_id").ne_missing(user_id))
    if kept.height == frame.height:
        return 0
    try:
        if kept.is_empty():
            part.unlink()
        else:
            _write(kept, part)
    except (OSError, PolarsError) as error:
        raise StoreDownError(
            f"the part {part} cannot be written anew: {error}", fix="free space on its disk"
        ) from error
    return frame.height - kept.height


def _write(frame: pl.DataFrame, path: Path) -> None:
    temporary = path.parent / f".{path.name}.tmp"
    try:
        with temporary.open("wb") as stream:
            frame.write_parquet(stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _check(row: Exposure) -> Exposure:
    """`row`, of which a part can be made: found out here, where it concerns one request and not a whole part."""
    for name in ("request_id", "model", "source"):
        check_id(getattr(row, name), name=name)
    if row.user_id is not None:
        check_id(row.user_id)
    for item_id in row.item_ids:
        check_id(item_id, name="item_ids")
    if type(row.timestamp) is not int or abs(row.timestamp) > MAX_TIMESTAMP:
        raise DataError(f"timestamp is {row.timestamp!r:.60}", fix="give milliseconds since 1970 (UTC)")
    if not all(0 <= position < MAX_LIMIT for position in row.positions):
        raise DataError(f"positions are {list(row.positions)!r:.60}", fix="give whole numbers from 0")
    if row.propensities is not None and not all(0 < chance <= 1 for chance in row.propensities):
        raise DataError(f"propensities are {list(row.propensities)!r:.60}", fix="give each in (0, 1], or None")
    columns = [row.positions, row.scores, *([] if row.propensities is None else [row.propensities])]
    if any(len(column) != len(row.item_ids) for column in columns):
        raise DataError(
            f"{len(row.item_ids)} items were shown, with {[len(column) for column in columns]} positions, scores and "
            "propensities",
            fix="give one of each per item",
        )
    return replace(
        row,
        item_ids=tuple(row.item_ids),
        positions=[int(position) for position in row.positions],
        scores=[float(score) for score in row.scores],
        propensities=None if row.propensities is None else [float(chance) for chance in row.propensities],
    )
