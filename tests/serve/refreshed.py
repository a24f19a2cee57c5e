"""What users do after a run was made, for the tests of refreshing."""

from collections.abc import Sequence

import numpy as np

from sememe.pipeline.opened import Run
from sememe.serve.stores.protocol import Store, StoredEvent

DAY_MS = 86_400_000
SETTINGS = ("epochs=12", "lr=8.0", "least_users=30")


def first_day(run: Run) -> int:
    """A day after the newest event of the run."""
    times = run.world.interactions.timestamps
    assert times is not None
    return int(times.max()) + DAY_MS


def send(store: Store, run: Run, days: Sequence[Sequence[str]], *, start: int | None = None, name: str = "") -> None:
    """Every user takes two items a day of those that are in fashion then, none twice, the first ones more often."""
    random, start = np.random.default_rng(0), first_day(run) if start is None else start
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
                events.append(StoredEvent(f"{name}{user}-{day}-{number}", str(user), item, moment))
    store.append(events)


def halves(run: Run) -> tuple[list[str], list[str]]:
    """All items, parted at random."""
    ids = [str(item) for item in np.random.default_rng(1).permutation(run.world.interactions.item_ids.to_list())]
    return ids[: len(ids) // 2], ids[len(ids) // 2 :]
