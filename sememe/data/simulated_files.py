"""Generated data as the files that people have: a planted world on disk, and a large event log written in parts."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from sememe.core.errors import ConfigError
from sememe.core.seeding import generator
from sememe.data.simulator import EPOCH_MS, World


def write_world(world: World, folder: Path, *, file_format: Literal["parquet", "csv", "jsonl"] = "parquet") -> None:
    """Write interactions.* and items.* to `folder`.

    Events have user_id, item_id, timestamp (ms) and session_id, and are in the order of time, as a log is.  Items have
    what the catalogue has, and in Parquet and JSONL their vectors; CSV has no lists.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = world.interactions
    users = log.users()
    events = pl.DataFrame(
        {
            "user_id": log.user_ids.gather(users),
            "item_id": log.item_ids.gather(log.items),
            "timestamp": log.timestamps,
            "session_id": log.columns["session"],
        }
    ).sort("timestamp", maintain_order=True)
    items = world.catalog.frame
    if world.catalog.vectors is not None and file_format != "csv":
        items = items.with_columns(pl.Series("vector", world.catalog.vectors.tolist(), dtype=pl.List(pl.Float32)))
    for name, frame in (("interactions", events), ("items", items)):
        _write(frame, folder / f"{name}.{file_format}")


def _write(frame: pl.DataFrame, path: Path) -> None:
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    elif path.suffix == ".csv":
        frame.write_csv(path)
    elif path.suffix == ".jsonl":
        frame.write_ndjson(path)
    else:
        raise ConfigError(
            f"file_format must be parquet, csv or jsonl, got {path.suffix[1:]!r}", fix="use one of these three"
        )


@dataclass(frozen=True)
class LargeLog:
    """A log of any size, made chunk by chunk: time goes on, activity of users and popularity of items are skewed.

    No structure is planted: it is for measuring how much memory and time reading, checking and indexing take.
    """

    num_events: int = 100_000_000
    num_users: int = 2_000_000
    num_items: int = 500_000
    chunk_events: int = 2_000_000
    skew: float = 3.0
    """Item and user numbers are floor(count * uniform ** skew): at 3, a tenth of the items has 46 % of the events."""

    def chunks(self, *, seed: int) -> Iterator[pl.DataFrame]:
        """Frames of user_id, item_id and timestamp in s (Int64), in time order, at most `chunk_events` rows each."""
        for number, start in enumerate(range(0, self.num_events, self.chunk_events)):
            random = generator(seed, "large_log", number)
            rows = min(self.chunk_events, self.num_events - start)
            yield pl.DataFrame(
                {
                    "user_id": self._skewed(random, self.num_users, rows),
                    "item_id": self._skewed(random, self.num_items, rows),
                    # Eight events a second: ties in time occur, as in real logs.
                    "timestamp": EPOCH_MS // 1000 + np.arange(start, start + rows, dtype=np.int64) // 8,
                }
            )

    def write(self, folder: Path, *, seed: int, file_format: Literal["parquet", "csv"] = "parquet") -> list[Path]:
        """Write interactions-00000.* and so on to `folder`, one file per chunk; memory holds one chunk."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for number, frame in enumerate(self.chunks(seed=seed)):
            paths.append(folder / f"interactions-{number:05d}.{file_format}")
            _write(frame, paths[-1])
        return paths

    def _skewed(self, random: np.random.Generator, count: int, rows: int) -> pl.Series:
        return pl.Series((count * random.random(rows) ** self.skew).astype(np.int64))
