"""The network of a blend, its loss and what it is trained on, by hand."""

import numpy as np
import pytest
import torch

from sememe.core.schema import PAD
from sememe.rerank.blend_net import BlendNet, JudgedCandidates, listwise_softmax


def test_the_loss_by_hand() -> None:
    """Scores ln 1, ln 2, ln 5 and ln 3, ln 1, ln 4; the first row has two hits, the second one."""
    scores = torch.tensor([[1.0, 2.0, 5.0], [3.0, 1.0, 4.0]]).log()
    hits = torch.tensor([[True, False, True], [False, True, False]])
    expected = -np.mean(np.log([1 / 8, 5 / 8, 1 / 8]))
    every = torch.ones_like(hits)
    assert listwise_softmax({"scores": scores}, {"hits": hits, "is_item": every}).item() == pytest.approx(expected)
    # The second candidate of the first row is padding: nothing of the row's probability goes to it.
    is_item = torch.tensor([[True, False, True], [True, True, True]])
    expected = -np.mean(np.log([1 / 6, 5 / 6, 1 / 8]))
    assert listwise_softmax({"scores": scores}, {"hits": hits, "is_item": is_item}).item() == pytest.approx(expected)


def test_what_is_left_out_is_neither_candidate_nor_answer() -> None:
    candidates = JudgedCandidates(
        items=torch.tensor([[4, 2, PAD], [1, 3, 0]]),
        features=torch.zeros(2, 3, 1),
        targets=np.array([[2, PAD], [0, 1]], np.int32),
        requests=torch.tensor([5, 8]),
    )
    left = candidates.without(np.array([False, True, True, False, False]))
    assert left.items.tolist() == [[4, PAD, PAD], [PAD, 3, 0]]
    assert left.hits().tolist() == [[False, False, False], [False, False, True]]
    assert left.is_item().tolist() == [[True, False, False], [False, True, True]]
    assert candidates.items.tolist() == [[4, 2, PAD], [1, 3, 0]]


def test_hits_and_standard_features_by_hand() -> None:
    candidates = JudgedCandidates(
        items=torch.tensor([[4, 2, PAD], [1, 3, 0]]),
        features=torch.tensor([[[1.0, 7.0], [2.0, 7.0], [3.0, 7.0]], [[4.0, 7.0], [5.0, 7.0], [3.0, 7.0]]]),
        targets=np.array([[2, PAD], [0, 1]], np.int32),
        requests=torch.tensor([5, 8]),
    )
    assert candidates.hits().tolist() == [[False, True, False], [True, False, True]]
    second = candidates.take(torch.tensor([1]))
    assert second.hits().tolist() == [[True, False, True]] and second.requests.tolist() == [8]
    joined = second.joined(candidates)
    assert torch.equal(joined.hits(), candidates.hits()[[1, 0, 1]]) and joined.requests.tolist() == [8, 5, 8]
    assert torch.equal(joined.features, candidates.features[[1, 0, 1]]) and second.joined(None) is second
    net = BlendNet(2, hidden=0)
    net.standardize(candidates.features)
    torch.nn.init.ones_(net.linear.weight)
    assert net.mean.tolist() == [3.0, 7.0]
    values = np.array([[1.0, 2, 3], [4, 5, 3]])
    expected = (values - 3) / net.deviation[0].item()
    # The second feature never changes, and says nothing.
    np.testing.assert_allclose(net({"features": candidates.features})["scores"].detach(), expected, rtol=1e-5)
    assert net.deviation[0].item() == pytest.approx(values.std(), rel=0.15)


def test_one_candidate_of_one_request_has_no_spread() -> None:
    net = BlendNet(2, hidden=0)
    net.standardize(torch.tensor([[[3.0, -1.0]]]))
    assert torch.isfinite(net({"features": torch.ones(1, 1, 2)})["scores"]).all()
