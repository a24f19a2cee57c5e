"""Measures on groups of items, against twins that look at every pair, and against numbers worked by hand."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from sememe.metrics.sid_quality import (
    cooccurrence_by_prefix,
    pairs_within,
    purity,
    purity_by_prefix,
    stability_by_prefix,
)


def nested_groups(rng: np.random.Generator, items: int) -> list[np.ndarray]:
    """Groups of prefixes of length 1, 2 and 3: each cuts the one before."""
    codes = rng.integers(0, 3, (items, 3))
    return [np.unique(codes[:, :depth], axis=0, return_inverse=True)[1].ravel() for depth in (1, 2, 3)]


def slow_purity(groups: np.ndarray, labels: np.ndarray) -> float:
    members = {group: [int(label) for label in labels[groups == group]] for group in set(groups.tolist())}
    return sum(Counter(inside).most_common(1)[0][1] for inside in members.values()) / len(labels)


@pytest.mark.parametrize("seed", range(5))
def test_purity_equals_the_slow_twin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 50)
    for groups in nested_groups(rng, 50):
        assert purity(groups, labels) == pytest.approx(slow_purity(groups, labels))


def test_purity_by_hand_and_by_chance() -> None:
    # One group of three (two of label 7) and one of a single item: (2 + 1) / 4.
    assert purity(np.array([0, 0, 0, 1]), np.array([7, 7, 2, 2])) == 0.75
    halves, labels = np.repeat([0, 1], 500), np.repeat([0, 1], 500)
    whole, split, alone = purity_by_prefix([np.zeros(1000, int), halves, np.arange(1000)], labels)
    assert (whole.depth, whole.purity, whole.by_chance) == (1, 0.5, 0.5)
    assert split.purity == 1
    assert split.by_chance == pytest.approx(0.5, abs=0.05)
    # In groups of one everything is pure, and chance says so.
    assert (alone.purity, alone.by_chance) == (1, 1)
    assert purity_by_prefix([halves], labels) == purity_by_prefix([halves], labels)


def slow_cooccurrence(users: np.ndarray, items: np.ndarray, groups: np.ndarray) -> dict[str, list[float]]:
    """Users of each pair that shares ("inside") or does not share ("outside") its group, as counted and as expected."""
    who = {item: set(users[items == item].tolist()) for item in range(len(groups))}
    everybody = len(set(users.tolist()))
    found: dict[str, list[float]] = {"inside": [], "outside": [], "inside expected": [], "outside expected": []}
    for one, other in combinations(range(len(groups)), 2):
        place = "inside" if groups[one] == groups[other] else "outside"
        found[place].append(len(who[one] & who[other]))
        found[f"{place} expected"].append(len(who[one]) * len(who[other]) / everybody)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_cooccurrence_equals_the_slow_twin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    users, items = rng.integers(0, 12, 90), rng.integers(0, 20, 90)
    prefixes = nested_groups(rng, 20)
    none, *rows = cooccurrence_by_prefix(users, items, prefixes)
    first = slow_cooccurrence(users, items, prefixes[0])
    assert (none.depth, none.pairs, none.lift, none.by_popularity) == (0, len(first["outside"]), 1, 1)
    assert none.mean == pytest.approx(np.mean(first["outside"]))
    for depth, (row, groups) in enumerate(zip(rows, prefixes, strict=True), start=1):
        slow = slow_cooccurrence(users, items, groups)
        assert (row.depth, row.pairs) == (depth, len(slow["inside"]))
        assert row.mean == pytest.approx(np.mean(slow["inside"]))
        assert row.lift == pytest.approx(np.mean(slow["inside"]) / np.mean(first["outside"]))
        expected = np.mean(slow["inside expected"]) / np.mean(first["outside expected"])
        assert row.by_popularity == pytest.approx(expected)


def test_cooccurrence_by_hand() -> None:
    # Items 0 and 1 share a code, 2 has its own.  User 0 has 0 (twice) and 1, user 1 has 0 and 2.
    users, items = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 0, 2])
    none, shared, alone = cooccurrence_by_prefix(users, items, [np.array([0, 0, 1]), np.arange(3)])
    assert (none.pairs, none.mean) == (2, 0.5)
    assert (shared.pairs, shared.mean, shared.lift) == (1, 1, 2)
    # Expected: 2 * 1 / 2 for (0, 1); (2 * 1 + 1 * 1) / 2 over two pairs for the others.
    assert shared.by_popularity == pytest.approx(1 / 0.75)
    assert (alone.pairs, alone.mean, alone.lift, alone.by_popularity) == (0, None, None, None)


def test_pairs_that_are_never_used_together_give_no_lift() -> None:
    users, items = np.array([0, 0, 1]), np.array([0, 1, 2])
    none, shared = cooccurrence_by_prefix(users, items, [np.array([0, 0, 1])])
    assert (none.mean, none.lift, shared.mean, shared.lift) == (0, None, 1, None)
    nobody = cooccurrence_by_prefix(np.empty(0, int), np.empty(0, int), [np.array([0, 0, 1])])
    assert [row.mean for row in nobody] == [0, 0]


def slow_rand_index(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """(adjusted Rand index from the four kinds of pairs, share of sharing pairs that both have)."""
    pairs = list(combinations(range(len(first)), 2))
    kinds = Counter((bool(first[i] == first[j]), bool(second[i] == second[j])) for i, j in pairs)
    both, ours, theirs, none = (kinds[kind] for kind in ((True, True), (True, False), (False, True), (False, False)))
    above = 2 * (both * none - ours * theirs)
    index = above / ((both + ours) * (ours + none) + (both + theirs) * (theirs + none))
    return index, 2 * both / (2 * both + ours + theirs)


@pytest.mark.parametrize("seed", range(5))
def test_stability_equals_the_slow_twin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first = nested_groups(rng, 40)
    second = [np.where(rng.random(40) < 0.7, groups, rng.permutation(groups)) for groups in first]
    for row, ours, theirs in zip(stability_by_prefix(first, second), first, second, strict=True):
        index, kept = slow_rand_index(ours, theirs)
        assert row.agreement == pytest.approx(index)
        assert row.kept == pytest.approx(kept)


def test_stability_does_not_see_labels_and_is_nothing_for_unrelated_groups() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 8, 2000)
    (same,) = stability_by_prefix([groups], [(groups * 3 + 1) % 8])
    assert (same.depth, same.agreement, same.kept) == (1, 1, 1)
    (unrelated,) = stability_by_prefix([groups], [rng.permutation(groups)])
    assert unrelated.agreement == pytest.approx(0, abs=0.01)
    assert unrelated.kept == pytest.approx(unrelated.by_chance, abs=0.01)
    assert unrelated.by_chance == pytest.approx(1 / 8, abs=0.01)


def test_stability_where_no_pair_or_every_pair_is_together() -> None:
    apart, together = np.arange(5), np.zeros(5, int)
    (row,) = stability_by_prefix([apart], [apart])
    assert (row.agreement, row.kept, row.by_chance) == (1, None, None)
    (row,) = stability_by_prefix([together], [together])
    assert (row.agreement, row.kept, row.by_chance) == (1, 1, 1)
    (row,) = stability_by_prefix([apart], [together])
    assert (row.agreement, row.kept) == (0, 0)


def test_pairs_within_counts_pairs() -> None:
    assert pairs_within(np.array([5, 9, 5, 2, 5, 9])) == 3 + 0 + 1
    assert pairs_within(np.array([4])) == pairs_within(np.empty(0, int)) == 0
    # One large group has more pairs than 32 bits hold.
    assert pairs_within(np.zeros(100_000, np.int32)) == 100_000 * 99_999 // 2
