"""The item-wise generator: its heads agree with each other, with a search, and with its parts put together by hand."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sememe.core.errors import ConfigError
from sememe.core.schema import PAD, Codes, Interactions, ModelInputs
from sememe.data.batches import SequenceBatches
from sememe.data.negatives import SharedNegatives
from sememe.data.simulator import PlantedWorld
from sememe.decode.beam import BeamSearch
from sememe.decode.exact import ExactCodes
from sememe.decode.trie import Trie
from sememe.models.code_nodes import CodeNodes
from sememe.models.depth import Depth
from sememe.models.item_table import ItemTable
from sememe.models.itemwise import ItemWise, ItemWiseModel
from sememe.nn.trunk import Trunk
from sememe.objectives.itemwise import ItemWiseLoss
from sememe.train.checkpoint import load_module, save_module
from sememe.train.device import autocast, to_tensors
from sememe.train.optim import AdamW

WORLD = PlantedWorld(branching=(3, 3), items_per_leaf=3, num_users=40, events_per_user=(3, 9)).generate(seed=0)
ITEMS = WORLD.interactions.num_items
WITHHELD = np.array([4, 11, 20])
COUNTS = np.where(np.isin(np.arange(ITEMS), WITHHELD), 0, 5)
INPUTS = ModelInputs(40, ITEMS, WORLD.codes(), WORLD.catalog.vectors, train_counts=COUNTS)
CPU = torch.device("cpu")
PART = ItemWise(
    trunk=Trunk(layers=2, d_model=8, heads=2, ff=16, dropout=0.0, max_history=8),
    depth=Depth(hidden=12, layers=1, dropout=0.0),
)
ROWS = [[3, 1, 8, 1, 5, 9], [2, 6], [5, 3, 5], [7]]


def built(part: ItemWise = PART, *, seed: int = 1, inputs: ModelInputs = INPUTS) -> ItemWiseModel:
    """In eval mode and double precision, with a bias that shows."""
    model = part.build(inputs, seed=seed).double().eval()
    torch.nn.init.constant_(model.repeat_bias.weight, -1.5 / model.repeat_bias.speed)
    return model


def batch_of(rows: list[list[int]], *, width: int = 6) -> dict[str, Tensor]:
    padded = [row + [PAD] * (width - len(row)) for row in rows]
    history = torch.tensor(padded, dtype=torch.int64).view(len(rows), width)
    return {"history": history, "lengths": torch.tensor([len(row) for row in rows])}


def training_batch(rows: list[list[int]], *, candidates: list[int] | None = None, width: int = 6) -> dict[str, Tensor]:
    """`rows` with the item 5 above the last one read as every target; candidates: ascending, all items where None."""
    batch = batch_of(rows, width=width)
    offered = torch.arange(ITEMS) if candidates is None else torch.tensor(candidates)
    targets = torch.where(batch["history"] == PAD, PAD, (batch["history"] + 5) % ITEMS)
    if candidates is not None:
        targets = targets.masked_fill(~torch.isin(targets, offered), PAD)
    places = torch.searchsorted(offered, targets).masked_fill(targets == PAD, PAD)
    return {**batch, "targets": targets, "candidates": offered, "target_places": places}


def without(log: Interactions, items: np.ndarray) -> Interactions:
    """The log without the events of some items."""
    keep = ~np.isin(log.items, items)
    lengths = np.bincount(log.users()[keep], minlength=log.num_users)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    return Interactions(offsets, log.items[keep], log.user_ids, log.item_ids)


@pytest.mark.parametrize("form", ["mlp", "transformer", "parallel"])
def test_a_full_beam_exact_codes_and_teacher_forcing_agree(form: str) -> None:
    model = built(replace(PART, depth=replace(PART.depth, form=form)))  # type: ignore[arg-type]
    trie, batch = Trie.build(WORLD.codes()), batch_of(ROWS)
    beam = BeamSearch(width=ITEMS).recommend(model, batch, k=ITEMS, trie=trie)
    exact = ExactCodes(chunk=50).recommend(model, batch, k=ITEMS, trie=trie)
    np.testing.assert_array_equal(beam.items, exact.items)
    np.testing.assert_allclose(beam.scores, exact.scores, atol=1e-5)
    assert sorted(beam.items[0].tolist()) == list(range(ITEMS))
    forced = model.code_log_prob(batch, torch.from_numpy(beam.items).long())
    np.testing.assert_allclose(forced.detach(), beam.scores, atol=1e-5)
    np.testing.assert_allclose(forced.detach().exp().sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("candidates", [None, [0, 2, 3, 6, 8, 9, 10, 14, 26]])
def test_training_and_answering_say_the_same_of_a_position(candidates: list[int] | None) -> None:
    """forward's logits at a position are score_items of the history up to there; so are its code log-probabilities."""
    model = built()
    batch = training_batch(ROWS, candidates=candidates)
    outputs = model(batch)
    at = 0
    for row, items in enumerate(ROWS):
        for place in range(len(items)):
            target = int(batch["targets"][row, place])
            if target == PAD:
                continue
            asked = batch_of([items[: place + 1]], width=place + 1)
            expected = model.score_items(asked)[0, batch["candidates"]].double()
            torch.testing.assert_close(outputs["item_logits"][at], expected, rtol=1e-5, atol=1e-6)
            codes = model.code_log_prob(asked, torch.tensor([[target]]))[0, 0]
            torch.testing.assert_close(outputs["code_log_probs"][at].sum().float(), codes.float())
            assert batch["candidates"][outputs["places"][at]] == target
            at += 1
    assert at == len(outputs["item_logits"]) == len(outputs["places"]) > 3


def test_item_vectors_and_scores_by_hand() -> None:
    model = built()
    vectors = WORLD.catalog.vectors.astype(np.float64)
    content = vectors - vectors.mean(0)
    content /= np.linalg.norm(content, axis=1, keepdims=True)
    expected = model.items.own.weight + torch.from_numpy(content) @ model.items.project.weight.T
    for level, table in enumerate(model.writer.read):
        expected = expected + table.weight[WORLD.codes().matrix[:, level].tolist()]
    torch.testing.assert_close(model._vectors(torch.arange(ITEMS)), expected, rtol=1e-5, atol=1e-6)
    for row in ROWS:
        hidden = model.trunk(expected[row].unsqueeze(0) * 8**0.5)[0, -1]
        again = torch.zeros(ITEMS, dtype=torch.float64)
        again[row] = -1.5
        scores = model.score_items(batch_of([row]))[0].double()
        torch.testing.assert_close(scores, expected @ hidden + again, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("content", [False, True])
def test_what_an_item_is_made_of_can_be_left_out(own: bool, content: bool) -> None:
    model = built(replace(PART, item_embedding=own, content=content))
    assert (model.items.own is None, model.items.project is None) == (not own, not content)
    outputs = model(training_batch(ROWS))
    ItemWiseLoss()(outputs, {"candidate_log_prob": torch.zeros(ITEMS)}).backward()
    assert all(value.grad is not None for name, value in model.named_parameters() if "transformer" not in name)


def test_an_item_without_content_has_none() -> None:
    vectors = WORLD.catalog.vectors.copy()
    vectors[5] = 0
    table = ItemTable(replace(INPUTS, item_vectors=vectors), d_model=8, own=False, content=True, known_items=None)
    assert not table(torch.tensor([5])).any() and table(torch.tensor([6])).any()
    known = np.delete(vectors, 5, axis=0)
    expected = vectors[6] - known.mean(0)
    np.testing.assert_allclose(table.content[6], expected / np.linalg.norm(expected), rtol=1e-5)
    blank = ItemTable(
        replace(INPUTS, item_vectors=np.zeros_like(vectors)), d_model=8, own=False, content=True, known_items=None
    )
    assert not blank(torch.arange(ITEMS)).any()


def test_a_later_item_leaves_earlier_positions_as_they_are() -> None:
    model = built()
    changed = [[*row[:-1], 25] for row in ROWS]
    before, after = (model(training_batch(rows)) for rows in (ROWS, changed))
    ends = np.cumsum([len(row) for row in ROWS]) - 1
    for at in range(ends[-1] + 1):
        same = torch.equal(before["item_logits"][at], after["item_logits"][at])
        assert same == (at not in ends)


def test_answers_do_not_depend_on_padding_or_on_the_other_rows() -> None:
    model = built()
    batch, listed = batch_of(ROWS), torch.arange(ITEMS).expand(len(ROWS), -1)
    scores, codes = model.score_items(batch), model.code_log_prob(batch, listed)
    outputs = model(training_batch(ROWS))
    assert scores.shape == (4, ITEMS) and scores.dtype == torch.float32
    torch.testing.assert_close(model(training_batch(ROWS, width=8)), outputs, rtol=1e-9, atol=1e-9)
    for row, items in enumerate(ROWS):
        alone = batch_of([items], width=len(items))
        torch.testing.assert_close(model.score_items(alone)[0], scores[row], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(model.code_log_prob(alone, listed[:1])[0], codes[row], rtol=1e-5, atol=1e-6)


def test_users_are_not_read() -> None:
    model = built()
    known, unknown = ({**batch_of(ROWS), "user": torch.full((4,), user)} for user in (3, PAD))
    assert torch.equal(model.score_items(known), model.score_items(unknown))
    assert torch.equal(model.score_items(batch_of(ROWS)), model.score_items(unknown))


@pytest.mark.parametrize("width", [0, 3])
def test_an_empty_history_ties_all_items(width: int) -> None:
    model = built()
    assert model.score_items(batch_of([[]], width=width)).tolist() == [[0.0] * ITEMS]
    beam = BeamSearch(width=4).recommend(model, batch_of([[]], width=width), k=4, trie=Trie.build(WORLD.codes()))
    assert (beam.items != PAD).all()


def test_withheld_items_are_neither_learned_nor_unlearned() -> None:
    model = PART.build(INPUTS, seed=0).train()
    train = without(WORLD.interactions, WITHHELD)
    source = SharedNegatives(SequenceBatches(batch_size=16, max_history=8), negatives=10).source(train, seed=0)
    optimizer = AdamW(lr=0.05, weight_decay=0.1, decay_embeddings=True).build(model)
    unknown = torch.from_numpy(np.isin(np.arange(ITEMS), WITHHELD))
    assert not model.items.own.weight[unknown].any() and model.items.own.weight[~unknown].any(1).all()
    for step in range(4):
        batch = to_tensors(source(step), CPU)
        assert not torch.isin(batch["candidates"], torch.from_numpy(WITHHELD)).any()
        optimizer.zero_grad()
        ItemWiseLoss()(model(batch), batch).backward()
        assert not model.items.own.weight.grad[unknown].any()
        # Every item has a semantic ID of its own here, so its leaf is unknown too.
        assert not model.writer.own[-1].weight.grad[model.writer.nodes.of_items(unknown.nonzero()[:, 0], depth=3)].any()
        optimizer.step()
    assert not model.items.own.weight[unknown].any()
    # Its codes and its content still speak for it.
    scores = model.eval().score_items(batch_of(ROWS))
    assert len(set(scores[0, unknown].tolist())) == len(WITHHELD)
    assert (
        BeamSearch(width=ITEMS).recommend(model, batch_of(ROWS), k=ITEMS, trie=Trie.build(WORLD.codes())).items.min()
        == 0
    )


def test_equal_seeds_give_equal_weights_and_leave_the_global_stream_alone() -> None:
    torch.manual_seed(9)
    expected = torch.rand(1)
    torch.manual_seed(9)
    first, second, other = (PART.build(INPUTS, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["items.own.weight"], other["items.own.weight"])


def test_a_saved_model_answers_the_same(tmp_path: Path) -> None:
    model, other = PART.build(INPUTS, seed=1).eval(), PART.build(INPUTS, seed=2).eval()
    save_module(tmp_path / "weights.safetensors", model)
    load_module(tmp_path / "weights.safetensors", other)
    batch = batch_of(ROWS)
    assert torch.equal(model.score_items(batch), other.score_items(batch))
    listed = torch.arange(ITEMS).expand(len(ROWS), -1)
    assert torch.equal(model.code_log_prob(batch, listed), other.code_log_prob(batch, listed))


def test_a_cycle_is_learned_by_both_heads() -> None:
    """Item i is always followed by i + 1: a few steps are enough to say so."""
    model = PART.build(replace(INPUTS, train_counts=None), seed=0).train()
    history = (torch.arange(ITEMS).unsqueeze(1) + torch.arange(5)) % ITEMS
    every = torch.arange(ITEMS)
    batch = {"history": history, "targets": (history + 1) % ITEMS, "lengths": torch.full((ITEMS,), 5)}
    batch |= {"candidates": every, "candidate_log_prob": torch.zeros(ITEMS), "target_places": batch["targets"]}
    optimizer = AdamW(lr=0.03).build(model)
    for _ in range(40):
        optimizer.zero_grad()
        ItemWiseLoss()(model(batch), batch).backward()
        optimizer.step()
    model.eval()
    expected = batch["targets"][:, -1].tolist()
    assert model.score_items(batch).argmax(1).tolist() == expected
    beam = BeamSearch(width=5).recommend(model, batch, k=1, trie=Trie.build(WORLD.codes()))
    assert beam.items[:, 0].tolist() == expected


@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("form", ["mlp", "transformer"])
def test_bf16_products_stay_close_and_the_sums_are_fp32(norm: str, form: str) -> None:
    part = replace(PART, trunk=replace(PART.trunk, norm=norm), depth=replace(PART.depth, form=form))  # type: ignore[arg-type]
    model, batch = part.build(INPUTS, seed=1).train(), training_batch(ROWS, candidates=list(range(0, ITEMS, 2)))
    batch["targets"] = batch["targets"].masked_fill(torch.isin(batch["targets"], torch.from_numpy(WITHHELD)), PAD)
    batch["candidate_log_prob"] = torch.zeros(len(batch["candidates"]))
    exact = ItemWiseLoss()(model(batch), batch)
    with autocast(CPU, rows=64, precision="bf16"):
        outputs = model(batch)
        loss = ItemWiseLoss()(outputs, batch)
    assert outputs["item_logits"].dtype == outputs["code_log_probs"].dtype == loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=2e-2, atol=0)
    loss.backward()
    assert all(torch.isfinite(value.grad).all() for value in model.parameters() if value.grad is not None)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match="ItemWise writes semantic IDs, and there are none"):
        PART.build(replace(INPUTS, codes=None), seed=0)
    with pytest.raises(ConfigError, match="the model projects item vectors, and there are none"):
        PART.build(replace(INPUTS, item_vectors=None), seed=0)
    with pytest.raises(ConfigError, match="a history of 9 items is longer than max_history = 8"):
        built().score_items(batch_of(ROWS, width=9))


NEW_ITEMS = torch.isin(torch.arange(ITEMS), torch.tensor([*WORLD.leaf_items[0].tolist(), 9, 20]))
"""A whole leaf of the planted tree, one item of another leaf, and one that training never held."""


def only_new_nodes(depth: int) -> Tensor:
    """(V_depth,) bool, by hand: prefixes, in lexicographic order, of which no other item of the training part is."""
    prefixes = [tuple(row[:depth]) for row in WORLD.codes().matrix.tolist()]
    others = {prefixes[item] for item in range(ITEMS) if COUNTS[item] and not NEW_ITEMS[item]}
    return torch.tensor([prefix not in others for prefix in sorted(set(prefixes))])


def without_what_is_their_own(model: ItemWiseModel) -> ItemWiseModel:
    """A copy whose items `NEW_ITEMS` and the nodes of them alone have no vector of their own."""
    copied = deepcopy(model)
    with torch.no_grad():
        copied.items.own.weight[NEW_ITEMS] = 0.0
        for depth, table in enumerate(copied.writer.own, start=1):
            table.weight[only_new_nodes(depth)] = 0.0
    return copied


@pytest.mark.parametrize("rows", [[[3, 8, 5], [16, 7]], [[6, 24, 20], [9, 21, 2, 9]]])
def test_items_made_new_are_answered_as_if_nothing_were_their_own(rows: list[list[int]]) -> None:
    """The second histories are of new items too: these are read by codes and content as well."""
    model, listed = built(), torch.arange(ITEMS).expand(2, -1)
    expected, batch = without_what_is_their_own(model), batch_of(rows)
    before, codes_before = model.score_items(batch), model.code_log_prob(batch, listed)
    with model.as_new(NEW_ITEMS):
        scores, codes = model.score_items(batch), model.code_log_prob(batch, listed)
        beam = BeamSearch(width=ITEMS).recommend(model, batch, k=ITEMS, trie=Trie.build(WORLD.codes()))
    torch.testing.assert_close(scores, expected.score_items(batch), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(codes, expected.code_log_prob(batch, listed), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(codes.gather(1, torch.from_numpy(beam.items).long()).detach(), beam.scores, atol=1e-5)
    changed = NEW_ITEMS & torch.from_numpy(COUNTS > 0)
    assert (scores != before)[:, changed].all()
    if not bool(torch.isin(batch["history"], NEW_ITEMS.nonzero()).any()):
        assert torch.equal(scores[:, ~changed], before[:, ~changed])
    assert (codes != codes_before).any(1).all()


def test_what_was_made_new_is_known_again_afterwards() -> None:
    model, batch = built(), batch_of([*ROWS, [6, 21, 9]])
    listed = torch.arange(ITEMS).expand(len(ROWS) + 1, -1)
    scores, codes = model.score_items(batch), model.code_log_prob(batch, listed)
    with model.as_new(NEW_ITEMS):
        assert not torch.equal(model.score_items(batch), scores)
    assert torch.equal(model.score_items(batch), scores) and torch.equal(model.code_log_prob(batch, listed), codes)
    with pytest.raises(RuntimeError, match="within"), model.as_new(NEW_ITEMS):
        raise RuntimeError("within")
    assert torch.equal(model.score_items(batch), scores) and torch.equal(model.code_log_prob(batch, listed), codes)
    with model.as_new(torch.zeros(ITEMS, dtype=torch.bool)):
        assert torch.equal(model.score_items(batch), scores) and torch.equal(model.code_log_prob(batch, listed), codes)


def test_nodes_of_new_items_alone_are_those_of_a_loop() -> None:
    found = built().writer.nodes.only_of(NEW_ITEMS)
    assert [nodes.tolist() for nodes in found] == [only_new_nodes(depth).tolist() for depth in (1, 2, 3)]
    # A branch that has other items stays known, and one that has none goes with its leaves.
    assert [int(nodes.sum()) for nodes in found] == [0, 1, 7]


def test_an_unmet_item_with_the_codes_of_one_made_new_does_not_keep_them_known() -> None:
    shared = Codes(np.array([[0, 1], [0, 1], [1, 0]], np.int32), (2, 2), num_semantic_levels=2)
    nodes = CodeNodes(shared, known_items=np.array([True, False, True]))
    assert [depth.tolist() for depth in nodes.only_of(torch.tensor([True, False, False]))] == [[True, False]] * 2
    assert [depth.tolist() for depth in nodes.only_of(torch.tensor([False, True, False]))] == [[False, False]] * 2


def test_codes_that_only_new_items_have_start_at_zero() -> None:
    """Item 2 of three is new, and has a code on each level that no other item has."""
    codes = Codes(np.array([[0, 1, 0], [1, 1, 0], [2, 0, 0]], np.int32), (4, 2, 1), num_semantic_levels=3)
    inputs = ModelInputs(1, 3, codes, item_vectors=np.eye(3, dtype=np.float32), train_counts=np.array([3, 1, 0]))
    model = PART.build(inputs, seed=0)
    for tables in (model.writer.read, model.writer.write):
        assert [table.weight.any(1).tolist() for table in tables] == [[True, True, False, False], [False, True], [True]]
    everyone = PART.build(replace(inputs, train_counts=None), seed=0)
    assert all(table.weight.any(1)[:2].all() for table in (*everyone.writer.read[:2], *everyone.writer.write[:2]))


def test_a_share_of_items_loses_what_is_its_own_in_training_alone() -> None:
    cold, warm = replace(PART, cold_share=0.3).build(INPUTS, seed=1), PART.build(INPUTS, seed=1)
    batch, listed = batch_of(ROWS), torch.arange(ITEMS).expand(len(ROWS), -1)
    assert torch.equal(cold.eval().score_items(batch), warm.eval().score_items(batch))
    assert torch.equal(cold.code_log_prob(batch, listed), warm.code_log_prob(batch, listed))
    torch.manual_seed(0)
    leaf = warm.writer.nodes.of_items(torch.tensor(7), depth=3)
    asked = torch.full((4000,), 7), leaf.repeat(20)
    for depth, repeats in ((None, asked[0]), (3, asked[1])):

        def vectors(model: ItemWiseModel, depth: int | None = depth, repeats: Tensor = repeats) -> Tensor:
            return model.items(repeats) if depth is None else model.writer.node_vectors(repeats, depth=depth)

        whole = vectors(warm.train())
        own = warm.items.own.weight[7] if depth is None else warm.writer.own[2].weight[leaf]
        lost = torch.cat([vectors(cold.train()) - whole for _ in range(1 if depth is None else 200)])
        gone = lost.abs().amax(1) > 1e-6
        assert float(gone.float().mean()) == pytest.approx(0.3, abs=0.03)
        # All of it goes, and what stays is not scaled.
        torch.testing.assert_close(lost[gone], -own.expand(int(gone.sum()), -1), rtol=1e-4, atol=1e-6)
        assert torch.equal(vectors(cold.eval()), whole)


@pytest.mark.parametrize("share", [1.0, -0.1])
def test_a_share_that_leaves_nothing_to_learn_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match=rf"cold_share is {share}, not at least 0 and below 1"):
        replace(PART, cold_share=share).build(INPUTS, seed=0)
