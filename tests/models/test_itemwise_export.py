"""What an item-wise generator says of itself as plain arrays, and which ones cannot."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sememe.core.schema import Codes, ModelInputs
from sememe.models.depth import Depth
from sememe.models.itemwise import ItemWise, ItemWiseModel
from sememe.models.itemwise_export import export_itemwise, unsupported
from sememe.nn.trunk import Trunk

PART = ItemWise(trunk=Trunk(layers=2, d_model=8, heads=2, ff=16, max_history=5), depth=Depth(hidden=12))
ITEMS = 30


def built(part: ItemWise) -> ItemWiseModel:
    rng = np.random.default_rng(0)
    matrix = rng.integers(4, size=(ITEMS, 3)).astype(np.int32)
    codes = Codes(matrix=matrix, codebook_sizes=(4, 4, 4), num_semantic_levels=3)
    vectors = rng.normal(size=(ITEMS, 6)).astype(np.float32)
    return part.build(ModelInputs(1, ITEMS, codes, vectors, num_actions=3, num_gaps=4), seed=0).eval()


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (replace(PART, actions=True), "its trunk reads event inputs"),
        (
            replace(PART, trunk=replace(PART.trunk, positions="rotary")),
            "its trunk has rotary positions, not learned ones",
        ),
        (replace(PART, trunk=replace(PART.trunk, norm="rms")), "its trunk has rms norms, not layer norms"),
        (
            replace(PART, trunk=replace(PART.trunk, feed_forward="swiglu")),
            "its trunk has swiglu networks, not gelu ones",
        ),
        (replace(PART, trunk=replace(PART.trunk, experts=2)), "its trunk is a mixture of experts"),
        (replace(PART, depth=replace(PART.depth, form="transformer")), "its depth decoder has the form transformer"),
    ],
)
def test_what_cannot_be_said_is_named(part: ItemWise, reason: str) -> None:
    assert unsupported(built(part)) == reason
    with pytest.raises(AssertionError, match=reason):
        export_itemwise(built(part))


def test_a_model_that_pretends_for_a_while_is_not_exported() -> None:
    model = built(PART)
    with model.as_new(torch.ones(ITEMS, dtype=torch.bool)):
        assert unsupported(model) == "some of its items are made to look new for a while"
    assert unsupported(model) is None


@pytest.mark.parametrize(("own", "content"), [(True, True), (True, False), (False, True), (False, False)])
def test_vectors_are_what_the_model_reads(own: bool, content: bool) -> None:
    model = built(replace(PART, item_embedding=own, content=content))
    weights = export_itemwise(model)
    every = torch.arange(ITEMS)
    read = sum(table[weights.codes.matrix[:, level]] for level, table in enumerate(weights.read))
    assert (weights.item_vectors is None) == (not own and not content)
    if weights.item_vectors is not None:
        read = read + weights.item_vectors
    with torch.inference_mode():
        np.testing.assert_allclose(read, model._vectors(every).numpy(), atol=1e-6)
        for depth in range(1, 4):
            nodes = torch.arange(model.writer.nodes.num_nodes(depth))
            codes = model.writer.nodes.node_codes(depth).numpy()
            assert weights.own is not None
            said = weights.write[depth - 1][codes] + weights.own[depth - 1]
            np.testing.assert_allclose(said, model.writer.node_vectors(nodes, depth=depth).numpy(), atol=1e-6)
    assert weights.width == 8 and weights.heads == 2 and len(weights.blocks) == 2 and len(weights.networks) == 3
    assert weights.codes.codebook_sizes == model.codebook_sizes


def test_a_model_in_training_is_told_as_it_answers() -> None:
    model = built(replace(PART, cold_share=0.5))
    answering = export_itemwise(model)
    training = export_itemwise(model.train())
    assert answering.item_vectors is not None and training.item_vectors is not None
    np.testing.assert_array_equal(training.item_vectors, answering.item_vectors)
    assert model.items.training


def test_weights_are_shared_and_others_brought_to_fp32() -> None:
    model = built(replace(PART, depth=replace(PART.depth, node_vectors=False)))
    weights = export_itemwise(model)
    assert weights.own is None
    assert np.shares_memory(weights.blocks[0].wide.weight, model.trunk.blocks[0].ff[0].weight.detach().numpy())
    exact = export_itemwise(model.double())
    assert exact.blocks[0].wide.weight.dtype == exact.positions.dtype == np.float32
    np.testing.assert_array_equal(exact.blocks[0].wide.weight, weights.blocks[0].wide.weight)
