"""Item sets count and find like a plain list of booleans does, in numpy and in torch."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_steps import random_codes, unique_codes

from sememe.core.errors import DataError
from sememe.core.schema import PAD
from sememe.decode.allowed import AllowedByRow, RowSets, rank_in, rank_in_torch, select_in, select_in_torch
from sememe.decode.item_set import CHUNK, ItemSet, pack, tree_mark, unpack
from sememe.decode.trie import Trie

COUNTS = st.one_of(st.integers(1, 200), st.sampled_from([64, 128, 192, 65, 127]))


def a_tree(items: int, *, seed: int = 0) -> Trie:
    return Trie.build(random_codes((7, 5, 3), items=items, seed=seed))


def random_set(trie: Trie, *, seed: int, share: float) -> tuple[ItemSet, np.ndarray]:
    """A set, and its flags by position."""
    by_item = np.random.default_rng(seed).random(len(trie.positions)) < share
    return ItemSet.of_flags(by_item, trie), by_item[trie.items.numpy()]


def test_by_hand() -> None:
    # One level: positions 0..4 hold the items 3, 1, 0, 4, 2.
    codes = type(random_codes((9,), items=1, seed=0))(
        matrix=np.array([[2], [1], [8], [0], [7]], np.int32), codebook_sizes=(9,), num_semantic_levels=1
    )
    trie = Trie.build(codes)
    chosen = ItemSet.of_items(np.array([3, 2, 0]), trie)
    assert chosen.words.tolist() == [0b10101] and chosen.words.dtype == np.uint64
    assert chosen.ranks.tolist() == [0, 3] and chosen.ranks.dtype == np.int32
    assert chosen.num_members == 3 and chosen.num_positions == 5 and chosen.nbytes == 16
    assert chosen.rank(np.arange(6)).tolist() == [0, 1, 1, 2, 2, 3]
    assert chosen.select(np.arange(3)).tolist() == [0, 2, 4]
    assert chosen.contains(np.arange(5)).tolist() == chosen.flags().tolist() == [True, False, True, False, True]


@settings(max_examples=60, deadline=None)
@given(items=COUNTS, seed=st.integers(0, 1000), share=st.sampled_from([0.0, 0.02, 0.5, 1.0]))
def test_counts_and_places_are_those_of_the_flags(items: int, seed: int, share: float) -> None:
    trie = a_tree(items, seed=seed)
    chosen, flags = random_set(trie, seed=seed, share=share)
    rng = np.random.default_rng(seed)
    asked = rng.integers(0, items + 1, size=(3, 2, 7)).astype(np.int32)
    before = np.concatenate([[0], flags.cumsum()])
    np.testing.assert_array_equal(chosen.rank(asked), before[asked])
    np.testing.assert_array_equal(chosen.rank(asked.astype(np.int64)), before[asked])
    np.testing.assert_array_equal(chosen.flags(), flags)
    np.testing.assert_array_equal(chosen.contains(np.arange(items)), flags)
    members = np.flatnonzero(flags)
    assert chosen.num_members == len(members)
    np.testing.assert_array_equal(chosen.select(np.arange(len(members)).reshape(1, -1)), members.reshape(1, -1))
    if share == 1.0:
        np.testing.assert_array_equal(ItemSet.every(trie).words, chosen.words)


def test_many_queries_are_answered_as_few_are() -> None:
    chosen, flags = random_set(a_tree(150), seed=0, share=0.5)
    asked = np.random.default_rng(0).integers(0, 151, size=(3, CHUNK // 2 + 5))
    np.testing.assert_array_equal(chosen.rank(asked), np.concatenate([[0], flags.cumsum()])[asked])
    np.testing.assert_array_equal(chosen.rank(asked.T), np.concatenate([[0], flags.cumsum()])[asked.T])


@settings(max_examples=60, deadline=None)
@given(items=COUNTS, seed=st.integers(0, 1000), share=st.sampled_from([0.0, 0.3, 1.0]))
def test_torch_counts_like_numpy(items: int, seed: int, share: float) -> None:
    chosen, flags = random_set(a_tree(items, seed=seed), seed=seed, share=share)
    for positions in (torch.arange(items + 1).view(1, -1), torch.arange(items + 1, dtype=torch.int32).view(-1, 1)):
        ours = rank_in_torch(chosen, positions)
        assert ours.dtype == rank_in(chosen, positions).dtype == torch.int32
        assert torch.equal(ours, rank_in(chosen, positions))
    ranks = torch.arange(chosen.num_members).view(1, -1)
    assert torch.equal(select_in_torch(chosen, ranks), select_in(chosen, ranks))
    # Numbers that no member has are answered too, by anything.
    wild = torch.tensor([[-5, chosen.num_members, 10**6]])
    assert select_in_torch(chosen, wild).shape == select_in(chosen, wild).shape == (1, 3)


@settings(max_examples=60, deadline=None)
@given(items=COUNTS, seed=st.integers(0, 1000))
def test_joined_like_flags(items: int, seed: int) -> None:
    trie = a_tree(items, seed=seed)
    (left, ours), (right, theirs) = (random_set(trie, seed=seed + step, share=0.5) for step in (0, 1))
    for joined, flags in ((left & right, ours & theirs), (left | right, ours | theirs), (left - right, ours & ~theirs)):
        np.testing.assert_array_equal(joined.flags(), flags)
        np.testing.assert_array_equal(joined.rank(np.arange(items + 1)), np.concatenate([[0], flags.cumsum()]))


@settings(max_examples=60, deadline=None)
@given(flags=st.lists(st.booleans(), max_size=200))
def test_packing_is_undone_by_unpacking(flags: list[bool]) -> None:
    words = pack(np.array(flags, np.bool_))
    assert unpack(words, len(flags)).tolist() == flags
    assert int(np.bitwise_count(words).sum()) == sum(flags)


@settings(max_examples=60, deadline=None)
@given(items=COUNTS, seed=st.integers(0, 1000), data=st.data())
def test_a_change_is_the_set_made_anew_and_leaves_the_old_one_alone(items: int, seed: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    offered = rng.random(items) < 0.8
    offered[0] = True
    trie = Trie.build(random_codes((7, 5, 3), items=items, seed=seed), offered=offered)
    flags = rng.random(items) < 0.5
    old = ItemSet.of_flags(flags, trie)
    words, ranks = old.words.copy(), old.ranks.copy()
    changing = rng.permutation(items)[: data.draw(st.integers(0, items))]
    values = rng.random(len(changing)) < 0.5
    new = old.changed(changing, trie, to=values)
    flags[changing] = values
    np.testing.assert_array_equal(new.words, ItemSet.of_flags(flags, trie).words)
    np.testing.assert_array_equal(new.ranks, ItemSet.of_flags(flags, trie).ranks)
    np.testing.assert_array_equal(old.words, words)
    np.testing.assert_array_equal(old.ranks, ranks)
    held = trie.positions.numpy()[changing]
    assert old.changed(changing, trie, to=True).contains(held[held != PAD]).all()


def test_items_outside_the_tree_are_never_members() -> None:
    codes = unique_codes((4, 4), items=6, seed=0)
    trie = Trie.build(codes, offered=np.array([True, False, True, True, False, True]))
    chosen = ItemSet.of_items(np.arange(6), trie)
    assert chosen.num_members == chosen.num_positions == 4
    np.testing.assert_array_equal(chosen.words, ItemSet.every(trie).words)


def test_arrays_cannot_be_written_to() -> None:
    chosen = ItemSet.every(a_tree(70))
    for array in (chosen.words, chosen.ranks):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda trie: ItemSet.of_flags(np.ones(3, np.bool_), trie), "3 flags for a catalogue of 9 items"),
        (lambda trie: ItemSet.of_items(np.array([9]), trie), "item index 9 is outside 0..8"),
        (lambda trie: ItemSet.of_items(np.array([PAD]), trie), "item index -1 is outside"),
        (lambda trie: ItemSet.every(trie).changed(np.array([2, 2]), trie, to=np.array([True, False])), "one change"),
    ],
)
def test_what_cannot_be_a_set_is_refused(make: Callable[[Trie], ItemSet], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(a_tree(9))


def test_a_set_of_another_tree_is_refused_by_its_mark() -> None:
    ours, theirs = a_tree(40, seed=0), a_tree(40, seed=1)
    assert tree_mark(ours) == tree_mark(a_tree(40, seed=0)) != tree_mark(theirs)
    chosen = ItemSet.every(ours)
    chosen.check(ours)
    with pytest.raises(DataError, match=f"{tree_mark(ours):08x}.*{tree_mark(theirs):08x}"):
        chosen.check(theirs)
    with pytest.raises(DataError, match="40 items.*39 items"):
        RowSets.build(chosen, a_tree(39), num_rows=1)


@settings(max_examples=30, deadline=None)
@given(items=COUNTS, rows=st.integers(1, 6), seed=st.integers(0, 1000))
def test_rows_go_by_their_own_sets(items: int, rows: int, seed: int) -> None:
    trie = a_tree(items, seed=seed)
    sets = tuple(random_set(trie, seed=seed + step, share=0.5)[0] for step in range(3))
    numbers = np.random.default_rng(seed).integers(3, size=rows)
    mixed = RowSets.build(AllowedByRow(sets=sets, set_of_row=numbers), trie, num_rows=rows)
    every = torch.arange(items).expand(rows, items)
    for row, number in enumerate(numbers.tolist()):
        alone = sets[number]
        assert mixed.rank(every)[row].tolist() == alone.rank(np.arange(items)).tolist()
        assert mixed.contains(every)[row].tolist() == mixed.flags()[row].tolist() == alone.flags().tolist()
        assert int(mixed.counts()[row]) == alone.num_members
        assert mixed.select(every)[row, : alone.num_members].tolist() == np.flatnonzero(alone.flags()).tolist()
    one = RowSets.build(sets[0], trie, num_rows=rows)
    assert one.flags().shape == (1, items) and one.counts().tolist() == [sets[0].num_members] * rows
    assert one.contains(every)[-1].tolist() == sets[0].flags().tolist()


@pytest.mark.parametrize("numbers", [[0], [0, 1, 2], [0, -1], [[0, 0]]])
def test_each_row_needs_a_set(numbers: list[int]) -> None:
    trie = a_tree(5)
    allowed = AllowedByRow(sets=(ItemSet.every(trie), ItemSet.every(trie)), set_of_row=np.array(numbers))
    with pytest.raises(DataError, match="batch of 2 rows"):
        RowSets.build(allowed, trie, num_rows=2)
