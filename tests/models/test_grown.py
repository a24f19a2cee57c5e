"""A model for a catalogue to which items came: the same model of what it knew, with codes and content of the rest."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import PAD, Codes, FloatArray, ModelInputs
from sememe.core.seeding import generator
from sememe.models.code_nodes import CodeNodes
from sememe.models.depth import Depth
from sememe.models.encdec import EncDec
from sememe.models.growth import grown
from sememe.models.itemwise import ItemWise, ItemWiseModel
from sememe.models.sequential import SasRec
from sememe.nn.trunk import Trunk

ITEMS, NEW, SIZES = 12, 3, (4, 4, 8)
PART = ItemWise(
    trunk=Trunk(layers=1, d_model=8, heads=2, ff=16, dropout=0.3, max_history=8),
    depth=Depth(hidden=12, layers=1, dropout=0.3),
    cold_share=0.3,
)
HISTORY = torch.tensor([[3, 1, 8, 5], [2, 6, PAD, PAD]])
BATCH = {"history": HISTORY, "lengths": torch.tensor([4, 2]), "user": torch.tensor([0, 1])}
EVERY = torch.arange(ITEMS + NEW)


def catalogue(*, items: int = ITEMS + NEW) -> tuple[Codes, FloatArray]:
    """The first rows are the same whatever the number of items."""
    draw = generator(3, "test")
    matrix = draw.permutation(np.prod(SIZES))[: ITEMS + NEW]
    matrix = np.stack(np.unravel_index(matrix, SIZES), axis=1).astype(np.int32)
    vectors = draw.standard_normal((ITEMS + NEW, 5)).astype(np.float32) + 2
    return Codes(matrix[:items], SIZES, num_semantic_levels=2), vectors[:items]


def built(part: ItemWise = PART) -> ItemWiseModel:
    """Items 0 and 7 were never met in training."""
    codes, vectors = catalogue(items=ITEMS)
    counts = np.where(np.isin(np.arange(ITEMS), [0, 7]), 0, 5)
    model = part.build(ModelInputs(5, ITEMS, codes, vectors, train_counts=counts, num_gaps=6), seed=1).eval()
    torch.nn.init.constant_(model.repeat_bias.weight, -0.3)
    return model


def grow(model: torch.nn.Module, codes: Codes, vectors: FloatArray) -> ItemWiseModel:
    newer = grown(model, codes, item_vectors=vectors)
    assert isinstance(newer, ItemWiseModel)
    return newer


def written(model: ItemWiseModel, items: Tensor) -> Tensor:
    return model.code_log_prob(BATCH, items.expand(2, -1))


@pytest.mark.parametrize(
    "part",
    [
        PART,
        replace(PART, item_embedding=False),
        replace(PART, content=False),
        replace(PART, depth=replace(PART.depth, node_vectors=False)),
        replace(PART, start="content"),
    ],
)
def test_nothing_changes_where_nothing_comes(part: ItemWise) -> None:
    model = built(part)
    same = grow(model, *catalogue(items=ITEMS))
    torch.testing.assert_close(same.score_items(BATCH), model.score_items(BATCH), rtol=0, atol=0)
    torch.testing.assert_close(written(same, EVERY[:ITEMS]), written(model, EVERY[:ITEMS]), rtol=0, atol=0)
    assert not same.training


def test_what_comes_is_said_by_codes_and_content_and_moves_nobody_else() -> None:
    model = built()
    newer = grow(model, *catalogue())
    scores = newer.score_items(BATCH)
    torch.testing.assert_close(scores[:, :ITEMS], model.score_items(BATCH), rtol=0, atol=0)
    codes, vectors = catalogue()
    known = torch.from_numpy(vectors[:ITEMS])
    content = torch.from_numpy(vectors[ITEMS:]) - known.mean(0)
    assert newer.items.project is not None
    by_hand = newer.items.project(content / content.norm(dim=1, keepdim=True))
    for level in range(3):
        by_hand = by_hand + newer.writer.read[level](torch.from_numpy(codes.matrix[ITEMS:, level]).long())
    torch.testing.assert_close(newer._vectors(EVERY[ITEMS:]), by_hand)


def test_the_probabilities_of_all_items_add_up_to_one() -> None:
    newer = grow(built(), *catalogue())
    torch.testing.assert_close(written(newer, EVERY).exp().sum(1), torch.ones(2))
    assert (written(newer, EVERY)[:, ITEMS:] > -30).all(), "new items can be written"


def test_what_a_prefix_is_follows_the_prefix_when_an_item_moves() -> None:
    model = built()
    codes, vectors = catalogue()
    moved = codes.matrix.copy()
    moved[5] = moved[ITEMS]
    moved[ITEMS] = codes.matrix[5]
    newer = grow(model, replace(codes, matrix=moved), vectors)
    straight = grow(model, codes, vectors)
    torch.testing.assert_close(written(newer, EVERY[ITEMS : ITEMS + 1]), _read(straight, newer, item=5))


def _read(model: ItemWiseModel, like: ItemWiseModel, *, item: int) -> Tensor:
    """What `model` says of `item` once the trunk of `like`, whose items differ, has read the histories."""
    return model.writer.item_log_prob(like._last(BATCH), torch.full((2, 1), item)).float()


def test_a_model_grows_again_and_takes_inputs_of_events_along() -> None:
    model = built(replace(PART, gaps=True)).train()
    codes, vectors = catalogue(items=ITEMS + 1)
    twice = grow(grow(model, codes, vectors), *catalogue())
    once = grow(model, *catalogue())
    assert twice.training and set(twice.events) == {"gap"}
    for (name, before), (other, after) in zip(once.state_dict().items(), twice.state_dict().items(), strict=True):
        assert name == other
        torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_growing_draws_no_random_numbers() -> None:
    model = built()
    torch.manual_seed(0)
    grow(model, *catalogue())
    after = torch.rand(3)
    torch.manual_seed(0)
    torch.testing.assert_close(after, torch.rand(3), rtol=0, atol=0)


def test_an_encoder_decoder_reads_and_writes_what_comes() -> None:
    codes, vectors = catalogue(items=ITEMS)
    part = EncDec(layers=1, d_model=16, heads=2, head_dim=8, ff=32, user_buckets=8)
    model = part.build(ModelInputs(5, ITEMS, codes, vectors), seed=0).eval()
    newer = grown(model, catalogue()[0], item_vectors=None)
    told = {**BATCH, "target_codes": torch.from_numpy(codes.matrix[[4, 9]]).long()}
    torch.testing.assert_close(newer(told)["code_logits"], model(told)["code_logits"], rtol=0, atol=0)
    reads_new = {**told, "history": torch.tensor([[ITEMS, 1], [2, ITEMS + 2]])}
    assert torch.isfinite(newer(reads_new)["code_logits"][..., :4]).all()


@pytest.mark.parametrize("part", [PART, EncDec(layers=1, d_model=16, heads=2, head_dim=8, ff=32, user_buckets=8)])
def test_another_catalogue_is_refused(part: ItemWise | EncDec) -> None:
    codes, vectors = catalogue(items=ITEMS)
    model = part.build(ModelInputs(5, ITEMS, codes, vectors, train_counts=np.ones(ITEMS, np.int64)), seed=0)
    with pytest.raises(DataError, match="codebooks"):
        grown(model, replace(codes, codebook_sizes=(4, 4, 9)), item_vectors=vectors)


def test_fewer_items_than_before_are_refused() -> None:
    with pytest.raises(DataError, match="12 items .* cannot grow into 11"):
        grow(built(), *catalogue(items=ITEMS - 1))


def test_a_model_that_knows_items_by_their_numbers_is_refused() -> None:
    codes, vectors = catalogue()
    model = SasRec(layers=1, d_model=8, heads=2, ff=16, max_history=4).build(ModelInputs(5, ITEMS), seed=0)
    with pytest.raises(ConfigError, match="SasRecModel knows items by their numbers"):
        grown(model, codes, item_vectors=vectors)


def test_prefixes_are_found_and_missing_ones_told() -> None:
    codes, _ = catalogue()
    nodes = CodeNodes(codes)
    for depth in (1, 2, 3):
        found = nodes.find(torch.from_numpy(codes.matrix[:, :depth]).long())
        torch.testing.assert_close(found, nodes.of_items(EVERY, depth=depth))
    there = {tuple(row) for row in codes.matrix.tolist()}
    missing = next(row for row in np.ndindex(*SIZES) if row not in there)
    assert nodes.find(torch.tensor([missing])).tolist() == [-1]
