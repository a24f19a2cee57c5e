"""The collision level: unique, counted in item order, and refused when it overflows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sememe.core.errors import ConfigError, DataError
from sememe.sid.collisions import CollisionToken, KeepTied, tuple_groups

MATRIX = np.array([[1, 2], [0, 0], [1, 2], [1, 1], [1, 2], [0, 0]], np.int32)


def test_items_of_a_tuple_are_counted_in_item_order() -> None:
    codes = CollisionToken(size=4).resolve(MATRIX, (2, 3))
    assert codes.matrix.tolist() == [[1, 2, 0], [0, 0, 0], [1, 2, 1], [1, 1, 0], [1, 2, 2], [0, 0, 1]]
    assert codes.codebook_sizes == (2, 3, 4)
    assert (codes.num_semantic_levels, codes.num_levels, codes.collisions) == (2, 3, "token")
    assert codes.matrix.dtype == np.int32


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=60),
)
def test_full_tuples_are_unique_and_equal_the_slow_count(rows: list[tuple[int, int]]) -> None:
    codes = CollisionToken(size=64).resolve(np.array(rows, np.int32), (4, 3))
    seen: dict[tuple[int, int], int] = {}
    for row, full in zip(rows, codes.matrix.tolist(), strict=True):
        assert full == [*row, seen.get(row, 0)]
        seen[row] = seen.get(row, 0) + 1
    assert len(np.unique(codes.matrix, axis=0)) == len(rows)


def test_overflow_names_the_group_and_the_way_out() -> None:
    assert CollisionToken(size=3).resolve(MATRIX, (2, 3)).num_levels == 3
    with pytest.raises(DataError, match=r"3 items share the semantic codes \(1, 2\).*only 2 apart") as caught:
        CollisionToken(size=2).resolve(MATRIX, (2, 3))
    assert "KeepTied()" in str(caught.value)
    with pytest.raises(ConfigError):
        CollisionToken(size=0).resolve(MATRIX, (2, 3))


def test_tied_items_stay_tied() -> None:
    codes = KeepTied().resolve(MATRIX, (2, 3))
    assert codes.matrix.tolist() == MATRIX.tolist()
    assert (codes.num_semantic_levels, codes.num_levels, codes.collisions) == (2, 2, "tied")


def test_groups_are_numbered_in_the_order_of_the_tuples() -> None:
    assert tuple_groups(MATRIX, (2, 3)).tolist() == [2, 0, 2, 1, 2, 0]
    with pytest.raises(AssertionError, match="outside its codebook"):
        tuple_groups(MATRIX, (2, 2))


def test_many_levels_do_not_overflow_the_key() -> None:
    matrix = np.zeros((3, 40), np.int32)
    matrix[1, 39] = matrix[2, 0] = 4095
    assert tuple_groups(matrix, (4096,) * 40).tolist() == [0, 1, 2]
