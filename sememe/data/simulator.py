"""Planted worlds: generated logs and catalogues whose right answers are known.

Items are the leaves of a tree of Gaussian clusters, so the right semantic ID of an item is its path in the tree.  Users
walk over the leaf clusters by a known Markov chain, so the right probability of every next item is known, and with it
the best Recall@k that any model can reach.  Titles are made of one word per branch, so text models have a signal too.
For tests, debug sizes and examples; a number measured here is a number about this world.

Shape legend: U users, I items, E events, C leaf clusters, P items per leaf, L levels of the tree, N rows.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from sememe.core.errors import ConfigError
from sememe.core.schema import BoolArray, Catalog, Codes, FloatArray, Int32Array, Int64Array, Interactions
from sememe.core.seeding import generator

Float64Array = npt.NDArray[np.float64]

EPOCH_MS = 1_700_000_000_000
"""When the first users arrive, ms since 1970 UTC."""
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
YEAR_MS = 365 * DAY_MS
SPREAD_PER_LEVEL = 0.5
"""How much closer siblings are than their parents: level l scatters by this to the power l."""
FIRST_WEIGHT = 2 / 3
"""Share of "follow" steps that go to the first of a cluster's two successors."""


@dataclass(frozen=True)
class PlantedWorld:
    """What the world is like; `generate` draws it.

    A step of a user stays in the leaf cluster with probability `stay`, goes to one of the cluster's two successors with
    `follow` (the first twice as often), and otherwise to any cluster, popular ones more often.  In the cluster the item
    is drawn by Zipf weights.  `popularity` is the exponent of both skews; 0 makes all equally popular.
    """

    branching: tuple[int, ...] = (4, 4, 4)
    items_per_leaf: int = 4
    dim: int = 16
    noise: float = 0.05
    """Standard deviation of an item around its leaf's centre; clusters are distinct while it is well below 0.25."""
    num_users: int = 1000
    events_per_user: tuple[int, int] = (5, 20)
    """Fewest and most events of a user; lengths between them are equally likely."""
    stay: float = 0.3
    follow: float = 0.5
    popularity: float = 0.8

    def generate(self, *, seed: int) -> "World":
        """Draw the tree, the chain and the users.  Equal seeds give equal worlds."""
        self._check()
        num_leaves = math.prod(self.branching)
        num_items = num_leaves * self.items_per_leaf
        random = generator(seed, "planted", "tree")
        # Item numbers are shuffled, so that an index says nothing about the place in the tree.
        leaf_items = random.permutation(num_items).astype(np.int32).reshape(num_leaves, self.items_per_leaf)
        leaves = np.empty(num_items, np.int32)
        leaves[leaf_items] = np.arange(num_leaves, dtype=np.int32)[:, None]
        chain = self._chain(random, num_leaves=num_leaves)
        vectors = self._centres(random)[leaves] + self.noise * random.standard_normal((num_items, self.dim))
        paths = np.stack(np.unravel_index(leaves, self.branching), axis=1).astype(np.int32)
        frame = _describe(paths, leaf_items)
        log = self._walk(chain, leaf_items=leaf_items, item_ids=frame["item_id"], seed=seed)
        return World(log, Catalog(frame, vectors.astype(np.float32)), paths, leaf_items, chain, self)

    def _check(self) -> None:
        low, high = self.events_per_user
        rules = {
            "branching needs at least one level, each with at least 1 branch": bool(self.branching)
            and min(self.branching) >= 1,
            "items_per_leaf, dim and num_users are at least 1": min(self.items_per_leaf, self.dim, self.num_users) >= 1,
            "events_per_user is (fewest, most) with 1 <= fewest <= most": 1 <= low <= high,
            "stay and follow are probabilities that add up to at most 1": min(self.stay, self.follow) >= 0
            and self.stay + self.follow <= 1,
            "noise and popularity are not negative": min(self.noise, self.popularity) >= 0,
        }
        for rule, holds in rules.items():
            if not holds:
                raise ConfigError(f"{self} cannot be generated: {rule}", fix="change the value that breaks this rule")

    def _centres(self, random: np.random.Generator) -> Float64Array:
        """(C, dim) centre of each leaf: the sum of one random offset per node on its path, smaller level by level."""
        centres = np.zeros((1, self.dim))
        for level, branches in enumerate(self.branching):
            offsets = random.standard_normal((len(centres), branches, self.dim)) * SPREAD_PER_LEVEL**level
            centres = (centres[:, None] + offsets).reshape(-1, self.dim)
        return centres

    def _chain(self, random: np.random.Generator, *, num_leaves: int) -> "Chain":
        # A full cycle through a random order, and the same shifted: every cluster has two successors and is one.
        order = random.permutation(num_leaves)
        successors = np.empty((num_leaves, 2), np.int32)
        successors[order, 0] = np.roll(order, -1)
        successors[order, 1] = np.roll(order, -2)
        leaf_weights = _zipf(num_leaves, self.popularity)[random.permutation(num_leaves)]
        item_weights = _zipf(self.items_per_leaf, self.popularity)
        return Chain(self.stay, self.follow, successors, leaf_weights, item_weights)

    def _walk(self, chain: "Chain", *, leaf_items: Int32Array, item_ids: pl.Series, seed: int) -> Interactions:
        """All users step together: one pass per step, not one per user."""
        random = generator(seed, "planted", "walks")
        low, high = self.events_per_user
        lengths = random.integers(low, high, self.num_users, endpoint=True)
        items = np.empty((self.num_users, high), np.int32)
        leaves = _draw(np.cumsum(chain.leaf_weights), random.random(self.num_users)).astype(np.int32)
        for step in range(high):
            if step:
                leaves = chain.step(leaves, random)
            places = _draw(np.cumsum(chain.item_weights), random.random(self.num_users))
            items[:, step] = leaf_items[leaves, places]
        taken = np.arange(high) < lengths[:, None]
        times, sessions = _times(random, taken)
        digits = len(str(self.num_users - 1))
        return Interactions(
            offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)]),
            items=items[taken],
            user_ids=pl.Series("user_id", [f"u{user:0{digits}d}" for user in range(self.num_users)]),
            item_ids=item_ids,
            timestamps=times[taken],
            columns={"session": sessions},
        )


TINY = PlantedWorld(branching=(3, 3), items_per_leaf=3, dim=8, num_users=60, events_per_user=(4, 12))
"""27 items, 60 users: for tests."""


@dataclass(frozen=True, eq=False)
class Chain:
    """The Markov chain over leaf clusters, and how an item is drawn in one."""

    stay: float
    follow: float
    successors: Int32Array
    """(C, 2)"""
    leaf_weights: Float64Array
    """(C,) where a step goes that neither stays nor follows, and where users start."""
    item_weights: Float64Array
    """(P,) probability of the p-th item of a leaf, the same in every leaf."""

    def transitions(self) -> Float64Array:
        """(C, C) probability of the next leaf (column) after a leaf (row)."""
        count = len(self.leaf_weights)
        matrix: Float64Array = np.tile((1 - self.stay - self.follow) * self.leaf_weights, (count, 1))
        rows = np.arange(count)
        matrix[rows, rows] += self.stay
        for column, weight in enumerate((FIRST_WEIGHT, 1 - FIRST_WEIGHT)):
            np.add.at(matrix, (rows, self.successors[:, column]), self.follow * weight)
        return matrix

    def step(self, leaves: Int32Array, random: np.random.Generator) -> Int32Array:
        """(N,) the next leaf of each walker at `leaves` (N,), drawn from `transitions` without building it."""
        choice, which = random.random(len(leaves)), random.random(len(leaves))
        followed = self.successors[leaves, (which >= FIRST_WEIGHT).astype(np.int64)]
        anywhere = _draw(np.cumsum(self.leaf_weights), which)
        moved = np.where(choice < self.stay + self.follow, followed, anywhere)
        return np.where(choice < self.stay, leaves, moved).astype(np.int32)


@dataclass(frozen=True, eq=False)
class World:
    """A generated log and catalogue, and the truth behind them."""

    interactions: Interactions
    """With timestamps and the column "session"; ids sort like indices."""
    catalog: Catalog
    """item_id, title, categories (one path text per item), vectors."""
    leaf_codes: Int32Array
    """(I, L) the path of each item's cluster in the tree: the right semantic codes."""
    leaf_items: Int32Array
    """(C, P) the items of each leaf."""
    chain: Chain
    plan: PlantedWorld

    @property
    def leaves(self) -> Int32Array:
        """(I,) the leaf cluster of each item."""
        numbers: Int64Array = np.ravel_multi_index(tuple(self.leaf_codes.T), self.plan.branching)
        return numbers.astype(np.int32)

    def codes(self) -> Codes:
        """The right SIDs: the path in the tree, and a last level that numbers the items of a leaf."""
        last = np.empty((self.leaf_items.size, 1), np.int32)
        last[self.leaf_items, 0] = np.arange(self.plan.items_per_leaf, dtype=np.int32)
        return Codes(
            matrix=np.concatenate([self.leaf_codes, last], axis=1),
            codebook_sizes=(*self.plan.branching, self.plan.items_per_leaf),
            num_semantic_levels=len(self.plan.branching),
            collisions="token",
        )

    def next_item_probabilities(self, last_items: Int32Array) -> FloatArray:
        """(N, I) the true probability of each item after a history that ends with `last_items` (N,)."""
        by_leaf = self.chain.transitions()[self.leaves[last_items]]
        probabilities = np.empty((len(last_items), self.leaf_items.size), np.float32)
        spread = by_leaf[:, :, None] * self.chain.item_weights
        probabilities[:, self.leaf_items.ravel()] = spread.reshape(len(last_items), -1)
        return probabilities

    def best_recall(self, last_items: Int32Array, *, k: int) -> float:
        """The Recall@k of recommending by the true probabilities, averaged over `last_items` (N,): the ceiling."""
        probabilities = self.next_item_probabilities(last_items)
        best = np.partition(probabilities, -k, axis=1)[:, -k:]
        return float(best.sum(axis=1, dtype=np.float64).mean())


def _times(random: np.random.Generator, taken: BoolArray) -> tuple[Int64Array, Int64Array]:
    """Times (U, T) in ms, increasing along a row, and the session number (E,) of each event.

    A user comes back after hours or days in one step of four, which begins a session, and else goes on within minutes.
    """
    shape = taken.shape
    returns = random.random(shape) < 0.25
    returns[:, 0] = True
    gaps = 1 + np.where(
        returns, random.exponential(2 * 86_400_000, shape) + 3_600_000, random.exponential(60_000, shape)
    )
    gaps[:, 0] = EPOCH_MS + random.random(shape[0]) * YEAR_MS
    times = np.cumsum(gaps.astype(np.int64), axis=1)
    return times, np.cumsum(returns[taken], dtype=np.int64) - 1


def _zipf(count: int, exponent: float) -> Float64Array:
    weights = np.arange(1, count + 1, dtype=np.float64) ** -exponent
    shares: Float64Array = weights / weights.sum()
    return shares


def _draw(cumulative: Float64Array, uniform: Float64Array) -> Int64Array:
    """One index per uniform number in [0, 1); the last sum may fall short of 1 by rounding."""
    return np.minimum(np.searchsorted(cumulative, uniform, side="right"), len(cumulative) - 1).astype(np.int64)


def _describe(paths: Int32Array, leaf_items: Int32Array) -> pl.DataFrame:
    """item_id, a title of one word per branch and one of the item's own, and the branch as a category path."""
    num_items, levels = paths.shape
    digits = len(str(num_items - 1))
    # Number the nodes of the whole tree level by level, so that every branch has a word of its own.
    words: list[list[str]] = []
    first = 0
    for level in range(levels):
        nodes, places = np.unique(paths[:, : level + 1], axis=0, return_inverse=True)
        words.append([_word(first + int(node)) for node in places.ravel()])
        first += len(nodes)
    place_in_leaf = np.empty(num_items, np.int64)
    place_in_leaf[leaf_items] = np.arange(leaf_items.shape[1])
    branch = [" ".join(row) for row in zip(*words, strict=True)]
    return pl.DataFrame(
        {
            "item_id": [f"i{item:0{digits}d}" for item in range(num_items)],
            "title": [f"{path} {place + 1}" for path, place in zip(branch, place_in_leaf.tolist(), strict=True)],
            "categories": [path.replace(" ", " > ") for path in branch],
        }
    )


_SYLLABLES = [first + last for last in "aeiou" for first in "bdfgklmnprstvz"]


def _word(number: int) -> str:
    """A pronounceable word of two or more syllables, a different one for each number."""
    base = len(_SYLLABLES)
    # 29 is coprime to the 70 syllables: neighbours get words that do not look alike.
    digits = [number * 29 % base, (number // base + number * 13) % base]
    rest = number // base**2
    while rest:
        digits.append(rest % base)
        rest //= base
    return "".join(_SYLLABLES[digit] for digit in digits)
