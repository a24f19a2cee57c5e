import time
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_steps import TableModel, random_codes, unique_codes

from sememe.core.errors import DataError
from sememe.core.schema import PAD, Codes
from sememe.decode.beam import BeamSearch
from sememe.decode.exact import ExactCodes, ExactItems
from sememe.decode.sample import Sampled
from sememe.decode.trie import Trie


def as_codes(matrix: list[list[int]], sizes: tuple[int, ...]) -> Codes:
    return Codes(matrix=np.array(matrix, np.int32), codebook_sizes=sizes, num_semantic_levels=len(sizes))


def test_a_small_tree_by_hand() -> None:
    trie = Trie.build(as_codes([[1, 2], [0, 0], [1, 0], [1, 2]], (2, 3)))
    assert [starts.tolist() for starts in trie.child_starts] == [[0, 2], [0, 1, 3]]
    assert [codes.tolist() for codes in trie.child_codes] == [[0, 1], [0, 0, 2]]
    assert [starts.tolist() for starts in trie.item_starts] == [[0, 4], [0, 1, 4], [0, 1, 2, 4]]
    assert trie.items.tolist() == [1, 2, 0, 3]
    assert trie.positions.tolist() == [2, 0, 1, 3]
    assert trie.leaf_codes().tolist() == [[0, 0], [1, 0], [1, 2]]
    assert trie.node_at(torch.tensor([0, 1, 2, 3], dtype=torch.int32), depth=1).tolist() == [0, 1, 1, 1]


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([1, 2, 3, 7, 300, 40_000]), min_size=1, max_size=5).map(tuple),
    items=st.integers(1, 60),
    seed=st.integers(0, 1000),
)
def test_walking_the_tree_gives_the_codes_back(sizes: tuple[int, ...], items: int, seed: int) -> None:
    codes = random_codes(sizes, items=items, seed=seed)
    trie = Trie.build(codes)
    found = []

    def walk(depth: int, node: int, prefix: tuple[int, ...]) -> None:
        first, end = trie.first_position(torch.tensor([node, node + 1]), depth=depth).tolist()
        below = {item for item, row in enumerate(codes.matrix.tolist()) if tuple(row[:depth]) == prefix}
        assert set(trie.items[first:end].tolist()) == below
        if depth == trie.num_levels:
            found.append((prefix, trie.items[first:end].tolist()))
            return
        for child in range(*trie.child_starts[depth][node : node + 2].tolist()):
            walk(depth + 1, child, (*prefix, int(trie.child_codes[depth][child])))

    walk(0, 0, ())
    assert [prefix for prefix, _ in found] == sorted({tuple(row) for row in codes.matrix.tolist()})
    assert all(group == sorted(group) for _, group in found)
    assert trie.leaf_codes().tolist() == [list(prefix) for prefix, _ in found]
    assert trie.items[trie.positions.long()].tolist() == list(range(items))


def test_where_every_leaf_has_one_item_nothing_is_kept_twice() -> None:
    trie = Trie.build(as_codes([[1, 2], [0, 0], [1, 0]], (2, 3)))
    assert [starts.tolist() for starts in trie.item_starts] == [[0, 3], [0, 1, 3]]
    assert trie.item_starts[1] is trie.child_starts[1]
    assert trie.first_position(torch.tensor([0, 2, 3]), depth=2).tolist() == [0, 2, 3]
    assert trie.node_at(torch.tensor([2, 0], dtype=torch.int32), depth=2).tolist() == [2, 0]
    assert trie.leaf_sizes().tolist() == [1, 1, 1]
    assert trie.nbytes == 4 * (2 + 3 + 3 + 3) + 5 + 4 * 2  # children, items, positions; codes; item_starts[0]


def test_items_that_are_not_offered_are_not_in_the_tree() -> None:
    codes = as_codes([[1, 2], [0, 0], [1, 0], [1, 2]], (2, 3))
    trie = Trie.build(codes, offered=np.array([False, True, False, True]))
    assert trie.leaf_codes().tolist() == [[0, 0], [1, 2]]
    assert trie.items.tolist() == [1, 3]
    assert trie.positions.tolist() == [PAD, 0, PAD, 1]
    assert (trie.num_items, trie.num_leaves) == (2, 2)
    with pytest.raises(DataError, match="no item"):
        Trie.build(codes, offered=np.zeros(4, np.bool_))


@pytest.mark.parametrize("decode", [BeamSearch(width=6), ExactCodes(), Sampled(temperature=0.7, width=6)])
@pytest.mark.parametrize("ties", [False, True])
def test_what_is_not_offered_is_never_recommended_and_may_be_among_what_was_seen(decode: Any, ties: bool) -> None:
    sizes = (3, 4) if ties else (4, 5)
    codes = (random_codes if ties else unique_codes)(sizes, items=15, seed=1)
    model = TableModel(sizes, users=3, seed=0)
    offered = np.arange(15) % 3 != 1
    kept = np.flatnonzero(offered)
    seen = np.array([[1, 0, PAD], [4, 4, 14], [PAD, PAD, PAD]], np.int32)
    request = {"user": torch.tensor([0, 1, 2])}
    ours = decode.recommend(model, request, k=6, trie=Trie.build(codes, offered=offered), seen=seen)
    alone = as_codes(codes.matrix[kept].tolist(), sizes)
    row_of = np.full(16, PAD)
    row_of[kept] = np.arange(len(kept))
    theirs = decode.recommend(model, request, k=6, trie=Trie.build(alone), seen=row_of[seen].astype(np.int32))
    expected = np.where(theirs.items == PAD, PAD, kept[theirs.items])
    np.testing.assert_array_equal(ours.items, expected)
    np.testing.assert_array_equal(ours.scores, theirs.scores)


def test_items_that_are_not_offered_have_no_score() -> None:
    codes = unique_codes((3, 3), items=7, seed=0)
    model = TableModel((3, 3), users=1, seed=0)
    offered = np.arange(7) != 4
    scores = ExactCodes().score_items(model, {"user": torch.tensor([0])}, trie=Trie.build(codes, offered=offered))
    every = ExactCodes().score_items(model, {"user": torch.tensor([0])}, trie=Trie.build(codes))
    assert scores[0, 4] == -torch.inf
    assert scores[0, offered].tolist() == every[0, offered].tolist()


def test_a_scorer_of_items_leaves_out_what_is_not_offered() -> None:
    class Scorer:
        def score_items(self, batch: Any) -> torch.Tensor:
            return torch.tensor([[5.0, 4.0, 3.0, 2.0]])

    codes = unique_codes((2, 2), items=4, seed=0)
    trie = Trie.build(codes, offered=np.array([True, False, True, True]))
    ranked = ExactItems().recommend(Scorer(), {}, k=4, trie=trie, seen=np.array([[2]], np.int32))
    assert ranked.items.tolist() == [[0, 3, PAD, PAD]]
    assert ExactItems().recommend(Scorer(), {}, k=2, trie=Trie.build(codes)).items.tolist() == [[0, 1]]


def test_codes_too_many_to_pack_into_one_number() -> None:
    sizes = (40_000,) * 5
    codes = random_codes(sizes, items=500, seed=0)
    assert Trie.build(codes).leaf_codes().tolist() == sorted(codes.matrix.tolist())


def test_code_arrays_are_as_small_as_the_codebook_allows() -> None:
    trie = Trie.build(as_codes([[255, 299, 39_999]], (256, 300, 40_000)))
    assert [codes.dtype for codes in trie.child_codes] == [torch.uint8, torch.int16, torch.int32]
    assert trie.leaf_codes().tolist() == [[255, 299, 39_999]]


def test_a_million_items_build_fast_and_small() -> None:
    codes = random_codes((256, 256, 256, 256), items=1_000_000, seed=0)
    started = time.process_time()
    trie = Trie.build(codes)
    assert time.process_time() - started < 4
    assert trie.nbytes < 30_000_000


def test_a_million_unique_ids_take_sixteen_megabytes() -> None:
    semantic = np.random.default_rng(0).integers(256**3, size=1_000_000)
    numbers = np.unique(semantic * 64 + np.arange(1_000_000) % 64)
    matrix = np.stack(np.unravel_index(numbers, (256, 256, 256, 64)), axis=1).astype(np.int32)
    trie = Trie.build(Codes(matrix, (256, 256, 256, 64), num_semantic_levels=3))
    assert trie.num_items == trie.num_leaves > 990_000
    assert trie.nbytes <= 16_000_000


def test_moving_keeps_the_arrays() -> None:
    trie = Trie.build(as_codes([[1, 2], [0, 0]], (2, 3)))
    moved = trie.to("cpu")
    assert moved.device == torch.device("cpu") and moved.nbytes == trie.nbytes
    elsewhere = trie.to("meta")
    assert elsewhere.items.is_meta and elsewhere.item_starts[-1] is elsewhere.child_starts[-1]


@pytest.mark.parametrize("bad", [3, -1])
def test_a_code_outside_its_codebook_is_named(bad: int) -> None:
    with pytest.raises(DataError, match=rf"item index 1 has code {bad} at level 1, outside 0\.\.2"):
        Trie.build(as_codes([[0, 0], [0, bad]], (2, 3)))


def test_an_empty_catalogue_is_refused() -> None:
    with pytest.raises(DataError, match="no item"):
        Trie.build(Codes(matrix=np.zeros((0, 2), np.int32), codebook_sizes=(2, 3), num_semantic_levels=2))
