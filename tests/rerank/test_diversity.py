"""Maximal marginal relevance against a slow loop, on a planted world, and at its ends."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_lists import assert_lists_of_candidates, random_ranked

from sememe.core.errors import ConfigError
from sememe.core.schema import PAD, Ranked
from sememe.rerank.diversity import CategoryLikeness, Diversity, Likeness, VectorLikeness


def random_likeness(kind: str, *, items: int, seed: int) -> Likeness:
    rng = np.random.default_rng(seed)
    if kind == "vectors":
        vectors = rng.normal(size=(items, 3)).astype(np.float32)
        vectors[0] = 0.0
        return VectorLikeness(vectors)
    sets = [rng.permutation(5)[: rng.integers(0, 4)] for _ in range(items)]
    return CategoryLikeness(np.array([[*row, *[PAD] * (3 - len(row))] for row in sets], np.int32))


def pair(likeness: Likeness, one: int, other: int) -> float:
    return float(likeness.between(np.array([one], np.int32), np.array([[other]], np.int32))[0, 0])


def slow_mmr(likeness: Likeness, ranked: Ranked, row: int, *, relevance: float, k: int) -> list[tuple[int, float]]:
    """(item, lambda * score - (1 - lambda) * spread * likeness) as the paper writes it, one choice after the other."""
    left = [
        (item, float(score))
        for item, score in zip(ranked.items[row].tolist(), ranked.scores[row].tolist(), strict=True)
        if item != PAD
    ]
    spread = max((score for _, score in left), default=0.0) - min((score for _, score in left), default=0.0)
    chosen: list[tuple[int, float]] = []
    while left and len(chosen) < k:
        worth = [
            relevance * score
            - (1 - relevance) * (spread or 1.0) * max([0.0, *(pair(likeness, other, item) for other, _ in chosen)])
            for item, score in left
        ]
        best = int(np.argmax(worth))
        chosen.append((left.pop(best)[0], worth[best]))
    return chosen


@pytest.mark.parametrize("kind", ["vectors", "categories"])
@settings(max_examples=40, deadline=None)
@given(
    candidates=st.integers(0, 12),
    k=st.integers(1, 14),
    relevance=st.sampled_from([0.1, 0.5, 0.7, 1.0]),
    seed=st.integers(0, 10_000),
)
def test_equals_the_formula_worked_out_slowly(kind: str, candidates: int, k: int, relevance: float, seed: int) -> None:
    ranked = random_ranked(3, candidates, items=20, seed=seed)
    likeness = random_likeness(kind, items=20, seed=seed)
    found = Diversity(likeness, relevance=relevance).rerank(ranked, k=k)
    assert_lists_of_candidates(found, ranked, k=k)
    for row in range(3):
        slow = slow_mmr(likeness, ranked, row, relevance=relevance, k=k)
        np.testing.assert_allclose(
            found.scores[row][: len(slow)], [worth / relevance for _, worth in slow], rtol=1e-5, atol=1e-5
        )
        if kind == "vectors":
            # Overlaps of categories tie, and rounding then decides otherwise; cosines do not.
            assert found.items[row][found.items[row] != PAD].tolist() == [item for item, _ in slow]


@pytest.mark.parametrize("kind", ["vectors", "categories"])
@settings(max_examples=30, deadline=None)
@given(candidates=st.integers(1, 12), k=st.integers(1, 14), seed=st.integers(0, 10_000))
def test_relevance_alone_leaves_the_list_as_it_is(kind: str, candidates: int, k: int, seed: int) -> None:
    ranked = random_ranked(3, candidates, items=20, seed=seed)
    found = Diversity(random_likeness(kind, items=20, seed=seed), relevance=1.0).rerank(ranked, k=k)
    width = min(k, candidates)
    assert found.items[:, :width].tolist() == ranked.items[:, :k].tolist()
    assert found.scores[:, :width].tolist() == ranked.scores[:, :k].tolist()
    assert found.source == "beam:code_log_prob+mmr"


@settings(max_examples=30, deadline=None)
@given(candidates=st.integers(1, 12), seed=st.integers(0, 10_000))
def test_a_list_of_all_candidates_is_a_permutation_and_the_same_again(candidates: int, seed: int) -> None:
    ranked = random_ranked(3, candidates, items=20, seed=seed)
    part = Diversity(random_likeness("vectors", items=20, seed=seed), relevance=0.3)
    found, again = (part.rerank(ranked, k=candidates) for _ in range(2))
    assert np.sort(found.items, axis=1).tolist() == np.sort(ranked.items, axis=1).tolist()
    assert found.items.tolist() == again.items.tolist() and found.scores.tolist() == again.scores.tolist()
    for row in range(3):
        alone = Ranked(items=ranked.items[row : row + 1], scores=ranked.scores[row : row + 1], source="x")
        assert part.rerank(alone, k=candidates).items.tolist() == [found.items[row].tolist()]


def test_planted_kinds_take_turns() -> None:
    """Nine items of three kinds, all of the best kind first: the less relevance counts, the sooner kinds alternate."""
    kinds = np.repeat(np.arange(3), 3)
    vectors = np.eye(3, dtype=np.float32)[kinds]
    ranked = Ranked(items=np.arange(9, dtype=np.int32)[None], scores=-np.arange(9, dtype=np.float32)[None], source="x")
    for likeness in (VectorLikeness(vectors), CategoryLikeness(kinds.astype(np.int32)[:, None])):
        lists = {share: Diversity(likeness, relevance=share).rerank(ranked, k=3).items[0] for share in (1.0, 0.7, 0.5)}
        assert lists[1.0].tolist() == [0, 1, 2]
        # A penalty of 3/7 of the spread of 8 puts item 3 before items 1 and 2, and those before item 6.
        assert lists[0.7].tolist() == [0, 3, 1]
        assert lists[0.5].tolist() == [0, 3, 6]


def test_likeness_by_hand() -> None:
    vectors = VectorLikeness(np.array([[2, 0], [1, 1], [0, 0], [-3, 0]], np.float32))
    found = vectors.between(np.array([0], np.int32), np.array([[0, 1, 2, 3]], np.int32))
    np.testing.assert_allclose(found, [[1, 0.5**0.5, 0, -1]], atol=1e-7)
    categories = CategoryLikeness(np.array([[1, 2, PAD], [2, 3, 4], [PAD, PAD, PAD], [1, 2, PAD]], np.int32))
    found = categories.between(np.array([0, 2], np.int32), np.array([[0, 1, 2, 3]] * 2, np.int32))
    np.testing.assert_allclose(found, [[1, 0.25, 0, 1], [0, 0, 0, 0]])


@pytest.mark.parametrize("relevance", [0.0, -0.1, 1.1, float("nan")])
def test_a_relevance_out_of_range_is_refused(relevance: float) -> None:
    part = Diversity(random_likeness("vectors", items=9, seed=0), relevance=relevance)
    with pytest.raises(ConfigError, match="relevance is"):
        part.rerank(random_ranked(1, 3, items=9, seed=0), k=2)
