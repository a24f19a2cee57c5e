"""Event inputs of the item-wise generator: read as inputs alone, learned from, and in nobody's way where left out."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from sememe.core.errors import ConfigError
from sememe.core.schema import PAD, Codes, Interactions, ModelInputs
from sememe.data.batches import EvalBatch, SequenceBatches, request_batches
from sememe.data.event_inputs import HOUR_MS, NUM_GAPS, EventInput, count_actions
from sememe.data.negatives import SharedNegatives
from sememe.data.splits import LeaveOneOut
from sememe.decode.beam import BeamSearch
from sememe.decode.exact import ExactItems
from sememe.decode.trie import Trie
from sememe.models.depth import Depth
from sememe.models.itemwise import ItemWise, ItemWiseModel
from sememe.nn.trunk import Trunk
from sememe.objectives.itemwise import ItemWiseLoss
from sememe.train.device import to_tensors
from sememe.train.optim import AdamW

ITEMS, ACTIONS = 8, 4
CODES = Codes(np.array([[item // 4, item % 4] for item in range(ITEMS)], np.int32), (2, 4), num_semantic_levels=2)
INPUTS = ModelInputs(20, ITEMS, CODES, num_actions=ACTIONS, num_gaps=NUM_GAPS)
PLAIN = ItemWise(
    trunk=Trunk(layers=1, d_model=16, heads=2, ff=32, dropout=0.0, max_history=8),
    depth=Depth(hidden=16, layers=1, dropout=0.0),
    content=False,
)
PART = replace(PLAIN, actions=True, gaps=True)
ROWS = [[3, 1, 0, 1, 5], [2, 6], [7]]


def built(part: ItemWise = PART) -> ItemWiseModel:
    """In eval mode and double precision, with event inputs that show."""
    model = part.build(INPUTS, seed=1).double().eval()
    for table in model.events.values():
        table.weight.data *= 50.0
    return model


def batch_of(rows: list[list[int]] = ROWS, *, width: int = 5) -> dict[str, Tensor]:
    """Training batch with the item after the one read as target, and event inputs that vary."""
    history = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
    inside = history != PAD
    places = torch.arange(history.numel()).view(history.shape)
    targets = torch.where(inside, (history + 1) % ITEMS, PAD)
    return {
        "history": history,
        "lengths": inside.sum(1),
        "action": torch.where(inside, places % ACTIONS, 0),
        "gap": torch.where(inside, places % 5, 0),
        "targets": targets,
        "target_places": targets,
        "candidates": torch.arange(ITEMS),
        "candidate_log_prob": torch.zeros(ITEMS),
    }


def test_an_input_is_the_sum_of_the_item_and_what_is_known_of_its_event() -> None:
    model, batch = built(), batch_of()
    vectors = model._vectors(torch.arange(ITEMS))
    for row, items in enumerate(ROWS):
        size = len(items)
        said = [model.events[name].weight[batch[name][row, :size]] for name in ("action", "gap")]
        hidden = model.trunk((vectors[items] + said[0] + said[1]).unsqueeze(0) * 16**0.5)[0, -1]
        again = torch.zeros(ITEMS, dtype=torch.float64)
        again[items] = float(model.repeat_bias().detach())
        # Candidates are compared without any of it.
        torch.testing.assert_close(model.score_items(batch)[row].double(), vectors @ hidden + again, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["action", "gap"])
def test_an_event_input_is_read_from_its_own_position_on(name: str) -> None:
    """What was done at the target, and when, says nothing before the target is read."""
    model, batch = built(), batch_of()
    other = {**batch, name: batch[name].clone()}
    other[name][0, 3] = 1
    assert int(batch[name][0, 3]) == 3
    before, after = model(batch), model(other)
    # Row 0 has positions 0..4, and 3 and 4 see the change; the other rows do not.
    same = [torch.equal(*pair) for pair in zip(before["item_logits"], after["item_logits"], strict=True)]
    assert same == [True, True, True, False, False, True, True, True]
    written = zip(before["code_log_probs"], after["code_log_probs"], strict=True)
    assert [torch.equal(*pair) for pair in written] == same


def test_answers_do_not_depend_on_padding_or_on_the_other_rows() -> None:
    model, batch = built(), batch_of()
    listed = torch.arange(ITEMS).expand(len(ROWS), -1)
    scores, codes = model.score_items(batch), model.code_log_prob(batch, listed)
    # No batch holds anything after the end of a row; if it did, it would not be read.
    noisy = {**batch, "gap": torch.where(batch["history"] == PAD, 9, batch["gap"])}
    torch.testing.assert_close(model.score_items(noisy), scores)
    for row, items in enumerate(ROWS):
        alone = {name: batch[name][row : row + 1, : len(items)] for name in ("history", "action", "gap")}
        alone["lengths"] = torch.tensor([len(items)])
        torch.testing.assert_close(model.score_items(alone)[0], scores[row], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(model.code_log_prob(alone, listed[:1])[0], codes[row], rtol=1e-5, atol=1e-6)


def test_a_search_reads_them_too() -> None:
    model, batch = built(), batch_of()
    beam = BeamSearch(width=ITEMS).recommend(model, batch, k=ITEMS, trie=Trie.build(CODES))
    forced = model.code_log_prob(batch, torch.from_numpy(beam.items).long())
    np.testing.assert_allclose(forced.detach(), beam.scores, atol=1e-5)
    unknown = {**batch, "action": torch.zeros_like(batch["action"])}
    without = BeamSearch(width=ITEMS).recommend(model, unknown, k=ITEMS, trie=Trie.build(CODES))
    # The last event of row 0 has no known action, which the events before it have.
    assert (np.abs(beam.scores - without.scores).max(axis=1) > [1e-4, 1e-2, 1e-2]).all()


def test_weights_and_answers_without_event_inputs_are_those_of_a_model_that_has_none() -> None:
    plain, reading = PLAIN.build(INPUTS, seed=3), PART.build(INPUTS, seed=3)
    weights, more = plain.state_dict(), reading.state_dict()
    assert set(more) - set(weights) == {"events.action.weight", "events.gap.weight"}
    assert all(torch.equal(weights[name], more[name]) for name in weights)
    again = PART.build(INPUTS, seed=3).state_dict()
    assert all(torch.equal(more[name], again[name]) for name in more)
    # What is not known says nothing, and what is says little to begin with.
    batch = batch_of()
    unknown = {**batch, "action": torch.zeros_like(batch["action"]), "gap": torch.zeros_like(batch["gap"])}
    assert torch.equal(reading.eval().score_items(unknown), plain.eval().score_items(batch))
    for name, size in (("action", ACTIONS), ("gap", NUM_GAPS)):
        table = more[f"events.{name}.weight"]
        assert table.shape == (size, 16) and 0.01 < float(table[1:].std()) < 0.03


def test_the_unknown_stays_silent_and_the_rest_learns() -> None:
    model, batch = PART.build(INPUTS, seed=0), batch_of()
    ItemWiseLoss()(model(batch), batch).backward()
    AdamW(lr=0.1).build(model).step()
    start = PART.build(INPUTS, seed=0)
    for name in ("action", "gap"):
        weights = model.events[name].weight
        moved = (weights != start.events[name].weight).any(1)
        assert moved.tolist() == [value > 0 and bool((batch[name] == value).any()) for value in range(len(weights))]


def planted_log(name: EventInput, *, users: int = 60, seed: int = 0) -> Interactions:
    """The next item is the one two above after events of one kind, and the one three above after the other.

    The kinds are drawn anew each time, so items alone leave a choice of two.
    """
    random = np.random.default_rng(seed)
    items, kinds = np.zeros((users, 9), np.int64), random.integers(0, 2, (users, 9))
    items[:, 0] = random.integers(0, ITEMS, users)
    for place in range(1, 9):
        items[:, place] = (items[:, place - 1] + 2 + kinds[:, place - 1]) % ITEMS
    # The kind of an event is its type, or whether it came days or minutes after the one before.
    hours = np.where(kinds == 1, 100, 0) if name == "gap" else random.integers(0, 200, kinds.shape)
    types = kinds if name == "action" else random.integers(0, 2, kinds.shape)
    return Interactions(
        offsets=np.arange(users + 1, dtype=np.int64) * 9,
        items=items.ravel().astype(np.int32),
        user_ids=pl.Series(range(users)),
        item_ids=pl.Series(range(ITEMS)),
        timestamps=HOUR_MS * np.cumsum(hours.ravel()).astype(np.int64),
        columns={"event_type": types.ravel().astype(np.int32)},
    )


def share_found(model: ItemWiseModel, requests: list[EvalBatch]) -> float:
    """Share of requests whose target comes first."""
    model.eval()
    found = []
    for request in requests:
        ranked = ExactItems().recommend(model, to_tensors(request.batch, torch.device("cpu")), k=1)
        found += (ranked.items[:, 0] == request.targets[:, 0]).tolist()
    return float(np.mean(found))


def trained_share(log: Interactions, events: tuple[EventInput, ...]) -> float:
    """Share of test targets that a model of these inputs finds after a short training."""
    split = LeaveOneOut().split(log)
    part = replace(PLAIN, actions="action" in events, gaps="gap" in events)
    model = part.build(replace(INPUTS, num_actions=count_actions(log)), seed=0)
    source = SharedNegatives(SequenceBatches(60, max_history=8, events=events), negatives=8).source(
        split.train(), seed=0
    )
    optimizer = AdamW(lr=0.02).build(model)
    for step in range(80):
        batch = to_tensors(source(step), torch.device("cpu"))
        optimizer.zero_grad()
        ItemWiseLoss()(model(batch), batch).backward()
        optimizer.step()
    return share_found(model, list(request_batches(split, split.test, max_history=8, batch_size=60, events=events)))


@pytest.mark.parametrize(("name", "other"), [("action", "gap"), ("gap", "action")])
def test_only_a_model_that_reads_it_finds_what_depends_on_it(name: EventInput, other: EventInput) -> None:
    log = planted_log(name)
    assert trained_share(log, (name,)) > 0.9
    assert trained_share(log, (other,)) < 0.75


def test_what_the_data_lacks_is_named() -> None:
    with pytest.raises(ConfigError, match=r"(?s)reads actions, and the data does not say.*model\.actions=false"):
        PART.build(replace(INPUTS, num_actions=0), seed=0)
    with pytest.raises(ConfigError, match=r"(?s)reads time gaps, and the data has no times.*model\.gaps=false"):
        PART.build(replace(INPUTS, num_gaps=0), seed=0)
    assert PLAIN.build(replace(INPUTS, num_actions=0, num_gaps=0), seed=0).events.keys() == set()
    assert (PLAIN.reads_events, PART.reads_events) == ((), ("action", "gap"))


def test_a_start_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="start is 'zero'"):
        replace(PLAIN, start="zero").build(INPUTS, seed=0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="items have no vector of their own that could start there"):
        replace(PLAIN, start="content", item_embedding=False).build(INPUTS, seed=0)
    with pytest.raises(ConfigError, match=r"(?s)there are none.*model\.start=random"):
        replace(PLAIN, start="content").build(INPUTS, seed=0)
