"""Pairs that the log shows together: who they are, how often they are drawn, and the look-up."""

import numpy as np
import scipy.sparse as sp
import torch

from sememe.sid.together import Together

# Items 0-4; items 1 and 3 have equal vectors, so that rows are 0, 1, 2, 1, 3.
ROWS = np.array([0, 1, 2, 1, 3])
COUNTS = np.array([[0, 2, 0, 1, 0], [2, 0, 0, 7, 0], [0, 0, 0, 5, 0], [1, 7, 5, 0, 0], [0, 0, 0, 0, 0]])


def together() -> Together:
    return Together.of(sp.csr_matrix(COUNTS), ROWS, num_rows=4)


def test_items_of_equal_vectors_are_one_and_not_met_with_themselves() -> None:
    found = together()
    assert found.counts.toarray().tolist() == [[0, 3, 0, 0], [3, 0, 5, 0], [0, 5, 0, 0], [0, 0, 0, 0]]
    assert len(found) == 2
    assert found.pairs.tolist() == [[0, 1], [1, 2]] and found.total.tolist() == [3, 8]
    assert len(Together.of(sp.csr_matrix((5, 5)), ROWS, num_rows=4)) == 0


def test_pairs_are_drawn_as_often_as_they_were_met() -> None:
    drawn = together().draw(8000, np.random.default_rng(0))
    assert drawn.shape == (2, 8000) and set(map(tuple, drawn.T.tolist())) == {(0, 1), (1, 2)}
    assert abs((drawn[0] == 0).double().mean().item() - 3 / 8) < 0.02
    again = together().draw(8000, np.random.default_rng(0))
    assert torch.equal(drawn, again)


def test_the_look_up_knows_neighbours_and_oneself() -> None:
    left, right = torch.tensor([0, 1, 3]), torch.tensor([1, 0, 2, 3])
    assert together().met(left, right).tolist() == [
        [True, True, False, False],
        [True, True, True, False],
        [False, False, False, True],
    ]
