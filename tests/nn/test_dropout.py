"""Dropout: the share, the scale, independence, determinism, gradients."""

import pytest
import torch

from sememe.nn.dropout import Dropout, dropout, keep_mask


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1e-9, 1 - 1e-9])
def test_a_mask_keeps_the_expectation(share: float) -> None:
    torch.manual_seed(0)
    mask = keep_mask(torch.Size([1000, 1001]), share=share)
    values = mask.unique()
    assert len(values) <= 2
    assert values[0] == 0.0 or share < 0.01
    dropped = float((mask == 0).float().mean())
    assert dropped == pytest.approx(share, abs=0.002)
    if 0.01 < share < 0.99:
        assert float(values[-1]) == pytest.approx(1 / (1 - share), rel=2e-4)
        assert float(mask.mean()) == pytest.approx(1.0, abs=0.01)


def test_elements_are_dropped_independently() -> None:
    torch.manual_seed(0)
    kept = (keep_mask(torch.Size([400_000]), share=0.3) > 0).float()
    for lag in (1, 2, 3, 4, 5, 8):  # four elements share a draw
        both = float((kept[lag:] * kept[:-lag]).mean())
        assert both == pytest.approx(0.49, abs=0.004)


def test_the_global_seed_fixes_the_masks_and_calls_differ() -> None:
    states = torch.ones(7, 11)
    torch.manual_seed(5)
    first, second = dropout(states, 0.5), dropout(states, 0.5)
    torch.manual_seed(5)
    assert torch.equal(dropout(states, 0.5), first)
    assert not torch.equal(first, second)


def test_gradients_pass_through_what_was_kept() -> None:
    torch.manual_seed(0)
    states = torch.randn(5, 6, requires_grad=True)
    out = dropout(states, 0.25)
    out.sum().backward()
    assert states.grad is not None
    torch.testing.assert_close(states.grad * states.detach(), out.detach())


def test_evaluation_and_a_share_of_zero_change_nothing() -> None:
    states = torch.randn(3)
    assert Dropout(0.5).eval()(states) is states
    assert Dropout(0.0).train()(states) is states
    assert Dropout(0.5).train()(torch.ones(1000)).max() == 2.0


def test_half_precision_stays_half_precision() -> None:
    assert dropout(torch.ones(8, dtype=torch.bfloat16), 0.5).dtype == torch.bfloat16
