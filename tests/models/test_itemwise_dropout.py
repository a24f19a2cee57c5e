"""The dropout of the item-wise generator, which reads how many events an item has."""

from dataclasses import replace

import numpy as np
import pytest

from sememe.core.errors import ConfigError
from sememe.core.schema import ModelInputs
from sememe.data.simulator import PlantedWorld
from sememe.models.depth import Depth
from sememe.models.itemwise import DENSE, SPARSE, ItemWise
from sememe.nn.trunk import Trunk

CODES = PlantedWorld(branching=(3, 3), items_per_leaf=3, num_users=5, events_per_user=(3, 9)).generate(seed=0).codes()
ITEMS = CODES.num_items
PART = ItemWise(
    trunk=Trunk(layers=1, d_model=8, heads=2, ff=16, dropout=0.5, max_history=8),
    dense_dropout=0.2,
    depth=Depth(hidden=8),
    content=False,
)


def built(part: ItemWise, *, events: float | None) -> ItemWise:
    """What is built where an item that is met at all has so many events in the mean."""
    counts = None
    if events is not None:
        counts = np.full(ITEMS, round(events), np.int64)
        # An item that training never meets says nothing of how often the others are met.
        counts[0] = 0
    inputs = ModelInputs(num_users=5, num_items=ITEMS, codes=CODES, train_counts=counts)
    return part.build(inputs, seed=0).config


def dropout_of(part: ItemWise, *, events: float | None) -> float:
    """Of the trunk."""
    return built(part, events=events).trunk.dropout


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (1, 0.5),
        (SPARSE, 0.5),
        (DENSE, 0.2),
        (5000, 0.2),
        (None, 0.5),
        (45, round(0.5 - 0.3 * np.log(2.25) / np.log(5), 3)),
    ],
)
def test_items_with_many_events_need_less_dropout(events: float | None, expected: float) -> None:
    assert dropout_of(PART, events=events) == expected


def test_the_dropout_of_the_decoder_falls_with_it() -> None:
    part = replace(PART, depth=Depth(hidden=8, dropout=0.4))
    assert built(part, events=SPARSE).depth.dropout == 0.4
    assert built(part, events=DENSE).depth.dropout == 0.16
    # It does not rise, and stays where there is nothing to fall in proportion to.
    assert built(replace(part, dense_dropout=0.9), events=DENSE).depth.dropout == 0.4
    none = replace(part, trunk=replace(part.trunk, dropout=0.0))
    assert (built(none, events=DENSE).trunk.dropout, built(none, events=DENSE).depth.dropout) == (0.0, 0.4)
    assert built(replace(part, dense_dropout=0.9), events=DENSE).trunk.dropout == part.trunk.dropout


def test_without_the_rule_the_dropout_is_the_parts_own() -> None:
    alone = built(replace(PART, dense_dropout=None), events=5000)
    assert (alone.trunk.dropout, alone.depth.dropout) == (PART.trunk.dropout, PART.depth.dropout)


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_a_dropout_that_cannot_be_is_refused_by_its_name_on_sparse_data_too(dropout: float) -> None:
    with pytest.raises(ConfigError, match=f"dense_dropout is {dropout}"):
        dropout_of(replace(PART, dense_dropout=dropout), events=2)
