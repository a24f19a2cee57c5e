import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sememe.core.errors import ConfigError
from sememe.core.schema import PAD
from sememe.objectives import full_softmax
from sememe.objectives.full_softmax import FullSoftmax, items_read


def example(*, dtype: torch.dtype = torch.float64) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    random = torch.Generator().manual_seed(4)
    hidden = torch.randn(3, 5, 6, generator=random, dtype=dtype, requires_grad=True)
    weights = torch.randn(40, 6, generator=random, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, 40, (3, 5), generator=random)
    targets[1, 2:] = PAD
    targets[2, :] = PAD
    targets[0, 1] = targets[0, 0]
    return {"hidden": hidden, "item_weights": weights}, {"targets": targets}


def plain(outputs: dict[str, Tensor], batch: dict[str, Tensor], smoothing: float) -> Tensor:
    logits = (outputs["hidden"] @ outputs["item_weights"].T).flatten(0, 1)
    return F.cross_entropy(logits, batch["targets"].flatten(), ignore_index=PAD, label_smoothing=smoothing)


def test_a_loss_worked_by_hand():
    # Scores 0, ln 2, ln 5: probabilities 1/8, 2/8, 5/8.
    outputs = {
        "hidden": torch.tensor([[[1.0], [1.0], [9.0]]]),
        "item_weights": torch.tensor([[0.0], [math.log(2)], [math.log(5)]]),
    }
    batch = {"targets": torch.tensor([[1, 2, PAD]])}
    assert FullSoftmax()(outputs, batch).item() == pytest.approx((math.log(4) + math.log(8 / 5)) / 2)
    even = -(math.log(1 / 8) + math.log(2 / 8) + math.log(5 / 8)) / 3
    smoothed = FullSoftmax(label_smoothing=0.3)(outputs, batch).item()
    assert smoothed == pytest.approx(0.7 * (math.log(4) + math.log(8 / 5)) / 2 + 0.3 * even)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("chunk_rows", [1, 3, 100])
def test_value_and_gradients_equal_the_plain_formula(monkeypatch, smoothing, chunk_rows):
    monkeypatch.setattr(full_softmax, "CHUNK_LOGITS", 40 * chunk_rows)
    outputs, batch = example()
    (3.0 * FullSoftmax(label_smoothing=smoothing)(outputs, batch)).backward()
    twin, _ = example()
    expected = plain(twin, batch, smoothing)
    (3.0 * expected).backward()
    torch.testing.assert_close(FullSoftmax(label_smoothing=smoothing)(outputs, batch), expected)
    for name in outputs:
        torch.testing.assert_close(outputs[name].grad, twin[name].grad)
    assert torch.count_nonzero(outputs["hidden"].grad[2]) == 0


def biased() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    outputs, batch = example()
    history = torch.randint(0, 6, (3, 5), generator=torch.Generator().manual_seed(6))
    history[batch["targets"] == PAD] = PAD
    history[0] = torch.tensor([7, 7, 2, 7, 1])
    batch["targets"][0, 3] = 2
    bias = torch.tensor([-0.7], dtype=torch.float64, requires_grad=True)
    return {**outputs, "repeat_bias": bias}, {**batch, "history": history}


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_repeat_bias_counts_once_for_every_item_read_so_far(monkeypatch, smoothing):
    monkeypatch.setattr(full_softmax, "CHUNK_LOGITS", 120)
    outputs, batch = biased()
    (2.0 * FullSoftmax(label_smoothing=smoothing)(outputs, batch)).backward()
    twin, _ = biased()
    logits = twin["hidden"] @ twin["item_weights"].T
    read = torch.zeros_like(logits)
    for row in range(3):
        for position in range(5):
            for item in set(batch["history"][row, : position + 1].tolist()) - {PAD}:
                read[row, position, item] = 1.0
    logits = (logits + read * twin["repeat_bias"]).flatten(0, 1)
    expected = F.cross_entropy(logits, batch["targets"].flatten(), ignore_index=PAD, label_smoothing=smoothing)
    (2.0 * expected).backward()
    torch.testing.assert_close(FullSoftmax(label_smoothing=smoothing)(outputs, batch), expected)
    for name in outputs:
        torch.testing.assert_close(outputs[name].grad, twin[name].grad)


def test_items_read_are_listed_once_up_to_each_position():
    read = items_read(torch.tensor([[4, 5, 4, PAD]]))
    assert read.tolist() == [[[4, PAD, PAD, PAD], [4, 5, PAD, PAD], [4, 5, PAD, PAD], [4, 5, PAD, PAD]]]


def test_one_step_against_the_gradient_lowers_the_loss():
    outputs, batch = example(dtype=torch.float32)
    before = FullSoftmax()(outputs, batch)
    before.backward()
    moved = {name: value.detach() - 0.1 * value.grad for name, value in outputs.items()}
    assert FullSoftmax()(moved, batch) < before


def test_large_scores_stay_finite():
    outputs, batch = example(dtype=torch.float32)
    large = {name: (value.detach() * 100).requires_grad_() for name, value in outputs.items()}
    loss = FullSoftmax()(large, batch)
    loss.backward()
    torch.testing.assert_close(loss, plain(large, batch, 0.0))
    assert bool(large["hidden"].grad.isfinite().all())


def test_bf16_products_stay_close_to_fp32_and_the_loss_is_fp32():
    outputs, batch = example(dtype=torch.float32)
    expected = plain(outputs, batch, 0.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = FullSoftmax()(outputs, batch)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=2e-2, atol=0)
    loss.backward()
    twin, _ = example(dtype=torch.float32)
    plain(twin, batch, 0.0).backward()
    for name in outputs:
        assert outputs[name].grad.dtype == torch.float32
        assert F.cosine_similarity(outputs[name].grad.flatten(), twin[name].grad.flatten(), dim=0) > 0.999


def test_a_share_out_of_range_is_refused():
    outputs, batch = example()
    with pytest.raises(ConfigError, match=r"label_smoothing is 1\.0"):
        FullSoftmax(label_smoothing=1.0)(outputs, batch)
