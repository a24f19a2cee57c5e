"""Write the split that Sememe judges on, for packages that run without Sememe; `exchange` says what the files hold.

    python -m benchmarks.peers.export_split amazon2014_beauty --out runs/peers/beauty/split

reads, indexes and splits as `sememe run` does (leave-one-out; validation second last, test last) and writes the same
user and item indices, the items' texts and, by default, the text vectors that `tiger` tokenizes (all-MiniLM-L6-v2), so
that a peer that reads content reads the same.  `--users 300` keeps the first 300 users and their items: for trying out.
"""

import argparse
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from benchmarks.header import header
from sememe.core.schema import Catalog, FloatArray, Interactions
from sememe.data.dropped import Dropped
from sememe.data.filters import Filtered
from sememe.data.splits import Split
from sememe.embed.fuse import ProvidedVectors
from sememe.embed.text import TextEmbedder, item_texts
from sememe.pipeline.prepare import World, prepare_world
from sememe.pipeline.recipe import DataPlan, FilterRule, SplitRule
from sememe.pipeline.stages import StageStore

Vectors = Literal["text", "provided", "none"]
VECTORS = {"text": "all-MiniLM-L6-v2 of the items' texts", "provided": "the data's own", "none": None}


@dataclass(frozen=True)
class FirstUsers:
    """Keeps the first `count` users of the log and the items that they have."""

    count: int

    def apply(self, interactions: Interactions, catalog: Catalog) -> Filtered:
        """The small log, its items under indices without gaps."""
        offsets = interactions.offsets[: self.count + 1]
        events = slice(0, int(offsets[-1]))
        kept, items = np.unique(interactions.items[events], return_inverse=True)
        times, vectors = interactions.timestamps, catalog.vectors
        small = Interactions(
            offsets=np.asarray(offsets),
            items=items.astype(np.int32),
            user_ids=interactions.user_ids[: len(offsets) - 1],
            item_ids=interactions.item_ids.gather(kept),
            timestamps=None if times is None else times[events],
            columns={name: values[events] for name, values in interactions.columns.items()},
        )
        left_out = Dropped(f"events of users after the first {self.count}", interactions.num_events - small.num_events)
        return Filtered(small, Catalog(catalog.frame[kept], None if vectors is None else vectors[kept]), (left_out,))


def export(source: str, out: Path, *, users: int | None = None, vectors: Vectors = "text") -> None:
    """Write the split of the data set or path `source` to the folder `out`."""
    filters = FilterRule() if users is None else FilterRule(own=(FirstUsers(users),))
    plan = DataPlan(filters=filters, split=SplitRule(rule="leave_one_out"))
    stages = StageStore(root=out / "stages", say=print, recipe_hash="export")
    world = prepare_world(stages, plan, source=source, columns={})
    events_of(world.split).write_parquet(out / "events.parquet", compression="zstd")
    items = pl.DataFrame(
        {
            "item": np.arange(world.catalog.num_items, dtype=np.int32),
            "item_id": world.interactions.item_ids.cast(pl.String),
            "text": item_texts(world.catalog),
        }
    )
    items.write_parquet(out / "items.parquet", compression="zstd")
    found = item_vectors(world, vectors)
    if found is not None:
        np.save(out / "vectors.npy", found)
    content = {
        **header("numpy", "polars"),
        "data": Path(source).name,
        "first_users": users,
        "vectors": VECTORS[vectors],
        "digest": split_digest(world.split),
        "protocol": dict(world.split.protocol),
    }
    (out / "split.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def events_of(split: Split) -> pl.DataFrame:
    """Every event with its part; users, and each user's events, in their order."""
    log = split.interactions
    part = np.full(log.num_events, "train", dtype="<U5")
    for name, examples in (("valid", split.valid), ("test", split.test)):
        assert bool(np.all(examples.ends == examples.starts + 1)), "leave-one-out asks for one event"
        part[log.offsets[examples.users] + examples.starts] = name
    times = None if log.timestamps is None else np.asarray(log.timestamps)
    return pl.DataFrame(
        {"user": log.users(), "item": np.asarray(log.items), "part": part, "timestamp": times},
        schema_overrides={"timestamp": pl.Int64},
    )


def item_vectors(world: World, kind: Vectors) -> FloatArray | None:
    """float32 (I, dim), or None."""
    if kind == "none":
        return None
    embedder = TextEmbedder() if kind == "text" else ProvidedVectors()
    return embedder.embed(world.catalog, world.split.train(), seed=0)


def split_digest(split: Split) -> str:
    """Equal for equal logs that are split alike; what a finished run and a peer must share to be compared."""
    log = split.interactions
    digest = hashlib.sha256()
    for array in (log.offsets, log.items, split.train_ends, split.test.users, split.test.starts, split.test.ends):
        digest.update(np.ascontiguousarray(array, dtype=np.int64).tobytes())
    return digest.hexdigest()


def main() -> None:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="as for `sememe run --data`: a path or the name of a known set")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--users", type=int, help="only the first so many users")
    parser.add_argument("--vectors", choices=("text", "provided", "none"), default="text")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    export(options.data, options.out, users=options.users, vectors=options.vectors)


if __name__ == "__main__":
    main()
