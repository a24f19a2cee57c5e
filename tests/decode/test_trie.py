import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_steps import random_codes

from sememe.core.errors import DataError
from sememe.core.schema import Codes
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
        first, end = trie.item_starts[depth][node : node + 2].tolist()
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


def test_moving_keeps_the_arrays() -> None:
    trie = Trie.build(as_codes([[1, 2], [0, 0]], (2, 3)))
    moved = trie.to("cpu")
    assert moved.device == torch.device("cpu") and moved.nbytes == trie.nbytes


@pytest.mark.parametrize("bad", [3, -1])
def test_a_code_outside_its_codebook_is_named(bad: int) -> None:
    with pytest.raises(DataError, match=rf"item index 1 has code {bad} at level 1, outside 0\.\.2"):
        Trie.build(as_codes([[0, 0], [0, bad]], (2, 3)))


def test_an_empty_catalogue_is_refused() -> None:
    with pytest.raises(DataError, match="no item"):
        Trie.build(Codes(matrix=np.zeros((0, 2), np.int32), codebook_sizes=(2, 3), num_semantic_levels=2))
