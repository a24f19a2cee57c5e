"""A trunk that reads on from a cache says what it says of the whole history."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from test_trunk import OPTIONS, SMALL, lively
from torch import Tensor

from sememe.core.errors import ConfigError
from sememe.nn.kvcache import TrunkReading, later_positions
from sememe.nn.trunk import Trunk, TrunkModule

every_variant = pytest.mark.parametrize(
    "config", [replace(SMALL, **option) for option in OPTIONS.values()], ids=OPTIONS
)
CUTS = [(0, 6), (0, 1, 6), (0, 4, 6), (0, 1, 2, 3, 4, 5, 6)]


def built(config: Trunk) -> TrunkModule:
    torch.manual_seed(0)
    trunk = config.build()
    lively(trunk)
    return trunk.eval()


def vectors(rows: int = 3, length: int = 6) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(rows, length, SMALL.d_model, dtype=torch.float64)


def read(trunk: TrunkModule, states: Tensor, cuts: tuple[int, ...]) -> TrunkReading:
    reading = None
    for start, end in pairwise(cuts):
        reading = trunk.extend(states[:, start:end], cache=None if reading is None else reading.cache)
    assert reading is not None
    return reading


@every_variant
@pytest.mark.parametrize("cuts", CUTS)
def test_reading_in_pieces_is_reading_at_once(config: Trunk, cuts: tuple[int, ...]) -> None:
    trunk, states = built(config), vectors()
    reading = read(trunk, states, cuts)
    torch.testing.assert_close(reading.last, trunk(states)[:, -1])
    assert reading.cache.length == 6
    assert reading.cache.nbytes == config.layers * 2 * 3 * 6 * config.d_model * 8


@every_variant
def test_a_cache_can_be_read_on_from_twice(config: Trunk) -> None:
    trunk, states = built(config), vectors()
    before = trunk.extend(states[:, :3])
    kept = [layer.keys.clone() for layer in before.cache.layers]
    first = trunk.extend(states[:, 3:4], cache=before.cache)
    again = trunk.extend(states[:, 3:4], cache=before.cache)
    torch.testing.assert_close(again.last, first.last, rtol=0, atol=0)
    other = trunk.extend(states[:, 4:5], cache=before.cache)
    assert not torch.allclose(other.last, first.last)
    for layer, keys in zip(before.cache.layers, kept, strict=True):
        torch.testing.assert_close(layer.keys, keys, rtol=0, atol=0)


def test_a_window_that_would_slide_is_refused() -> None:
    trunk, states = built(SMALL), vectors(length=7)
    full = trunk.extend(states[:, :6])
    with pytest.raises(ConfigError, match="7 items is longer than max_history = 6"):
        trunk.extend(states[:, 6:], cache=full.cache)


def test_a_cache_is_for_evaluation() -> None:
    with pytest.raises(AssertionError, match="dropout is on"):
        built(SMALL).train().extend(vectors())


def test_who_reads_whom() -> None:
    assert later_positions(2, first=1, device=torch.device("cpu")).tolist() == [[True, True, False], [True] * 3]
