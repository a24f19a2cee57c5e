"""Ranking metrics against hand-worked numbers and against averaging over every order of the ties."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sememe.core.schema import PAD, Ranked
from sememe.metrics.ranking import (
    MISS,
    count_better_and_tied,
    cut_ties,
    mask_items,
    rank_metrics,
    rank_metrics_from_counts,
    top_items,
)

KS = (1, 2, 3, 5)


def one_list(items, scores, tied_beyond=None):
    beyond = None if tied_beyond is None else np.array([tied_beyond], np.int64)
    return Ranked(np.array([items], np.int32), np.array([scores], np.float32), "test", beyond)


def of(metrics, name):
    return metrics[name].item()


def plain_metrics(order, targets, k):
    """The definitions, for one fully ordered list."""
    wanted = set(targets)
    hits = [rank for rank, item in enumerate(order[:k], start=1) if item in wanted]
    ideal = sum(1 / np.log2(1 + rank) for rank in range(1, min(k, len(wanted)) + 1))
    return {
        f"recall@{k}": len(hits) / len(wanted),
        f"hit@{k}": float(bool(hits)),
        f"ndcg@{k}": sum(1 / np.log2(1 + rank) for rank in hits) / ideal,
        f"mrr@{k}": 1 / hits[0] if hits else 0.0,
    }


def slow_metrics(scores, targets):
    """The mean of the definitions over every order that sorts by score; items scored -inf are never listed."""
    ranked = [item for item in range(len(scores)) if scores[item] > -np.inf]
    levels = sorted({scores[item] for item in ranked}, reverse=True)
    groups = [[item for item in ranked if scores[item] == level] for level in levels]
    orders = [sum(map(list, choice), []) for choice in product(*(permutations(group) for group in groups))]
    results = [{n: v for k in KS for n, v in plain_metrics(order, targets, k).items()} for order in orders]
    return {name: np.mean([result[name] for result in results]) for name in results[0]}


def test_one_target_without_ties_matches_numbers_worked_by_hand():
    metrics = rank_metrics(one_list([7, 3, 9], [3.0, 2.0, 1.0]), np.array([[9]]), ks=(2, 3))
    assert of(metrics, "recall@2") == of(metrics, "hit@2") == of(metrics, "ndcg@2") == of(metrics, "mrr@2") == 0
    assert of(metrics, "recall@3") == of(metrics, "hit@3") == 1
    assert of(metrics, "ndcg@3") == pytest.approx(0.5)  # 1 / log2(4)
    assert of(metrics, "mrr@3") == pytest.approx(1 / 3)


def test_several_targets_match_numbers_worked_by_hand():
    # Targets at ranks 1 and 3, a third one not listed.
    metrics = rank_metrics(one_list([4, 5, 6], [3.0, 2.0, 1.0]), np.array([[4, 6, 8, PAD]]), ks=(1, 3))
    assert of(metrics, "recall@1") == pytest.approx(1 / 3)
    assert of(metrics, "ndcg@1") == pytest.approx(1.0)  # the ideal list of length 1 holds one target
    assert of(metrics, "recall@3") == pytest.approx(2 / 3)
    assert of(metrics, "ndcg@3") == pytest.approx((1 + 0.5) / (1 + 0.6309297535714575 + 0.5))
    assert of(metrics, "mrr@3") == 1.0


def test_a_tie_counts_as_the_average_of_its_orders():
    # The target shares places 2 and 3 with one other item.
    metrics = rank_metrics(one_list([1, 2, 3], [5.0, 4.0, 4.0]), np.array([[3]]), ks=(2, 3))
    assert of(metrics, "recall@2") == 0.5
    assert of(metrics, "ndcg@2") == pytest.approx(0.5 * 0.6309297535714575)
    assert of(metrics, "ndcg@3") == pytest.approx(0.5 * (0.6309297535714575 + 0.5))
    assert of(metrics, "mrr@3") == pytest.approx(0.5 * (1 / 2 + 1 / 3))


def test_order_inside_a_tie_changes_nothing():
    first = rank_metrics(one_list([1, 2, 3], [4.0, 4.0, 4.0]), np.array([[1, 2]]), ks=KS)
    second = rank_metrics(one_list([3, 2, 1], [4.0, 4.0, 4.0]), np.array([[2, 1]]), ks=KS)
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_members_beyond_the_list_widen_its_last_group():
    # Places 2 and 3 of the list belong to a group of 2 + 6.
    ranked = one_list([1, 2, 3], [5.0, 4.0, 4.0], tied_beyond=6)
    assert of(rank_metrics(ranked, np.array([[3]]), ks=(3,)), "recall@3") == pytest.approx(2 / 8)
    outside = np.array([[9]])
    assert of(rank_metrics(ranked, outside, ks=(3,)), "recall@3") == 0
    told = rank_metrics(ranked, outside, ks=(3,), targets_tied_beyond=np.array([[True]]))
    assert of(told, "recall@3") == pytest.approx(2 / 8)


def test_cut_ties_names_the_rows_that_a_longer_list_would_change():
    assert cut_ties(one_list([1, 2, 3], [5.0, 4.0, 4.0], tied_beyond=1), ks=(2,)).tolist() == [True]
    assert cut_ties(one_list([1, 2, 3], [5.0, 4.0, 4.0], tied_beyond=1), ks=(1,)).tolist() == [False]
    assert cut_ties(one_list([1, 2, 3], [5.0, 4.0, 4.0], tied_beyond=0), ks=(2,)).tolist() == [False]


def test_padding_and_minus_infinity_recommend_nothing():
    ranked = Ranked(
        np.array([[1, PAD, PAD], [1, 2, 3], [PAD, PAD, PAD]], np.int32),
        np.array([[1.0, -np.inf, -np.inf], [1.0, 0.5, -np.inf], [-np.inf] * 3], np.float32),
        "test",
    )
    metrics = rank_metrics(ranked, np.array([[1], [3], [3]]), ks=(3,))
    assert metrics["recall@3"].tolist() == [1.0, 0.0, 0.0]
    assert metrics["mrr@3"].tolist() == [1.0, 0.0, 0.0]


def test_equal_scores_before_and_after_padding_are_not_one_group():
    padded = one_list([1, 2, PAD], [4.0, 4.0, -np.inf], tied_beyond=0)
    assert of(rank_metrics(padded, np.array([[2]]), ks=(1,)), "recall@1") == 0.5


def test_repeated_targets_count_once():
    ranked = one_list([4, 5], [2.0, 1.0])
    once, twice = (rank_metrics(ranked, np.array([row]), ks=KS) for row in ([5, 8, PAD], [5, 5, 8]))
    for name in once:
        np.testing.assert_array_equal(once[name], twice[name])


def test_a_masked_target_is_a_miss():
    scores = np.array([[3.0, 2.0, 1.0]], np.float32)
    better, tied = count_better_and_tied(scores, np.array([[0]]), seen=np.array([[0, PAD]]))
    assert better.item() == MISS
    assert of(rank_metrics_from_counts(better, tied, ks=(3,)), "recall@3") == 0
    unmasked, _ = count_better_and_tied(scores, np.array([[1]]), seen=np.array([[0, PAD]]))
    assert unmasked.item() == 0


def test_masking_leaves_its_input_and_other_items_alone():
    scores = np.array([[3.0, 2.0, 1.0]], np.float32)
    masked = mask_items(scores, np.array([[1, PAD, PAD]], np.int32))
    assert masked.tolist() == [[3.0, -np.inf, 1.0]]
    assert scores.tolist() == [[3.0, 2.0, 1.0]]


@pytest.mark.parametrize("bad", [np.array([[1.0, 2.0]]), np.array([[np.nan, 1.0]]), np.array([[-np.inf, 1.0]])])
def test_a_list_that_is_not_sorted_is_our_fault(bad):
    with pytest.raises(AssertionError):
        rank_metrics(Ranked(np.array([[0, 1]], np.int32), bad.astype(np.float32), "test"), np.array([[0]]))


def test_a_row_without_target_is_our_fault():
    with pytest.raises(AssertionError, match="without target"):
        rank_metrics(one_list([1], [1.0]), np.array([[PAD]]))


worlds = st.tuples(
    st.lists(st.sampled_from([0.0, 1.0, 2.0, -np.inf]), min_size=6, max_size=6),
    st.sets(st.integers(0, 5), min_size=1, max_size=3),
)


@settings(max_examples=60, deadline=None)
@given(worlds, st.integers(1, 6))
def test_both_forms_equal_the_average_over_all_orders(world, width):
    scores, wanted = np.array([world[0]], np.float32), sorted(world[1])
    targets = np.array([wanted + [PAD]], np.int32)
    if not np.isfinite(scores).any():
        return
    slow = slow_metrics(scores[0], wanted)
    better, tied = count_better_and_tied(scores, targets)
    fast = rank_metrics_from_counts(better, tied, ks=KS, num_targets=np.array([len(wanted)]))
    ranked = top_items(scores, k=width, source="test")
    last = ranked.scores[0][ranked.items[0] != PAD].min()
    beyond = (targets != PAD) & (scores[0][targets] == last) & ~np.isin(targets, ranked.items)
    listed = rank_metrics(ranked, targets, ks=KS, targets_tied_beyond=beyond)
    lower = rank_metrics(ranked, targets, ks=KS)
    for name, value in slow.items():
        assert of(fast, name) == pytest.approx(value, abs=1e-12), name
        if int(name.split("@")[1]) <= width:
            assert of(listed, name) == pytest.approx(value, abs=1e-12), name
            assert of(lower, name) <= value + 1e-12
            if not cut_ties(ranked, ks=KS).item():
                assert of(lower, name) == pytest.approx(value, abs=1e-12), name


def test_many_rows_at_once_equal_one_by_one():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (40, 30)).astype(np.float32)
    targets = np.sort(rng.permuted(np.tile(np.arange(30), (40, 1)), axis=1)[:, :4], axis=1).astype(np.int32)
    targets[::3, 2:] = PAD
    ranked = top_items(scores, k=20, source="test")
    together = rank_metrics(ranked, targets)
    for row in range(40):
        alone = rank_metrics(
            Ranked(ranked.items[[row]], ranked.scores[[row]], "test", ranked.tied_beyond[[row]]), targets[[row]]
        )
        assert all(alone[name].item() == together[name][row] for name in together)


def test_top_items_lists_the_best_and_counts_what_ties_beyond():
    ranked = top_items(np.array([[1.0, 3.0, 1.0, 1.0, 0.0]], np.float32), k=2, source="here", seen=np.array([[0]]))
    assert ranked.items.tolist() == [[1, 2]]
    assert ranked.scores.tolist() == [[3.0, 1.0]]
    assert ranked.tied_beyond is not None and ranked.tied_beyond.tolist() == [1]
    assert ranked.source == "here"


def test_top_items_pads_where_nothing_is_left():
    ranked = top_items(np.array([[1.0, 3.0]], np.float32), k=4, source="here", seen=np.array([[1, PAD]]))
    assert ranked.items.tolist() == [[0, PAD, PAD, PAD]]
    assert ranked.tied_beyond is not None and ranked.tied_beyond.tolist() == [0]
