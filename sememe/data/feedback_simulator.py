"""A simulated service: users with tastes, a logging policy that is not the best, and all that is logged of it.

Items are those of a planted world (`sememe.data.simulator`), one topic per leaf of its tree, so that titles and vectors
tell the topic; quality and length are not told by them.  The logging policy has a noisy idea of tastes, favours popular
items, which are no better than others, and long ones, which are watched for more seconds; it always explores a little,
and some sessions are shown by a uniformly random policy.  What users do with that is drawn from `FeedbackWorld`, where
the true value of any list and the best list are known.  A number measured here is a number about this world.

The log has one event per item that a user got as far as, and these columns (types: `sememe.data.feedback_columns`):
"session", "watch_time", "duration", "like", "follow", "dislike", "exit", "random_exposure", "propensity", "rating" (the
event's value by the weights of `FeedbackRules`), and "event_type": codes of EVENT_TYPES, the strongest thing that
was done.  No user is shown an item twice.

Shape legend: U users, I items, C topics, E events, T sessions of the most active user, S places of a list.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from sememe.core.errors import ConfigError
from sememe.core.schema import Catalog, Codes, Int32Array, Interactions
from sememe.core.seeding import generator
from sememe.data.feedback_policy import SoftmaxPolicy
from sememe.data.feedback_world import SHORTEST, FeedbackRules, FeedbackWorld, Reaction, UserState
from sememe.data.simulator import DAY_MS, EPOCH_MS, PlantedWorld, World

Float64Array = npt.NDArray[np.float64]

EVENT_TYPES = ("dislike", "follow", "like", "skip", "view")
"""In the order of their codes; "view" where at least half was watched, "skip" where less."""
ARRIVAL_MS = 14 * DAY_MS
"""Users come first within so long, so that most are still there when the log ends."""
LONGEST = 180.0
"""Seconds; no item is longer."""


@dataclass(frozen=True)
class LoggingPolicy:
    """What the service shows: its scores are weighted sums of these, each between 0 and 1."""

    taste: float = 6.0
    """Weight of the user's taste for the topic, as far as it is known."""
    noise: float = 0.2
    """Standard deviation of the error in that."""
    popularity: float = 2.0
    """Weight of an item's popularity, which says nothing of its quality."""
    length: float = 1.0
    """Weight of an item's place among all lengths."""
    explore: float = 0.1
    """Share of each choice that is uniform."""


@dataclass(frozen=True)
class FeedbackSimulator:
    """What the service is like; `generate` draws it."""

    branching: tuple[int, ...] = (4, 4)
    items_per_topic: int = 20
    dim: int = 16
    num_users: int = 1000
    sessions_per_user: tuple[int, int] = (5, 10)
    """Fewest and most; numbers between them are equally likely."""
    list_length: int = 8
    random_share: float = 0.15
    """Share of the sessions that the uniformly random policy shows."""
    stay: tuple[float, float] = (0.75, 0.85)
    """Between these lies each user's chance of staying after an item of which nothing was watched."""
    pickiness: float = 0.5
    """The larger, the fewer topics a user likes."""
    rules: FeedbackRules = FeedbackRules()
    logging: LoggingPolicy = LoggingPolicy()

    def generate(self, *, seed: int) -> "SimulatedFeedback":
        """Draw items, users and the log.  Equal seeds give equal results.

        Raises:
            ConfigError: values that cannot be.
        """
        self._check()
        tree = PlantedWorld(
            branching=self.branching, items_per_leaf=self.items_per_topic, dim=self.dim, num_users=1
        ).generate(seed=seed)
        world = self._world(tree, seed=seed)
        logging = self._logging(world, seed=seed)
        log, later = _Service(self, world, logging, seed=seed).run()
        seconds = pl.Series("duration", world.lengths)
        catalog = Catalog(tree.catalog.frame.with_columns(seconds), tree.catalog.vectors)
        return SimulatedFeedback(log, catalog, later, logging, tree.codes(), world)

    def _check(self) -> None:
        self.rules.check()
        (fewest, most), (low, high) = self.sessions_per_user, self.stay
        rules = {
            "num_users and list_length are at least 1": min(self.num_users, self.list_length) >= 1,
            "sessions_per_user is (fewest, most) with 1 <= fewest <= most": 1 <= fewest <= most,
            "random_share is a share": 0 <= self.random_share <= 1,
            "stay is (low, high), chances that leave room for rules.stay_watched": 0 <= low <= high
            and high + self.rules.stay_watched <= 1,
            "every user has more items than all sessions can show": most * self.list_length
            < np.prod(self.branching) * self.items_per_topic,
        }
        for rule, holds in rules.items():
            if not holds:
                raise ConfigError(f"{self} cannot be generated: {rule}", fix="change the value that breaks this rule")

    def _world(self, tree: World, *, seed: int) -> FeedbackWorld:
        random = generator(seed, "feedback", "world")
        topics, vectors = tree.leaves, tree.catalog.vectors
        assert vectors is not None, "planted items have vectors"
        num_items, num_topics = len(topics), int(topics.max()) + 1
        centres = np.stack([vectors[topics == topic].mean(axis=0) for topic in range(num_topics)]).astype(np.float64)
        liking = random.standard_normal((self.num_users, self.dim)) @ (centres - centres.mean(axis=0)).T
        liking = (liking - liking.mean(axis=1, keepdims=True)) / liking.std(axis=1, keepdims=True)
        digits = len(str(self.num_users - 1))
        return FeedbackWorld(
            rules=self.rules,
            taste=1 / (1 + np.exp(self.pickiness - 2 * liking)),
            stay=random.uniform(*self.stay, self.num_users),
            topics=topics,
            quality=random.uniform(0.5, 1.0, num_items),
            lengths=np.clip(SHORTEST * np.exp(random.normal(1.5, 0.9, num_items)), SHORTEST, LONGEST).round(1),
            state=UserState(np.zeros((self.num_users, num_topics)), np.zeros((self.num_users, num_items), np.bool_)),
            user_ids=pl.Series("user_id", [f"u{user:0{digits}d}" for user in range(self.num_users)]),
            item_ids=tree.catalog.frame["item_id"],
        )

    def _logging(self, world: FeedbackWorld, *, seed: int) -> SoftmaxPolicy:
        random, plan = generator(seed, "feedback", "logging"), self.logging
        guess = np.clip(world.taste + plan.noise * random.standard_normal(world.taste.shape), 0, 1)
        # Cubed, so that few items are popular.
        popularity = random.random(world.num_items) ** 3
        place = world.lengths.argsort().argsort() / max(1, world.num_items - 1)
        scores = plan.taste * guess[:, world.topics] + plan.popularity * popularity + plan.length * place
        return SoftmaxPolicy(scores, plan.explore)


TINY_FEEDBACK = FeedbackSimulator(
    branching=(2, 2), items_per_topic=8, dim=8, num_users=80, sessions_per_user=(3, 5), list_length=4
)
"""32 items, 80 users: for tests."""


@dataclass(frozen=True, eq=False)
class SimulatedFeedback:
    """A generated log, and the truth behind it.  Indices are those of ids in ascending order."""

    interactions: Interactions
    catalog: Catalog
    """item_id, title, categories, duration (seconds), vectors."""
    world: FeedbackWorld
    """After the log: what users remember is what they were shown in it.  `FeedbackWorld.after` gives it for a part."""
    logging: SoftmaxPolicy
    """What showed the sessions that are not random."""
    codes: Codes
    """The right SIDs: the path of the topic in the tree, and a number in the topic."""
    before: FeedbackWorld
    """When nobody had been shown anything."""


@dataclass
class _Service:
    """Sessions of all users, the first of each together, then the second of each, and so on."""

    plan: FeedbackSimulator
    world: FeedbackWorld
    logging: SoftmaxPolicy
    seed: int = field(kw_only=True)

    def run(self) -> tuple[Interactions, FeedbackWorld]:
        """The log, and the world after it."""
        random, world = generator(self.seed, "feedback", "sessions"), self.world
        sessions = random.integers(*self.plan.sessions_per_user, self.plan.num_users, endpoint=True)
        begins = EPOCH_MS + (random.random(self.plan.num_users) * ARRIVAL_MS).astype(np.int64)
        frames = []
        for number in range(int(sessions.max())):
            users = np.flatnonzero(sessions > number)
            frame, items, reaction = self._session(world, users, random)
            world = world.remember(users, items, shown=reaction.shown)
            begins[users] += (random.exponential(2 * DAY_MS, len(users)) + DAY_MS / 4).astype(np.int64)
            frames.append(frame.with_columns(pl.lit(number).alias("number"), time=pl.Series(begins[frame["user"]])))
        events = pl.concat(frames).sort("user", "number", "place")
        return self._log(events), world

    def _session(
        self, world: FeedbackWorld, users: npt.NDArray[np.int64], random: np.random.Generator
    ) -> tuple[pl.DataFrame, Int32Array, Reaction]:
        """One session of each of `users`: its events, the lists, and what was done with them."""
        uniform = random.random(len(users)) < self.plan.random_share
        any_item = SoftmaxPolicy.uniform(users=world.num_users, items=world.num_items)
        barred, length = world.state.seen[users], self.plan.list_length
        drawn, chances = np.empty((len(users), length), np.int32), np.empty((len(users), length))
        for policy, rows in ((self.logging, ~uniform), (any_item, uniform)):
            lists = policy.draw(users[rows], length=length, barred=barred[rows], random=random)
            drawn[rows], chances[rows] = lists.items, lists.propensities
        reaction = world.react(users, drawn, random=random)
        row, place = np.nonzero(reaction.shown)
        shown = {name: getattr(reaction, name)[row, place] for name in Reaction.__dataclass_fields__ if name != "shown"}
        frame = pl.DataFrame(
            {
                "user": users[row],
                "place": place,
                "item": drawn[row, place],
                "propensity": chances[row, place],
                "random_exposure": uniform[row],
                **shown,
            }
        )
        return frame, drawn, reaction

    def _log(self, events: pl.DataFrame) -> Interactions:
        lengths = np.bincount(events["user"].to_numpy(), minlength=self.plan.num_users)
        kind = (
            pl.when("dislike")
            .then(0)
            .when("follow")
            .then(1)
            .when("like")
            .then(2)
            .when(pl.col("watch_share") < 0.5)
            .then(3)
            .otherwise(4)
        )
        # Each item begins when the one before it was left, a second later.
        watched = (1000 * pl.col("watch_time")).cast(pl.Int64) + 1000
        since = watched.cum_sum().over("user", "number") - watched
        session = pl.struct("user", "number").rle_id()
        events = events.with_columns(session=session, kind=kind, time=pl.col("time") + since)
        items = events["item"].to_numpy().astype(np.int32)
        floats = {"watch_time": "watch_time", "rating": "value"}
        flags = ("like", "follow", "dislike", "exit", "random_exposure")
        return Interactions(
            offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)]),
            items=items,
            user_ids=self.world.user_ids,
            item_ids=self.world.item_ids,
            timestamps=events["time"].to_numpy().astype(np.int64),
            columns={
                "session": events["session"].to_numpy().astype(np.int64),
                **{name: events[own].to_numpy().astype(np.float32) for name, own in floats.items()},
                "duration": self.world.lengths[items].astype(np.float32),
                **{name: events[name].to_numpy().astype(np.int8) for name in flags},
                "propensity": events["propensity"].to_numpy(),
                "event_type": events["kind"].to_numpy().astype(np.int32),
            },
        )
