"""Last codes dealt out anew: all different, the first ones kept, at the least cost, and only where items collide."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_line import LINE, on_line
from planted_tree import tree

from sememe.core.errors import DataError
from sememe.sid.balanced import BalancedKMeans
from sememe.sid.collisions import tuple_groups
from sememe.sid.controls import RandomCodes, RandomPlanes
from sememe.sid.encode import settle_catalog
from sememe.sid.fsq import FiniteScalar
from sememe.sid.product import ProductKMeans
from sememe.sid.reassign import ReassignLast
from sememe.sid.rqkmeans import FittedResidualKMeans, ResidualKMeans


def test_the_item_that_loses_least_moves() -> None:
    # Both want code 0.  At 2, the first would lose 3.24 - .04 and the second 1 - 1 = 0.
    settled = settle_catalog(ReassignLast(), tokenizer=LINE, vectors=on_line(0.2, 0.9, 110), seed=0)
    assert settled.codes.matrix.tolist() == [[0, 0], [0, 1], [1, 2]]
    assert (settled.codes.collisions, settled.codes.num_semantic_levels) == ("reassigned", 2)
    assert settled.codes.codebook_sizes == (2, 4)
    assert settled.tokenizer is LINE


def test_one_that_does_not_collide_gives_way_where_that_costs_less() -> None:
    # 0, 0.9 want code 0 and 6.1 wants code 2 (at 10) by a hair: pushing 0.9 to code 1 costs nothing of note.
    pushed = settle_catalog(ReassignLast(), tokenizer=LINE, vectors=on_line(0, 0.9, 6.1), seed=0)
    assert pushed.codes.matrix[:, 1].tolist() == [0, 1, 2]
    # Three at 0: one goes to 2, and the last one to 10 (100) rather than pushing 6.1 from 10 to 40 (1134).
    crowded = settle_catalog(ReassignLast(), tokenizer=LINE, vectors=on_line(0, 0, 0, 11), seed=0)
    assert sorted(crowded.codes.matrix[:3, 1].tolist()) == [0, 1, 2] and crowded.codes.matrix[3, 1] == 3


def test_a_prefix_without_collisions_stays_as_it_is() -> None:
    vectors = on_line(0, 0.1, 100, 102, 140)
    before = LINE.encode(vectors)
    after = settle_catalog(ReassignLast(), tokenizer=LINE, vectors=vectors, seed=0).codes.matrix
    assert after[2:].tolist() == before[2:].tolist() == [[1, 0], [1, 1], [1, 3]]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-20, 60, width=16), min_size=2, max_size=4, unique=True))
def test_the_cost_is_the_least_of_all_ways_to_deal(values: list[float]) -> None:
    vectors = on_line(*values)
    wanted = LINE.encode(vectors)
    groups = tuple_groups(wanted, (2, 4))
    after = settle_catalog(ReassignLast(), tokenizer=LINE, vectors=vectors, seed=0).codes.matrix
    assert after[:, 0].tolist() == wanted[:, 0].tolist()
    assert len(np.unique(after, axis=0)) == len(after)
    if len(np.unique(groups)) == len(groups):
        assert after.tolist() == wanted.tolist()

    def cost(last: Any, rows: np.ndarray) -> float:
        codes = np.column_stack([wanted[rows, 0], last])
        return float(np.square(LINE.reconstruct(codes) - vectors[rows], dtype=np.float64).sum())

    for first in np.unique(wanted[:, 0]):
        rows = np.flatnonzero(wanted[:, 0] == first)
        least = min(cost(last, rows) for last in permutations(range(4), len(rows)))
        assert cost(after[rows, 1], rows) == pytest.approx(least, rel=1e-5, abs=1e-3)


@pytest.mark.parametrize(
    "part",
    [
        ResidualKMeans(levels=2, codebook_size=16),
        BalancedKMeans(levels=2, codebook_size=16),
        ProductKMeans(levels=2, codebook_size=16),
        FiniteScalar(levels=2, steps=(4, 4, 4)),
        RandomPlanes(levels=2, bits=6),
        RandomCodes(levels=2, codebook_size=64),
    ],
)
def test_every_tokenizer_gets_different_codes_and_the_order_of_items_is_nothing(part: Any) -> None:
    vectors, _ = tree(0, per_leaf=2)
    fitted = part.fit(vectors, seed=0)
    settled = settle_catalog(ReassignLast(), tokenizer=fitted, vectors=vectors, seed=0)
    matrix = settled.codes.matrix
    assert len(np.unique(matrix, axis=0)) == len(vectors)
    assert np.all(matrix < np.array(fitted.codebook_sizes))
    order = np.random.default_rng(1).permutation(len(vectors))
    permuted = settle_catalog(ReassignLast(), tokenizer=fitted, vectors=vectors[order], seed=5).codes.matrix
    np.testing.assert_array_equal(permuted, matrix[order])


def test_codes_that_mean_nothing_move_only_where_they_must() -> None:
    vectors, _ = tree(0, per_leaf=2)
    fitted = RandomCodes(levels=2, codebook_size=64).fit(vectors, seed=0)
    before = fitted.encode(vectors)
    after = settle_catalog(ReassignLast(), tokenizer=fitted, vectors=vectors, seed=0).codes.matrix
    colliding = len(before) - len(np.unique(before, axis=0))
    assert 0 < (before != after).any(axis=1).sum() == colliding


def test_items_with_equal_vectors_are_told_apart() -> None:
    settled = settle_catalog(ReassignLast(), tokenizer=LINE, vectors=on_line(1, 1, 1, 1), seed=0)
    assert sorted(settled.codes.matrix[:, 1].tolist()) == [0, 1, 2, 3]


def test_one_level_is_one_prefix() -> None:
    one = FittedResidualKMeans((np.array([[0], [2], [10]], np.float32),))
    settled = settle_catalog(ReassignLast(), tokenizer=one, vectors=on_line(9, 9.5, 0), seed=0)
    assert settled.codes.matrix.tolist() == [[1], [2], [0]]


def test_more_items_than_last_codes_are_an_error_with_a_way_out() -> None:
    with pytest.raises(
        DataError, match=r"5 items share the first 1 semantic codes \(1,\).*the last level has 4 codes"
    ) as caught:
        settle_catalog(ReassignLast(), tokenizer=LINE, vectors=on_line(0, 100, 100, 101, 102, 103), seed=0)
    assert "CollisionToken() or ExtraLevel()" in str(caught.value)
