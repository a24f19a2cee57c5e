"""A trie that items come to and go from is the trie that would be built anew, whatever the order of things."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_steps import random_codes

from sememe.core.errors import DataError
from sememe.core.schema import PAD, Codes
from sememe.decode.trie import Trie
from sememe.decode.trie_edit import with_items, without_items


def as_codes(matrix: list[list[int]], sizes: tuple[int, ...]) -> Codes:
    return Codes(matrix=np.array(matrix, np.int32), codebook_sizes=sizes, num_semantic_levels=len(sizes))


def assert_same(ours: Trie, theirs: Trie) -> None:
    assert ours.codebook_sizes == theirs.codebook_sizes
    for name in ("child_starts", "child_codes", "item_starts"):
        assert len(getattr(ours, name)) == len(getattr(theirs, name)), name
        for left, right in zip(getattr(ours, name), getattr(theirs, name), strict=True):
            assert left.dtype == right.dtype and left.tolist() == right.tolist(), name
    assert ours.items.tolist() == theirs.items.tolist()
    assert ours.positions.tolist() == theirs.positions.tolist()
    assert ours.nbytes == theirs.nbytes


def indices(*items: int) -> np.ndarray:
    return np.array(items, np.int32)


def test_an_item_on_a_new_branch_and_one_beside_another_by_hand() -> None:
    codes = as_codes([[1, 2], [0, 0], [1, 0], [1, 2]], (3, 3))
    trie = Trie.build(as_codes([[1, 2], [0, 0]], (3, 3)))
    grown = with_items(trie, codes, indices(3, 2))
    assert [starts.tolist() for starts in grown.child_starts] == [[0, 2], [0, 1, 3]]
    assert [column.tolist() for column in grown.child_codes] == [[0, 1], [0, 0, 2]]
    assert grown.items.tolist() == [1, 2, 0, 3]
    assert grown.leaf_sizes().tolist() == [1, 1, 2]
    shrunk = without_items(grown, indices(1, 0))
    assert shrunk.leaf_codes().tolist() == [[1, 0], [1, 2]]
    assert shrunk.items.tolist() == [2, 3]
    assert shrunk.positions.tolist() == [PAD, PAD, 0, 1]


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([1, 2, 3, 7, 300, 40_000]), min_size=1, max_size=5).map(tuple),
    items=st.integers(2, 40),
    seed=st.integers(0, 10_000),
    steps=st.lists(st.sampled_from(["come", "go"]), min_size=1, max_size=6),
)
def test_any_sequence_of_changes_gives_the_tree_built_anew(
    sizes: tuple[int, ...], items: int, seed: int, steps: list[str]
) -> None:
    rng = np.random.default_rng(seed)
    codes = random_codes(sizes, items=items, seed=seed)
    offered = rng.random(items) < 0.5
    offered[rng.integers(items)] = True
    trie = Trie.build(codes, offered=offered)
    for step in steps:
        outside, inside = np.flatnonzero(~offered), np.flatnonzero(offered)
        if step == "come":
            chosen = rng.permutation(outside)[: rng.integers(len(outside) + 1)]
            trie = with_items(trie, codes, chosen)
        else:
            chosen = rng.permutation(inside)[: rng.integers(len(inside))]
            trie = without_items(trie, chosen)
        offered[chosen] = step == "come"
        assert_same(trie, Trie.build(codes, offered=offered))


def test_the_catalogue_may_grow_by_items_that_are_not_offered() -> None:
    codes = as_codes([[0, 1], [1, 1], [0, 0], [1, 0]], (2, 2))
    trie = Trie.build(as_codes([[0, 1], [1, 1]], (2, 2)))
    grown = with_items(trie, codes, indices(3))
    assert_same(grown, Trie.build(codes, offered=np.array([True, True, False, True])))


def test_the_tree_that_was_changed_stays_as_it_was() -> None:
    codes = random_codes((4, 4), items=30, seed=0)
    offered = np.arange(30) < 20
    trie, again = (Trie.build(codes, offered=offered) for _ in range(2))
    with_items(trie, codes, np.arange(20, 30, dtype=np.int32))
    without_items(trie, np.arange(10, dtype=np.int32))
    assert_same(trie, again)


def test_the_last_item_cannot_go() -> None:
    trie = Trie.build(as_codes([[0, 1], [1, 1]], (2, 2)))
    with pytest.raises(DataError, match="no item would be left"):
        without_items(trie, indices(1, 0))


def test_a_code_outside_its_codebook_is_refused() -> None:
    trie = Trie.build(as_codes([[0, 1]], (2, 2)))
    with pytest.raises(DataError, match=r"item index 1 has code 2 at level 1, outside 0\.\.1"):
        with_items(trie, as_codes([[0, 1], [0, 2]], (2, 2)), indices(1))


def test_items_come_once_and_go_only_where_they_are() -> None:
    codes = as_codes([[0, 1], [1, 1], [0, 0]], (2, 2))
    trie = Trie.build(codes, offered=np.array([True, True, False]))
    for wrong in (indices(2, 2), indices(0)):
        with pytest.raises(AssertionError, match="comes twice|in the tree already"):
            with_items(trie, codes, wrong)
    for wrong in (indices(0, 0), indices(2)):
        with pytest.raises(AssertionError, match="not in the tree, or goes twice"):
            without_items(trie, wrong)
