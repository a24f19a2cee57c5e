"""How often 95 % intervals of off-policy estimates for lists hold the truth, in a world where the truth is known.

    python -m benchmarks.quality.off_policy_coverage

SIMULATED data: users of `sememe.data.feedback_world` look at a list from the top, get bored of a topic and leave.  The
world is so small (12 items, lists of 4) that the value of a policy is summed over all 11,880 lists for each user: it is
exact.  In each repetition one policy logs, users react, and other policies are estimated from that log; each interval
holds the truth or does not.  Targets lie at several distances from the logging policy, so that it shows down to how
many effective rows intervals can be trusted.

Rewards depend on the items above, so weights by "prefix" and by "list" are right and those by "place" are not: they are
there to show what the wrong one does.  The log knows what users looked at; "of whole lists" is told what was sent, also
behind the item at which a user left.  Models of DR are tables fitted on the half of the log that a row is not in.

Writes off_policy_coverage.json beside this file.
"""

import argparse
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from benchmarks.header import header, write_output
from sememe.core.schema import PAD
from sememe.core.seeding import generator
from sememe.data.feedback_policy import DrawnLists, SoftmaxPolicy
from sememe.data.feedback_simulator import FeedbackSimulator
from sememe.data.feedback_world import FeedbackWorld
from sememe.metrics.off_policy import Estimate, RewardModel, doubly_robust, ips, list_weights, snips

HERE = Path(__file__).resolve().parent
Array = npt.NDArray[np.float64]
Items = npt.NDArray[np.int32]

PLAN = FeedbackSimulator(branching=(2, 2), items_per_topic=3, dim=8, num_users=30, sessions_per_user=(1, 1))
LENGTH = 4
ROWS = 2000
REPETITIONS = 1000
DISTANCES = (0.3, 0.6, 1.0)
"""Of the target from the logging policy: share of its scores that come from another policy."""
EXPLORE = 0.2
LEVEL = 0.95
NEEDED = 0.93
WRONG = ("IPS by place",)
"""Assumes what does not hold here."""


@dataclass(frozen=True, eq=False)
class Arena:
    """The world, the policies, and everything about all lists."""

    world: FeedbackWorld
    logging: SoftmaxPolicy
    targets: Mapping[float, SoftmaxPolicy]
    lists: Items
    """(11,880, 4) all of them."""

    @classmethod
    def build(cls, *, seed: int) -> "Arena":
        """The same world for all repetitions."""
        world = PLAN.generate(seed=seed).before
        random, shape = generator(seed, "coverage", "policies"), (world.num_users, world.num_items)
        first, second = 1.2 * random.standard_normal(shape), 1.2 * random.standard_normal(shape)
        targets = {
            far: SoftmaxPolicy((1 - far) * first + far * (second + 2 * world.appeals(range(shape[0]))), 0.05)
            for far in DISTANCES
        }
        lists = np.array(list(itertools.permutations(range(shape[1]), LENGTH)), np.int32)
        return cls(world, SoftmaxPolicy(first, EXPLORE), targets, lists)

    def chances(self, policy: SoftmaxPolicy) -> Array:
        """(U, lists) chance of every list for every user."""
        shape = (len(self.lists), self.world.num_items)
        rows = [
            policy.list_probabilities(np.full(len(self.lists), user), self.lists, barred=np.zeros(shape, np.bool_))
            for user in range(self.world.num_users)
        ]
        return np.stack([row.prod(axis=1) for row in rows])

    @cached_property
    def values(self) -> Array:
        """(U, lists) expected value of every list for every user."""
        count = len(self.lists)
        return np.stack(
            [self.world.expected_value(np.full(count, user), self.lists) for user in range(self.world.num_users)]
        )

    def truth(self, chances: Array) -> float:
        """The value of a list of the policy with these chances (U, lists) for a user drawn evenly; exact."""
        return float((chances * self.values).sum(axis=1).mean())

    @cached_property
    def above_in_all(self) -> Items:
        """(11,880, 4) `above` of all lists."""
        return self.above(self.lists)

    def above(self, lists: Items) -> Items:
        """(N, K) items of the same topic above each place."""
        topics = np.where(lists == PAD, -1, self.world.topics[lists])
        same = topics[:, :, None] == topics[:, None, :]
        return (np.tril(np.ones((LENGTH, LENGTH), np.int32), -1) * same).sum(axis=2).astype(np.int32)


@dataclass(frozen=True, eq=False)
class Log:
    """What one policy showed, as far as users looked, and what came of it."""

    users: npt.NDArray[np.int64]
    items: Items
    """(N, K), PAD from where the user had left."""
    propensities: Array
    rewards: Array
    sent: DrawnLists
    """The same with what nobody looked at."""

    @classmethod
    def draw(cls, arena: Arena, *, rows: int, random: np.random.Generator) -> "Log":
        """Users drawn evenly, each before anything was shown."""
        users = random.integers(0, arena.world.num_users, rows)
        barred = np.zeros((rows, arena.world.num_items), np.bool_)
        drawn = arena.logging.draw(users, length=LENGTH, barred=barred, random=random)
        reaction = arena.world.react(users, drawn.items, random=random)
        return cls(
            users=users,
            items=np.where(reaction.shown, drawn.items, np.int32(PAD)),
            propensities=np.where(reaction.shown, drawn.propensities, 1.0),
            rewards=reaction.value,
            sent=drawn,
        )


class Models:
    """Tables by place, item and number of items of its topic above, each fitted on the half that a row is not in."""

    def __init__(self, arena: Arena, log: Log, *, random: np.random.Generator) -> None:
        self.arena, self.log = arena, log
        self.half = random.integers(0, 2, len(log.users))
        self.above = arena.above(log.items)
        self.above_in_all = arena.above_in_all

    def _table(self, wanted: Array, fit: npt.NDArray[np.bool_]) -> Array:
        """(K, I, K) means of `wanted` (N, K) over the rows `fit`, drawn towards the place's mean by 5 rows."""
        table = np.zeros((LENGTH, self.arena.world.num_items, LENGTH))
        counts = np.zeros_like(table)
        there = (self.log.items != PAD) & fit[:, None]
        row, place = np.nonzero(there)
        cells = (place, self.log.items[row, place], self.above[row, place])
        np.add.at(table, cells, wanted[row, place])
        np.add.at(counts, cells, 1.0)
        means = table.sum(axis=(1, 2)) / np.maximum(counts.sum(axis=(1, 2)), 1)
        filled: Array = (table + 5 * means[:, None, None]) / (counts + 5)
        return filled

    @cached_property
    def _of_lists(self) -> tuple[Array, Array]:
        """What each place brings, whether or not users get there: (N, K) of what was sent, (2, lists, K) of all."""
        sent, places = self.log.sent.items, np.arange(LENGTH)
        above = self.arena.above(sent)
        tables = []
        for half in range(2):
            fit = self.half != half
            reached = (self.log.items[fit] != PAD).mean(axis=0)
            tables.append(self._table(self.log.rewards, fit) * reached[:, None, None])
        predicted = np.stack([table[places, sent, above] for table in tables])[self.half, np.arange(len(sent))]
        return predicted, np.stack([table[places, self.arena.lists, self.above_in_all] for table in tables])

    def whole(self, chances: Array) -> RewardModel:
        """Of whole lists; `chances` (U, lists) are the target's."""
        predicted, of_all = self._of_lists
        return RewardModel(predicted, (chances @ of_all)[self.half, self.log.users])

    def by_steps(self, target: SoftmaxPolicy) -> RewardModel:
        """Of each place and all below it, given what was above and that the user got there."""
        log, arena = self.log, self.arena
        later = np.flip(np.cumsum(np.flip(log.rewards, axis=1), axis=1), axis=1)
        predicted, value = np.zeros(log.items.shape), np.zeros(log.items.shape)
        every, topics = np.arange(arena.world.num_items), arena.world.topics
        for number in range(2):
            rows = np.flatnonzero(self.half == number)
            table = self._table(later, self.half != number)
            barred = np.zeros((len(rows), len(every)), np.bool_)
            counts = np.zeros((len(rows), int(topics.max()) + 1), np.int64)
            for place in range(LENGTH):
                items = log.items[rows, place]
                there = np.flatnonzero(items != PAD)
                chances = target.probabilities(log.users[rows], barred=barred)
                means = (chances * table[place, every, counts[:, topics]]).sum(axis=1)
                value[rows[there], place] = means[there]
                predicted[rows[there], place] = table[place, items[there], self.above[rows[there], place]]
                barred[there, items[there]] = True
                counts[there, topics[items[there]]] += 1
        return RewardModel(predicted, value, by_steps=True)


def estimates(log: Log, target: SoftmaxPolicy, models: Models, *, chances: Array) -> dict[str, Estimate]:
    """Name -> estimate of the target's value."""
    barred = np.zeros((len(log.users), models.arena.world.num_items), np.bool_)
    shown = target.list_probabilities(log.users, log.items, barred=barred)
    prefix = list_weights(shown, log.propensities, depends="prefix")
    whole = list_weights(shown, log.propensities, depends="list")
    place = list_weights(shown, log.propensities, depends="place")
    sent = target.list_probabilities(log.users, log.sent.items, barred=barred)
    as_sent = list_weights(sent, log.sent.propensities, depends="prefix")
    often: dict[str, Any] = {"seed": 0, "resamples": 0, "level": LEVEL}
    return {
        "IPS": ips(log.rewards, prefix, **often),
        "SNIPS": snips(log.rewards, prefix, **often),
        "DR": doubly_robust(log.rewards, prefix, models.by_steps(target), **often),
        "DR of whole lists": doubly_robust(log.rewards, as_sent, models.whole(chances), **often),
        "IPS by list": ips(log.rewards, whole, **often),
        "SNIPS by list": snips(log.rewards, whole, **often),
        "IPS by place": ips(log.rewards, place, **often),
    }


def measure(
    *, repetitions: int, rows: int, seed: int, distances: Sequence[float] = DISTANCES, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """One line per distance and estimator."""
    arena = Arena.build(seed=seed)
    of_targets = {far: arena.chances(arena.targets[far]) for far in distances}
    truths = {far: arena.truth(chances) for far, chances in of_targets.items()}
    found: dict[tuple[float, str], list[Estimate]] = {}
    for repetition in range(repetitions):
        random = generator(seed, "coverage", repetition)
        log = Log.draw(arena, rows=rows, random=random)
        models = Models(arena, log, random=random)
        for far, chances in of_targets.items():
            for name, estimate in estimates(log, arena.targets[far], models, chances=chances).items():
                found.setdefault((far, name), []).append(estimate)
        if (repetition + 1) % 100 == 0:
            say(f"{repetition + 1} of {repetitions} repetitions")
    logged = arena.truth(arena.chances(arena.logging))
    return [
        {"distance": far, "estimator": name, "truth": truths[far], "logging": logged} | told(each, truths[far])
        for (far, name), each in found.items()
    ]


def told(found: Sequence[Estimate], truth: float) -> dict[str, Any]:
    """What a line says of many estimates of one truth."""
    values = np.array([each.value for each in found])
    held = [each.normal.low <= truth <= each.normal.high for each in found]
    share = float(np.mean(held))
    return {
        "covered": share,
        "covered_standard_error": math.sqrt(share * (1 - share) / len(held)),
        "half_width": float(np.mean([each.normal.high - each.value for each in found])),
        "bias": float(values.mean() - truth),
        "bias_standard_error": float(values.std(ddof=1) / math.sqrt(len(values))),
        "spread": float(values.std(ddof=1)),
        "effective_rows": float(np.median([each.effective_rows for each in found])),
        "rows": found[0].rows,
    }


def show(lines: Sequence[Mapping[str, Any]]) -> None:
    """Print the table."""
    table = Table("distance", "estimator", "truth", "covered", "bias", "half width", "effective rows")
    for line in lines:
        table.add_row(
            f"{line['distance']:g}", line["estimator"], f"{line['truth']:.3f}", f"{line['covered']:.1%}",
            f"{line['bias']:+.4f} +- {line['bias_standard_error']:.4f}", f"{line['half_width']:.3f}",
            f"{line['effective_rows']:,.0f} of {line['rows']:,}",
        )  # fmt: skip
    Console(width=140).print(table)


def main() -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="off_policy_coverage")
    arguments = parser.parse_args()
    lines = measure(repetitions=arguments.repetitions, rows=arguments.rows, seed=arguments.seed, say=print)
    show(lines)
    near = [line for line in lines if line["distance"] == DISTANCES[0] and line["estimator"] not in WRONG]
    content = {
        **header("numpy", "polars"),
        "command": "python -m benchmarks.quality.off_policy_coverage "
        f"--repetitions {arguments.repetitions} --rows {arguments.rows} --seed {arguments.seed}",
        "simulated": True,
        "note": "share of 95 % normal intervals that hold the exact value of the target policy; value of a list of "
        f"{LENGTH} of 12 items; wrong on purpose: {', '.join(WRONG)}",
        "needed": NEEDED,
        "holds_at_the_smallest_distance": all(line["covered"] >= NEEDED for line in near),
        "repetitions": arguments.repetitions,
        "rows": lines,
    }
    write_output(HERE / f"{arguments.name}.json", content)


if __name__ == "__main__":
    main()
