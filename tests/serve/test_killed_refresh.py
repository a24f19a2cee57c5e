"""kill -9 at any moment of a refresh: a model and how far it has read the store are never one without the other."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from refreshed import DAY_MS, first_day, halves, send

from sememe.pipeline.opened import Run, open_run
from sememe.pipeline.refresh_log import read_place
from sememe.serve.models import ORIGINAL, ModelFolder
from sememe.serve.stores.open import open_store
from sememe.serve.stores.protocol import Store

MOMENTS = (
    r"open .*/\.data-[^/]*\.tmp/manifest\.json",  # the data is written, the bookmark is not
    r"rename .*/\.data-[^/]*\.tmp",  # both are, and not yet in their place
    r"rename .*/\.split-[^/]*\.tmp",  # in their place, and nothing has learned of them
    r"rename .*/\.model-popularity-[^/]*\.tmp",
    r"open .*/\.run\.json\..*",  # trained; the run is not whole
    r"open .*/\.refresh\.json\..*",  # whole, and not yet judged
    r"rename .*/\.active\.json\..*",  # judged; the old model is active
)


SETTING = "least_users=30"
END = ""
KILLED = int(signal.SIGKILL)


def refresh_and_kill(folder: ModelFolder, *moments: str, environment: dict[str, str]) -> list[int]:
    """How a refresh ended that was to be killed at a moment, or to go on to its end, for each of `moments`."""
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, str(here / "killed_refresh.py"), str(folder.path), SETTING, *moments],
        env={**environment, "PYTHONPATH": os.pathsep.join([str(here.parents[1]), str(here.parent / "pipeline")])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ends: list[int] = json.loads(done.stdout.splitlines()[-1])
    return ends


def taken(run: Run) -> list[tuple[Any, Any, Any]]:
    """(user, item, time) of all events, in order."""
    log = run.world.interactions
    assert log.timestamps is not None
    users, items = log.user_ids.gather(log.users()), log.item_ids.gather(log.items)
    return sorted(zip(users, items, log.timestamps.tolist(), strict=True))


def in_store(store: Store) -> list[tuple[str, str, int]]:
    """The same of what was collected."""
    return [(one.event.user_id, one.event.item_id, one.event.timestamp) for one in store.since(0, limit=10_000)]


def test_every_event_is_taken_once_whenever_a_refresh_is_killed(
    counting_run: ModelFolder, quiet_environment: dict[str, str]
) -> None:
    folder, original = counting_run, open_run(counting_run.path)
    store = open_store(f"sqlite:///{folder.path / 'serve' / 'store.sqlite'}")
    liked, others = halves(original)
    send(store, original, [liked] * 4)
    ends = refresh_and_kill(folder, *MOMENTS, END, environment=quiet_environment)
    assert ends == [*[KILLED] * len(MOMENTS), 0]
    first = open_run(folder.path_of(folder.pointer().active))
    assert folder.pointer().previous == ORIGINAL and folder.pointer().number == 1
    # No event twice, as often as they were read.
    assert taken(first) == sorted([*taken(original), *in_store(store)])
    assert read_place(first.world.data)[0].cursor == store.since(0, limit=10_000)[-1].cursor

    # Killed with a bookmark of its own, and more came before it is started again.
    send(store, original, [others] * 3, start=first_day(first), name="second")
    assert refresh_and_kill(folder, *MOMENTS[1:3], environment=quiet_environment) == [KILLED, KILLED]
    send(store, original, [others] * 2, start=first_day(first) + 3 * DAY_MS, name="third")
    assert refresh_and_kill(folder, END, environment=quiet_environment) == [0]
    newer = open_run(folder.path_of(folder.pointer().active))
    assert taken(newer) == sorted([*taken(original), *in_store(store)])
    assert read_place(newer.world.data)[0].cursor == store.since(0, limit=10_000)[-1].cursor
    assert refresh_and_kill(folder, END, environment=quiet_environment) == [-3]
    store.close()
