"""What the data set "simulated" is like: what lists of several policies are worth, and what its log can tell of them.

    python -m benchmarks.quality.simulated_world

SIMULATED data.  Values are expected ones, from the world itself, of a list for each user after the log; "best" is the
list that no other one beats.  A policy that orders by appeal and forgets boredom, and one that goes for seconds,
show how much lies in either.  The log's part: which shares of sessions are good by several bounds, and how many
effective rows are left when a slightly greedier logging policy is estimated from the log.

Writes simulated_world.json beside this file.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from benchmarks.header import header, write_output
from sememe.core.schema import BoolArray
from sememe.core.seeding import generator
from sememe.data.feedback_files import SIMULATED
from sememe.data.feedback_policy import SoftmaxPolicy
from sememe.data.feedback_simulator import SimulatedFeedback
from sememe.data.sessions import EVERY_SESSION, GoodSessions, LoggedLists, find_sessions, logged_lists
from sememe.metrics.off_policy import list_weights, snips
from sememe.metrics.significance import Interval, bootstrap_mean

HERE = Path(__file__).resolve().parent
LENGTHS = (5, 8)
BOUNDS = (
    EVERY_SESSION,
    GoodSessions(watched=3, watched_share=0.3),
    GoodSessions(watched=3),
    GoodSessions(),
)
GREEDIER = 1.5
"""What the scores of the logging policy are multiplied by to have another one near it."""


def policies(made: SimulatedFeedback, *, length: int, seed: int) -> dict[str, npt.NDArray[np.int32]]:
    """Name -> (U, length) lists for all users after the log."""
    world, users = made.world, np.arange(made.world.num_users)
    random = generator(seed, "simulated world", "lists")
    uniform = SoftmaxPolicy.uniform(users=world.num_users, items=world.num_items)
    appeals = world.appeals(users)
    drawn = {
        name: policy.draw(users, length=length, barred=world.state.seen, random=random).items
        for name, policy in (("random", uniform), ("logging policy", made.logging))
    }
    ordered = {"most seconds": appeals * world.lengths, "most appeal, boredom forgotten": appeals}
    sorted_lists = {name: np.argsort(-scores, axis=1)[:, :length].astype(np.int32) for name, scores in ordered.items()}
    return {**drawn, **sorted_lists, "best": world.optimal_lists(users, length)}


def values(made: SimulatedFeedback, *, seed: int) -> list[dict[str, Any]]:
    """One line per list length and policy."""
    users, lines = np.arange(made.world.num_users), []
    for length in LENGTHS:
        for name, lists in policies(made, length=length, seed=seed).items():
            mean = bootstrap_mean(made.world.expected_value(users, lists), seed=seed)
            lines.append({"seed": seed, "length": length, "policy": name, "value": spelled(mean)})
    return lines


def goodness(made: SimulatedFeedback) -> list[dict[str, Any]]:
    """Share of the sessions within several bounds."""
    log = made.interactions
    sessions = find_sessions(log)
    return [
        {"bounds": repr(bounds), "share": float(bounds.choose(log, sessions).mean()), "sessions": len(sessions)}
        for bounds in BOUNDS
    ]


def barred_before(made: SimulatedFeedback, lists: LoggedLists) -> BoolArray:
    """(N, I) what each user had been shown before the list."""
    barred = np.zeros((len(lists.users), made.world.num_items), np.bool_)
    for row, (user, known) in enumerate(zip(lists.users, lists.known, strict=True)):
        barred[row, made.interactions.history(int(user))[:known]] = True
    return barred


def evidence(made: SimulatedFeedback) -> list[dict[str, Any]]:
    """Effective rows for a policy near the logging one, and for the logging one from the random slice."""
    near = SoftmaxPolicy(GREEDIER * made.logging.scores, made.logging.explore)
    lists = logged_lists(made.interactions, length=max(LENGTHS))
    barred, lines = barred_before(made, lists), []
    for name, target, rows in (
        ("a greedier policy from the logging policy's sessions", near, ~lists.random_exposure),
        ("the logging policy from the random sessions", made.logging, lists.random_exposure),
    ):
        shown = target.list_probabilities(lists.users[rows], lists.items[rows], barred=barred[rows])
        for depends in ("list", "prefix", "place"):
            weights = list_weights(shown, lists.propensities[rows], depends=depends)
            found = snips(lists.rewards[rows], weights, seed=0, resamples=0)
            lines.append(
                {
                    "question": name,
                    "weights": depends,
                    "effective_rows": found.effective_rows,
                    "lists": int(rows.sum()),
                    "largest_weight": found.largest_weight,
                }
            )
    return lines


def spelled(interval: Interval) -> dict[str, float]:
    """As JSON."""
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}


def show(lines: Sequence[Mapping[str, Any]]) -> None:
    """Print the table of values."""
    table = Table("seed", "length", "policy", "value of a list")
    for line in lines:
        value = "{mean:.3f} [{low:.3f}, {high:.3f}]".format(**line["value"])
        table.add_row(str(line["seed"]), str(line["length"]), line["policy"], value)
    Console().print(table)


def main() -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--name", default="simulated_world")
    arguments = parser.parse_args()
    made = {seed: SIMULATED.generate(seed=seed) for seed in arguments.seeds}
    lines = [line for seed, each in made.items() for line in values(each, seed=seed)]
    show(lines)
    first = made[arguments.seeds[0]]
    content = {
        **header("numpy", "polars"),
        "command": f"python -m benchmarks.quality.simulated_world --seeds {' '.join(map(str, arguments.seeds))}",
        "simulated": True,
        "note": "expected value of a list for a user after the log, with the interval of the mean over users; sessions "
        "and effective rows are those of the first seed",
        "users": first.world.num_users,
        "items": first.world.num_items,
        "events": first.interactions.num_events,
        "rows": lines,
        "good_sessions": goodness(first),
        "evidence": evidence(first),
    }
    write_output(HERE / f"{arguments.name}.json", content)


if __name__ == "__main__":
    main()
