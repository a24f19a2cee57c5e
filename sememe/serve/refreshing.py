"""From what a server collected to the model that answers next: read the store, train on, judge, point.

Each model keeps, with its data, how far it has read the store; the next one reads on from there.  What a refused model
has read, the active one has not, and it is read again.

A process that is killed leaves the active model as it was, and goes on where it stopped when it is started again before
anything more was collected.
"""

import hashlib
import json
import shutil
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import polars as pl

from sememe.core.artifact import only_writer, write_file
from sememe.pipeline.lookup import UNKNOWN_ID, Lookup
from sememe.pipeline.opened import Run, open_run
from sememe.pipeline.paired import PairedGate, compare_refreshed
from sememe.pipeline.refresh import NothingNewError, RefreshPlan, refresh_run
from sememe.pipeline.refresh_log import EVENT_COLUMNS, Bookmark, Collected, read_place
from sememe.pipeline.stages import Say
from sememe.serve.activation import make_active
from sememe.serve.item_fields import VECTOR, brought_vectors, catalogue_rows
from sememe.serve.models import RUN_FILE, ModelFolder
from sememe.serve.stores.protocol import Arrival, Store

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
        SememeError: another process refreshes the models of this folder.
    """
    # One at a time: what another one has half made would be taken for what a killed one left.
    with only_writer(folder.place):
        return _refresh(folder, store, plan=plan, row=row, dry_run=dry_run, say=say)


def _refresh(
    folder: ModelFolder, store: Store, *, plan: RefreshPlan, row: str | None, dry_run: bool, say: Say
) -> Outcome:
    active = folder.pointer().active
    older = open_run(folder.path_of(active), model=row)
    collected = collect(older, store, now_ms=time.time_ns() // 1_000_000)
    name = _name_of(older, collected)
    _sweep(folder, but=name)
    out = folder.place / name
    say(f"{name}: from {active} and what came since")
    gate = compare_refreshed(older, refresh_run(older, collected, out=out, plan=plan, say=say), plan, row=row)
    write_file(out / "refresh.json", json.dumps({"gate": asdict(gate), "plan": asdict(plan)}, indent=2) + "\n")
    activated = gate.passed and not dry_run
    if activated:
        make_active(folder, name)
    _prune(folder, but=name)
    return Outcome(name=name, gate=gate, activated=activated)


def collect(run: Run, store: Store, *, now_ms: int) -> Collected:
    """What a store holds that `run` has not read, and what `run` had to leave for later.

    All is read from the beginning where the store does not hold the last event that the run has read: it is another
    store, or the event's user was deleted.  What the run has already is not taken twice.

    now_ms: milliseconds since 1970 (UTC).

    Raises StoreDownError.
    """
    bookmark, waiting = read_place(run.world.data)
    reads_on = _holds(store, bookmark)
    pages = [waiting]
    bookmark = bookmark if reads_on else Bookmark()
    while page := store.since(bookmark.cursor, limit=PAGE):
        bookmark = _bookmark(page[-1])
        rows = [tuple(getattr(one.event, name) for name in EVENT_COLUMNS) for one in page]
        pages.append(pl.DataFrame(rows, schema=EVENT_COLUMNS, orient="row"))
    events = pl.concat(pages)
    if not reads_on:  # what waits may have come once more
        events = events.unique(maintain_order=True)
    is_past = pl.col("timestamp") <= now_ms + AHEAD_MS
    usable = events.filter(is_past & (pl.col("timestamp") >= 0))
    return Collected(events=usable, items=_new_items(run, store), bookmark=bookmark, too_early=events.filter(~is_past))


def _name_of(older: Run, collected: Collected) -> str:
    """When the newest event was, and how far the store was read: the same for the same events, and for no others.

    Raises NothingNewError where there are none.
    """
    if not collected.bookmark.cursor:
        raise NothingNewError("the store holds no events", fix="send some: POST /v1/events")
    nothing = NothingNewError("nothing happened since the active model was made", fix="wait for more events")
    if not collected.events.height or collected.bookmark == read_place(older.world.data)[0]:
        raise nothing
    newest = datetime.fromtimestamp(int(collected.events["timestamp"].max()) / 1000, UTC)  # type: ignore[arg-type]
    name = f"{PREFIX}{newest:%Y%m%dT%H%M%S}-{collected.bookmark.cursor}"
    if name == older.path.name:
        raise nothing
    return name


def _holds(store: Store, bookmark: Bookmark) -> bool:
    """Whether the event at `bookmark` is in `store`; so is the beginning."""
    if not bookmark.cursor:
        return True
    found = store.since(bookmark.cursor - 1, limit=1)
    return bool(found) and _bookmark(found[0]) == bookmark


def _bookmark(arrival: Arrival) -> Bookmark:
    said = (arrival.event.event_id, arrival.event.user_id, arrival.event.item_id, str(arrival.event.timestamp))
    return Bookmark(cursor=arrival.cursor, event=hashlib.sha256("\0".join(said).encode()).hexdigest())


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
    """Remove refreshed models of long ago."""
    pointer = folder.pointer()
    kept = {pointer.active, pointer.previous, but}
    old = [name for name in folder.names() if name.startswith(PREFIX) and name not in kept]
    old.sort(key=lambda name: (folder.place / name / RUN_FILE).stat().st_mtime)
    for name in old[: max(0, len(old) - KEPT)]:
        shutil.rmtree(folder.place / name, ignore_errors=True)
