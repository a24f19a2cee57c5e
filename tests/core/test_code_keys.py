import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sememe.core.code_keys import pack_codes


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 2**21 - 1), min_size=1, max_size=3).map(tuple), st.integers(0, 100))
def test_numbers_are_ordered_as_the_rows_are(sizes: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = np.stack([rng.integers(max(0, size - 3), size, size=12) for size in sizes], axis=1).astype(np.int32)
    keys = pack_codes(matrix, sizes)
    assert keys is not None and keys.dtype == np.int64
    rows = [tuple(row) for row in matrix.tolist()]
    ordered = sorted(set(rows))
    assert np.unique(keys, return_inverse=True)[1].tolist() == [ordered.index(row) for row in rows]


def test_rows_that_no_number_can_hold_are_left_as_rows() -> None:
    matrix = np.full((2, 3), 2**21 - 1, np.int32)
    assert pack_codes(matrix, (2**21,) * 3) is None
    keys = pack_codes(matrix, (2**21, 2**21, 2**21 - 1))
    assert keys is not None


def test_no_rows_and_no_levels_are_fine() -> None:
    keys = [pack_codes(np.empty((rows, levels), np.int32), (4,) * levels) for rows, levels in ((0, 2), (3, 0))]
    assert [key.tolist() for key in keys if key is not None] == [[], [0, 0, 0]]
