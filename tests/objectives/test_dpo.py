"""DPO against hand-worked numbers, a slow twin, and the optimum that theory gives."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sememe.core.errors import ConfigError, DataError
from sememe.objectives.dpo import DPO


def example(*, samples: int = 2, levels: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    random = torch.Generator().manual_seed(3)
    shape = (4, samples, levels) if levels else (4, samples)
    ours, reference = -3 * torch.rand(2, *shape, generator=random, dtype=torch.float64)
    return {"sample_log_probs": ours.requires_grad_()}, {"reference_log_probs": reference}


@pytest.mark.parametrize(("samples", "start"), [(2, math.log(2)), (4, math.log(4))])
@pytest.mark.parametrize("levels", [0, 3])
def test_it_starts_at_the_logarithm_of_the_group(samples: int, start: float, levels: int) -> None:
    outputs, _ = example(samples=samples, levels=levels)
    loss = DPO()(outputs, {"reference_log_probs": outputs["sample_log_probs"].detach()})
    assert loss.item() == pytest.approx(start, abs=1e-12)


def test_the_loss_by_hand() -> None:
    # Chosen twice as likely as in the reference, rejected half as likely, so e^(m_l - m_w) is 1 / 4.
    outputs = {"sample_log_probs": torch.tensor([[0.4, 0.2]]).log()}
    batch = {"reference_log_probs": torch.tensor([[0.2, 0.4]]).log()}
    assert DPO(beta=1.0)(outputs, batch).item() == pytest.approx(math.log(5 / 4))
    assert DPO(beta=0.5)(outputs, batch).item() == pytest.approx(math.log(3 / 2))
    # And a second rejected one, three times as likely as before: 3 / 2 more.
    outputs = {"sample_log_probs": torch.tensor([[0.4, 0.2, 0.3]]).log()}
    batch = {"reference_log_probs": torch.tensor([[0.2, 0.4, 0.1]]).log()}
    assert DPO(beta=1.0)(outputs, batch).item() == pytest.approx(math.log(1 + 1 / 4 + 3 / 2))


def test_loss_and_gradient_are_those_of_the_plain_formula() -> None:
    outputs, batch = example(levels=3)
    ours, reference = outputs["sample_log_probs"], batch["reference_log_probs"]
    margins = 0.3 * (ours.sum(2) - reference.sum(2))
    plain = -F.logsigmoid(margins[:, 0] - margins[:, 1]).mean()
    loss = DPO(beta=0.3)(outputs, batch)
    torch.testing.assert_close(loss, plain)
    for got, wanted in zip(*(torch.autograd.grad(value, ours) for value in (loss, plain)), strict=True):
        torch.testing.assert_close(got, wanted)


def test_the_gradient_with_several_rejected_is_that_of_finite_differences() -> None:
    outputs, batch = example(samples=4)
    ours = outputs["sample_log_probs"]
    counted = torch.ones(4, 4, dtype=torch.bool)
    counted[1, 2:], counted[2, 1:], counted[3, 0] = False, False, False
    assert torch.autograd.gradcheck(
        lambda values: DPO(beta=0.7)({"sample_log_probs": values}, batch | {"counted": counted}), (ours,)
    )
    losses = []
    for row, rejected in ((0, (1, 2, 3)), (1, (1,))):
        margins = (0.7 * (ours[row] - batch["reference_log_probs"][row])).tolist()
        losses.append(math.log(1 + sum(math.exp(margins[place] - margins[0]) for place in rejected)))
    # Row 2 has nothing rejected and row 3 nothing chosen.
    loss = DPO(beta=0.7)(outputs, batch | {"counted": counted})
    assert loss.item() == pytest.approx(sum(losses) / 2, abs=1e-12)
    assert DPO()(outputs, batch | {"counted": torch.zeros(4, 4, dtype=torch.bool)}).item() == 0.0


def test_preferences_drawn_from_rewards_lead_to_the_tilted_reference() -> None:
    """Bradley and Terry with e^r = 1, 2, 4: the minimum is pi_ref e^(r / beta) / Z, whatever the reference is."""
    reference, beta = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64), 2.0
    # How often each arm wins in 15 meetings of a pair: (winner, loser, times).
    wins = [(1, 0, 10), (0, 1, 5), (2, 0, 12), (0, 2, 3), (2, 1, 10), (1, 2, 5)]
    pairs = torch.tensor([(winner, loser) for winner, loser, times in wins for _ in range(times)])
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)

    def closure() -> Tensor:
        optimizer.zero_grad()
        outputs = {"sample_log_probs": logits.log_softmax(0)[pairs]}
        loss = DPO(beta=beta)(outputs, {"reference_log_probs": reference.log()[pairs]})
        loss.backward()
        return loss

    optimizer.step(closure)
    tilted = reference * torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64) ** (1 / beta)
    torch.testing.assert_close(logits.detach().softmax(0), tilted / tilted.sum(), atol=1e-5, rtol=0)


def test_what_cannot_be_is_named() -> None:
    outputs, batch = example()
    with pytest.raises(ConfigError, match="beta is 0"):
        DPO(beta=0.0)(outputs, batch)
    with pytest.raises(ConfigError, match="rows hold 1 samples"):
        DPO()({"sample_log_probs": torch.zeros(4, 1)}, batch)
    with pytest.raises(ConfigError, match="no 'reference_log_probs'"):
        DPO()(outputs, {})
    with pytest.raises(DataError, match="numbers in sample_log_probs"):
        DPO()({"sample_log_probs": torch.full((4, 2), -math.inf)}, batch)
