"""The learned number for items that the history holds, against a loop."""

import pytest
import torch
from torch import Tensor

from sememe.core.schema import PAD
from sememe.nn.repeat import RepeatBias

HISTORY = torch.tensor([[2, 0, 2, 4], [3, PAD, PAD, PAD], [PAD] * 4, [4, 4, 4, PAD]])


def bias(value: float) -> RepeatBias:
    part = RepeatBias(speed=10.0)
    torch.nn.init.constant_(part.weight, value)
    return part


def test_the_number_is_zero_to_begin_with_and_moves_faster_than_its_weight() -> None:
    part = RepeatBias(speed=10.0)
    scores = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    assert part().tolist() == [0.0] and torch.equal(part.add_to(scores, HISTORY), scores)
    assert bias(-0.75)().tolist() == [-7.5]
    # One step of Adam moves a weight by the learning rate.
    optimizer = torch.optim.Adam(part.parameters(), lr=0.01)
    part.add_to(scores, HISTORY).sum().backward()
    optimizer.step()
    assert part().item() == pytest.approx(-0.1, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("numbers", [torch.float32, torch.float64])
def test_every_item_read_gets_it_once_and_the_padding_nowhere(dtype: torch.dtype, numbers: torch.dtype) -> None:
    scores = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=numbers)
    before = scores.clone()
    found = bias(-0.25).add_to(scores, HISTORY.to(dtype))
    expected = before.clone()
    for row, history in enumerate(HISTORY.tolist()):
        for item in set(history) - {PAD}:
            expected[row, item] += -2.5
    assert torch.equal(found, expected) and found.dtype == numbers and torch.equal(scores, before)


def test_the_weight_learns_from_each_item_read() -> None:
    part = bias(0.5)
    weights = torch.arange(20.0).view(4, 5)
    (part.add_to(torch.zeros(4, 5), HISTORY) * weights).sum().backward()
    read: list[Tensor] = [weights[0, [0, 2, 4]], weights[1, [3]], weights[3, [4]]]
    assert part.weight.grad is not None
    assert part.weight.grad.item() == part.speed * float(torch.cat(read).sum())


@pytest.mark.parametrize("width", [0, 3])
def test_an_empty_history_changes_nothing(width: int) -> None:
    scores = torch.ones(2, 5)
    assert torch.equal(bias(1.0).add_to(scores, torch.full((2, width), PAD)), scores)
