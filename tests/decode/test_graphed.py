"""The walk of fixed shapes finds what the beam search finds, and holds nothing that a CUDA graph cannot."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_worlds import World, assert_agree, request_for, worlds
from planted_steps import TableModel, random_codes
from torch.utils._python_dispatch import TorchDispatchMode

from sememe.core.errors import ArtifactError, ConfigError, DataError
from sememe.core.schema import PAD, ModelInputs
from sememe.decode.beam import search
from sememe.decode.graphed import Closing, GraphedSearch, Sizes, most_children, walk
from sememe.decode.item_set import ItemSet
from sememe.decode.protocol import TensorBatch
from sememe.decode.trie import Trie
from sememe.models.encdec import EncDec
from sememe.models.itemwise import ItemWise
from sememe.models.itemwise_padded import PaddedSteps
from sememe.nn.trunk import Trunk

DECIDING = (
    "local_scalar_dense",
    "nonzero",
    "masked_select",
    "unique",
    "repeat_interleave",
    "is_nonzero",
    "equal",
    "bincount",
)
"""Operators whose answer the host has to wait for, or whose output has as many numbers as its input says."""


def request(*users: int) -> dict[str, torch.Tensor]:
    return {"user": torch.tensor(users)}


class NoDecisions(TorchDispatchMode):
    """Fails at an operator that a graph cannot hold."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert not name.lstrip("_").startswith(DECIDING), f"{name} cannot be recorded"
        assert not (name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])), (
            "a mask as index"
        )
        return func(*args, **(kwargs or {}))


class ReadBefore:
    """A model whose histories were read beforehand."""

    def __init__(self, model: Any, batch: TensorBatch) -> None:
        self.codebook_sizes, self.step, self.state = model.codebook_sizes, model.step, model.encode(batch)

    def encode(self, batch: TensorBatch) -> Any:
        return self.state


@settings(max_examples=80, deadline=None)
@given(world=worlds(), width=st.sampled_from((3, 12, 30)), first=st.sampled_from((0, 40)), seed=st.integers(0, 999))
def test_lists_are_those_of_the_beam_search(world: World, width: int, first: int, seed: int) -> None:
    model, trie, asked = world.build(), world.trie(), request_for(world, rows=4, seed=seed)
    rules: dict[str, Any] = {"seen": asked.seen if seed % 2 else None}
    rules["allowed"] = ItemSet.of_flags(asked.allowed, trie) if seed % 3 else None
    expected = search(model, asked.batch, width=width, first_width=first, k=3, trie=trie, **rules)
    recorded = GraphedSearch.record(
        PaddedSteps.of(model), trie, asked.batch, width=width, first_width=first, most_seen=6
    )
    assert_agree(recorded.search(asked.batch, k=3, **rules), expected)
    # Buffers are filled anew each time: what one request closed is open to the next.
    plain = search(model, asked.batch, width=width, first_width=first, k=3, trie=trie)
    assert_agree(recorded.search(asked.batch, k=3), plain)
    alone = recorded.search(asked.rows(slice(1, 3)), k=3)
    assert_agree(alone, search(model, asked.rows(slice(1, 3)), width=width, first_width=first, k=3, trie=trie))


@settings(max_examples=60, deadline=None)
@given(items=st.integers(1, 40), seed=st.integers(0, 10_000), width=st.integers(1, 12))
def test_ties_are_broken_and_counted_alike(items: int, seed: int, width: int) -> None:
    sizes = (3, 4, 3)
    codes, model = random_codes(sizes, items=items, seed=seed), TableModel(sizes, users=3, seed=seed, distinct=2)
    trie, rng = Trie.build(codes), np.random.default_rng(seed)
    seen = rng.integers(PAD, items, size=(3, 5)).astype(np.int32)
    expected = search(model, request(0, 1, 2), width=width, k=width, trie=trie, seen=seen)
    recorded = GraphedSearch.record(model, trie, request(0, 1, 2), width=width, most_seen=5)
    found = recorded.search(request(0, 1, 2), k=width, seen=seen)
    for name in ("items", "scores", "tied_beyond"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=0)


@pytest.mark.parametrize(
    "decide",
    [
        lambda values: bool(values[0] > 1),
        lambda values: values.nonzero(),
        lambda values: values.unique(),
        lambda values: values[values > 1],
        lambda values: values.bincount(),
        lambda values: values.repeat_interleave(values),
        lambda values: values.masked_select(values > 1),
    ],
)
def test_what_a_graph_cannot_hold_is_seen(decide: Callable[[torch.Tensor], object]) -> None:
    with NoDecisions(), pytest.raises(AssertionError, match="cannot be recorded|mask as index"):
        decide(torch.tensor([1, 2, 3]))


def test_the_walk_of_an_item_wise_generator_decides_nothing() -> None:
    world = World(items=60, sizes=(4, 5, 6), model=_small_itemwise(), seed=5, offered=0.7)
    model, trie, asked = PaddedSteps.of(world.build()), world.trie(), request_for(world, rows=3, seed=1)
    sizes, closing = Sizes((9, 5, 5), most_children(trie)), Closing.open(trie, rows=3, most_seen=4)
    with torch.inference_mode(), NoDecisions():
        walk(model, asked.batch, sizes=sizes, trie=trie, closing=closing)
    with torch.inference_mode(), pytest.raises(AssertionError, match="cannot be recorded|mask as index"), NoDecisions():
        search(world.build(), asked.batch, width=5, k=5, trie=trie)


def test_the_walk_of_an_encoder_decoder_decides_nothing_once_histories_are_read() -> None:
    codes = random_codes((4, 5, 6), items=40, seed=3)
    model = EncDec(layers=1, d_model=16, heads=2, head_dim=8, ff=16).build(ModelInputs(2, 40, codes), seed=0).eval()
    trie = Trie.build(codes)
    batch = {"history": torch.tensor([[3, 1, PAD], [7, 8, 9]], dtype=torch.int32), "user": torch.tensor([0, 1])}
    # Whether a batch is padded is asked on a CPU only (`EncDecModel._read`).
    read = ReadBefore(model, batch)
    sizes, closing = Sizes((5, 5, 5), most_children(trie)), Closing.open(trie, rows=2, most_seen=1)
    with torch.inference_mode(), NoDecisions():
        walk(read, batch, sizes=sizes, trie=trie, closing=closing)
    recorded = GraphedSearch.record(model, trie, batch, width=5, most_seen=2)
    seen = np.array([[1, 3], [PAD, 7]], np.int32)
    assert_agree(recorded.search(batch, k=5, seen=seen), search(model, batch, width=5, k=5, trie=trie, seen=seen))


def test_what_does_not_fit_the_recording_is_refused() -> None:
    sizes = (3, 4)
    model, trie = TableModel(sizes, users=3, seed=0), Trie.build(random_codes(sizes, items=9, seed=0))
    recorded = GraphedSearch.record(model, trie, request(0, 1), width=4, most_seen=2)
    with pytest.raises(ConfigError, match="k is 5, for a beam of 4"):
        recorded.search(request(0), k=5)
    with pytest.raises(DataError, match="up to 2 rows"):
        recorded.search(request(0, 1, 2), k=3)
    with pytest.raises(DataError, match="3 items to leave out, and room for 2"):
        recorded.search(request(0), k=3, seen=np.array([[0, 1, 2]], np.int32))
    with pytest.raises(DataError, match="nothing of"):
        recorded.search({"other": torch.zeros(1)}, k=3)


def test_a_score_that_is_not_a_number_stops_it() -> None:
    sizes = (3, 4)
    model, trie = TableModel(sizes, users=3, seed=0), Trie.build(random_codes(sizes, items=9, seed=0))
    recorded = GraphedSearch.record(model, trie, request(0, 1), width=4, most_seen=2)
    for table in model.tables:
        table.fill_(float("nan"))
    with pytest.raises(ArtifactError, match="not a number"):
        recorded.search(request(0), k=3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_a_recorded_graph_finds_the_same_on_a_gpu() -> None:
    world = World(items=120, sizes=(5, 6, 7), model=_small_itemwise(), seed=3, offered=1.0)
    model, trie, asked = world.build(), world.trie(), request_for(world, rows=4, seed=2)
    expected = search(model, asked.batch, width=20, k=10, trie=trie, seen=asked.seen)
    device = torch.device("cuda")
    batch = {name: values.to(device) for name, values in asked.batch.items()}
    recorded = GraphedSearch.record(PaddedSteps.of(model.to(device)), trie.to(device), batch, width=20, most_seen=6)
    assert recorded.graph is not None
    for _ in range(3):
        found = recorded.search(batch, k=10, seen=asked.seen)
        torch.testing.assert_close(found.scores.cpu(), expected.scores, rtol=0, atol=1e-4)


def _small_itemwise() -> ItemWise:
    return ItemWise(trunk=Trunk(d_model=16, ff=16, heads=2, layers=1, max_history=8), content=False)
