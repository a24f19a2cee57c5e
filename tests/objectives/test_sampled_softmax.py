import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sememe.core.errors import ConfigError
from sememe.core.schema import PAD
from sememe.objectives.full_softmax import FullSoftmax
from sememe.objectives.sampled_softmax import SampledSoftmax

ITEMS = 40


def example(*, bias: bool = False, dtype: torch.dtype = torch.float64) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    random = torch.Generator().manual_seed(4)
    hidden = torch.randn(3, 5, 6, generator=random, dtype=dtype, requires_grad=True)
    weights = torch.randn(ITEMS, 6, generator=random, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, ITEMS, (3, 5), generator=random)
    history = torch.randint(0, 6, (3, 5), generator=random)
    targets[1, 2:], history[1, 2:] = PAD, PAD
    targets[0, 1] = targets[0, 0]
    # A position whose target was read before, and rows that read targets of others.
    history[2], targets[2, 2] = torch.tensor([7, int(targets[0, 0]), 7, 2, 1]), 7
    outputs = {"hidden": hidden, "item_weights": weights}
    if bias:
        outputs["repeat_bias"] = torch.tensor([-0.7], dtype=dtype, requires_grad=True)
    return outputs, {"targets": targets, "history": history}


def gradients(loss: Tensor, outputs: dict[str, Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(outputs.values())))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("in_batch", [False, True])
@pytest.mark.parametrize("log_q", [False, True])
def test_with_all_items_as_candidates_it_is_the_full_softmax(bias, in_batch, log_q):
    outputs, batch = example(bias=bias)
    objective = SampledSoftmax(uniform_negatives=ITEMS, in_batch=in_batch, log_q=log_q)
    ours, full = objective(outputs, batch), FullSoftmax()(outputs, batch)
    torch.testing.assert_close(ours, full)
    torch.testing.assert_close(gradients(ours, outputs), gradients(full, outputs))


def test_a_loss_worked_by_hand(monkeypatch):
    # Scores 0, ln 2, ln 5, ln 7 at both positions; targets 1 and 2; of the others, 0 and 3, one is drawn: 3.
    monkeypatch.setattr(torch, "rand", lambda count, device: torch.linspace(0.0, 1.0, count))
    outputs = {"hidden": torch.ones(1, 2, 1), "item_weights": torch.tensor([[1.0], [2.0], [5.0], [7.0]]).log()}
    batch = {"targets": torch.tensor([[1, 2]])}
    # Item 3 had one chance in two, so it counts twice.
    partition = 2 + 5 + 2 * 7
    mixed = SampledSoftmax(uniform_negatives=1)(outputs, batch).item()
    assert mixed == pytest.approx((math.log(partition / 2) + math.log(partition / 5)) / 2)
    plain = SampledSoftmax(uniform_negatives=1, log_q=False)(outputs, batch).item()
    assert plain == pytest.approx((math.log(14 / 2) + math.log(14 / 5)) / 2)
    # Two of four items drawn, 2 and 3: each counts twice, but item 2 is no negative of itself.
    uniform = SampledSoftmax(uniform_negatives=2, in_batch=False)(outputs, batch).item()
    assert uniform == pytest.approx((math.log((2 + 10 + 14) / 2) + math.log((5 + 14) / 5)) / 2)


@pytest.mark.parametrize("in_batch", [False, True])
def test_the_mean_denominator_is_that_of_the_full_softmax(in_batch):
    # Two positions in one state have one denominator where both targets are certain; else one position is looked at.
    random = torch.Generator().manual_seed(1)
    state = torch.randn(1, 1, 4, generator=random)
    weights = torch.randn(ITEMS, 4, generator=random)
    outputs = {"hidden": state.expand(1, 2 if in_batch else 1, 4), "item_weights": weights}
    targets = torch.tensor([[3, 8]]) if in_batch else torch.tensor([[3]])
    scores = weights @ state.flatten()
    own = scores[targets].mean()
    objective = SampledSoftmax(uniform_negatives=6, in_batch=in_batch)
    torch.manual_seed(0)
    estimates = torch.stack([(objective(outputs, {"targets": targets}) + own).exp() for _ in range(4000)])
    spread = estimates.std() / math.sqrt(len(estimates))
    assert abs(estimates.mean() - scores.exp().sum()) < 4 * spread
    assert spread < 0.02 * scores.exp().sum()


def test_draws_come_closer_to_the_full_softmax_the_more_they_are():
    outputs, batch = example()
    full = FullSoftmax()(outputs, batch).item()
    errors = []
    for draws in (2, 8, 24):
        torch.manual_seed(0)
        losses = [SampledSoftmax(uniform_negatives=draws)(outputs, batch).item() for _ in range(300)]
        errors.append(sum(abs(loss - full) for loss in losses) / 300)
    assert errors[0] > 1.5 * errors[1] > 2.0 * errors[2]


def test_draws_are_distinct_and_never_targets_of_the_batch():
    targets = torch.tensor([4, 4, 9, 0])
    torch.manual_seed(0)
    met: set[int] = set()
    for _ in range(200):
        drawn = SampledSoftmax(uniform_negatives=5)._draw(targets, items=12).items.tolist()
        assert drawn[:3] == [0, 4, 9] and len(set(drawn)) == len(drawn) == 8
        met |= set(drawn)
    assert met == set(range(12))


def test_the_global_generator_decides():
    outputs, batch = example()
    objective = SampledSoftmax(uniform_negatives=4)
    torch.manual_seed(5)
    first, second = objective(outputs, batch), objective(outputs, batch)
    torch.manual_seed(5)
    assert torch.equal(objective(outputs, batch), first)
    assert not torch.equal(first, second)


def test_one_target_per_row_is_one_position():
    outputs, batch = example(bias=True)
    last = {**outputs, "hidden": outputs["hidden"][:, -1:]}
    one = {"target": torch.tensor([5, 7, 7]), "history": batch["history"]}
    every = {**one, "targets": F.pad(one["target"].unsqueeze(1), (4, 0), value=PAD)}
    for objective in (SampledSoftmax(uniform_negatives=ITEMS), FullSoftmax()):
        torch.testing.assert_close(objective(last, one), objective(outputs, every))


def test_vectors_of_every_position_are_no_match_for_one_target_per_row():
    outputs, batch = example()
    with pytest.raises(ConfigError, match="15 vectors for the 3 targets"):
        SampledSoftmax()(outputs, {"target": torch.tensor([5, 7, 7])})
    with pytest.raises(ConfigError, match="3 vectors for the 15 targets"):
        FullSoftmax()({**outputs, "hidden": outputs["hidden"][:, -1:]}, batch)


def test_bf16_products_stay_close_and_the_loss_is_fp32():
    outputs, batch = example(bias=True, dtype=torch.float32)
    torch.manual_seed(1)
    expected = SampledSoftmax(uniform_negatives=8)(outputs, batch)
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = SampledSoftmax(uniform_negatives=8)(outputs, batch)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=2e-2, atol=0)
    for ours, exact in zip(gradients(loss, outputs), gradients(expected, outputs), strict=True):
        assert F.cosine_similarity(ours.flatten(), exact.flatten(), dim=0) > 0.999


def test_no_draws_are_refused():
    outputs, batch = example()
    with pytest.raises(ConfigError, match="uniform_negatives is 0"):
        SampledSoftmax(uniform_negatives=0)(outputs, batch)
