"""A catalogue that lives: who comes gets a code of its own, all others keep theirs, and what fails changes nothing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_line import LINE, on_line

from sememe.core.errors import DataError
from sememe.sid.balanced import BalancedKMeans
from sememe.sid.catalogue import LiveCatalogue
from sememe.sid.collisions import CollisionToken, KeepTied
from sememe.sid.encode import settle_catalog
from sememe.sid.extra_level import ExtraLevel
from sememe.sid.place import smallest_free
from sememe.sid.reassign import ReassignLast
from sememe.sid.rqkmeans import FittedResidualKMeans


def on(rule: Any, **items: float) -> LiveCatalogue:
    vectors = on_line(*items.values())
    settled = settle_catalog(rule, tokenizer=LINE, vectors=vectors, seed=0)
    return LiveCatalogue.start(settled.codes, item_ids=list(items), tokenizer=settled.tokenizer, vectors=vectors)


def code(catalogue: LiveCatalogue, item: str) -> list[int]:
    return catalogue.codes.matrix[catalogue.rows([item])[0]].tolist()


def offered(catalogue: LiveCatalogue) -> list[str]:
    return catalogue.item_ids.filter(pl.Series(catalogue.live)).to_list()


NUMBERED = on(CollisionToken(size=4), a=0, b=0.1, c=100)


def test_a_new_item_gets_the_next_number_of_its_tuple() -> None:
    assert NUMBERED.codes.matrix.tolist() == [[0, 0, 0], [0, 0, 1], [1, 0, 0]]
    newer = NUMBERED.add(["d", "e", "f"], vectors=on_line(0.2, 102, 0.3))
    assert newer.codes.matrix[:3].tolist() == NUMBERED.codes.matrix.tolist()
    assert [code(newer, item) for item in "def"] == [[0, 0, 2], [1, 1, 0], [0, 0, 3]]
    assert newer.since_fit.tolist() == [False] * 3 + [True] * 3
    assert offered(NUMBERED) == ["a", "b", "c"]
    np.testing.assert_allclose(newer.errors, [0, 0.01, 0, 0.04, 0, 0.09], atol=1e-6)


def test_the_code_of_a_removed_item_is_given_to_nobody_unless_told_otherwise() -> None:
    without = NUMBERED.remove(["b"])
    assert offered(without) == ["a", "c"] and without.retired.tolist() == [[0, 0, 1]]
    assert code(without, "b") == [0, 0, 1]  # for histories that still name it
    assert code(without.add(["d"], vectors=on_line(0)), "d") == [0, 0, 2]
    freed = NUMBERED.remove(["b"], retire=False)
    assert freed.retired.tolist() == []
    assert code(freed.add(["d"], vectors=on_line(0)), "d") == [0, 0, 1]
    assert code(without.release().add(["d"], vectors=on_line(0)), "d") == [0, 0, 1]


def test_an_item_that_comes_back_has_its_row_and_if_it_still_fits_its_code() -> None:
    without = NUMBERED.remove(["b"])
    back = without.add(["b"], vectors=on_line(0.1))
    assert offered(back) == ["a", "b", "c"] and code(back, "b") == [0, 0, 1]
    assert len(back.retired) == 0
    elsewhere = without.add(["b"], vectors=on_line(102))
    assert code(elsewhere, "b") == [1, 1, 0] and elsewhere.retired.tolist() == [[0, 0, 1]]
    late = NUMBERED.remove(["b"], retire=False).add(["d"], vectors=on_line(0)).add(["b"], vectors=on_line(0.1))
    assert [code(late, item) for item in "bd"] == [[0, 0, 2], [0, 0, 1]]


def test_two_removed_items_that_had_one_code_after_each_other_do_not_both_get_it_back() -> None:
    first = NUMBERED.remove(["b"], retire=False).add(["d"], vectors=on_line(0)).remove(["d"], retire=False)
    both = first.add(["b", "d"], vectors=on_line(0.1, 0))
    assert sorted([code(both, "b"), code(both, "d")]) == [[0, 0, 1], [0, 0, 2]]


def test_an_update_changes_the_code_only_where_the_content_moved() -> None:
    same = NUMBERED.update(["b", "a"], vectors=on_line(0.3, 0.4))
    assert same.codes.matrix.tolist() == NUMBERED.codes.matrix.tolist()
    np.testing.assert_allclose(same.errors[:2], [0.16, 0.09], atol=1e-6)
    assert same.since_fit.tolist() == [True, True, False]
    moved = NUMBERED.update(["a"], vectors=on_line(100))
    assert code(moved, "a") == [1, 0, 1] and moved.retired.tolist() == [[0, 0, 0]]
    assert NUMBERED.update(["a"], vectors=on_line(100), retire=False).retired.tolist() == []


def test_items_that_swap_their_content_get_codes_nobody_has() -> None:
    swapped = NUMBERED.update(["a", "c"], vectors=on_line(100, 0))
    assert [code(swapped, item) for item in "abc"] == [[1, 0, 1], [0, 0, 1], [0, 0, 2]]
    assert swapped.retired.tolist() == [[0, 0, 0], [1, 0, 0]]


def test_a_dealt_last_code_is_the_best_free_one() -> None:
    dealt = on(ReassignLast(), a=0, b=0.2, c=100)
    assert dealt.codes.matrix.tolist() == [[0, 0], [0, 1], [1, 0]]
    assert code(dealt.add(["d"], vectors=on_line(111)), "d") == [1, 2]
    pair = dealt.add(["d", "e"], vectors=on_line(0, 5.5))
    # Both want a code that is taken.  10 for d and 40 for e is 100 + 1,178 worse, the other way round 1,600 + 8.
    assert [code(pair, item) for item in "de"] == [[0, 2], [0, 3]]
    kept = dealt.update(["b"], vectors=on_line(0.1))
    assert kept.codes.matrix.tolist() == dealt.codes.matrix.tolist()


def test_an_extra_level_without_a_token_deals_out_its_free_codes() -> None:
    short = FittedResidualKMeans((np.array([[0], [100]], np.float32),))
    vectors = on_line(0, 10, 40, 100, 110, 140)
    settled = settle_catalog(ExtraLevel(size=3, token=0), tokenizer=short, vectors=vectors, seed=0)
    extra = LiveCatalogue.start(
        settled.codes, item_ids=list("abcdef"), tokenizer=settled.tokenizer, vectors=vectors
    ).remove(["b"], retire=False)
    free = extra.codes.matrix[1].tolist()
    assert code(extra.add(["g"], vectors=on_line(0)), "g") == free
    with pytest.raises(DataError, match=r"below the codes \(0,\), 1 of the 3 last codes .* and 2 more are needed"):
        extra.add(["g", "h"], vectors=on_line(0, 0))


def test_tied_items_stay_tied_and_retire_nothing() -> None:
    tied = on(KeepTied(), a=0, b=0.1).add(["c"], vectors=on_line(0)).remove(["a"])
    assert tied.codes.matrix.tolist() == [[0, 0]] * 3
    assert tied.retired.shape == (0, 2) and offered(tied) == ["b", "c"]


def test_what_changed_is_told_to_those_that_follow() -> None:
    newer = NUMBERED.add(["d"], vectors=on_line(0)).remove(["a"]).update(["c"], vectors=on_line(2))
    changes = newer.changes_since(NUMBERED)
    assert (changes.gone.tolist(), changes.come.tolist()) == ([0, 2], [2, 3])
    nothing = newer.changes_since(newer)
    assert (nothing.gone.tolist(), nothing.come.tolist()) == ([], [])
    passing = NUMBERED.add(["d"], vectors=on_line(0)).remove(["d"]).changes_since(NUMBERED)
    assert (passing.gone.tolist(), passing.come.tolist()) == ([], [])
    back = newer.add(["a"], vectors=on_line(0)).changes_since(newer)
    assert (back.gone.tolist(), back.come.tolist()) == ([], [0])
    for other in (on(CollisionToken(size=4), x=0, y=1, z=2), on(CollisionToken(size=5), a=0, b=0.1, c=100)):
        with pytest.raises(DataError, match="do not come from one another"):
            newer.changes_since(other)


def balanced(rule: Any, *, seed: int = 0, rows: int = 600) -> tuple[LiveCatalogue, np.ndarray]:
    """A catalogue whose codes were dealt out to it as a whole: some items have codes that are not their nearest."""
    vectors = np.random.default_rng(seed).standard_normal((rows, 8)).astype(np.float32)
    part = BalancedKMeans(levels=2, codebook_size=16, iterations=5)
    settled = settle_catalog(rule, tokenizer=part.fit(vectors, seed=0), vectors=vectors, seed=0)
    catalogue = LiveCatalogue.start(
        settled.codes, item_ids=list(range(rows)), tokenizer=settled.tokenizer, vectors=vectors
    )
    return catalogue, vectors


@pytest.mark.parametrize(
    "rule", [CollisionToken(size=64), KeepTied(), ExtraLevel(size=8, token=64), ReassignLast()], ids=repr
)
def test_where_codes_were_dealt_out_as_a_whole_the_same_content_keeps_its_code(rule: Any) -> None:
    before, vectors = balanced(rule, rows=600 if not isinstance(rule, ReassignLast) else 200)
    depth, ids = len(before.tokenizer.codebook_sizes), before.item_ids.to_list()
    assert (before.codes.matrix[:, :depth] != before.tokenizer.encode(vectors)).any(axis=1).mean() > 0.02
    same = before.update(ids, vectors=vectors)
    np.testing.assert_array_equal(same.codes.matrix, before.codes.matrix)
    assert len(same.retired) == 0
    some = ids[::3]
    back = before.remove(some).add(some, vectors=vectors[::3])
    np.testing.assert_array_equal(back.codes.matrix, before.codes.matrix)
    assert len(back.retired) == 0
    # What moved is coded like everything that comes: by its nearest codes.
    far = vectors[:1] + np.float32(3)
    moved = before.update([0], vectors=far).codes.matrix[0]
    firm = depth - 1 if isinstance(rule, ReassignLast) else depth
    np.testing.assert_array_equal(moved[:firm], before.tokenizer.encode(far)[0, :firm])


def test_vectors_that_came_since_the_fit_are_kept_in_their_rows() -> None:
    fitted = on_line(0, 0.1, 100)
    np.testing.assert_array_equal(NUMBERED.vectors(fitted), fitted)
    newer = NUMBERED.add(["d", "e"], vectors=on_line(5, 6)).update(["b", "e"], vectors=on_line(0.2, 7)).remove(["d"])
    newer = newer.add(["f"], vectors=on_line(8))
    assert newer.vectors(fitted).ravel().tolist() == pytest.approx([0, 0.2, 100, 5, 7, 8])
    assert newer.add(["d"], vectors=on_line(9)).vectors(fitted).ravel().tolist() == pytest.approx(
        [0, 0.2, 100, 9, 7, 8]
    )
    for wrong in (fitted[:2], on_line(*range(7)), np.zeros((3, 2), np.float32)):
        with pytest.raises(DataError, match="not those that the catalogue was started with"):
            newer.vectors(wrong)


RULES = {
    "token": CollisionToken(size=64),
    "reassigned": ReassignLast(),
    "extra": ExtraLevel(size=6, token=64),
    "extra alone": ExtraLevel(size=40, token=0),
    "tied": KeepTied(),
}


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_after_any_sequence_of_changes_codes_are_unique_and_nobody_elses_moved(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    wide = FittedResidualKMeans((LINE.codebooks[0], np.arange(0, 120, 4, dtype=np.float32)[:, None]))
    vectors = rng.uniform(0, 200, (16, 1)).astype(np.float32)
    if name == "extra":  # two items that only a token tells apart
        vectors[1] = vectors[0]
    settled = settle_catalog(RULES[name], tokenizer=wide, vectors=vectors, seed=0)
    now = LiveCatalogue.start(settled.codes, item_ids=list(range(16)), tokenizer=settled.tokenizer, vectors=vectors)
    depth = len(now.tokenizer.codebook_sizes)
    for _ in range(6):
        before, retire = now, bool(rng.integers(2))
        ids, live = now.item_ids.to_list(), rng.permutation(np.flatnonzero(now.live))
        step = rng.choice(["add", "remove", "update"])
        if step == "add":
            away = rng.permutation(np.flatnonzero(~now.live))[: rng.integers(3)]
            touched = [ids[row] for row in away] + [len(ids) + new for new in range(rng.integers(1, 4))]
            now = now.add(touched, vectors=(new := rng.uniform(0, 200, (len(touched), 1)).astype(np.float32)))
        elif step == "remove":
            touched = [ids[row] for row in live[: rng.integers(len(live))]]
            now = now.remove(touched, retire=retire)
        else:
            touched = [ids[row] for row in live[: rng.integers(1, len(live) + 1)]]
            now = now.update(
                touched, vectors=(new := rng.uniform(0, 200, (len(touched), 1)).astype(np.float32)), retire=retire
            )
        rows = now.rows(touched)
        others = np.setdiff1d(np.arange(len(ids)), rows)
        np.testing.assert_array_equal(now.codes.matrix[others], before.codes.matrix[others])
        np.testing.assert_array_equal(now.live[others], before.live[others])
        assert now.item_ids[: len(ids)].to_list() == ids
        assert now.live[rows].tolist() == [step != "remove"] * len(rows)
        if step != "remove":
            firm = depth - 1 if name in ("reassigned", "extra alone") else depth
            np.testing.assert_array_equal(now.codes.matrix[rows, :firm], now.tokenizer.encode(new)[:, :firm])
        if name != "tied":
            held = np.concatenate([now.codes.matrix[now.live], now.retired])
            assert len(np.unique(held, axis=0)) == len(held)
        if step == "remove" and retire and name != "tied":
            assert {tuple(row) for row in before.codes.matrix[rows].tolist()} <= set(map(tuple, now.retired.tolist()))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_the_smallest_free_numbers_are_those_of_the_slow_count(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 7))
    cells = rng.permutation(5 * size)[: rng.integers(0, 5 * size)]
    known, numbers = cells // size, (cells % size).astype(np.int32)
    asked = rng.integers(0, 5, size=rng.integers(1, 12))
    given_numbers = smallest_free(asked, known, numbers, size=size)
    used = {(int(group), int(number)) for group, number in zip(known, numbers, strict=True)}
    for group, number in zip(asked.tolist(), given_numbers.tolist(), strict=True):
        free = next((one for one in range(size) if (group, one) not in used), None)
        assert number == free if free is not None else number >= size
        used.add((group, number))


def snapshot(catalogue: LiveCatalogue) -> list[Any]:
    arrays = (catalogue.codes.matrix, catalogue.live, catalogue.retired, catalogue.errors, catalogue.since_fit)
    arrays += (catalogue.said, catalogue.since_vectors)
    return [array.tolist() for array in arrays] + [catalogue.item_ids.to_list()]


NAN = on_line(0, np.nan)
BAD: dict[str, tuple[Callable[[LiveCatalogue], object], str, str]] = {
    "NaN": (lambda c: c.add(["d", "e"], vectors=NAN), "1 of 2 item vectors hold NaN", "repair or leave out"),
    "wide": (
        lambda c: c.add(["d"], vectors=np.zeros((1, 2), np.float32)),
        "2 wide.*fitted on width 1",
        "embed them",
    ),
    "flat": (lambda c: c.add(["d"], vectors=np.zeros(1, np.float32)), r"have shape \(1,\)", "one row per item"),
    "none": (lambda c: c.add([], vectors=on_line()), r"have shape \(0, 1\)", "one row per item"),
    "count": (lambda c: c.add(["d", "e"], vectors=on_line(0)), "2 item ids for 1 vectors", "one vector per id"),
    "twice": (lambda c: c.add(["d", "d"], vectors=on_line(0, 1)), "'d' is given more than once", "each item once"),
    "there": (lambda c: c.add(["d", "b"], vectors=on_line(0, 1)), "'b' is in the catalogue already", "update()"),
    "kind": (lambda c: c.add([1.5], vectors=on_line(0)), "of type Float64", "whole numbers or as text"),
    "null": (lambda c: c.add([None], vectors=on_line(0)), "of type Null", "whole numbers or as text"),
    "text": (lambda c: c.add("de", vectors=on_line(0)), "one text, 'de'", "a list of ids"),
    "full": (
        lambda c: c.add(list("defgh"), vectors=on_line(100, 0, 0, 0, 0)),
        r"codes \(0, 0\) have 4 numbers .* 2 of them are given or retired, and 4 more",
        "release()",
    ),
    "remove unknown": (lambda c: c.remove(["a", "x"]), "no item 'x'", "look like"),
    "remove twice": (lambda c: c.remove(["a", "a"]), "'a' is given more than once", "each item once"),
    "remove removed": (lambda c: c.remove(["gone"]), "'gone' was removed", "add()"),
    "remove all": (lambda c: c.remove(["a", "b", "c"]), "no item would be left", "add the new items before"),
    "update unknown": (lambda c: c.update(["x"], vectors=on_line(0)), "no item 'x'", "look like"),
    "update removed": (lambda c: c.update(["gone"], vectors=on_line(0)), "'gone' was removed", "add()"),
    "update NaN": (lambda c: c.update(["a", "b"], vectors=NAN), "hold NaN", "repair or leave out"),
    "update count": (lambda c: c.update(["a"], vectors=on_line(0, 1)), "1 item ids for 2 vectors", "one vector per id"),
    "rows": (lambda c: c.rows(["a", "y"]), "no item 'y'", "look like"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_done_is_told_in_words_and_leaves_everything_as_it_was(name: str) -> None:
    catalogue = on(CollisionToken(size=4), a=0, b=0.1, c=100, gone=40).remove(["gone"])
    before = snapshot(catalogue)
    call, problem, fix = BAD[name]
    with pytest.raises(DataError, match=problem) as caught:
        call(catalogue)
    assert fix in caught.value.fix
    assert snapshot(catalogue) == before


def test_whole_numbers_are_ids_too_and_may_be_written_as_text() -> None:
    vectors = on_line(0, 100)
    codes = settle_catalog(CollisionToken(), tokenizer=LINE, vectors=vectors, seed=0).codes
    catalogue = LiveCatalogue.start(codes, item_ids=np.array([7, 3]), tokenizer=LINE, vectors=vectors)  # type: ignore[arg-type]
    assert catalogue.rows(["3"]).tolist() == [1]
    assert catalogue.add(["9"], vectors=on_line(0)).item_ids.to_list() == [7, 3, 9]
    with pytest.raises(DataError, match="item id 'x9' is no id of type Int64"):
        catalogue.add(["x9"], vectors=on_line(0))


def test_a_catalogue_that_does_not_fit_together_cannot_start() -> None:
    vectors = on_line(0, 0.1)
    settled = settle_catalog(CollisionToken(size=4), tokenizer=LINE, vectors=vectors, seed=0).codes
    tied = settle_catalog(KeepTied(), tokenizer=LINE, vectors=vectors, seed=0).codes

    def start(codes: Any = settled, ids: Any = ("a", "b"), tokenizer: Any = LINE, of: Any = vectors) -> None:
        LiveCatalogue.start(codes, item_ids=list(ids), tokenizer=tokenizer, vectors=of)

    for wrong, message in (
        ({"ids": "abc"}, "3 item ids, 2 vectors and 2 codes"),
        ({"ids": "aa"}, "'a' is there twice"),
        ({"of": on_line(0)}, "2 item ids, 1 vectors"),
        ({"of": np.zeros((2, 5), np.float32)}, "5 wide"),
        ({"of": np.empty((0, 1), np.float32)}, r"shape \(0, 1\)"),
        ({"tokenizer": FittedResidualKMeans(LINE.codebooks[:1])}, "do not come from a tokenizer with sizes"),
    ):
        with pytest.raises(DataError, match=message):
            start(**wrong)
    clash = type(tied)(tied.matrix, tied.codebook_sizes, tied.num_semantic_levels, "reassigned")
    with pytest.raises(DataError, match="2 items share their code with another, first item index 0"):
        start(codes=clash)
