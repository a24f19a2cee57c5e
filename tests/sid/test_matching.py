"""New codes under old names: a fit that cuts the items alike changes nothing, and what changes is counted per level."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_line import LINE, on_line
from planted_tree import BRANCHES, tree

from sememe.core.errors import DataError
from sememe.sid.catalogue import LiveCatalogue
from sememe.sid.collisions import CollisionToken, KeepTied
from sememe.sid.encode import settle_catalog
from sememe.sid.extra_level import ExtraLevel
from sememe.sid.fitted import kind_of, restore_tokenizer
from sememe.sid.matching import FittedRelabelled, match_catalogue, match_levels
from sememe.sid.reassign import ReassignLast
from sememe.sid.rqkmeans import FittedResidualKMeans, ResidualKMeans

VECTORS, _ = tree(0, per_leaf=3)


def fitted(part: Any, rule: Any, *, vectors: np.ndarray = VECTORS, ids: Any = None, seed: int = 0) -> LiveCatalogue:
    settled = settle_catalog(rule, tokenizer=part.fit(vectors, seed=seed), vectors=vectors, seed=seed)
    names = np.arange(len(vectors)) if ids is None else ids
    return LiveCatalogue.start(settled.codes, item_ids=names, tokenizer=settled.tokenizer, vectors=vectors)


def scrambled(tokenizer: FittedResidualKMeans, seed: int) -> FittedResidualKMeans:
    """The same tokenizer with its codes in another order."""
    rng = np.random.default_rng(seed)
    return FittedResidualKMeans(tuple(book[rng.permutation(len(book))] for book in tokenizer.codebooks))


def test_levels_by_hand() -> None:
    old = np.array([[0, 0], [0, 0], [0, 1], [1, 0], [1, 1], [1, 1]], np.int32)
    # Level 1: new 1 is old 0 but for one item.  Level 2: below equal prefixes, new 0 is old 1 (3 of 3 items).
    new = np.array([[1, 1], [1, 1], [1, 0], [0, 1], [0, 0], [1, 0]], np.int32)
    first, second = match_levels(new, old, (2, 2))
    assert first.tolist() == [1, 0] and second.tolist() == [1, 0]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_the_first_level_shares_as_many_items_as_any_renaming_could(seed: int) -> None:
    rng = np.random.default_rng(seed)
    new, old = rng.integers(0, 4, (2, 20, 1)).astype(np.int32)
    (label,) = match_levels(new, old, (4,))
    assert sorted(label.tolist()) == [0, 1, 2, 3]
    best = max(int((np.array(order)[new] == old).sum()) for order in permutations(range(4)))
    assert int((label[new] == old).sum()) == best


def test_a_deeper_code_is_named_by_the_items_whose_prefix_agrees() -> None:
    firm = [(0, 2)] * 5 + [(1, 2)] * 5 + [(0, 0), (1, 1)]
    # 5 items went from the first code 1 to 0; they alone would call the second codes 0 and 1 the other way round.
    old = np.array(firm + [(1, 1)] * 3 + [(1, 0)] * 2, np.int32)
    new = np.array(firm + [(0, 0)] * 3 + [(0, 1)] * 2, np.int32)
    first, second = match_levels(new, old, (2, 3))
    assert first.tolist() == [0, 1]
    assert second.tolist() == [0, 1, 2]
    plain = match_levels(new[:, 1:], old[:, 1:], (3,))[0]
    assert plain.tolist() == [1, 0, 2]


@pytest.mark.parametrize("rule", [CollisionToken(size=32), ReassignLast(), ExtraLevel(size=4), KeepTied()])
def test_the_same_codes_in_another_order_are_the_same_codes(rule: Any) -> None:
    tokenizer = ResidualKMeans(levels=2, codebook_size=(16, 32)).fit(VECTORS, seed=0)

    def catalogue(base: Any) -> LiveCatalogue:
        settled = settle_catalog(rule, tokenizer=base, vectors=VECTORS, seed=0)
        ids = [f"i{row}" for row in range(len(VECTORS))]
        return LiveCatalogue.start(settled.codes, item_ids=ids, tokenizer=settled.tokenizer, vectors=VECTORS)

    old, new = catalogue(tokenizer), catalogue(scrambled(tokenizer, 1))
    matched = match_catalogue(new, old=old)
    assert matched.changes.ids == 0 and matched.changes.prefixes == (0.0,) * len(old.tokenizer.codebook_sizes)
    assert min(matched.changes.prefixes_unmatched) > 0.5
    np.testing.assert_array_equal(matched.catalogue.codes.matrix, old.codes.matrix)
    later = np.random.default_rng(2).permutation(VECTORS)[:9] + np.float32(0.001)
    names = [f"new{row}" for row in range(9)]
    np.testing.assert_array_equal(
        matched.catalogue.add(names, vectors=later).codes.matrix, old.add(names, vectors=later).codes.matrix
    )
    np.testing.assert_allclose(
        matched.catalogue.add(names, vectors=later).errors, old.add(names, vectors=later).errors, atol=1e-4
    )


def test_two_fits_of_a_planted_tree_are_one_tree() -> None:
    part = ResidualKMeans(levels=3, codebook_size=BRANCHES)
    old, new = (fitted(part, CollisionToken(size=8), seed=seed) for seed in (0, 1))
    assert match_catalogue(new, old=old).changes.ids == 0


def test_what_moved_is_counted_level_by_level() -> None:
    vectors = on_line(0, 2, 10, 40, 100, 102, 110, 140)
    old = LiveCatalogue.start(
        settle_catalog(KeepTied(), tokenizer=LINE, vectors=vectors, seed=0).codes,
        item_ids=list("abcdefgh"),
        tokenizer=LINE,
        vectors=vectors,
    )
    moved = on_line(0, 2, 10, 140, 100, 102, 102, 140)
    new = LiveCatalogue.start(
        settle_catalog(KeepTied(), tokenizer=LINE, vectors=moved, seed=0).codes,
        item_ids=list("abcdefgh"),
        tokenizer=LINE,
        vectors=moved,
    )
    changes = match_catalogue(new, old=old).changes
    assert (changes.codes, changes.prefixes) == ((1 / 8, 1 / 8), (1 / 8, 2 / 8))
    assert (changes.ids, changes.items) == (2 / 8, 8)
    assert changes.to_json()["prefixes"] == [1 / 8, 2 / 8]
    assert changes.render().splitlines()[0] == "25.0% of 8 items have another semantic ID after the new fit"


def test_numbers_are_kept_where_the_other_codes_are_and_free_ones_given_elsewhere() -> None:
    ids = list("abcd")
    old = LiveCatalogue.start(
        settle_catalog(CollisionToken(size=4), tokenizer=LINE, vectors=on_line(0, 0, 0, 100), seed=0).codes,
        item_ids=ids,
        tokenizer=LINE,
        vectors=on_line(0, 0, 0, 100),
    )
    order = [3, 2, 1, 0]  # the new catalogue has its rows the other way round
    vectors = on_line(0, 0, 0, 100)[order]
    vectors[2] = 100  # b has left the tuple of a and c, and joined that of d
    new = LiveCatalogue.start(
        settle_catalog(CollisionToken(size=4), tokenizer=scrambled(LINE, 3), vectors=vectors, seed=0).codes,
        item_ids=[ids[place] for place in order],
        tokenizer=scrambled(LINE, 3),
        vectors=vectors,
    )
    matched = match_catalogue(new, old=old).catalogue
    named = dict(zip(matched.item_ids.to_list(), matched.codes.matrix.tolist(), strict=True))
    assert named == {"a": [0, 0, 0], "c": [0, 0, 2], "d": [1, 0, 0], "b": [1, 0, 1]}


def on(rule: Any, tokenizer: Any = LINE, **items: float) -> LiveCatalogue:
    vectors = on_line(*items.values())
    codes = settle_catalog(rule, tokenizer=tokenizer, vectors=vectors, seed=0).codes
    return LiveCatalogue.start(codes, item_ids=list(items), tokenizer=tokenizer, vectors=vectors)


def test_what_was_retired_stays_retired_after_a_new_fit() -> None:
    token = CollisionToken(size=4)
    old = on(token, a=0, b=0, c=100).remove(["b"])
    assert old.retired.tolist() == [[0, 0, 1]]
    # The fit after b was removed knows nothing of it, and numbers a newcomer with what was its number.
    new = on(token, scrambled(LINE, 3), a=0, d=0, c=100)
    matched = match_catalogue(new, old=old)
    named = dict(zip(matched.catalogue.item_ids.to_list(), matched.catalogue.codes.matrix.tolist(), strict=True))
    assert named == {"a": [0, 0, 0], "d": [0, 0, 2], "c": [1, 0, 0]}
    assert matched.catalogue.retired.tolist() == [[0, 0, 1]] and matched.changes.given_again == 0
    # Nor does anybody get it who comes after the fit.
    later = matched.catalogue.add(["e"], vectors=on_line(0))
    assert later.codes.matrix[-1].tolist() == [0, 0, 3]
    assert match_catalogue(new, old=old.release()).catalogue.codes.matrix[1].tolist() == [0, 0, 1]
    with pytest.raises(DataError, match=r"4 numbers of the semantic codes \(0, 0\), too few") as caught:
        match_catalogue(on(token, a=0, d=0, e=0, f=0, c=100), old=old)
    assert "release()" in caught.value.fix


def test_without_numbers_it_is_told_who_has_a_code_that_was_retired() -> None:
    old = on(ReassignLast(), a=0, b=10, c=100, e=110, x=40).remove(["b", "x"])
    new = on(ReassignLast(), scrambled(LINE, 3), a=0, d=10, c=100, e=110)
    matched = match_catalogue(new, old=old)
    assert matched.catalogue.codes.matrix.tolist() == [[0, 0], [0, 2], [1, 0], [1, 2]]
    assert matched.changes.given_again == 1 and "1 items have a code" in matched.changes.render()
    assert matched.catalogue.retired.tolist() == [[0, 3]]
    # Codes of another depth cannot be mistaken for one another.
    assert match_catalogue(on(CollisionToken(size=4), a=0, c=100), old=old).catalogue.retired.tolist() == []


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000))
def test_after_matching_codes_are_as_unique_as_before(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((60, 4)).astype(np.float32)
    part = ResidualKMeans(levels=2, codebook_size=4)
    old = fitted(part, CollisionToken(size=32), vectors=vectors, seed=1).remove([3, 4])
    new = fitted(part, CollisionToken(size=32), vectors=vectors[10:], ids=np.arange(10, 60), seed=2)
    new = new.remove([20, 30]).add([99], vectors=vectors[:1])
    matched = match_catalogue(new, old=old).catalogue
    held = np.concatenate([matched.codes.matrix[matched.live], matched.retired])
    assert len(np.unique(held, axis=0)) == len(held)
    assert set(map(tuple, old.retired.tolist())) <= set(map(tuple, matched.retired.tolist()))
    for depth in (1, 2):  # the items are grouped as they were
        groups = [np.unique(one.codes.matrix[:, :depth], axis=0, return_inverse=True)[1] for one in (new, matched)]
        assert len(np.unique(np.stack(groups), axis=1).T) == len(np.unique(groups[0]))


def test_a_renamed_tokenizer_is_kept_like_any_other() -> None:
    base = ResidualKMeans(levels=2, codebook_size=(4, 6)).fit(VECTORS, seed=0)
    rng = np.random.default_rng(0)
    renamed = FittedRelabelled(base, (rng.permutation(4), rng.permutation(6)))
    codes = renamed.encode(VECTORS)
    assert codes.dtype == np.int32 and not np.array_equal(codes, base.encode(VECTORS))
    np.testing.assert_array_equal(renamed.reconstruct(codes), base.reconstruct(base.encode(VECTORS)))
    np.testing.assert_array_equal(renamed.reconstruct(codes[:, :1]), base.reconstruct(base.encode(VECTORS)[:, :1]))
    again = restore_tokenizer(kind_of(renamed), {name: array.copy() for name, array in renamed.state().items()})
    np.testing.assert_array_equal(again.encode(VECTORS), codes)
    assert renamed.rebuilds_prefixes


def test_what_cannot_be_matched_is_refused() -> None:
    part = ResidualKMeans(levels=2, codebook_size=4)
    old = fitted(part, KeepTied())
    with pytest.raises(DataError, match=r"sizes \(4, 5\) cannot take the names of codes of sizes \(4, 4\)"):
        match_catalogue(fitted(ResidualKMeans(levels=2, codebook_size=(4, 5)), KeepTied()), old=old)
    with pytest.raises(DataError, match="no item is offered by both"):
        match_catalogue(fitted(part, KeepTied(), ids=np.arange(1000, 1000 + len(VECTORS))), old=old)
