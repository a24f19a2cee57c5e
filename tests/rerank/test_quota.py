"""No list breaks a quota; under one quota, no list that keeps it is longer or has a higher score at any place."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_lists import assert_lists_of_candidates, random_ranked

from sememe.core.errors import ConfigError
from sememe.core.schema import PAD, Ranked
from sememe.rerank.quota import Quota, keep_quotas


def listed(*items: int, scores: list[float]) -> Ranked:
    return Ranked(items=np.array([items], np.int32), scores=np.array([scores], np.float32), source="x")


def test_by_hand() -> None:
    candidates = listed(4, 2, 0, 3, 1, PAD, scores=[5, 4, 3, 2, 1, -np.inf])
    # Items 4, 2 and 0 are of one group, 1 is of none.
    groups = np.array([7, PAD, 7, 3, 7], np.int32)
    two = keep_quotas(candidates, [Quota(groups, most=2)], k=3)
    assert two.items.tolist() == [[4, 2, 3]] and two.scores.tolist() == [[5, 4, 2]]
    assert two.source == "x+quota"
    one = keep_quotas(candidates, [Quota(groups, most=1)], k=5)
    assert one.items.tolist() == [[4, 3, 1, PAD, PAD]]
    assert one.scores.tolist() == [[5, 2, 1, -np.inf, -np.inf]]
    free = keep_quotas(candidates, [Quota(np.full(5, PAD, np.int32), most=1)], k=2)
    assert free.items.tolist() == [[4, 2]]


@settings(max_examples=80, deadline=None)
@given(
    candidates=st.integers(0, 9),
    items=st.integers(9, 30),
    k=st.integers(1, 11),
    most=st.integers(1, 4),
    seed=st.integers(0, 10_000),
)
def test_no_other_list_that_keeps_the_quota_is_longer_or_better_anywhere(
    candidates: int, items: int, k: int, most: int, seed: int
) -> None:
    ranked = random_ranked(3, candidates, items=items, seed=seed)
    groups = np.random.default_rng(seed).integers(PAD, 3, size=items).astype(np.int32)
    found = keep_quotas(ranked, [Quota(groups, most=most)], k=k)
    assert_lists_of_candidates(found, ranked, k=k)
    for row in range(3):
        ours = found.scores[row][found.items[row] != PAD]
        real = int((ranked.items[row] != PAD).sum())
        for size in range(1, min(k, real) + 1):
            for places in combinations(range(real), size):
                of_group = groups[ranked.items[row, list(places)]]
                if np.bincount(of_group[of_group != PAD], minlength=1).max() <= most:
                    assert len(ours) >= size and (ours[:size] >= ranked.scores[row, list(places)]).all()
        assert (
            np.bincount(groups[found.items[row][found.items[row] != PAD]] + 1, minlength=1)[1:].max(initial=0) <= most
        )


@settings(max_examples=60, deadline=None)
@given(candidates=st.integers(1, 30), k=st.integers(1, 12), seed=st.integers(0, 10_000))
def test_several_quotas_are_all_kept_and_nothing_that_fits_is_passed_over(candidates: int, k: int, seed: int) -> None:
    ranked = random_ranked(4, candidates, items=40, seed=seed)
    rng = np.random.default_rng(seed)
    quotas = [Quota(rng.integers(PAD, 4, size=40).astype(np.int32), most=most) for most in (2, 3)]
    found = keep_quotas(ranked, quotas, k=k)
    assert_lists_of_candidates(found, ranked, k=k)
    for row in range(4):
        taken: list[int] = []
        for item in ranked.items[row][ranked.items[row] != PAD].tolist():
            counts = [sum(quota.groups[item] == quota.groups[other] != PAD for other in taken) for quota in quotas]
            if len(taken) < k and all(count < quota.most for count, quota in zip(counts, quotas, strict=True)):
                taken.append(item)
        assert found.items[row].tolist() == taken + [PAD] * (k - len(taken))


def test_with_two_quotas_the_greedy_list_may_not_be_the_best_one() -> None:
    candidates = listed(0, 1, 2, scores=[10, 9, 9])
    category, creator = np.array([0, 0, 1], np.int32), np.array([0, 1, 0], np.int32)
    found = keep_quotas(candidates, [Quota(category, most=1), Quota(creator, most=1)], k=2)
    # Items 1 and 2 keep both quotas too, and are two.
    assert found.items.tolist() == [[0, PAD]]


@settings(max_examples=30, deadline=None)
@given(candidates=st.integers(1, 12), k=st.integers(1, 12), seed=st.integers(0, 10_000))
def test_no_quota_is_the_head_of_the_list(candidates: int, k: int, seed: int) -> None:
    ranked = random_ranked(3, candidates, items=20, seed=seed)
    for quotas in ([], [Quota(np.zeros(20, np.int32), most=12)]):
        found = keep_quotas(ranked, quotas, k=k)
        width = min(k, candidates)
        assert found.items[:, :width].tolist() == ranked.items[:, :k].tolist()
        assert found.scores[:, :width].tolist() == ranked.scores[:, :k].tolist()


def test_rows_do_not_share_a_quota() -> None:
    ranked = random_ranked(6, 8, items=10, seed=1)
    quota = [Quota(np.arange(10, dtype=np.int32) % 3, most=1)]
    together = keep_quotas(ranked, quota, k=4)
    for row in range(6):
        alone = Ranked(items=ranked.items[row : row + 1], scores=ranked.scores[row : row + 1], source="x")
        assert keep_quotas(alone, quota, k=4).items.tolist() == [together.items[row].tolist()]


def test_a_quota_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="a quota of 0"):
        keep_quotas(random_ranked(1, 3, items=9, seed=0), [Quota(np.zeros(9, np.int32), most=0)], k=2)
