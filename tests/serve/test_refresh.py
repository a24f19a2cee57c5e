"""The next day's model: trained on by what was collected, judged by the newest day, active only if it is better."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refreshed import DAY_MS, SETTINGS, first_day, halves, send
from serving import PATIENT

from sememe.cli.main import app
from sememe.core.artifact import only_writer
from sememe.core.errors import SememeError
from sememe.pipeline.opened import open_run
from sememe.serve.models import ORIGINAL, ModelFolder
from sememe.serve.refreshing import collect
from sememe.serve.served import Served
from sememe.serve.service import ModelSource
from sememe.serve.settings import Histories
from sememe.serve.stores.open import open_store
from sememe.serve.stores.protocol import ItemRow, Store, StoredEvent


def refresh(folder: ModelFolder, *words: str, settings: Sequence[str] = SETTINGS) -> int:
    """The exit code."""
    given = [word for setting in settings for word in ("--set", setting)]
    with pytest.raises(SystemExit) as stopped:
        app(["refresh", str(folder.path), *given, *words])
    return int(stopped.value.code or 0)


def test_a_model_that_learned_the_new_fashion_takes_over(folder: ModelFolder, store: Store, serve: Any) -> None:
    older = open_run(folder.path)
    liked, _ = halves(older)
    vectors = older.items.vectors
    assert vectors is not None
    place = older.world.interactions.item_ids.to_list().index(liked[0])
    store.put_items([ItemRow("brand new", {"title": "New", "vector": [float(x) for x in vectors[place]]})])
    send(store, older, [["brand new", *liked]] * 4)
    store.append([StoredEvent("x", "a stranger", "never heard of", first_day(older))])
    store.append([StoredEvent("future", "u00", liked[0], time.time_ns() // 10**6 + 10 * DAY_MS)])
    settings = replace(PATIENT, histories=Histories(poll_seconds=0.02))
    server = serve(Served.load(folder.path), source=ModelSource(folder, Served.load), settings=settings)
    assert refresh(folder, "--dry-run") == 0 and folder.pointer().active == ORIGINAL
    assert refresh(folder) == 0
    name = folder.pointer().active
    assert name.startswith("refreshed-") and folder.pointer().previous == ORIGINAL
    gate = json.loads((folder.path_of(name) / "refresh.json").read_text())["gate"]
    assert gate["passed"] and gate["difference"] > 0 and gate["users"] >= 30
    newer = open_run(folder.path_of(name))
    ids = newer.world.interactions.item_ids.to_list()
    # What was there keeps its place and its code; what came stands behind it.
    assert ids == [*older.world.interactions.item_ids.to_list(), "brand new"]
    assert newer.items.codes is not None and older.items.codes is not None
    np.testing.assert_array_equal(newer.items.codes.matrix[:-1], older.items.codes.matrix)
    assert newer.recommend(history=["brand new"], k=5).height == 5
    deadline = time.monotonic() + 20
    while server.http.get("/v1/model").json()["model"] != Served.load(folder.path_of(name)).version:
        assert time.monotonic() < deadline
    # Events that the new run holds are no longer counted twice.
    user = str(older.world.interactions.user_ids[0])
    sources = server.recommend(user_id=user)["history"]
    assert sources["store"] == 0 and sources["run"] == len(older.world.interactions.history(0)) + 8
    # Nothing happened since: there is nothing to do.
    assert refresh(folder) == 3
    # What was not known, and what was still to come, is not forgotten.
    found = collect(newer, store, now_ms=0)
    assert found.events.is_empty() and sorted(found.too_early["item_id"]) == sorted(["never heard of", liked[0]])


def test_a_model_that_learned_what_did_not_last_is_refused(folder: ModelFolder, store: Store) -> None:
    older = open_run(folder.path)
    noise, lasting = halves(older)
    send(store, older, [noise, noise, noise, lasting])
    assert refresh(folder) == 1
    assert folder.pointer().active == ORIGINAL and len(folder.names()) == 2
    refused = next(name for name in folder.names() if name != ORIGINAL)
    gate = json.loads((folder.path_of(refused) / "refresh.json").read_text())["gate"]
    assert not gate["passed"] and gate["difference"] < 0


def test_counting_rows_are_counted_anew(counting_run: ModelFolder) -> None:
    models, older = counting_run, open_run(counting_run.path)
    liked, _ = halves(older)
    store = open_store(f"sqlite:///{models.path / 'serve' / 'store.sqlite'}")
    send(store, older, [liked] * 4)
    store.close()
    assert refresh(models, settings=("least_users=30",)) == 0
    assert models.pointer().active.startswith("refreshed-")


def test_too_little_changes_nothing(folder: ModelFolder, store: Store) -> None:
    assert refresh(folder) == 3
    older = open_run(folder.path)
    store.append([StoredEvent("1", "u00", str(older.world.interactions.item_ids[0]), first_day(older))])
    assert refresh(folder) == 3
    assert folder.names() == [ORIGINAL] and folder.pointer().active == ORIGINAL


def test_a_refresh_reads_on_from_where_its_model_stopped(counting_run: ModelFolder, tmp_path: Path) -> None:
    folder, older, settings = counting_run, open_run(counting_run.path), ("least_users=30",)
    store = open_store(f"sqlite:///{folder.path / 'serve' / 'store.sqlite'}")
    liked, others = halves(older)
    send(store, older, [liked] * 4)
    now = time.time_ns() // 1_000_000
    ahead = StoredEvent("ahead", "u00", liked[0], now + 10 * DAY_MS)
    store.append([ahead])
    # What a refused model has read is read again.
    assert refresh(folder, "--dry-run", settings=settings) == 0
    assert collect(older, store, now_ms=now).events.height == len(store.since(0, limit=10_000)) - 1
    assert refresh(folder, settings=settings) == 0
    newer = open_run(folder.path_of(folder.pointer().active))
    found = collect(newer, store, now_ms=now)
    assert found.events.is_empty() and found.too_early.height == 1
    assert refresh(folder, settings=settings) == 3
    # An event that comes late is read, though the model has seen newer ones; the one from the future, in its time.
    store.append([StoredEvent("late", "u01", others[0], first_day(older))])
    found = collect(newer, store, now_ms=ahead.timestamp)
    assert [row[:3] for row in found.events.rows()] == [
        ("u00", liked[0], ahead.timestamp),
        ("u01", others[0], first_day(older)),
    ]
    assert found.bookmark.cursor == store.since(0, limit=10_000)[-1].cursor
    # Where the last event that was read is gone, with its user or the whole store, nothing is passed over.
    for emptied in (store, open_store(f"sqlite:///{tmp_path / 'other.sqlite'}")):
        emptied.delete_user("u00")
        emptied.append([StoredEvent(f"again-{number}", "u02", others[1], number) for number in range(2000)])
        found = collect(newer, emptied, now_ms=now)
        assert found.events.height == len(emptied.since(0, limit=10_000)) and found.too_early.height == 1
        emptied.close()


def test_two_refreshes_of_a_folder_do_not_undo_each_other(folder: ModelFolder) -> None:
    half_made = folder.place / "refreshed-20260101T000000-7"
    half_made.mkdir(parents=True)
    with only_writer(folder.place), pytest.raises(SememeError, match="another process"):
        app(["refresh", str(folder.path)])
    assert half_made.is_dir()
