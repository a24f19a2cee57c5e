"""The item-wise generator reads on where it stopped."""

from dataclasses import replace

import pytest
import torch
from test_itemwise import INPUTS, PART, built

from sememe.models.itemwise import ItemWise


@pytest.mark.parametrize("part", [PART, replace(PART, gaps=True)])
def test_a_history_that_is_read_on_is_searched_like_one_that_is_read_at_once(part: ItemWise) -> None:
    model = built(part, inputs=replace(INPUTS, num_gaps=5))
    whole = {
        "history": torch.tensor([[3, 1, 8, 1, 5]]),
        "lengths": torch.tensor([5]),
        "gap": torch.tensor([[0, 2, 1, 4, 3]]),
    }
    pieces = [
        {name: whole[name][:, rows] for name in ("history", "gap")} for rows in (slice(0, 3), slice(3, 4), slice(4, 5))
    ]
    reading = model.read(pieces[0])
    for piece in pieces[1:]:
        reading = model.read(piece, cache=reading.cache)
    started, encoded = model.start(reading.last), model.encode(whole)
    torch.testing.assert_close(started.hidden, encoded.hidden)
    torch.testing.assert_close(model.step(started, None, None), model.step(encoded, None, None))
