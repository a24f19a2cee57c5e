"""What sharing codes says of two items: categories, co-occurrence, and whether another fit says the same.

Semantic IDs enter as groups: for each prefix length, a whole number per item that is equal where two items share that
many first codes.  Everything is counted within groups, never pair by pair: the cost grows with items and events, and no
pair is left out.  Each number stands beside what chance gives, since groups become small as prefixes grow, and in a
group of one everything agrees.

Shape legend: I items, E events.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sememe.core.schema import Int64Array
from sememe.core.seeding import generator

Integers = npt.NDArray[np.integer]

SHUFFLES = 10
"""Random orders of the labels that stand for chance."""


@dataclass(frozen=True)
class PrefixPurity:
    """How far items that share a prefix are of one category."""

    depth: int
    """Length of the prefix."""
    purity: float
    """Share of items that have the most frequent category of their group."""
    by_chance: float
    """The same with the categories dealt out anew, group sizes as they are: the mean of 10 random orders."""


@dataclass(frozen=True)
class PrefixCooccurrence:
    """How often two items that share a prefix were used by the same user."""

    depth: int
    """Length of the shared prefix, at least; 0: the pairs that share no first code."""
    pairs: int
    """Pairs of items, used together or not."""
    mean: float | None
    """Users who used both, the mean over these pairs; None where there is no such pair."""
    lift: float | None
    """`mean` over that of depth 0; None where either is not there or the latter is 0."""
    by_popularity: float | None
    """The lift if users chose items by their popularity alone: lift above it is what the codes know."""


@dataclass(frozen=True)
class PrefixStability:
    """Whether two fits put the same items together."""

    depth: int
    """Length of the prefix."""
    agreement: float
    """Adjusted Rand index of the two groupings: 1 the same up to labels, 0 what chance gives."""
    kept: float | None
    """Pairs that share the prefix in both fits, over the mean of the pairs that do in either; None where none do."""
    by_chance: float | None
    """`kept` for groups of the same sizes filled at random."""


def purity_by_prefix(
    prefixes: Sequence[Integers], labels: Integers, *, seed: int = 0, shuffles: int = SHUFFLES
) -> tuple[PrefixPurity, ...]:
    """Category purity of each prefix length.

    Args:
        prefixes: for each length from 1 on, (I,) the groups.
        labels: (I,) the category of each item, numbered from 0; items without one have to be left out before.
        seed: of the random orders.
        shuffles: how many of them.
    """
    assert len(labels) > 0 and int(labels.min()) >= 0, "every item has a category"
    rng = generator(seed, "sid", "purity")
    orders = [rng.permutation(labels) for _ in range(shuffles)]
    return tuple(
        PrefixPurity(
            depth=depth,
            purity=purity(groups, labels),
            by_chance=float(np.mean([purity(groups, shuffled) for shuffled in orders])),
        )
        for depth, groups in enumerate(prefixes, start=1)
    )


def purity(groups: Integers, labels: Integers) -> float:
    """Share of items that have the most frequent label of their group; groups and labels (I,), numbered from 0."""
    width = int(labels.max()) + 1
    cells, counts = np.unique(groups.astype(np.int64) * width + labels, return_counts=True)
    best = np.zeros(int(groups.max()) + 1, np.int64)
    np.maximum.at(best, cells // width, counts)
    return float(best.sum() / len(groups))


def cooccurrence_by_prefix(
    users: Integers, items: Integers, prefixes: Sequence[Integers]
) -> tuple[PrefixCooccurrence, ...]:
    """How often pairs of items occur together, for pairs that share no code and for each prefix length.

    Two items occur together once for each user who has both, however often and whenever.

    Args:
        users: (E,) the user of each training event.
        items: (E,) its item.
        prefixes: for each length from 1 on, (I,) the groups.

    Returns:
        Depth 0, then one entry per length.
    """
    num_items = len(prefixes[0])
    events = np.sort(users.astype(np.int64) * num_items + items)
    events = events[np.r_[True, events[1:] != events[:-1]][: len(events)]]
    who, what = events // num_items, events % num_items
    popularity = np.bincount(what, minlength=num_items).astype(np.float64)
    alone = float(np.square(popularity).sum())
    num_users = max(1, len(np.unique(who)))
    everything = np.zeros(num_items, np.int64)
    counted = []
    for groups in (everything, *prefixes):
        width = int(groups.max()) + 1
        mass = np.bincount(groups, weights=popularity, minlength=width)
        counted.append(
            _Counted(
                pairs=pairs_within(groups),
                together=pairs_within(who * width + groups[what]),
                # Of users who choose item i with probability n_i / U, n_i n_j / U have both i and j.
                expected=max(0.0, float(np.square(mass).sum()) - alone) / 2 / num_users,
            )
        )
    counted[0] = counted[0].without(counted[1])
    return tuple(_cooccurrence(depth, found, none=counted[0]) for depth, found in enumerate(counted))


@dataclass(frozen=True)
class _Counted:
    """Pairs of items, and users who have both, as counted and as expected from popularity."""

    pairs: int
    together: int
    expected: float

    def without(self, other: "_Counted") -> "_Counted":
        return _Counted(
            self.pairs - other.pairs, self.together - other.together, max(0.0, self.expected - other.expected)
        )


def _cooccurrence(depth: int, found: _Counted, *, none: _Counted) -> PrefixCooccurrence:
    mean = _ratio(found.together, found.pairs)
    return PrefixCooccurrence(
        depth=depth,
        pairs=found.pairs,
        mean=mean,
        lift=_ratio(mean, _ratio(none.together, none.pairs)),
        by_popularity=_ratio(_ratio(found.expected, found.pairs), _ratio(none.expected, none.pairs)),
    )


def stability_by_prefix(first: Sequence[Integers], second: Sequence[Integers]) -> tuple[PrefixStability, ...]:
    """How far two fits agree about which items belong together, for each prefix length.

    Args:
        first: for each length from 1 on, (I,) the groups of one fit; I is 2 or more.
        second: those of the other fit, same items in the same order.
    """
    return tuple(
        _stability(depth, ours, theirs) for depth, (ours, theirs) in enumerate(zip(first, second, strict=True), start=1)
    )


def _stability(depth: int, first: Integers, second: Integers) -> PrefixStability:
    """Hubert & Arabie, "Comparing partitions", 1985, equation 5, by pairs."""
    assert len(first) == len(second) > 1, "the same items, two at least"
    both = pairs_within(first.astype(np.int64) * (int(second.max()) + 1) + second)
    ours, theirs = pairs_within(first), pairs_within(second)
    expected = ours * theirs / (len(first) * (len(first) - 1) / 2)
    middle = (ours + theirs) / 2
    # Equal only where both fits put all items together, or each apart: then they agree.
    agreement = 1.0 if middle == expected else (both - expected) / (middle - expected)
    return PrefixStability(depth, agreement, _ratio(both, middle), _ratio(expected, middle))


def pairs_within(groups: Integers) -> int:
    """How many pairs of entries of (n,) have the same number."""
    # Sorted and cut by hand: several times faster than np.unique where most numbers occur once.
    ordered = np.sort(groups)
    starts = np.flatnonzero(np.r_[len(ordered) > 0, ordered[1:] != ordered[:-1]])
    counts: Int64Array = np.diff(np.r_[starts, len(ordered)]).astype(np.int64)
    return int((counts * (counts - 1) // 2).sum())


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole
