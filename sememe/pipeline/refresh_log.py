"""A run's log and catalogue with what was collected since; what was there keeps its index.

Users and items that come stand behind those that were there, so that the rows of a trained model go on meaning what
they meant.

A run that was made so keeps beside its data how far the store was read, and the events that could not be taken yet: the
next one goes on from there.

Shape legend: U users, I items, E events, n events that come.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from sememe.core.artifact import Manifest
from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import Catalog, Int32Array, Int64Array, Interactions
from sememe.data.store import load_vocabularies
from sememe.pipeline.lookup import UNKNOWN_ID, Lookup
from sememe.pipeline.prepare import World
from sememe.sid.item_ids import id_series

EVENT_COLUMNS = {
    "user_id": pl.String(),
    "item_id": pl.String(),
    "timestamp": pl.Int64(),
    "event_type": pl.String(),
    "value": pl.Float64(),
}
WAITING_FILE = "waiting.parquet"


@dataclass(frozen=True)
class Bookmark:
    """How far the events of a store were read."""

    cursor: int = 0
    """Of the last event that was read; 0 before the first."""
    event: str = ""
    """A hash of that event: by its cursor alone, another store's would be taken for it."""


@dataclass(frozen=True, eq=False)
class Collected:
    """What came since a run was made."""

    events: pl.DataFrame
    """`EVENT_COLUMNS`, in the order of arrival."""
    items: pl.DataFrame
    """The columns of the run's catalogue, and `vector` where vectors were brought: items that the run does not know."""
    bookmark: Bookmark = Bookmark()
    """Of the last event that came."""
    too_early: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=EVENT_COLUMNS))
    """`EVENT_COLUMNS`: what cannot be taken yet, since its time is still to come."""


@dataclass(frozen=True, eq=False)
class GrownLog:
    """The run's data with what was collected."""

    interactions: Interactions
    catalog: Catalog
    waiting: pl.DataFrame
    """`EVENT_COLUMNS`: what may be taken later, when its time has come or its item is known."""
    counts: Mapping[str, int]
    """What was taken and what was left out, in words."""


def grow_log(world: World, collected: Collected, *, unknown_items: bool) -> GrownLog:
    """The log and the catalogue of `world` with `collected`.

    unknown_items: whether items of which nothing is known but events are taken too.

    Raises ConfigError where the run's data has no times.
    """
    log = world.interactions
    if log.timestamps is None:
        raise ConfigError(
            "the run's data has no times, so that nothing tells what is new", fix="run the recipe on data with times"
        )
    users = _Index.start(log.user_ids).with_more(collected.events["user_id"])
    named = collected.items["item_id"].cast(pl.String)
    items = _Index.start(log.item_ids).with_more(named)
    if unknown_items:
        items = items.with_more(collected.events["item_id"])
    found = pl.DataFrame(
        {
            "user": users.find(collected.events["user_id"]),
            "item": items.find(collected.events["item_id"]),
            "time": collected.events["timestamp"],
            "place": np.arange(collected.events.height),
        }
    )
    known = found.filter((pl.col("user") != UNKNOWN_ID) & (pl.col("item") != UNKNOWN_ID))
    of_unknown_items = found.filter((pl.col("user") != UNKNOWN_ID) & (pl.col("item") == UNKNOWN_ID))
    waiting = items.those_that_may_come(collected.events[of_unknown_items["place"]])
    fresh = known.join(_held(log), on=["user", "item", "time"], how="anti").sort("user", "time", "place")
    counts = {
        "events that came": collected.events.height,
        "that wait for their item": waiting.height,
        "of ids that the run cannot hold": found.height - known.height - waiting.height,
        "that the run has already": known.height - fresh.height,
        "taken": fresh.height,
        "new users": len(users.ids) - log.num_users,
        "new items": len(items.ids) - log.num_items,
    }
    columns = _columns(world, collected.events, fresh)
    return GrownLog(
        interactions=_joined(log, fresh, user_ids=users.ids, item_ids=items.ids, columns=columns),
        catalog=_grown_catalog(world.catalog, items.ids, collected.items),
        waiting=pl.concat([waiting, collected.too_early]),
        counts=counts,
    )


def save_place(folder: Path, bookmark: Bookmark, waiting: pl.DataFrame) -> dict[str, Any]:
    """Write to a stage of data what the next refresh goes on from; gives what the stage is to say of it."""
    waiting.write_parquet(folder / WAITING_FILE)
    return {"bookmark": asdict(bookmark)}


def read_place(data: Manifest) -> tuple[Bookmark, pl.DataFrame]:
    """How far the data of a run has read its store, and the events that wait; the beginning, where it has read none."""
    told = data.meta["result"].get("bookmark")
    if told is None:
        return Bookmark(), pl.DataFrame(schema=EVENT_COLUMNS)
    return Bookmark(**told), pl.read_parquet(data.path / WAITING_FILE, glob=False)


@dataclass(frozen=True, eq=False)
class _Index:
    ids: pl.Series
    lookup: Lookup

    @classmethod
    def start(cls, ids: pl.Series) -> "_Index":
        return cls(ids, Lookup(ids))

    def with_more(self, texts: pl.Series) -> "_Index":
        """With those of `texts` that are not there, in the order in which they come first."""
        distinct = texts.unique(maintain_order=True)
        new = distinct.filter(pl.Series(self.lookup.find(distinct.to_list()) == UNKNOWN_ID))
        kept = [text for text in new.to_list() if self._is_id(text)]
        if not kept:
            return self
        came = pl.Series(kept, dtype=pl.String).cast(self.ids.dtype).unique(maintain_order=True)
        ids = pl.concat([self.ids, came.alias(self.ids.name)])
        return _Index(ids, Lookup(ids))

    def find(self, texts: pl.Series) -> Int64Array:
        return self.lookup.find(texts.to_list())

    def those_that_may_come(self, events: pl.DataFrame) -> pl.DataFrame:
        """Those of `events` whose items could be put one day: their ids are of the kind that all others are."""
        return events.filter(
            pl.col("item_id").is_in([text for text in events["item_id"].unique() if self._is_id(text)])
        )

    def _is_id(self, text: str) -> bool:
        """Where all ids are whole numbers, text is none."""
        if self.ids.dtype == pl.String:
            return "\0" not in text
        try:
            id_series([text], like=self.ids)
        except DataError:
            return False
        return True


def _held(log: Interactions) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user": log.users().astype(np.int64),
            "item": np.asarray(log.items).astype(np.int64),
            "time": np.asarray(log.timestamps),
        }
    ).unique()


def _columns(world: World, events: pl.DataFrame, fresh: pl.DataFrame) -> dict[str, npt.NDArray[Any]]:
    """(n,) what the columns of the run's log hold of the new events; unknown where the API says nothing of it."""
    taken = events[fresh["place"].to_numpy()]
    found: dict[str, npt.NDArray[Any]] = {}
    for name, values in world.interactions.columns.items():
        if name == "rating":
            found[name] = taken["value"].cast(pl.Float32).fill_null(float("nan")).to_numpy().astype(values.dtype)
        elif name == "event_type":
            texts = load_vocabularies(world.data.path)[name]
            number = {text: code for code, text in enumerate(texts.to_list())}
            codes = [number.get(text, -1) for text in taken[name].to_list()]
            found[name] = np.array(codes, values.dtype)
        else:
            blank = np.nan if np.issubdtype(values.dtype, np.floating) else -1
            found[name] = np.full(taken.height, blank, values.dtype)
    return found


def _joined(
    log: Interactions, fresh: pl.DataFrame, *, user_ids: pl.Series, item_ids: pl.Series, columns: Mapping[str, Any]
) -> Interactions:
    """New events stand behind those that a user had."""
    come = fresh["user"].to_numpy().astype(np.int64)
    order = np.argsort(np.concatenate([log.users().astype(np.int64), come]), kind="stable")
    lengths = np.pad(log.lengths(), (0, len(user_ids) - log.num_users))
    lengths += np.bincount(come, minlength=len(user_ids))
    items: Int32Array = np.concatenate([log.items, fresh["item"].to_numpy().astype(np.int32)])[order]
    times = np.concatenate([np.asarray(log.timestamps), fresh["time"].to_numpy()])[order]
    return replace(
        log,
        offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)]),
        items=items,
        user_ids=user_ids,
        item_ids=item_ids,
        timestamps=times,
        columns={name: np.concatenate([values, columns[name]])[order] for name, values in log.columns.items()},
    )


def _grown_catalog(catalog: Catalog, item_ids: pl.Series, items: pl.DataFrame) -> Catalog:
    """One row per id: those of `items` where there is one, else nothing but the id."""
    came = pl.DataFrame({"item_id": item_ids[catalog.num_items :].cast(catalog.frame.schema["item_id"])})
    if not came.height:
        return catalog
    said = items.with_columns(pl.col("item_id").cast(catalog.frame.schema["item_id"])).unique("item_id", keep="last")
    rows = came.join(said, on="item_id", how="left", maintain_order="left")
    missing = [pl.lit(None).cast(dtype).alias(n) for n, dtype in catalog.frame.schema.items() if n not in rows.columns]
    frame = pl.concat([catalog.frame, rows.with_columns(missing).select(catalog.frame.columns)])
    vectors = catalog.vectors
    if vectors is not None:
        brought = rows["vector"].to_list() if "vector" in rows.columns else [None] * rows.height
        blank = [0.0] * vectors.shape[1]
        more = np.array([blank if vector is None else vector for vector in brought], np.float32)
        vectors = np.concatenate([vectors, more])
    return Catalog(frame=frame, vectors=vectors)
