"""Contrast by hand."""

from math import exp, log

import pytest
import torch

from sememe.nn.contrast import info_nce, info_nce_of_pairs

SCORES = torch.tensor([[1.0, 2.0, 0.0], [0.5, -1.0, 3.0]])
POSITIVE = torch.tensor([1, 0])


def by_hand(own: float, *others: float) -> float:
    return log(exp(own) + sum(exp(other) for other in others)) - own


def test_plain() -> None:
    expected = (by_hand(2.0, 1.0, 0.0) + by_hand(0.5, -1.0, 3.0)) / 2
    assert info_nce(SCORES, POSITIVE).item() == pytest.approx(expected, rel=1e-5)


def test_what_belongs_to_the_row_too_is_no_negative() -> None:
    left_out = torch.tensor([[True, True, False], [False, False, True]])
    expected = (by_hand(2.0, 0.0) + by_hand(0.5, -1.0)) / 2
    assert info_nce(SCORES, POSITIVE, left_out=left_out).item() == pytest.approx(expected, rel=1e-5)
    assert left_out.tolist() == [[True, True, False], [False, False, True]]
    nobody = torch.ones(2, 3, dtype=torch.bool)
    assert info_nce(SCORES, POSITIVE, left_out=nobody).item() == 0.0


def test_frequent_candidates_are_marked_down() -> None:
    log_q = torch.tensor([0.5, 0.25, 0.25]).log()
    expected = (
        by_hand(2.0 + log(4), 1.0 + log(2), 0.0 + log(4)) + by_hand(0.5 + log(2), -1.0 + log(4), 3.0 + log(4))
    ) / 2
    assert info_nce(SCORES, POSITIVE, log_q=log_q).item() == pytest.approx(expected, rel=1e-5)
    # Candidates that are all as frequent change nothing.
    even = info_nce(SCORES, POSITIVE, log_q=torch.full((3,), -2.0)).item()
    assert even == pytest.approx(info_nce(SCORES, POSITIVE).item(), rel=1e-6)


def test_pairs_choose_each_other_from_the_whole_batch() -> None:
    # Two pairs: 0 with 2 and 1 with 3, one number each; the dot products of row 0 are 2, 3, 2 with the others.
    vectors = torch.tensor([[1.0], [2.0], [3.0], [2.0]])
    scores = vectors @ vectors.T / 2
    nobody = torch.zeros(4, 4, dtype=torch.bool)
    plain = by_hand(1.5, 1, 1), by_hand(2, 1, 3), by_hand(1.5, 3, 3), by_hand(2, 1, 3)
    assert info_nce_of_pairs(scores, belong=nobody).item() == pytest.approx(sum(plain) / 4, rel=1e-5)
    # Rows 0 and 1 belong together, too: they are no negatives of each other.
    belong = nobody.clone()
    belong[0, 1] = belong[1, 0] = True
    fewer = by_hand(1.5, 1), by_hand(2, 3), plain[2], plain[3]
    assert info_nce_of_pairs(scores, belong=belong).item() == pytest.approx(sum(fewer) / 4, rel=1e-5)
    # A row that is in every batch is no proof of anything.
    log_q = torch.tensor([0.0, -1.0, 0.0, -1.0])
    freed = by_hand(1.5, 1 + 1, 1 + 1), by_hand(3, 1, 3), by_hand(1.5, 4, 4), by_hand(3, 1, 3)
    assert info_nce_of_pairs(scores, belong=nobody, log_q=log_q).item() == pytest.approx(sum(freed) / 4, rel=1e-5)
