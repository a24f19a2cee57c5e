"""The trunk with each choice of its parts, and against SASRec."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sememe.core.errors import ConfigError
from sememe.core.schema import Batch, ModelInputs
from sememe.core.seeding import generator
from sememe.models.sequential import SasRec
from sememe.nn.dropout import dropout
from sememe.nn.trunk import Trunk, TrunkModule
from sememe.train.loop import fit
from sememe.train.plan import TrainPlan

SMALL = Trunk(layers=2, d_model=8, heads=2, ff=24, dropout=0.4, max_history=6)
OPTIONS = {
    "defaults": {},
    "rms": {"norm": "rms"},
    "swiglu": {"feed_forward": "swiglu"},
    "rotary": {"positions": "rotary"},
    "relative": {"positions": "relative"},
    "experts": {"experts": 3},
    "learned with the rest": {"norm": "rms", "feed_forward": "swiglu", "experts": 3},
    "rotary with the rest": {"positions": "rotary", "norm": "rms", "feed_forward": "swiglu", "experts": 3},
    "relative with the rest": {"positions": "relative", "norm": "rms", "feed_forward": "swiglu", "experts": 3},
}
every_variant = pytest.mark.parametrize(
    "config", [replace(SMALL, **option) for option in OPTIONS.values()], ids=OPTIONS
)


def built(config: Trunk, *, seed: int = 0) -> TrunkModule:
    torch.manual_seed(seed)
    return config.build()


def lively(module: nn.Module) -> nn.Module:
    """Weights large enough for every part to matter, in double precision."""
    for value in module.parameters():
        nn.init.normal_(value, std=0.5)
    return module.double()


def count(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def some_states(rows: int = 3) -> Tensor:
    return torch.randn(rows, 6, SMALL.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def test_the_defaults_compute_what_sasrec_computes():
    torch.manual_seed(0)
    sizes = {"layers": 3, "d_model": 8, "heads": 2, "ff": 20, "dropout": 0.0, "max_history": 6}
    sasrec = lively(SasRec(**sizes).build(ModelInputs(num_users=2, num_items=11), seed=0))
    trunk = Trunk(**sizes).build().double()
    own = trunk.state_dict()
    shared = {name: value for name, value in sasrec.state_dict().items() if name in own}
    assert set(sasrec.state_dict()) - set(shared) == {"items.weight", "repeat_bias.weight"}
    trunk.load_state_dict(shared)
    # A full window: SASRec counts its positions from the newest item, the trunk from the first.
    history = torch.randint(11, (4, 6))
    expected = sasrec({"history": history})["hidden"]
    outputs = trunk(sasrec.items(history) * 8**0.5)
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-12)
    up = torch.randn_like(outputs)
    for hidden in (outputs, expected):
        (hidden * up).sum().backward()
    for name, value in trunk.named_parameters():
        torch.testing.assert_close(value.grad, sasrec.get_parameter(name).grad, rtol=0, atol=1e-10)


def test_the_defaults_are_those_of_sasrec_and_start_with_equal_spread():
    sasrec, trunk = SasRec().build(ModelInputs(num_users=2, num_items=11), seed=0), built(Trunk())
    shapes = {name: value.shape for name, value in sasrec.named_parameters() if name in trunk.state_dict()}
    assert {name: value.shape for name, value in trunk.named_parameters()} == shapes
    for name, value in trunk.named_parameters():
        torch.testing.assert_close(value.std(), sasrec.get_parameter(name).std(), rtol=0.05, atol=1e-6)
    assert trunk.config.dropout == SasRec().dropout


def test_dropout_falls_on_the_inputs_the_hidden_values_and_what_each_part_adds():
    trunk, share = lively(built(SMALL)).train(), SMALL.dropout
    torch.manual_seed(3)
    outputs = trunk(some_states())
    torch.manual_seed(3)
    states = dropout(some_states() + trunk.positions.weight, share)
    for block in trunk.blocks:
        states = states + dropout(block.attention(block.attention_norm(states)), share)
        hidden = dropout(nn.functional.gelu(block.ff[0](block.ff_norm(states))), share)
        states = states + dropout(block.ff[3](hidden), share)
    torch.testing.assert_close(outputs, trunk.norm(states))


@every_variant
def test_a_later_position_changes_nothing_before_it(config: Trunk):
    trunk = lively(built(config)).eval()
    states = some_states()
    changed = states.clone()
    changed[:, 3] = changed[:, 3].flip(1)
    first, second = trunk(states), trunk(changed)
    torch.testing.assert_close(first[:, :3], second[:, :3], rtol=0, atol=1e-12)
    assert bool(((first[:, 3:] - second[:, 3:]).abs() > 1e-6).any(2).all())


@every_variant
def test_padding_after_the_end_and_other_rows_change_nothing(config: Trunk):
    trunk = lively(built(config)).eval()
    padded = some_states()
    for row, length in enumerate((6, 2, 4)):
        alone = trunk(padded[row : row + 1, :length])
        torch.testing.assert_close(trunk(padded)[row : row + 1, :length], alone, rtol=0, atol=1e-12)


@every_variant
def test_gradients_reach_every_parameter(config: Trunk):
    trunk = lively(built(config)).train()
    states = some_states(rows=30)  # enough for each expert to get some
    (trunk(states) * states).sum().backward()
    for name, value in trunk.named_parameters():
        assert value.grad is not None, name
        assert bool(value.grad.isfinite().all()), name
        assert bool(value.grad.any()), name


@every_variant
def test_equal_seeds_give_equal_weights_and_outputs(config: Trunk):
    def weights_and_outputs(seed: int) -> tuple[dict[str, Tensor], list[Tensor]]:
        trunk = built(config, seed=seed).train()
        torch.manual_seed(seed + 10)
        outputs = [trunk(some_states().float()) for _ in range(3)]
        return trunk.state_dict(), outputs

    first, second, other = (weights_and_outputs(seed) for seed in (1, 1, 2))
    for name, value in first[0].items():
        assert torch.equal(value, second[0][name]), name
    assert all(torch.equal(one, two) for one, two in zip(first[1], second[1], strict=True))
    assert not torch.equal(first[1][0], other[1][0])
    assert not torch.equal(first[1][0], first[1][1])  # dropout differs from call to call


@every_variant
def test_the_order_of_what_was_read_matters(config: Trunk):
    trunk = lively(built(config)).eval()
    states = some_states()
    swapped = states[:, [1, 0, 2, 3, 4, 5]]
    assert bool(((trunk(states)[:, 2] - trunk(swapped)[:, 2]).abs() > 1e-6).any())


@every_variant
def test_empty_batches_and_histories_are_fine(config: Trunk):
    trunk = built(config).train()
    assert trunk(torch.zeros(0, 4, 8)).shape == (0, 4, 8)
    assert trunk(torch.zeros(2, 0, 8)).shape == (2, 0, 8)


@every_variant
def test_a_history_that_is_too_long_is_refused(config: Trunk):
    with pytest.raises(ConfigError, match="a history of 7 items is longer than max_history = 6"):
        built(config)(torch.zeros(1, 7, 8))


@every_variant
def test_half_precision_gives_about_the_same(config: Trunk):
    trunk = built(config).eval()
    states = some_states().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coarse = trunk(states)
    torch.testing.assert_close(coarse.float(), trunk(states), rtol=0.05, atol=0.05)


def test_parameters_are_as_many_as_the_settings_say():
    width, ff = 128, 512
    norm, network = 2 * width, width * ff + ff + ff * width + width
    attention = 4 * (width * width + width)
    dense = 50 * width + 2 * (attention + network + 2 * norm) + norm
    assert count(Trunk().build()) == dense
    assert count(Trunk(norm="rms").build()) == dense - 5 * width
    assert count(Trunk(positions="rotary").build()) == dense - 50 * width
    assert count(Trunk(positions="relative").build()) == dense - 50 * width + 2 * 32 * 2
    assert count(Trunk(experts=4).build()) == dense + 2 * (3 * network + 4 * width)
    swiglu = count(Trunk(feed_forward="swiglu").build())
    assert swiglu == dense + 2 * (3 * width * 344 - network)
    assert swiglu == pytest.approx(dense, rel=0.01)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 0}, "layers is 0, and must be at least 1"),
        ({"ff": 0}, "ff is 0"),
        ({"heads": 0}, "heads is 0"),
        ({"max_history": 0}, "max_history is 0"),
        ({"d_model": 9}, "d_model is 9, which 2 heads do not divide"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"norm": "lyer"}, "norm is 'lyer'(?s:.)*did you mean 'layer'"),
        ({"feed_forward": "relu"}, "feed_forward is 'relu'"),
        ({"positions": "rotory"}, "did you mean 'rotary'"),
        ({"positions": "rotary", "d_model": 6}, "a head is 3 wide"),
        ({"experts": -1}, "experts is -1, below 0"),
        ({"experts": 4, "experts_per_token": 1}, "experts_per_token is 1, not between 2 and experts = 4"),
        ({"experts": 2, "experts_per_token": 3}, "experts_per_token is 3, not between 2 and experts = 2"),
        ({"experts": 1}, "experts_per_token is 2, not between 2 and experts = 1"),
    ],
)
def test_settings_that_cannot_be_are_named(changes: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        replace(SMALL, **changes).build()


class NextItem(nn.Module):
    """Item embeddings, a trunk, scores."""

    def __init__(self, config: Trunk) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.items = nn.Embedding(10, config.d_model)
        self.trunk = config.build()

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.trunk(self.items(batch["history"])) @ self.items.weight.T


class Walks:
    """Item i is followed by i + 1; breaks before one step, as a machine might."""

    steps_per_epoch = 12

    def __init__(self, *, breaks_at: int = -1) -> None:
        self.breaks_at = breaks_at
        self.asked: list[int] = []

    def __call__(self, step: int) -> Batch:
        self.asked.append(step)
        if step == self.breaks_at:
            raise OSError("the machine is gone")
        starts = generator(3, "walks", step).integers(0, 10, (8, 1))
        return {"history": ((starts + np.arange(6)) % 10).astype(np.int32)}


def predicts_the_next(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(outputs[:, :-1].flatten(0, 1), batch["history"][:, 1:].flatten())


def train(out: Path, *, source: Callable[[int], Batch]) -> tuple[NextItem, bytes]:
    model = NextItem(replace(SMALL, experts=4))
    plan = TrainPlan(epochs=1, checkpoint_every_seconds=0.0, threads=1, precision="fp32")
    result = fit(model, source, predicts_the_next, plan, out=out, seed=5, report=lambda line: None)
    return model, result.weights.read_bytes()


def test_a_training_with_experts_that_was_cut_off_ends_with_the_same_bytes(tmp_path: Path):
    whole, expected = train(tmp_path / "whole", source=Walks())
    with pytest.raises(OSError, match="the machine is gone"):
        train(tmp_path / "broken", source=Walks(breaks_at=7))
    source = Walks()
    model, found = train(tmp_path / "broken", source=source)
    assert source.asked == list(range(7, 12))
    assert found == expected
    for before, after in zip(whole.trunk.blocks, model.trunk.blocks, strict=True):
        assert before.ff.bias.any()
        assert torch.equal(before.ff.bias, after.ff.bias)
