"""The native kernel finds what the torch engine finds, on every path that this processor can run."""

import math
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_worlds import (
    PATHS_HERE,
    WHY_NOT,
    World,
    assert_agree,
    assert_equal,
    native,
    request_for,
    worlds,
)

from sememe.core.errors import ArtifactError, ConfigError, DataError
from sememe.core.schema import PAD, Codes
from sememe.decode.allowed import AllowedByRow
from sememe.decode.beam import Found, search
from sememe.decode.item_set import ItemSet
from sememe.decode.native import calls
from sememe.decode.native.packed import Precision
from sememe.decode.native.paths import PATHS, find_kernel
from sememe.decode.native.search import NativeSearch
from sememe.decode.trie import Trie
from sememe.models.depth import Depth
from sememe.models.itemwise import ItemWise
from sememe.models.itemwise_export import export_itemwise
from sememe.nn.trunk import Trunk

pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"no native kernel: {WHY_NOT}")

SMALL = ItemWise(trunk=Trunk(layers=2, d_model=24, heads=2, ff=40, max_history=9), depth=Depth(hidden=20))
WORLD = World(items=120, sizes=(5, 6, 7), model=replace(SMALL, content=False), seed=3, offered=1.0)
PAPER = World(
    items=900,
    sizes=(40, 12, 12),
    model=ItemWise(trunk=Trunk(d_model=128, ff=512, max_history=25), depth=Depth(), content=False),
    seed=4,
    offered=1.0,
)
"""At the widths that the kernel is made for: several blocks of weights, whole panels."""


@settings(max_examples=120)
@given(
    world=worlds(),
    width=st.sampled_from((1, 2, 5, 30)),
    first_width=st.sampled_from((0, 3, 40)),
    k=st.sampled_from((1, 3, 12)),
    seed=st.integers(0, 999),
)
def test_lists_are_those_of_the_torch_engine(world: World, width: int, first_width: int, k: int, seed: int) -> None:
    model, trie = world.build(), world.trie()
    request = request_for(world, rows=4, seed=seed)
    rules: dict[str, Any] = {"seen": request.seen if seed % 2 else None, "first_width": first_width}
    rules["allowed"] = ItemSet.of_flags(request.allowed, trie) if seed % 3 else None
    expected = search(model, request.batch, width=width, k=k, trie=trie, **rules)
    for path in PATHS_HERE:
        engine = NativeSearch.build(export_itemwise(model), trie, path=path)
        assert_agree(engine.search(request.batch, width=width, k=k, **rules), expected)


@pytest.mark.parametrize("path", PATHS_HERE)
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 33])
def test_lists_agree_at_full_width_for_any_number_of_rows(path: str, rows: int) -> None:
    request = request_for(PAPER, rows=rows, seed=rows)
    expected = search(PAPER.build(), request.batch, width=20, k=10, trie=PAPER.trie())
    assert_agree(native(PAPER, path=path).search(request.batch, width=20, k=10), expected)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("path", PATHS_HERE)
def test_a_row_gets_the_same_numbers_in_every_batch_and_every_time(path: str, precision: Precision, own: bool) -> None:
    # Without vectors of their own, some nodes are answered by a product of all codes, and others are not.
    world = replace(PAPER, model=replace(PAPER.model, depth=Depth(node_vectors=own)), sizes=(60, 20, 20))
    engine = NativeSearch.build(export_itemwise(world.build()), world.trie(), path=path, precision=precision)
    request = request_for(PAPER, rows=21, seed=1)
    together = engine.search(request.batch, width=20, k=10, seen=request.seen)
    assert_equal(engine.search(request.batch, width=20, k=10, seen=request.seen), together)
    for row in range(21):
        alone = slice(row, row + 1)
        found = engine.search(request.rows(alone), width=20, k=10, seen=request.seen[alone])
        assert_equal(found, Found(together.items[alone], together.scores[alone], together.tied_beyond[alone]))


@pytest.mark.parametrize("path", PATHS_HERE)
@pytest.mark.parametrize("own", [True, False])
def test_bf16_weights_find_nearly_the_same(path: str, own: bool) -> None:
    world = replace(PAPER, model=replace(PAPER.model, depth=Depth(node_vectors=own)))
    weights, request = export_itemwise(world.build()), request_for(world, rows=40, seed=6)
    exact, rounded = (
        NativeSearch.build(weights, world.trie(), path=path, precision=precision).search(request.batch, width=20, k=10)
        for precision in ("fp32", "bf16")
    )
    shared = [
        len(set(row) & set(other)) for row, other in zip(exact.items.tolist(), rounded.items.tolist(), strict=True)
    ]
    assert np.mean(shared) >= 9.5
    assert 1e-5 < float((exact.scores - rounded.scores).abs().max()) < 0.2


def test_all_paths_agree() -> None:
    request = request_for(PAPER, rows=9, seed=2)
    found = [native(PAPER, path=path).search(request.batch, width=20, k=10) for path in PATHS_HERE]
    for other in found[1:]:
        np.testing.assert_allclose(other.scores, found[0].scores, rtol=0, atol=2e-5)
        assert_agree(other, found[0])


@pytest.mark.parametrize("path", PATHS_HERE)
def test_rows_may_have_sets_of_their_own(path: str) -> None:
    model, trie = WORLD.build(), WORLD.trie()
    request = request_for(WORLD, rows=5, seed=5)
    sets = tuple(
        ItemSet.of_flags(flags, trie) for flags in (request.allowed, ~request.allowed, request.allowed & False)
    )
    allowed = AllowedByRow(sets, np.array([0, 1, 2, 1, 0]))
    asked = {"width": 15, "k": 12, "seen": request.seen, "allowed": allowed}
    found = native(WORLD, path=path).search(request.batch, **asked)
    assert_agree(found, search(model, request.batch, trie=trie, **asked))
    assert found.eligible is not None and found.eligible[2] == 0 and bool((found.items[2] == -1).all())


@pytest.mark.parametrize("path", PATHS_HERE)
def test_equal_scores_are_ordered_by_semantic_id_and_counted(path: str) -> None:
    # Codes 0 and 1 of a level ask for the same vector: their nodes tie to the bit, and each leaf has three items.
    codes = Codes(np.repeat(np.stack(np.mgrid[:2, :2], -1).reshape(4, 2), 3, axis=0).astype(np.int32), (2, 2), 2)
    world = World(items=12, sizes=(2, 2), model=replace(SMALL, content=False), seed=0, offered=1.0)
    weights = export_itemwise(world.build())
    assert weights.own is not None
    write = tuple(np.repeat(table[:1], 2, axis=0) for table in weights.write)
    own = tuple(np.zeros((nodes, 24), np.float32) for nodes in (2, 4))
    engine = NativeSearch.build(replace(weights, codes=codes, write=write, own=own), Trie.build(codes), path=path)
    batch = {"history": np.array([[5, 3]]), "lengths": np.array([2])}
    found = engine.search(batch, width=4, k=5)
    assert found.items.tolist() == [[0, 1, 2, 3, 4]] and found.tied_beyond.tolist() == [7]
    np.testing.assert_allclose(found.scores, np.full((1, 5), math.log(0.25)), atol=1e-6)
    narrow = engine.search(batch, width=3, k=12, seen=np.array([[1, 9, 10, 11, -1]]))
    assert narrow.items.tolist() == [[0, 2, 3, 4, 5, 6, 7, 8, -1, -1, -1, -1]] and narrow.tied_beyond.tolist() == [0]


@pytest.mark.parametrize("path", PATHS_HERE)
def test_codes_of_every_width_are_read(path: str) -> None:
    rng = np.random.default_rng(0)
    sizes = (3, 1_000, 40_000)
    matrix = np.stack([rng.integers(size, size=500) for size in sizes], axis=1).astype(np.int32)
    matrix[:, 1] %= 20
    matrix[0, 1:] = (999, 39_999)
    world = replace(WORLD, items=500, sizes=sizes)
    weights = replace(export_itemwise(world.build()), own=None)
    model = world.build()
    model.writer.own = torch.nn.ModuleList()
    weights = replace(weights, codes=Codes(matrix, sizes, 3))
    model.writer.nodes = type(model.writer.nodes)(weights.codes)
    request, trie = request_for(world, rows=3, seed=1), Trie.build(weights.codes)
    expected = search(model, request.batch, width=10, k=10, trie=trie)
    assert_agree(NativeSearch.build(weights, trie, path=path).search(request.batch, width=10, k=10), expected)


@pytest.mark.parametrize("path", PATHS_HERE)
def test_gelu_is_exact(path: str) -> None:
    kernel = find_kernel()
    assert not isinstance(kernel, str)
    values = np.concatenate([np.linspace(-7, 7, 40_000), np.linspace(-200, 200, 2_000), [0.0, -0.0] * 8])
    values = values.astype(np.float32)
    found = values.copy()
    kernel.gelu(PATHS.index(path), found)
    exact = np.array([x * 0.5 * math.erfc(-x / math.sqrt(2)) for x in values.astype(np.float64)])
    assert float(np.max(np.abs(found - exact) / np.maximum(1.0, np.abs(exact)))) <= 1e-6


@pytest.mark.parametrize("path", PATHS_HERE)
def test_threads_do_not_disturb_each_other(path: str) -> None:
    engine = native(WORLD, path=path)
    requests = [request_for(WORLD, rows=6, seed=seed) for seed in range(2)]
    alone = [engine.search(request.batch, width=20, k=10) for request in requests]
    answers: list[list[Found]] = [[], []]

    def ask(number: int) -> None:
        for _ in range(40):
            answers[number].append(engine.search(requests[number].batch, width=20, k=10))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for expected, found in zip(alone, answers, strict=True):
        assert len(found) == 40
        for each in found:
            assert_equal(each, expected)


@pytest.mark.parametrize("path", PATHS_HERE)
def test_a_tree_of_some_items_takes_the_place_of_another(path: str) -> None:
    model, request = WORLD.build(), request_for(WORLD, rows=4, seed=8)
    part = replace(WORLD, offered=0.4).trie()
    for engine in (native(WORLD, path=path).with_trie(part), native(WORLD, path=path, trie=part)):
        found = engine.search(request.batch, width=9, k=9, seen=request.seen)
        assert_agree(found, search(model, request.batch, width=9, k=9, trie=part, seen=request.seen))


def test_a_tree_of_other_codes_is_refused_with_both_named() -> None:
    weights = export_itemwise(WORLD.build())
    other = weights.codes.matrix.copy()
    other[17, 2] = (other[17, 2] + 1) % 7
    with pytest.raises(ArtifactError, match=r"120 items.*mark [0-9a-f]{8}.*120 items.*mark [0-9a-f]{8}; item 17 has"):
        NativeSearch.build(weights, Trie.build(Codes(other, WORLD.sizes, 3)))
    more = Codes(np.vstack([weights.codes.matrix, other[:1]]), WORLD.sizes, 3)
    with pytest.raises(ArtifactError, match="the tree has 121 items.*the model has 120 items.*item 120 is in the tree"):
        NativeSearch.build(weights, Trie.build(more))
    with pytest.raises(ArtifactError, match=r"sizes \(5, 6, 8\).*sizes \(5, 6, 7\)"):
        native(WORLD, path="portable").with_trie(Trie.build(Codes(other, (5, 6, 8), 3)))


def test_weights_that_do_not_fit_are_refused() -> None:
    weights, trie = export_itemwise(WORLD.build()), WORLD.trie()
    assert weights.own is not None
    with pytest.raises(ArtifactError, match=r"node vectors of depth 2 have shape \(3, 24\), not \(28, 24\)"):
        NativeSearch.build(replace(weights, own=(weights.own[0], weights.own[1][:3], weights.own[2])), trie)
    with pytest.raises(ArtifactError, match="the read vectors are of 2 levels, not 3"):
        NativeSearch.build(replace(weights, read=weights.read[1:]), trie)


@pytest.mark.parametrize("path", PATHS_HERE)
def test_what_cannot_be_read_is_told(path: str) -> None:
    engine = native(WORLD, path=path)
    row = np.array([[4, 120]])
    with pytest.raises(DataError, match=r"the history of row 0 names item 120, outside 0\.\.119"):
        engine.search({"history": row, "lengths": np.array([2])}, width=3, k=3)
    assert engine.search({"history": row, "lengths": np.array([1])}, width=3, k=3).items.shape == (1, 3)
    with pytest.raises(DataError, match="the history of row 0 has length 3"):
        engine.search({"history": row, "lengths": np.array([3])}, width=3, k=3)
    with pytest.raises(DataError, match=r"shape \(1, 2\) and their lengths \(2,\)"):
        engine.search({"history": row, "lengths": np.array([1, 1])}, width=3, k=3)
    with pytest.raises(ConfigError, match="a history of 10 items is longer than max_history = 9"):
        engine.search({"history": np.zeros((1, 10)), "lengths": np.array([10])}, width=3, k=3)
    with pytest.raises(DataError, match="list of seen items of row 0 names item -2"):
        engine.search({"history": row, "lengths": np.array([1])}, width=3, k=3, seen=np.array([[-2]]))
    with pytest.raises(DataError, match=r"seen items have shape \(2, 1\), for 1 rows"):
        engine.search({"history": row, "lengths": np.array([1])}, width=3, k=3, seen=np.array([[1], [2]]))
    with pytest.raises(DataError, match="a history names item 4294967417, which no catalogue has"):
        engine.search({"history": row + 2**32 + 1, "lengths": np.array([1])}, width=3, k=3)
    with pytest.raises(DataError, match="a list of seen items names item -4294967296"):
        engine.search({"history": row, "lengths": np.array([1])}, width=3, k=3, seen=np.array([[-(2**32)]]))
    with pytest.raises(DataError, match="a history names item 4294967296"):
        engine.extend(engine.encode({"history": row, "lengths": np.array([1])}), np.array([2**32]))
    elsewhere = ItemSet.every(replace(WORLD, offered=0.5).trie())
    with pytest.raises(DataError, match="the item set was made for a tree of"):
        engine.search({"history": row, "lengths": np.array([1])}, width=3, k=3, allowed=elsewhere)


@pytest.mark.parametrize("path", PATHS_HERE)
def test_a_list_longer_than_the_catalogue_takes_no_more_room_than_all_of_it(path: str) -> None:
    engine, request = native(WORLD, path=path), request_for(WORLD, rows=1, seed=0)
    whole = engine.search(request.batch, width=120, k=120)
    before = engine.workspaces.nbytes
    found = engine.search(request.batch, width=10**6, first_width=10**7, k=300)
    np.testing.assert_array_equal(found.items[:, :120], whole.items)
    assert (found.items[:, 120:] == PAD).all() and engine.workspaces.nbytes == before


@pytest.mark.parametrize("path", PATHS_HERE)
def test_room_that_one_large_request_took_is_given_back(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, many = native(WORLD, path=path), request_for(WORLD, rows=300, seed=0)
    monkeypatch.setattr(calls, "MOST_KEPT", 2**18)
    found = engine.search(many.batch, width=50, k=10)
    assert engine.workspaces.nbytes < 2**18
    assert_equal(engine.search(many.batch, width=50, k=10), found)


@pytest.mark.parametrize("path", PATHS_HERE)
@pytest.mark.parametrize("level", [0, 1])
def test_a_score_that_is_not_a_number_is_told(path: str, level: int) -> None:
    weights = export_itemwise(WORLD.build())
    broken = tuple(np.where(number == level, np.nan, table) for number, table in enumerate(weights.write))
    engine = NativeSearch.build(replace(weights, write=broken), WORLD.trie(), path=path)
    with pytest.raises(ArtifactError, match="not a number"):
        engine.search({"history": np.array([[4]]), "lengths": np.array([1])}, width=3, k=3)


def test_memory_per_item_is_that_of_the_tree_and_the_codes() -> None:
    bytes_of = []
    for items in (5_000, 25_000):
        world = World(items, (256, 256, 64), replace(SMALL, content=False, item_embedding=False), seed=0, offered=1.0)
        world = replace(world, model=replace(world.model, depth=Depth(hidden=20, node_vectors=False)))
        engine = native(world, path="portable")
        engine.search({"history": np.array([[4]]), "lengths": np.array([1])}, width=20, k=10)
        bytes_of.append(engine.nbytes)
    beyond_codes = (bytes_of[1] - bytes_of[0]) / 20_000 - len(world.sizes)
    assert 8 <= beyond_codes <= 60
