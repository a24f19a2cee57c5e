"""A model that answers keeps the vectors of all items, and never scores by those of other weights."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor

from sememe.models import itemwise
from sememe.models.itemwise import ItemWiseModel
from tests.models.test_itemwise import ROWS, batch_of, built


def scores(model: ItemWiseModel) -> Tensor:
    with torch.inference_mode():
        return model.score_items(batch_of(ROWS))


def afresh(model: ItemWiseModel) -> Tensor:
    """What a model says that never scored before."""
    other = deepcopy(model)
    other._kept = None
    return scores(other)


def exchange_own(model: ItemWiseModel) -> None:
    assert model.items.own is not None
    with torch.no_grad():
        model.items.own.weight.copy_(model.items.own.weight.flip(0))


def shift_codes(model: ItemWiseModel) -> None:
    with torch.no_grad():
        next(iter(model.writer.read.parameters())).mul_(2.0)


def load_others(model: ItemWiseModel) -> None:
    model.load_state_dict(built(seed=2).state_dict())


def exchange_content(model: ItemWiseModel) -> None:
    model.items.content = model.items.content.flip(0)


def in_single_precision(model: ItemWiseModel) -> None:
    model.float()


CHANGES: list[Callable[[ItemWiseModel], None]] = [
    exchange_own,
    shift_codes,
    load_others,
    exchange_content,
    in_single_precision,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_scores_follow_whatever_changes(change: Callable[[ItemWiseModel], None]) -> None:
    model = built()
    before = scores(model)
    change(model)
    after = scores(model)
    assert torch.equal(after, afresh(model))
    assert not torch.equal(after, before)


def test_the_vectors_are_made_once_while_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built()
    first = scores(model)
    made: list[int] = []
    plain = model.items.forward

    def counting(items: Tensor) -> Tensor:
        made.append(len(items))
        return plain(items)

    monkeypatch.setattr(model.items, "forward", counting)
    assert torch.equal(scores(model), first)
    assert made == [ROWS_READ]
    monkeypatch.setattr(itemwise, "MOST_KEPT", model.items.num_items - 1)
    assert torch.equal(scores(model), first)
    assert made == [ROWS_READ, ROWS_READ, model.items.num_items], "too many to be kept"


ROWS_READ = batch_of(ROWS)["history"].numel()
"""Places of the histories, whose vectors are made for each request."""


def test_items_that_are_to_look_new_are_not_kept() -> None:
    model = built()
    known = scores(model)
    with model.as_new(torch.arange(model.items.num_items) < 5):
        assert not torch.equal(scores(model), known)
    assert torch.equal(scores(model), known)


def test_gradients_reach_the_items_after_scores_without_them() -> None:
    model = built()
    scores(model)
    model.score_items(batch_of(ROWS)).sum().backward()
    assert model.items.own is not None and model.items.own.weight.grad is not None
    assert bool(model.items.own.weight.grad.any())
