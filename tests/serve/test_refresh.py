"""The next day's model: trained on by what was collected, judged by the newest day, active only if it is better."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sememe.cli.main import app
from sememe.pipeline.opened import Run, open_run
from sememe.pipeline.run import run_recipe
from sememe.recipes import popularity
from sememe.serve.models import ORIGINAL, ModelFolder
from sememe.serve.served import Served
from sememe.serve.service import ModelSource
from sememe.serve.settings import Histories, ServeSettings
from sememe.serve.stores.open import open_store
from sememe.serve.stores.protocol import ItemRow, Store, StoredEvent

DAY_MS = 86_400_000
COMMAND = (sys.executable, "-c", "from sememe.cli.main import main; main()")
SETTINGS = ("epochs=12", "lr=8.0", "least_users=30")


@pytest.fixture
def folder(served_run: Path, tmp_path: Path) -> ModelFolder:
    # A server that another test starts on the run keeps its files in it.
    shutil.copytree(served_run, tmp_path / "run", ignore=shutil.ignore_patterns("serve", "models"))
    (tmp_path / "run" / "serve").mkdir()
    return ModelFolder(tmp_path / "run")


@pytest.fixture
def store(folder: ModelFolder) -> Any:
    opened = open_store(f"sqlite:///{folder.path / 'serve' / 'store.sqlite'}")
    yield opened
    opened.close()


def refresh(folder: ModelFolder, *words: str, settings: Sequence[str] = SETTINGS) -> int:
    """The exit code."""
    given = [word for setting in settings for word in ("--set", setting)]
    with pytest.raises(SystemExit) as stopped:
        app(["refresh", str(folder.path), *given, *words])
    return int(stopped.value.code or 0)


def first_day(run: Run) -> int:
    times = run.world.interactions.timestamps
    assert times is not None
    return int(times.max()) + DAY_MS


def send(store: Store, run: Run, days: Sequence[Sequence[str]]) -> None:
    """Every user takes two items a day of those that are in fashion then, none twice, the first ones more often."""
    random, start = np.random.default_rng(0), first_day(run)
    events = []
    for user in run.world.interactions.user_ids.to_list():
        taken: set[str] = set()
        for day, fashion in enumerate(days):
            open_items = [item for item in fashion if item not in taken]
            weights = 1.0 / (1 + np.arange(len(open_items)))
            for number, place in enumerate(random.choice(len(open_items), 2, replace=False, p=weights / weights.sum())):
                item = open_items[int(place)]
                taken.add(item)
                moment = start + day * DAY_MS + number * 60_000 + int(random.integers(DAY_MS // 2))
                events.append(StoredEvent(f"{user}-{day}-{number}", str(user), item, moment))
    store.append(events)


def halves(run: Run) -> tuple[list[str], list[str]]:
    ids = [str(item) for item in np.random.default_rng(1).permutation(run.world.interactions.item_ids.to_list())]
    return ids[: len(ids) // 2], ids[len(ids) // 2 :]


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
    settings = ServeSettings(histories=Histories(poll_seconds=0.02))
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


def test_a_model_that_learned_what_did_not_last_is_refused(folder: ModelFolder, store: Store) -> None:
    older = open_run(folder.path)
    noise, lasting = halves(older)
    send(store, older, [noise, noise, noise, lasting])
    assert refresh(folder) == 1
    assert folder.pointer().active == ORIGINAL and len(folder.names()) == 2
    refused = next(name for name in folder.names() if name != ORIGINAL)
    gate = json.loads((folder.path_of(refused) / "refresh.json").read_text())["gate"]
    assert not gate["passed"] and gate["difference"] < 0


def test_counting_rows_are_counted_anew(served_run: Path, tmp_path: Path) -> None:
    path = run_recipe(popularity(), data=served_run.parent / "data", out=tmp_path / "popular", say=lambda _: None)
    older = open_run(path)
    liked, _ = halves(older)
    models = ModelFolder(path)
    (path / "serve").mkdir()
    store = open_store(f"sqlite:///{path / 'serve' / 'store.sqlite'}")
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


def test_a_killed_refresh_leaves_the_active_model_and_goes_on(
    folder: ModelFolder, store: Store, quiet_environment: dict[str, str]
) -> None:
    older = open_run(folder.path)
    liked, _ = halves(older)
    send(store, older, [liked] * 4)
    given = [word for setting in SETTINGS for word in ("--set", setting)]
    child = subprocess.Popen(
        [*COMMAND, "refresh", str(folder.path), *given], stdout=subprocess.PIPE, text=True, env=quiet_environment
    )
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("model-tiny"):
            break
    child.kill()
    child.wait()
    assert folder.pointer().active == ORIGINAL
    assert open_run(folder.path).recommend(history=[older.world.interactions.item_ids[0]]).height == 10
    assert refresh(folder) == 0 and folder.pointer().previous == ORIGINAL
