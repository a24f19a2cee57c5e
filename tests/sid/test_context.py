"""What a tokenizer may know beside the vectors fits the vectors, or is refused in words."""

import numpy as np
import polars as pl
import pytest

from sememe.core.errors import DataError
from sememe.core.schema import Interactions
from sememe.sid.context import CodeContext

LOG = Interactions(
    offsets=np.array([0, 2]),
    items=np.array([1, 0], np.int32),
    user_ids=pl.Series(["u"]),
    item_ids=pl.Series(["a", "b", "c"]),
)
VECTORS = np.arange(15, dtype=np.float32).reshape(3, 5)


def test_parts_are_cut_where_they_were_joined() -> None:
    first, second = CodeContext((2, 3), LOG).parts(VECTORS)
    assert first.tolist() == [[0, 1], [5, 6], [10, 11]] and second.shape == (3, 3)
    (whole,) = CodeContext((5,), LOG).parts(VECTORS)
    np.testing.assert_array_equal(whole, VECTORS)


@pytest.mark.parametrize("widths", [(), (2, 2), (5, 0), (6, -1)])
def test_widths_that_do_not_fit_are_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="item vectors are 5 wide, and their parts"):
        CodeContext(widths, LOG).parts(VECTORS)


def test_a_log_of_other_items_is_refused() -> None:
    with pytest.raises(DataError, match="there are 2 item vectors, and the log knows 3 items"):
        CodeContext((5,), LOG).check(VECTORS[:2])


def test_the_context_of_some_items_is_their_part_of_the_log() -> None:
    log = Interactions(
        offsets=np.array([0, 3, 4]),
        items=np.array([2, 0, 1, 0], np.int32),
        user_ids=pl.Series(["u", "v"]),
        item_ids=pl.Series(["a", "b", "c"]),
    )
    fewer = CodeContext((5,), log).of(np.array([1, 2]))
    fewer.check(VECTORS[1:])
    assert fewer.train.item_ids.to_list() == ["b", "c"]
    assert [fewer.train.history(user).tolist() for user in range(2)] == [[1, 0], []]
