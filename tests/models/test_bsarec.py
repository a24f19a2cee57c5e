from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from sememe.core.errors import ConfigError
from sememe.core.schema import PAD, ModelInputs
from sememe.data.batches import PrefixBatches, SequenceBatches
from sememe.data.simulator import PlantedWorld
from sememe.models.frequency import BsaRec, right_aligned
from sememe.nn.frequency import window_bias
from sememe.objectives.full_softmax import FullSoftmax
from sememe.train.device import to_tensors

INPUTS = ModelInputs(num_users=3, num_items=12)
PART = BsaRec(layers=2, d_model=8, heads=2, ff=16, dropout=0.4, frequencies=3, max_history=6)
ROWS = [[3, 1, 4, 1, 5, 9], [2, 6], [5, 3, 5]]


def batch_of(rows: list[list[int]], *, width: int = 6) -> dict[str, torch.Tensor]:
    padded = [row + [PAD] * (width - len(row)) for row in rows]
    return {
        "history": torch.tensor(padded, dtype=torch.int64).view(len(rows), width),
        "lengths": torch.tensor([len(row) for row in rows]),
    }


def model_in_eval() -> torch.nn.Module:
    return PART.build(INPUTS, seed=1).double().eval()


def test_equal_seeds_give_equal_weights_and_leave_the_global_stream_alone():
    torch.manual_seed(9)
    expected = torch.rand(1)
    torch.manual_seed(9)
    first, second, other = (PART.build(INPUTS, seed=seed).blocks[0].filter.root_beta for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_histories_move_to_the_end_of_the_window():
    history = torch.tensor([[4, 5, 6, PAD], [7, PAD, PAD, PAD], [PAD] * 4, [1, 2, 3, 4]])
    window = right_aligned(history, torch.tensor([3, 1, 0, 4]), width=5)
    assert window.tolist() == [
        [PAD, PAD, 4, 5, 6],
        [PAD, PAD, PAD, PAD, 7],
        [PAD] * 5,
        [PAD, 1, 2, 3, 4],
    ]
    assert right_aligned(history[:, :0], torch.tensor([0] * 4), width=2).tolist() == [[PAD, PAD]] * 4


def test_the_answer_is_the_last_position_of_blocks_over_the_whole_window():
    model = model_in_eval()
    for items in ROWS:
        empty = 6 - len(items)
        states = torch.cat([torch.zeros(empty, 8, dtype=torch.float64), model.items.weight[items]])
        states = F.layer_norm(states + model.positions.weight, (8,), model.norm.weight, model.norm.bias, 1e-12)[None]
        valid = torch.tensor([[False] * empty + [True] * len(items)])
        for block in model.blocks:
            states = block(states, window_bias(valid), last=6)
        hidden = model(batch_of([items], width=len(items)))["hidden"]
        assert hidden.shape == (1, 1, 8)
        torch.testing.assert_close(hidden[0, 0], states[0, -1])
        scores = states[0, -1] @ model.items.weight.T
        torch.testing.assert_close(model.score_items(batch_of([items]))[0].double(), scores, rtol=1e-5, atol=1e-6)


def test_scores_do_not_depend_on_padding_or_on_the_other_rows():
    model = model_in_eval()
    together = model.score_items(batch_of(ROWS))
    assert together.shape == (3, 12)
    assert together.dtype == torch.float32
    for row, items in enumerate(ROWS):
        alone = model.score_items(batch_of([items], width=len(items)))
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-6, atol=1e-7)


def test_the_window_is_part_of_the_model():
    """The places before the first item are in the Fourier transform: a longer window is another model."""
    short, long = (replace(PART, max_history=size).build(INPUTS, seed=1).eval() for size in (6, 9))
    with torch.no_grad():
        kept = {name: value for name, value in short.state_dict().items() if name != "positions.weight"}
        long.load_state_dict(kept, strict=False)
        long.positions.weight[3:] = short.positions.weight
    batch = batch_of([[2, 6]])
    assert not torch.allclose(short.score_items(batch), long.score_items(batch), atol=1e-4)


def test_every_item_of_the_history_gets_the_repeat_bias_once():
    model = model_in_eval()
    plain = model.score_items(batch_of(ROWS))
    torch.nn.init.constant_(model.repeat_bias.weight, -2.0 / model.repeat_bias.speed)
    added = model.score_items(batch_of(ROWS)) - plain
    for row, items in enumerate(ROWS):
        assert added[row].tolist() == pytest.approx([-2.0 if item in items else 0.0 for item in range(12)], abs=1e-5)
    assert replace(PART, repeat_bias=False).build(INPUTS, seed=1)(batch_of(ROWS)).keys() == {"hidden", "item_weights"}


def test_renaming_the_items_renames_the_scores():
    model, renamed = model_in_eval(), model_in_eval()
    names = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        renamed.items.weight[names] = model.items.weight
    again = renamed.score_items(batch_of([[int(names[item]) for item in row] for row in ROWS]))
    torch.testing.assert_close(again[:, names], model.score_items(batch_of(ROWS)))


def test_an_empty_history_ties_all_items():
    assert model_in_eval().score_items(batch_of([[], [1]]))[0].tolist() == [0.0] * 12
    assert model_in_eval().score_items(batch_of([[]], width=0)).tolist() == [[0.0] * 12]


def test_order_matters():
    model = model_in_eval()
    forward, backward = (model.score_items(batch_of([row])) for row in ([1, 2, 3], [2, 1, 3]))
    assert not torch.allclose(forward, backward)


def test_the_gradient_of_the_item_table_is_that_of_small_differences():
    model = model_in_eval()
    batch = batch_of(ROWS) | {"target": torch.tensor([4, 0, 5])}

    def loss(table: torch.Tensor) -> torch.Tensor:
        return FullSoftmax()(torch.func.functional_call(model, {"items.weight": table}, (batch,)), batch)

    table = (10 * model.items.weight.detach()).requires_grad_()
    assert torch.autograd.gradcheck(loss, (table,), atol=1e-5)
    loss(table).backward()
    assert bool((table.grad.abs().sum(1) > 0).all())


def test_it_trains_on_prefixes_and_refuses_a_target_at_every_position():
    world = PlantedWorld(branching=(3,), items_per_leaf=4, num_users=20).generate(seed=0)
    model = PART.build(ModelInputs(num_users=20, num_items=12), seed=0)
    plans = PrefixBatches(batch_size=8, max_history=6), SequenceBatches(batch_size=8, max_history=6)
    one, every = (to_tensors(plan.source(world.interactions, seed=0)(0), torch.device("cpu")) for plan in plans)
    FullSoftmax()(model(one), one).backward()
    assert all(float(parameter.grad.abs().sum()) > 0 for parameter in model.parameters())
    with pytest.raises(ConfigError, match="models of the last position with PrefixBatches"):
        FullSoftmax()(model(every), every)


def test_a_cycle_is_learned():
    """Item i is always followed by i + 1: a few steps are enough to say so."""
    model = PART.build(INPUTS, seed=0)
    history = (torch.arange(12).unsqueeze(1) + torch.arange(6)) % 12
    batch = {"history": history, "target": (history[:, -1] + 1) % 12, "lengths": torch.full((12,), 6)}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    for step in range(100):
        torch.manual_seed(step)
        optimizer.zero_grad()
        FullSoftmax()(model(batch), batch).backward()
        optimizer.step()
    model.eval()
    assert model.score_items(batch).argmax(1).tolist() == batch["target"].tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 0}, "layers is 0"),
        ({"heads": 3}, "d_model is 64, which 3 heads do not divide"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"alpha": 1.2}, "alpha is 1.2"),
        ({"frequencies": 51}, "frequencies is 51, and a window of 50 items"),
    ],
)
def test_sizes_that_cannot_be_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        BsaRec(**changes).build(INPUTS, seed=0)


def test_a_history_that_is_too_long_is_refused():
    with pytest.raises(ConfigError, match="a history of 7 items is longer than max_history = 6"):
        model_in_eval().score_items(batch_of(ROWS, width=7))
