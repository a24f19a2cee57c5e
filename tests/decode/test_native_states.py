"""A history that is kept and continued answers as one that is read anew, bit for bit."""

import numpy as np
import pytest
import torch
from native_worlds import PATHS_HERE, WHY_NOT, World, assert_agree, assert_equal, native, request_for

from sememe.core.errors import ConfigError, DataError
from sememe.decode.beam import search
from sememe.models.depth import Depth
from sememe.models.itemwise import ItemWise
from sememe.nn.trunk import Trunk

pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"no native kernel: {WHY_NOT}")

LONGEST = 21
WORLD = World(
    items=200,
    sizes=(9, 9, 9),
    model=ItemWise(
        trunk=Trunk(layers=2, d_model=40, heads=2, ff=150, max_history=LONGEST), depth=Depth(hidden=24), content=False
    ),
    seed=1,
    offered=1.0,
)


def batch_of(items: np.ndarray) -> dict[str, np.ndarray]:
    """One history."""
    return {"history": items[None], "lengths": np.array([len(items)])}


@pytest.mark.parametrize("path", PATHS_HERE)
@pytest.mark.parametrize("start", [0, 1, 14])
def test_one_item_at_a_time_equals_the_whole_even_when_the_window_slides(path: str, start: int) -> None:
    engine = native(WORLD, path=path)
    items = np.random.default_rng(start).integers(0, WORLD.items, size=LONGEST + 4)
    (state,) = engine.encode(batch_of(items[:start]))
    for end in range(start, len(items)):
        whole = engine.search(batch_of(items[max(0, end - LONGEST) : end]), width=12, k=8)
        assert_equal(engine.search_states([state], width=12, k=8), whole)
        engine.extend([state], items[end : end + 1])
        assert state.items == items[max(0, end + 1 - LONGEST) : end + 1].tolist()
    expected = search(
        WORLD.build(),
        {name: torch.from_numpy(rows) for name, rows in batch_of(items[-LONGEST:]).items()},
        width=12,
        k=8,
        trie=WORLD.trie(),
    )
    assert_agree(engine.search_states([state], width=12, k=8), expected)


@pytest.mark.parametrize("path", PATHS_HERE)
def test_histories_of_all_lengths_go_on_together(path: str) -> None:
    engine, request = native(WORLD, path=path), request_for(WORLD, rows=35, seed=3)
    lengths, history = request.batch["lengths"].numpy(), request.batch["history"].numpy()
    # Some are full, so that their windows slide while those of others grow.
    lengths[:3], history[:3] = LONGEST, 7
    states = engine.encode(request.batch)
    assert_equal(engine.search_states(states, width=10, k=10), engine.search(request.batch, width=10, k=10))
    new = np.random.default_rng(0).integers(0, WORLD.items, size=35)
    engine.extend(states, new)
    rows = [[*row[:count].tolist(), item][-LONGEST:] for row, count, item in zip(history, lengths, new, strict=True)]
    for row, items in enumerate(rows):
        history[row, : len(items)], lengths[row] = items, len(items)
    found = engine.search_states(states, width=10, k=10, seen=request.seen)
    assert_equal(found, engine.search(request.batch, width=10, k=10, seen=request.seen))


def test_a_state_grows_with_its_history() -> None:
    engine = native(WORLD, path="portable")
    (state,) = engine.encode(batch_of(np.arange(3)))
    per_item = 4 * 2 * 2 * 2 * 32
    assert state.nbytes == 16 * per_item + 4 * 48
    for item in range(14):
        engine.extend([state], np.array([item]))
    assert state.nbytes == 32 * per_item + 4 * 48


def test_an_item_that_is_not_there_changes_no_history() -> None:
    engine = native(WORLD, path="portable")
    states = engine.encode(request_for(WORLD, rows=2, seed=0).batch)
    before, found = [list(state.items) for state in states], engine.search_states(states, width=5, k=5)
    with pytest.raises(DataError, match=r"the history of row 1 names item 200, outside 0\.\.199"):
        engine.extend(states, np.array([1, 200]))
    with pytest.raises(DataError, match=r"the items have shape \(1,\), for 2 histories"):
        engine.extend(states, np.array([1]))
    assert [state.items for state in states] == before
    assert_equal(engine.search_states(states, width=5, k=5), found)


def test_a_history_longer_than_the_window_is_not_kept() -> None:
    with pytest.raises(ConfigError, match="a history of 22 items is longer than max_history = 21"):
        native(WORLD, path="portable").encode(batch_of(np.zeros(22, np.int64)))
