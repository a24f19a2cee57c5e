"""From what a server collected to the model that answers next: read the store, train on, judge, point.

A process that is killed leaves the active model as it was, and goes on where it stopped when it is started again before
anything more was collected.
"""

import json
import shutil
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import polars as pl

from sememe.core.artifact import write_file
from sememe.pipeline.lookup import UNKNOWN_ID, Lookup
from sememe.pipeline.opened import Run, open_run
from sememe.pipeline.paired import PairedGate, compare_refreshed
from sememe.pipeline.refresh import NothingNewError, RefreshPlan, refresh_run
from sememe.pipeline.refresh_log import EVENT_COLUMNS, Collected
from sememe.pipeline.stages import Say
from sememe.serve.activation import make_active
from sememe.serve.item_fields import VECTOR, brought_vectors, catalogue_rows
from sememe.serve.models import RUN_FILE, ModelFolder
from sememe.serve.stores.protocol import Store

PREFIX = "refreshed-"
KEPT = 3
"""Refreshed models that stay beside the active one and the one before."""
PAGE = 10_000
AHEAD_MS = 3_600_000
"""Clocks may differ by so much; what lies further in the future was never done."""


@dataclass(frozen=True)
class Outcome:
    """What a refresh came to."""

    name: str
    gate: PairedGate
    activated: bool


def refresh_models(
    folder: ModelFolder, store: Store, *, plan: RefreshPlan, row: str | None, dry_run: bool, say: Say
) -> Outcome:
    """Make the next model of the active one and what `store` collected, and have it answer if it is better.

    Args:
        row: that the server answers with; the recipe's own if not given.
        dry_run: leave the active model as it is, whatever comes out.

    Raises:
        NothingNewError: too little was collected.
        ArtifactError: the active model is damaged.
        StoreDownError: the store cannot be read.
    """
    older = open_run(folder.path_of(folder.pointer().active), model=row)
    collected = collect(older, store, now_ms=time.time_ns() // 1_000_000)
    if not collected.events.height:
        raise NothingNewError("the store holds no events", fix="send some: POST /v1/events")
    newest = int(collected.events["timestamp"].max())  # type: ignore[arg-type]
    name = f"{PREFIX}{datetime.fromtimestamp(newest / 1000, UTC):%Y%m%dT%H%M%S}"
    if name == older.path.name:
        raise NothingNewError("nothing happened since the active model was made", fix="wait for more events")
    _sweep(folder, but=name)
    out = folder.place / name
    say(f"{name}: from {folder.pointer().active} and what came since")
    gate = compare_refreshed(older, refresh_run(older, collected, out=out, plan=plan, say=say), plan, row=row)
    write_file(out / "refresh.json", json.dumps({"gate": asdict(gate), "plan": asdict(plan)}, indent=2) + "\n")
    activated = gate.passed and not dry_run
    if activated:
        make_active(folder, name)
    _prune(folder, but=name)
    return Outcome(name=name, gate=gate, activated=activated)


def collect(run: Run, store: Store, *, now_ms: int) -> Collected:
    """All that a store holds, but for what the clock of its sender put into the future.  Raises StoreDownError."""
    pages: list[pl.DataFrame] = []
    cursor = 0
    while page := store.since(cursor, limit=PAGE):
        cursor = page[-1].cursor
        rows = [tuple(getattr(one.event, name) for name in EVENT_COLUMNS) for one in page]
        pages.append(pl.DataFrame(rows, schema=EVENT_COLUMNS, orient="row"))
    events = pl.concat([pl.DataFrame(schema=EVENT_COLUMNS), *pages])
    usable = events.filter(pl.col("timestamp").is_between(0, now_ms + AHEAD_MS))
    return Collected(events=usable, items=_new_items(run, store))


def _new_items(run: Run, store: Store) -> pl.DataFrame:
    """Items that were put and that the run does not know, as rows of its catalogue."""
    put = []
    version = 0
    while page := store.changes_since(version, limit=PAGE):
        version = page[-1].version
        put += [change for change in page if change.fields is not None and not change.removed]
    known = Lookup(run.world.interactions.item_ids).find([change.item_id for change in put])
    new = [change for change, index in zip(put, known.tolist(), strict=True) if index == UNKNOWN_ID]
    ids, fields = [change.item_id for change in new], [change.fields or {} for change in new]
    frame = catalogue_rows(run, ids, fields)
    brought = brought_vectors(run, fields)
    return frame if brought is None else frame.with_columns(brought.alias(VECTOR))


def _sweep(folder: ModelFolder, *, but: str) -> None:
    """Remove what refreshes that were killed left half-made, and none can go on with."""
    for place in folder.place.glob(f"{PREFIX}*"):
        if place.is_dir() and place.name != but and not (place / RUN_FILE).is_file():
            shutil.rmtree(place, ignore_errors=True)


def _prune(folder: ModelFolder, *, but: str) -> None:
    """Remove refreshed models of long ago; their names rise with time."""
    pointer = folder.pointer()
    kept = {pointer.active, pointer.previous, but}
    old = [name for name in folder.names() if name.startswith(PREFIX) and name not in kept]
    for name in old[: max(0, len(old) - KEPT)]:
        shutil.rmtree(folder.place / name, ignore_errors=True)
