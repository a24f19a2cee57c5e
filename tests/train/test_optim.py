import math

import pytest
from torch import nn

from sememe.core.errors import ConfigError
from sememe.train.optim import AdamW, Constant, Ema, WarmupCosine, WarmupInverseSqrt, set_learning_rate


def toy_model() -> nn.Module:
    return nn.ModuleDict({"table": nn.Embedding(4, 3), "mix": nn.Linear(3, 2), "norm": nn.LayerNorm(2)})


def test_only_matrices_decay():
    model = toy_model()
    names = {id(value): name for name, value in model.named_parameters()}
    decays = {
        names[id(value)]: group["weight_decay"]
        for group in AdamW(weight_decay=0.3).build(model).param_groups
        for value in group["params"]
    }
    expected = {"table.weight": 0.0, "mix.weight": 0.3, "mix.bias": 0.0, "norm.weight": 0.0, "norm.bias": 0.0}
    assert decays == expected
    groups = AdamW(weight_decay=0.3, decay_embeddings=True).build(model).param_groups
    assert any(value is model["table"].weight for value in groups[0]["params"])


def test_frozen_weights_are_left_out_and_a_model_without_others_is_refused():
    model = toy_model()
    model["mix"].requires_grad_(False)
    groups = AdamW().build(model).param_groups
    assert sum(len(group["params"]) for group in groups) == 3
    with pytest.raises(ConfigError, match="no parameter to train"):
        AdamW().build(model.requires_grad_(False))


@pytest.mark.parametrize("changes", [{"lr": 0.0}, {"weight_decay": -1.0}, {"beta1": 1.0}, {"beta2": 1.5}])
def test_values_out_of_range_are_named(changes):
    name = next(iter(changes))
    with pytest.raises(ConfigError, match=f"{name} is {changes[name]}"):
        AdamW(**changes).build(toy_model())


def test_schedules_match_numbers_worked_by_hand():
    def at(schedule, *steps):
        return [pytest.approx(schedule.factor(step, total_steps=104)) for step in steps]

    assert at(Constant(), 0, 50) == [1.0, 1.0]
    assert at(Constant(warmup_steps=3), 0, 1, 2, 3, 9) == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert at(WarmupInverseSqrt(warmup_steps=4), 0, 3, 15, 35) == [0.25, 1.0, 0.5, 1 / 3]
    assert at(WarmupInverseSqrt(warmup_steps=4, start="flat"), 0, 3, 15) == [1.0, 1.0, 0.5]
    cosine = WarmupCosine(warmup_steps=4, final=0.2)
    assert at(cosine, 0, 3, 4, 54, 104) == [0.2, 0.8, 1.0, 0.6, 0.2]
    assert at(cosine, 29) == [0.2 + 0.4 * (1 + math.cos(math.pi / 4))]


@pytest.mark.parametrize(("total", "rise"), [(1000, 50), (500, 50), (499, 49), (100, 10), (19, 1), (9, 0), (1, 0)])
def test_the_warm_up_of_the_cosine_takes_at_most_a_tenth(total, rise):
    schedule = WarmupCosine(warmup_steps=50)
    factors = [schedule.factor(step, total_steps=total) for step in range(total)]
    assert factors[:rise] == pytest.approx([(step + 1) / (rise + 1) for step in range(rise)])
    assert factors[rise] == 1.0
    falls = [0.5 * (1 + math.cos(math.pi * step / (total - rise))) for step in range(total - rise)]
    assert factors[rise:] == pytest.approx(falls)


def test_the_rate_of_every_group_is_scaled_from_where_it_began():
    optimizer = AdamW(lr=0.5).build(toy_model())
    assert set_learning_rate(optimizer, 0.5) == 0.25
    assert set_learning_rate(optimizer, 0.5) == 0.25
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


def test_the_average_of_weights_follows_its_formula_and_exchanges_exactly():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    average = Ema(decay=0.5).start(model)
    nn.init.constant_(model.weight, 3.0)
    average.update(model, step=0)  # decay 1/10: 0.1 * 1 + 0.9 * 3
    assert average.weights["weight"].item() == pytest.approx(2.8)
    average.update(model, step=1000)  # decay 0.5
    assert average.weights["weight"].item() == pytest.approx(2.9)
    average.exchange(model)
    assert (model.weight.item(), average.weights["weight"].item()) == (pytest.approx(2.9), 3.0)
    average.exchange(model)
    assert model.weight.item() == 3.0
    with pytest.raises(ConfigError, match="decay is 1.0"):
        Ema(decay=1.0).start(model)
