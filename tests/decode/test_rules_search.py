"""A search under rules is the search over a tree that holds nothing else: the same lists, to the bit, and exact."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_steps import TableModel, random_codes, slow_beam

from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import PAD, Codes, Ranked
from sememe.decode.allowed import Allowed, AllowedByRow, rank_in_torch, select_in_torch
from sememe.decode.beam import BeamSearch
from sememe.decode.exact import ExactCodes, ExactItems
from sememe.decode.item_set import ItemSet
from sememe.decode.rescore import Rescored
from sememe.decode.sample import Sampled
from sememe.decode.trie import Trie

SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)
SHARES = st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])
ROWS = 4
BATCH = {"user": torch.arange(ROWS) % 3}


class TwoHeads(TableModel):
    """Writes codes by its tables, and scores items by one more."""

    def __init__(self, sizes: tuple[int, ...], *, items: int, seed: int, distinct: int | None = None) -> None:
        super().__init__(sizes, users=3, seed=seed, distinct=distinct)
        self.item_scores = torch.randn(3, items, generator=torch.Generator().manual_seed(seed))

    def score_items(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.item_scores[batch["user"]]


class World:
    """A catalogue, what each row may get of it, and what it has seen."""

    def __init__(self, sizes: tuple[int, ...], *, items: int, seed: int, share: float, ties: bool = False) -> None:
        self.rng = np.random.default_rng(seed)
        self.codes = random_codes(sizes, items=items, seed=seed)
        self.trie = Trie.build(self.codes)
        self.model = TwoHeads(sizes, items=items, seed=seed, distinct=2 if ties else None)
        self.flags = self.rng.random((2, items)) < share
        self.set_of_row = self.rng.integers(2, size=ROWS)
        self.seen = self.rng.integers(PAD, items, size=(ROWS, 1 + items // 2)).astype(np.int32)

    @property
    def sets(self) -> tuple[ItemSet, ...]:
        return tuple(ItemSet.of_flags(flags, self.trie) for flags in self.flags)

    @property
    def mixed(self) -> AllowedByRow:
        return AllowedByRow(sets=self.sets, set_of_row=self.set_of_row)

    def eligible(self, row: int, *, seen: np.ndarray | None) -> np.ndarray:
        """(I,) whether the row may get the item."""
        left = self.flags[self.set_of_row[row]].copy()
        if seen is not None:
            left[seen[row][seen[row] != PAD]] = False
        return left


@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, items=st.integers(1, 40), seed=st.integers(0, 10_000), share=SHARES, data=st.data())
def test_equals_the_slow_search_over_what_each_row_may_get(
    sizes: tuple[int, ...], items: int, seed: int, share: float, data: st.DataObject
) -> None:
    world = World(sizes, items=items, seed=seed, share=share, ties=data.draw(st.booleans()))
    width = data.draw(st.integers(1, 12))
    k = data.draw(st.integers(1, width))
    seen = world.seen if data.draw(st.booleans()) else None
    ranked = BeamSearch(width=width).recommend(world.model, BATCH, k=k, trie=world.trie, seen=seen, allowed=world.mixed)
    for row in range(ROWS):
        eligible = world.eligible(row, seen=seen)
        without = set(np.flatnonzero(~eligible).tolist())
        found = slow_beam(world.model, world.codes, row % 3, width=width, seen=without)
        listed, fill = found[:k], k - len(found[:k])
        assert ranked.items[row].tolist() == [item for item, _ in listed] + [PAD] * fill
        np.testing.assert_allclose(ranked.scores[row], [score for _, score in listed] + [-np.inf] * fill, atol=1e-6)
        assert ranked.tied_beyond is not None and ranked.eligible is not None
        assert ranked.tied_beyond[row] == (sum(score == listed[-1][1] for _, score in found[k:]) if listed else 0)
        assert ranked.eligible[row] == eligible.sum()
        # No beam was lost to a prefix that leads nowhere: a list is short only where there is no more to list.
        assert len(listed) == min(k, eligible.sum())


@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, items=st.integers(1, 40), seed=st.integers(0, 10_000), share=SHARES, data=st.data())
def test_a_wide_beam_and_exact_scores_give_the_best_of_what_is_allowed(
    sizes: tuple[int, ...], items: int, seed: int, share: float, data: st.DataObject
) -> None:
    """The truth is a sort of all eligible items by their scores, summed by hand."""
    world = World(sizes, items=items, seed=seed, share=share, ties=data.draw(st.booleans()))
    k = data.draw(st.integers(1, items + 2))
    for part in (BeamSearch(width=items + 3), ExactCodes(chunk=data.draw(st.integers(1, 100)))):
        ranked = part.recommend(world.model, BATCH, k=k, trie=world.trie, seen=world.seen, allowed=world.mixed)
        for row in range(ROWS):
            eligible = np.flatnonzero(world.eligible(row, seen=world.seen)).tolist()
            truth = [(-world.model.score(row % 3, code), code, item) for item, code in tuples(world.codes, eligible)]
            expected = [item for *_, item in sorted(truth)][:k]
            assert ranked.items[row].tolist() == expected + [PAD] * (k - len(expected))
            assert ranked.eligible is not None and ranked.eligible[row] == len(eligible)


def tuples(codes: Codes, items: list[int]) -> list[tuple[int, tuple[int, ...]]]:
    return [(item, tuple(codes.matrix[item].tolist())) for item in items]


PARTS: list[Any] = [
    BeamSearch(width=6),
    ExactCodes(),
    ExactItems(),
    Rescored(BeamSearch(width=9)),
    Sampled(width=6, seed=3),
    Sampled(width=6, temperature=0.5, top_p=0.8),
    Sampled(temperature=0.0, width=6),
]
NAMED = pytest.mark.parametrize("part", PARTS, ids=[part.describe().replace(" ", "-") for part in PARTS])


@NAMED
@settings(max_examples=20, deadline=None)
@given(sizes=SIZES, items=st.integers(1, 40), seed=st.integers(0, 10_000), share=SHARES, k=st.integers(1, 6))
def test_every_decoder_under_rules_is_itself_over_a_smaller_tree(
    part: Any, sizes: tuple[int, ...], items: int, seed: int, share: float, k: int
) -> None:
    world = World(sizes, items=items, seed=seed, share=share)
    world.flags[:, 0] = True
    for number in (0, 1):
        smaller = Trie.build(world.codes, offered=world.flags[number])
        for seen in (None, world.seen):
            ours = part.recommend(world.model, BATCH, k=k, trie=world.trie, seen=seen, allowed=world.sets[number])
            theirs = part.recommend(world.model, BATCH, k=k, trie=smaller, seen=seen)
            assert_identical(ours, theirs)
            assert theirs.eligible is None


def assert_identical(ours: Ranked, theirs: Ranked) -> None:
    for name in ("items", "scores", "tied_beyond"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    assert ours.source == theirs.source


@NAMED
def test_a_batch_of_tenants_is_its_rows(part: Any) -> None:
    world = World((5, 4, 3), items=50, seed=1, share=0.3)
    together = part.recommend(world.model, BATCH, k=5, trie=world.trie, seen=world.seen, allowed=world.mixed)
    assert len(set(world.set_of_row.tolist())) == 2
    for row, number in enumerate(world.set_of_row.tolist()):
        alone = part.recommend(
            world.model,
            {"user": BATCH["user"][row : row + 1]},
            k=5,
            trie=world.trie,
            seen=world.seen[row : row + 1],
            allowed=world.sets[number],
        )
        assert together.items[row].tolist() == alone.items[0].tolist()
        np.testing.assert_allclose(together.scores[row], alone.scores[0], atol=1e-6)
        assert together.eligible[row] == alone.eligible[0]


@NAMED
def test_counting_in_torch_as_on_other_devices_changes_nothing(part: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World((5, 4, 3), items=50, seed=6, share=0.4)
    lists = []
    for _ in range(2):
        for allowed in (world.mixed, world.sets[0]):
            lists.append(part.recommend(world.model, BATCH, k=5, trie=world.trie, seen=world.seen, allowed=allowed))
        monkeypatch.setattr("sememe.decode.allowed.rank_in", rank_in_torch)
        monkeypatch.setattr("sememe.decode.allowed.select_in", select_in_torch)
    for ours, theirs in zip(lists[2:], lists[:2], strict=True):
        assert_identical(ours, theirs)
        assert ours.eligible.tolist() == theirs.eligible.tolist()


@NAMED
def test_everything_allowed_is_no_rule_at_all(part: Any) -> None:
    world = World((5, 4, 3), items=50, seed=2, share=1.0)
    free = part.recommend(world.model, BATCH, k=6, trie=world.trie, seen=world.seen)
    ruled = part.recommend(world.model, BATCH, k=6, trie=world.trie, seen=world.seen, allowed=ItemSet.every(world.trie))
    assert_identical(ruled, free)
    assert ruled.eligible.tolist() == [int(world.eligible(row, seen=world.seen).sum()) for row in range(ROWS)]


@NAMED
def test_nothing_allowed_gives_empty_lists(part: Any) -> None:
    world = World((5, 4, 3), items=50, seed=3, share=0.0)
    ranked = part.recommend(world.model, BATCH, k=4, trie=world.trie, seen=world.seen, allowed=world.sets[0])
    assert (ranked.items == PAD).all() and (ranked.scores == -np.inf).all()
    assert ranked.eligible.tolist() == ranked.tied_beyond.tolist() == [0] * ROWS


def test_tied_items_of_a_leaf_by_hand() -> None:
    """Items 0, 2, 3 and 5 share a code; 2 is not allowed and 3 is seen."""
    matrix = np.array([[0], [1], [0], [0], [1], [0]], np.int32)
    trie = Trie.build(Codes(matrix=matrix, codebook_sizes=(2,), num_semantic_levels=1))
    model = TableModel((2,), users=1, seed=0)
    model.tables = [torch.tensor([[[0.7, 0.3]]]).log()]
    allowed = ItemSet.of_items(np.array([0, 1, 3, 5]), trie)
    seen = np.array([[3, 4, PAD]], np.int32)
    ranked = BeamSearch(width=2).recommend(
        model, {"user": torch.tensor([0])}, k=4, trie=trie, seen=seen, allowed=allowed
    )
    assert ranked.items.tolist() == [[0, 5, 1, PAD]]
    assert ranked.eligible is not None and ranked.eligible.tolist() == [3]
    short = BeamSearch(width=2).recommend(model, {"user": torch.tensor([0])}, k=1, trie=trie, allowed=allowed)
    assert short.items.tolist() == [[0]] and short.tied_beyond is not None and short.tied_beyond.tolist() == [2]


def test_forbidden_items_never_cost_a_beam() -> None:
    """Of 300 items only the 20 that a free search likes least are allowed: a beam of 20 finds them all, in order."""
    world = World((8, 8, 8), items=300, seed=5, share=1.0)
    request = {"user": torch.tensor([0])}
    every = ExactCodes().recommend(world.model, request, k=300, trie=world.trie).items[0]
    allowed = ItemSet.of_items(every[-20:], world.trie)
    ranked = BeamSearch(width=20).recommend(world.model, request, k=20, trie=world.trie, allowed=allowed)
    assert ranked.items[0].tolist() == every[-20:].tolist()


OTHER = World((5, 4, 3), items=50, seed=9, share=0.5)


@NAMED
@pytest.mark.parametrize(
    ("allowed", "message"),
    [
        (lambda world: OTHER.sets[0], "50 items with mark .* this tree has 50 items and mark"),
        (lambda world: AllowedByRow(sets=world.sets, set_of_row=np.zeros(3, np.int64)), "batch of 4 rows"),
        (lambda world: AllowedByRow(sets=OTHER.sets, set_of_row=np.zeros(4, np.int64)), "this tree has"),
    ],
    ids=["another tree", "too few rows", "sets of another tree"],
)
def test_sets_that_are_not_of_the_search_are_refused(
    part: Any, allowed: Callable[[World], Allowed], message: str
) -> None:
    world = World((5, 4, 3), items=50, seed=4, share=0.5)
    with pytest.raises(DataError, match=message):
        part.recommend(world.model, BATCH, k=4, trie=world.trie, allowed=allowed(world))


def test_an_item_scorer_needs_the_tree_that_the_sets_are_of() -> None:
    world = World((5, 4, 3), items=50, seed=4, share=0.5)
    with pytest.raises(ConfigError, match="there is none"):
        ExactItems().recommend(world.model, BATCH, k=4, allowed=world.sets[0])
