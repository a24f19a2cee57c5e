"""Contrasts of semantic with collaborative vectors, by hand."""

from math import cos, exp, log, pi

import pytest
import torch
from torch import Tensor

from sememe.sid.views import Candidates, balancing_weights, contrast, contrast_pairs


def direction(*angles: float, length: float = 1.0) -> Tensor:
    """Vectors in the plane at these angles, in units of pi."""
    turned = torch.tensor(angles) * pi
    return length * torch.stack([turned.cos(), turned.sin()], dim=1)


def row(own: float, *others: float) -> float:
    return log(exp(own) + sum(exp(other) for other in others)) - own


NOBODY = torch.zeros(2, 2, dtype=torch.bool)
# Anchors at 0 and 90 degrees, what belongs to them at 60 and 90: cosines .5, 0 and .87, 1.
ANCHORS, VECTORS = direction(0, 0.5), direction(1 / 3, 0.5, length=7.0)
AT_60, AT_30 = cos(pi / 3), cos(pi / 6)


def test_cosines_over_a_temperature() -> None:
    loss = contrast(ANCHORS, VECTORS, Candidates(NOBODY), temperature=0.5)
    assert loss.item() == pytest.approx((row(2 * AT_60, 0) + row(2, 2 * AT_30)) / 2, rel=1e-5)


def test_what_belongs_to_a_row_too_is_no_negative() -> None:
    belong = torch.tensor([[False, True], [False, False]])
    loss = contrast(ANCHORS, VECTORS, Candidates(belong), temperature=0.5)
    assert loss.item() == pytest.approx((0 + row(2, 2 * AT_30)) / 2, rel=1e-5)


def test_frequent_candidates_are_marked_down_and_their_rows_count_less() -> None:
    log_q = torch.tensor([0.8, 0.2]).log()
    first, second = row(2 * AT_60 - log(0.8), -log(0.2)), row(2 - log(0.2), 2 * AT_30 - log(0.8))
    freed = contrast(ANCHORS, VECTORS, Candidates(NOBODY, log_q), temperature=0.5)
    assert freed.item() == pytest.approx((first + second) / 2, rel=1e-5)
    # The second belongs to a candidate that is four times as rare.
    balanced = contrast(ANCHORS, VECTORS, Candidates(NOBODY, log_q, balanced=True), temperature=0.5)
    assert balanced.item() == pytest.approx((first + 4 * second) / 5, rel=1e-5)
    # Without logQ there is nothing to balance.
    plain = contrast(ANCHORS, VECTORS, Candidates(NOBODY, None, balanced=True), temperature=0.5)
    assert plain.item() == contrast(ANCHORS, VECTORS, Candidates(NOBODY), temperature=0.5).item()


def test_pairs_both_ways() -> None:
    """Rows 0 and 2, 1 and 3 belong together."""
    vectors = torch.cat([ANCHORS, VECTORS])
    cosines = [[1, 0, AT_60, 0], [0, 1, AT_30, 1], [AT_60, AT_30, 1, AT_30], [0, 1, AT_30, 1]]
    nobody = torch.zeros(4, 4, dtype=torch.bool)
    rows = [
        row(cosines[place][partner], *(cosines[place][other] for other in range(4) if other not in (place, partner)))
        for place, partner in enumerate((2, 3, 0, 1))
    ]
    plain = contrast_pairs(vectors, Candidates(nobody), temperature=1.0)
    assert plain.item() == pytest.approx(sum(rows) / 4, rel=1e-5)
    # A row weighs by how rare its partner is: equal chances change nothing but for one, half as likely.
    shares = torch.tensor([0.2, 0.2, 0.1, 0.2]).log()
    loss = contrast_pairs(vectors, Candidates(nobody, shares, balanced=True), temperature=1.0)
    rows = [
        row(
            cosines[place][partner] - shares[partner].item(),
            *(cosines[place][other] - shares[other].item() for other in range(4) if other not in (place, partner)),
        )
        for place, partner in enumerate((2, 3, 0, 1))
    ]
    assert loss.item() == pytest.approx((2 * rows[0] + rows[1] + rows[2] + rows[3]) / 5, rel=1e-5)


def test_no_row_is_the_whole_of_its_batch() -> None:
    weights = balancing_weights(torch.tensor([0.5, 0.25, 0.25]).log())
    assert torch.allclose(weights, torch.tensor([0.5, 1.0, 1.0]))
    # One of a thousand is a million times as rare: it weighs ten times the mean.
    extreme = balancing_weights(torch.cat([torch.zeros(1), torch.full((999,), log(1e6))]))
    assert extreme[0].item() == pytest.approx(10 * (1 + 999e-6) / 1000, rel=1e-3)
    assert extreme[1].item() == pytest.approx(1e-6, rel=1e-3)
