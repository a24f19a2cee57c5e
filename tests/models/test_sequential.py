from dataclasses import replace

import pytest
import torch

from sememe.core.errors import ConfigError
from sememe.core.schema import PAD, ModelInputs
from sememe.models.sequential import ESasRec, SasRec
from sememe.nn.causal import LigrBlock
from sememe.objectives.full_softmax import FullSoftmax
from sememe.objectives.sampled_softmax import SampledSoftmax

INPUTS = ModelInputs(num_users=3, num_items=12)
PART = SasRec(layers=2, d_model=8, heads=2, ff=16, dropout=0.4, max_history=6)
GATED = ESasRec(layers=2, d_model=8, heads=2, ff=16, dropout=0.4, max_history=6)
ROWS = [[3, 1, 4, 1, 5, 9], [2, 6], [5, 3, 5]]


def batch_of(rows: list[list[int]], *, width: int = 6) -> dict[str, torch.Tensor]:
    padded = [row + [PAD] * (width - len(row)) for row in rows]
    return {"history": torch.tensor(padded, dtype=torch.int64), "lengths": torch.tensor([len(row) for row in rows])}


def model_in_eval(part: SasRec = PART) -> torch.nn.Module:
    return part.build(INPUTS, seed=1).double().eval()


def test_the_parts_differ_in_their_blocks():
    assert not any(isinstance(block, LigrBlock) for block in model_in_eval().blocks)
    assert [isinstance(block, LigrBlock) for block in model_in_eval(GATED).blocks] == [True, True]


def test_equal_seeds_give_equal_weights_and_leave_the_global_stream_alone():
    torch.manual_seed(9)
    expected = torch.rand(1)
    torch.manual_seed(9)
    first, second, other = (PART.build(INPUTS, seed=seed).items.weight for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("part", [PART, GATED])
def test_a_later_item_leaves_earlier_outputs_as_they_are(part):
    model = model_in_eval(part)
    changed = [[*row[:-1], 11] for row in ROWS]
    before, after = (model(batch_of(rows))["hidden"] for rows in (ROWS, changed))
    for row, items in enumerate(ROWS):
        last = len(items) - 1
        assert torch.equal(before[row, :last], after[row, :last])
        assert not torch.allclose(before[row, last], after[row, last])


@pytest.mark.parametrize("part", [PART, GATED])
def test_scores_do_not_depend_on_padding_or_on_the_other_rows(part):
    model = model_in_eval(part)
    together = model.score_items(batch_of(ROWS))
    assert together.shape == (3, 12)
    assert together.dtype == torch.float32
    for row, items in enumerate(ROWS):
        alone = model.score_items(batch_of([items], width=len(items)))
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-6, atol=1e-7)


def test_scores_are_dot_products_of_the_last_position_with_all_items():
    model = replace(PART, repeat_bias=False).build(INPUTS, seed=1).double().eval()
    assert model.repeat_bias is None
    batch = batch_of(ROWS)
    outputs = model(batch)
    assert outputs["item_weights"] is model.items.weight
    scores = model.score_items(batch)
    for row, items in enumerate(ROWS):
        expected = outputs["item_weights"] @ outputs["hidden"][row, len(items) - 1]
        torch.testing.assert_close(scores[row].double(), expected, rtol=1e-6, atol=1e-7)


def test_every_item_of_the_history_gets_the_repeat_bias_once():
    model = model_in_eval()
    plain = model.score_items(batch_of(ROWS))
    torch.nn.init.constant_(model.repeat_bias.weight, -2.0 / model.repeat_bias.speed)
    added = model.score_items(batch_of(ROWS)) - plain
    for row, items in enumerate(ROWS):
        expected = [-2.0 if item in items else 0.0 for item in range(12)]
        assert added[row].tolist() == pytest.approx(expected, abs=1e-5)


def test_the_repeat_bias_learns_that_nothing_comes_twice():
    model = PART.build(INPUTS, seed=0)
    history = torch.stack([torch.randperm(12, generator=torch.Generator().manual_seed(row)) for row in range(64)])
    batch = {"history": history[:, :6], "targets": history[:, 1:7]}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        FullSoftmax()(model(batch), batch).backward()
        optimizer.step()
    assert model.repeat_bias().item() < -3.0


def test_renaming_the_items_renames_the_scores():
    model = model_in_eval()
    names = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    scores = model.score_items(batch_of(ROWS))
    renamed = model_in_eval()
    with torch.no_grad():
        renamed.items.weight[names] = model.items.weight
    again = renamed.score_items(batch_of([[int(names[item]) for item in row] for row in ROWS]))
    torch.testing.assert_close(again[:, names], scores)


def test_an_empty_history_ties_all_items():
    assert model_in_eval().score_items(batch_of([[], [1]]))[0].tolist() == [0.0] * 12
    assert model_in_eval().score_items(batch_of([[]], width=0)).tolist() == [[0.0] * 12]


def test_order_matters():
    model = model_in_eval()
    forward, backward = (model.score_items(batch_of([row])) for row in ([1, 2, 3], [2, 1, 3]))
    assert not torch.allclose(forward, backward)


@pytest.mark.parametrize(
    ("part", "objective"), [(PART, FullSoftmax()), (GATED, FullSoftmax()), (GATED, SampledSoftmax(uniform_negatives=3))]
)
def test_a_cycle_is_learned(part, objective):
    """Item i is always followed by i + 1: a few steps are enough to say so."""
    model = part.build(INPUTS, seed=0)
    starts = torch.arange(12).unsqueeze(1)
    history = (starts + torch.arange(6)) % 12
    batch = {"history": history, "targets": (history + 1) % 12, "lengths": torch.full((12,), 6)}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    for step in range(60):
        torch.manual_seed(step)
        optimizer.zero_grad()
        objective(model(batch), batch).backward()
        optimizer.step()
    model.eval()
    assert model.score_items(batch).argmax(1).tolist() == batch["targets"][:, -1].tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 0}, "layers is 0"),
        ({"d_model": 9}, "d_model is 9, which 2 heads do not divide"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"max_history": 0}, "max_history is 0"),
    ],
)
def test_sizes_that_cannot_be_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        SasRec(**changes).build(INPUTS, seed=0)


def test_a_history_that_is_too_long_is_refused():
    with pytest.raises(ConfigError, match="a history of 7 items is longer than max_history = 6"):
        model_in_eval().score_items(batch_of(ROWS, width=7))
