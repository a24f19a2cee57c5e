"""Collaborative vectors that tell liking from popularity: features and losses by hand."""

from math import exp, log, sqrt

import numpy as np
import pytest
import torch
from torch import Tensor

from sememe.sid.debias import (
    Split,
    SplitVectors,
    conformity_feature,
    debiased_loss,
    plain_loss,
    popularity_feature,
    right_angles,
    score_loss,
)


def softplus(x: float) -> float:
    return log(1 + exp(x))


def row(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float32)


def split(*numbers: float) -> Split:
    """Free, bias and joined vectors of one member, two numbers each."""
    return Split(row(*numbers[:2]), row(*numbers[2:4]), row(*numbers[4:]))


def test_scores_by_hand() -> None:
    left, right = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[3.0, 0.0], [1.0, -1.0]])
    others = torch.tensor([[1.0, 1.0], [2.0, 0.0]])
    # Own scores 3 and -1; the others' are 3 and 2 for the first row, 1 and 0 for the second.
    first = softplus(-3) + (softplus(3) + softplus(2)) / 2
    second = softplus(1) + (softplus(1) + softplus(0)) / 2
    assert score_loss(left, right, others).item() == pytest.approx((first + second) / 2, rel=1e-6)


def test_right_angles_by_hand_and_whatever_the_lengths() -> None:
    free, bias = torch.tensor([[1.0, 0.0], [3.0, 4.0]]), torch.tensor([[1.0, 1.0], [4.0, -3.0]])
    # Cosines 1 / sqrt(2) and 0.
    assert right_angles(Split(free, bias, free)).item() == pytest.approx(0.25)
    shrunk = right_angles(Split(free * 0.01, bias * 100, free))
    assert shrunk.item() == pytest.approx(0.25, rel=1e-4)


def test_the_debiased_loss_by_hand() -> None:
    users, items = split(1, 0, 0, 1, 2, 0), split(1, 1, 1, -1, 1, 0)
    even, popular = split(0, 1, 1, 0, 0.5, 9), split(2, 5, 1, 0, 7, 7)
    # Biased: joined (2, 0) with (1, 0) against (.5, 9).  Unbiased: free (1, 0) with (1, 1) against (2, 5).
    biased, unbiased = softplus(-2) + softplus(1), softplus(-1) + softplus(2)
    # Free and bias vectors of the user and of the item are at right angles; then the item's are not.
    loss = debiased_loss(users, items, even=even, popular=popular)
    assert loss.item() == pytest.approx(biased + unbiased, rel=1e-5)
    leaning = Split(items.free, row(0.0, 5.0), items.joined)
    loss = debiased_loss(users, leaning, even=even, popular=popular)
    assert loss.item() == pytest.approx(biased + unbiased + 0.5, rel=1e-5)
    # Without debiasing only the free vectors count, against items drawn evenly.
    assert plain_loss(users, items, even=even).item() == pytest.approx(softplus(-1) + softplus(0), rel=1e-5)


def test_the_popularity_feature_by_hand() -> None:
    feature = popularity_feature(np.array([0, 3, 15]))
    # log2 of 1 + events: 0, 2, 4.
    np.testing.assert_allclose(feature, [[-sqrt(1.5)], [0], [sqrt(1.5)]], atol=1e-6)
    assert feature.dtype == np.float32
    assert not popularity_feature(np.array([4, 4])).any()


def test_the_conformity_feature_by_hand() -> None:
    popularity = np.array([[-1.0], [0.0], [3.0]], np.float32)
    users, items = np.array([0, 0, 2, 2]), np.array([0, 0, 1, 2])
    # User 0 takes -1 on average and user 2 takes 1.5; user 1 takes nothing and is average.
    feature = conformity_feature(users, items, popularity=popularity, num_users=3)
    np.testing.assert_allclose(feature, [[-1], [0], [1]], atol=1e-6)


def test_a_side_looks_its_vectors_up_and_joins_them() -> None:
    feature = np.array([[0.5], [-2.0], [1.0]], np.float32)
    side = SplitVectors(feature, latent=4, rng=np.random.default_rng(0))
    found = side.of(torch.tensor([2, 0, 2]))
    assert torch.equal(found.free, side.free[[2, 0, 2]])
    assert torch.equal(found.bias, side.bias(torch.tensor([[1.0], [0.5], [1.0]])))
    assert torch.equal(found.joined, side.join(torch.cat([found.free, found.bias], dim=1)))


def test_at_the_best_scores_popularity_cancels() -> None:
    """With negatives as often as items are taken, scores end at log p(user, item) / (p(user) p(item))."""
    generator = torch.Generator().manual_seed(0)
    affinity = torch.tensor([[4.0, 1.0, 1.0], [1.0, 1.0, 4.0]])
    joint = affinity * torch.tensor([0.7, 0.2, 0.1])
    joint = joint / joint.sum()
    left, right = (torch.nn.Parameter(0.1 * torch.randn(size, 3, generator=generator)) for size in (2, 3))
    optimizer = torch.optim.Adam([left, right], lr=0.02)
    for _ in range(500):
        drawn = torch.multinomial(joint.ravel(), 512, replacement=True, generator=generator)
        users, items = drawn // 3, drawn % 3
        others = torch.multinomial(joint.sum(dim=0), 512, replacement=True, generator=generator)
        loss = score_loss(left[users], right[items], right[others])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    expected = (joint / joint.sum(dim=1, keepdim=True) / joint.sum(dim=0)).log()
    assert (left @ right.T - expected).abs().max().item() < 0.15
