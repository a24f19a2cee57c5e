import math

import pytest
import torch
from torch import Tensor

from sememe.core.errors import ConfigError
from sememe.core.schema import PAD
from sememe.objectives.full_softmax import FullSoftmax
from sememe.objectives.itemwise import ItemWiseLoss

ITEMS = 9


def by_hand() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Two positions, two levels, three candidates whose scores are logarithms of whole numbers."""
    outputs = {
        "code_log_probs": torch.tensor([[0.5, 0.25], [0.1, 1.0]]).log(),
        "item_logits": torch.tensor([[2.0, 3.0, 5.0], [1.0, 4.0, 2.0]]).log(),
        "places": torch.tensor([2, 0]),
    }
    # The candidates were there with probability 1, 1/2 and 1/4.
    return outputs, {"candidate_log_prob": torch.tensor([1.0, 0.5, 0.25]).log()}


CODES = (math.log(8) + math.log(10)) / 2
# 5 against 2 and 3 * 2; 1 against 4 * 2 and 2 * 4.  The own score is never corrected.
ITEM_TERMS = (math.log((2 + 6 + 5) / 5), math.log((1 + 8 + 8) / 1))


def test_the_loss_by_hand() -> None:
    assert ItemWiseLoss()(*by_hand()).item() == pytest.approx(CODES + sum(ITEM_TERMS) / 2, abs=1e-6)


def test_weights_scale_their_parts() -> None:
    items = sum(ITEM_TERMS) / 2
    both = ItemWiseLoss(code_weight=2.0, item_weight=0.5)(*by_hand())
    assert both.item() == pytest.approx(2 * CODES + items / 2, abs=1e-6)
    assert ItemWiseLoss(code_weight=0.0)(*by_hand()).item() == pytest.approx(items, abs=1e-6)
    outputs, batch = by_hand()
    codes_alone = ItemWiseLoss(item_weight=0.0)({"code_log_probs": outputs["code_log_probs"]}, batch)
    assert codes_alone.item() == pytest.approx(CODES, abs=1e-6)


def test_label_smoothing_by_hand() -> None:
    """A share of 0.3 is spread over the three candidates, 0.1 each."""
    total = 0.0
    for corrected, own in (((2, 6, 5), 5), ((1, 8, 8), 1)):
        log_probs = [math.log(value / sum(corrected)) for value in corrected]
        total -= 0.7 * math.log(own / sum(corrected)) + 0.1 * sum(log_probs)
    loss = ItemWiseLoss(code_weight=0.0, label_smoothing=0.3)(*by_hand())
    assert loss.item() == pytest.approx(total / 2, abs=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_with_all_items_as_candidates_it_is_the_full_softmax(smoothing: float) -> None:
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 4, 5, generator=random, requires_grad=True)
    weights = torch.randn(ITEMS, 5, generator=random, requires_grad=True)
    targets = torch.randint(0, ITEMS, (2, 4), generator=random)
    targets[1, 2:] = PAD
    there = targets.flatten() != PAD
    outputs = {
        "code_log_probs": torch.zeros(6, 3),
        "item_logits": (hidden @ weights.T).flatten(0, 1)[there],
        "places": targets.flatten()[there],
    }
    ours = ItemWiseLoss(label_smoothing=smoothing)(outputs, {"candidate_log_prob": torch.zeros(ITEMS)})
    full = FullSoftmax(label_smoothing=smoothing)({"hidden": hidden, "item_weights": weights}, {"targets": targets})
    torch.testing.assert_close(ours, full)
    for got, wanted in zip(*(torch.autograd.grad(loss, (hidden, weights)) for loss in (ours, full)), strict=True):
        torch.testing.assert_close(got, wanted)


def test_the_denominator_is_right_on_average() -> None:
    """Over random sets of candidates, the corrected sum of e^score has the mean of the sum over all items."""
    random = torch.Generator().manual_seed(1)
    scores = torch.randn(ITEMS, generator=random)
    probability = torch.rand(ITEMS, generator=random) * 0.5 + 0.4
    draws = torch.rand(1500, ITEMS, generator=random) < probability
    draws[:, 4] = True
    sums = []
    for chosen in draws:
        items = chosen.nonzero().squeeze(1)
        place = int((items == 4).nonzero())
        outputs = {
            "code_log_probs": torch.zeros(1, 1),
            "item_logits": scores[items].unsqueeze(0),
            "places": torch.tensor([place]),
        }
        loss = ItemWiseLoss()(outputs, {"candidate_log_prob": probability[items].log()})
        sums.append((loss + scores[4]).exp())
    found = torch.stack(sums)
    assert abs(found.mean() - scores.exp().sum()) < 4 * found.std() / math.sqrt(len(found))


def test_the_loss_is_fp32_whatever_comes_in() -> None:
    outputs, batch = by_hand()
    half = {name: values.bfloat16() if values.is_floating_point() else values for name, values in outputs.items()}
    loss = ItemWiseLoss()(half, batch)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(CODES + sum(ITEM_TERMS) / 2, rel=1e-2)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (ItemWiseLoss(code_weight=-1.0), "code_weight is -1.0 and item_weight 1.0"),
        (ItemWiseLoss(code_weight=0.0, item_weight=0.0), "not both 0"),
        (ItemWiseLoss(label_smoothing=1.0), "label_smoothing is 1.0"),
        (ItemWiseLoss(item_weight=0.0, label_smoothing=0.1), "codes are not smoothed"),
        (ItemWiseLoss(label_smoothing=-0.1), "label_smoothing is -0.1"),
    ],
)
def test_settings_that_cannot_be_are_named(loss: ItemWiseLoss, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loss(*by_hand())
