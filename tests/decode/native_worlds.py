"""Small catalogues, models and requests for the native kernel, and what it means that two searches agree."""

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st

from sememe.core.schema import PAD, BoolArray, Codes, Int32Array, ModelInputs
from sememe.decode.beam import Found
from sememe.decode.native.paths import find_kernel, native_status
from sememe.decode.native.search import NativeSearch
from sememe.decode.trie import Trie
from sememe.models.depth import Depth
from sememe.models.itemwise import ItemWise, ItemWiseModel
from sememe.models.itemwise_export import export_itemwise
from sememe.nn.trunk import Trunk

WHY_NOT = find_kernel() if isinstance(find_kernel(), str) else ""
"""Why the kernel is not here; empty where it is."""

PATHS_HERE = [] if WHY_NOT else [path for path in ("portable", "avx2", "avx512") if native_status(path).path]
"""Those that this processor can run."""

NEAR = 1e-4
"""Scores of the two engines differ by less; items whose scores do may stand in either order."""


@dataclass(frozen=True)
class World:
    """One drawn case."""

    items: int
    sizes: tuple[int, ...]
    model: ItemWise
    seed: int
    offered: float
    """Share of the items that the tree holds."""

    def codes(self) -> Codes:
        """Drawn with repeats from few values each, so that leaves are shared and some nodes have one child."""
        rng = np.random.default_rng(self.seed)
        matrix = np.stack([rng.integers(size, size=self.items) for size in self.sizes], axis=1).astype(np.int32)
        return Codes(matrix=matrix, codebook_sizes=self.sizes, num_semantic_levels=len(self.sizes))

    def build(self) -> ItemWiseModel:
        """With weights far from where they start, so that scores differ."""
        rng = np.random.default_rng(self.seed)
        vectors = rng.normal(size=(self.items, 5)).astype(np.float32)
        vectors[rng.random(self.items) < 0.2] = 0.0
        inputs = ModelInputs(1, self.items, self.codes(), vectors)
        model = self.model.build(inputs, seed=self.seed).eval()
        generator = torch.Generator().manual_seed(self.seed)
        for weight in model.parameters():
            weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
        return model

    def trie(self) -> Trie:
        """Of the offered items, one at least."""
        flags = np.random.default_rng(self.seed).random(self.items) < self.offered
        flags[self.seed % self.items] = True
        return Trie.build(self.codes(), offered=flags)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Every setting that the kernel supports, at sizes that fill panels, fall short of them, and spill over."""
    heads = draw(st.sampled_from((1, 2, 3)))
    trunk = Trunk(
        layers=draw(st.integers(1, 3)),
        heads=heads,
        d_model=heads * draw(st.sampled_from((4, 5, 16, 20))),
        ff=draw(st.sampled_from((7, 16, 150))),
        max_history=draw(st.integers(1, 12)),
    )
    depth = Depth(
        form=draw(st.sampled_from(("mlp", "mlp", "parallel"))),
        hidden=draw(st.sampled_from((3, 16, 140))),
        node_vectors=draw(st.booleans()),
    )
    model = ItemWise(trunk=trunk, depth=depth, item_embedding=draw(st.booleans()), content=draw(st.booleans()))
    return World(
        items=draw(st.sampled_from((1, 2, 7, 40, 150))),
        sizes=tuple(draw(st.lists(st.sampled_from((1, 2, 3, 9, 300)), min_size=1, max_size=4))),
        model=model,
        seed=draw(st.integers(0, 2**31)),
        offered=draw(st.sampled_from((1.0, 1.0, 0.5))),
    )


@dataclass(frozen=True, eq=False)
class Request:
    """Some rows, and what they must not get."""

    batch: dict[str, torch.Tensor]
    seen: Int32Array
    allowed: BoolArray
    """(I,)"""

    def rows(self, chosen: slice) -> dict[str, torch.Tensor]:
        return {name: values[chosen] for name, values in self.batch.items()}


def request_for(world: World, *, rows: int, seed: int, longest: int | None = None) -> Request:
    """Histories of all lengths, an empty one among them."""
    rng = np.random.default_rng(seed)
    longest = longest or world.model.trunk.max_history
    lengths = rng.integers(0, longest + 1, size=rows)
    history = rng.integers(0, world.items, size=(rows, longest))
    history[np.arange(longest) >= lengths[:, None]] = PAD
    seen = np.where(rng.random((rows, 6)) < 0.7, rng.integers(0, world.items, size=(rows, 6)), PAD)
    return Request(
        batch={"history": torch.from_numpy(history), "lengths": torch.from_numpy(lengths)},
        seen=seen.astype(np.int32),
        allowed=rng.random(world.items) < 0.6,
    )


def native(world: World, *, path: str, trie: Trie | None = None) -> NativeSearch:
    return NativeSearch.build(export_itemwise(world.build()), trie or world.trie(), path=path)


def assert_agree(found: Found, expected: Found) -> None:
    """The same lists, but that items whose scores differ by less than NEAR may change places."""
    scores, other = found.scores.numpy(), expected.scores.numpy()
    assert (np.isinf(scores) == np.isinf(other)).all()
    listed = ~np.isinf(scores)
    np.testing.assert_allclose(scores[listed], other[listed], rtol=0, atol=NEAR)
    for row in range(len(scores)):
        _assert_row(found, expected, row)
        _assert_row(expected, found, row)
    same = (found.items == expected.items).all(1)
    assert torch.equal(found.tied_beyond[same], expected.tied_beyond[same])
    assert (found.eligible is None) == (expected.eligible is None)
    if found.eligible is not None and expected.eligible is not None:
        assert torch.equal(found.eligible, expected.eligible)


def _assert_row(left: Found, right: Found, row: int) -> None:
    """Each item of `left` has nearly its score in `right`, or nearly that of the last entry where it is not listed."""
    theirs = dict(zip(right.items[row].tolist(), right.scores[row].tolist(), strict=True))
    for item, score in zip(left.items[row].tolist(), left.scores[row].tolist(), strict=True):
        if item != PAD:
            assert abs(score - theirs.get(item, right.scores[row, -1].item())) < NEAR


def assert_equal(left: Found, right: Found) -> None:
    """The same numbers to the bit."""
    assert torch.equal(left.items, right.items)
    assert torch.equal(left.scores, right.scores)
    assert torch.equal(left.tied_beyond, right.tied_beyond)
