"""A batch searched in parts has the lists of the whole."""

from typing import Any

import numpy as np
import pytest
import torch
from planted_steps import TableModel, random_codes

from sememe.core.errors import DataError
from sememe.core.schema import PAD
from sememe.decode.allowed import AllowedByRow
from sememe.decode.beam import search
from sememe.decode.item_set import ItemSet
from sememe.decode.trie import Trie

SIZES = (3, 4, 3)
ROWS = 7


@pytest.mark.parametrize("most", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("rules", ["none", "one set", "a set per row"])
def test_lists_do_not_depend_on_the_parts(most: int, rules: str) -> None:
    trie = Trie.build(random_codes(SIZES, items=40, seed=1))
    batch, rng = {"user": torch.arange(ROWS)}, np.random.default_rng(0)
    seen = rng.integers(PAD, 40, size=(ROWS, 5)).astype(np.int32)
    sets = tuple(ItemSet.of_flags(rng.random(40) < share, trie) for share in (0.3, 0.6))
    by_row = AllowedByRow(sets, np.arange(ROWS) % 2)
    allowed: Any = {"none": None, "one set": sets[0], "a set per row": by_row}[rules]
    options = {"width": 6, "k": 6, "trie": trie, "seen": seen, "allowed": allowed}
    whole = search(CountingRows(most=None), batch, **options)
    model = CountingRows(most=most)
    found = search(model, batch, **options)
    for name in ("items", "scores", "tied_beyond", "eligible"):
        ours, theirs = getattr(found, name), getattr(whole, name)
        assert ours is theirs is None or torch.equal(ours, theirs)
    assert max(model.read) <= most and sum(model.read) == ROWS


def test_sets_of_other_rows_are_refused_part_by_part() -> None:
    trie = Trie.build(random_codes(SIZES, items=40, seed=1))
    short = AllowedByRow((ItemSet.every(trie),), np.zeros(ROWS - 1, np.int64))
    with pytest.raises(DataError, match="set_of_row has shape"):
        search(CountingRows(most=3), {"user": torch.arange(ROWS)}, width=3, k=3, trie=trie, allowed=short)


class CountingRows(TableModel):
    """Says how many rows it wants at once, and keeps how many it got."""

    def __init__(self, *, most: int | None) -> None:
        super().__init__(SIZES, users=ROWS, seed=0, distinct=2)
        self.rows_at_once, self.read = most, []

    def encode(self, batch: dict[str, torch.Tensor]) -> Any:
        self.read.append(len(batch["user"]))
        return super().encode(batch)
