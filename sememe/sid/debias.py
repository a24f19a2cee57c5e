"""Collaborative vectors that tell what users like apart from what everybody takes.

Sources: the collaborative debias module (ICDM) of DAS, arXiv 2508.10584; the split into interest and conformity is that
of DICE, Zheng et al., WWW 2021.
Kept: a user is an interest and a conformity vector, an item a property and a popularity vector; a network joins the two
of each side; a biased loss on the joined vectors, an unbiased one on interest and property alone, and the two vectors
of a side at right angles.
Not stated there, so ours:
- conformity and popularity vectors are networks of one number: how popular what the user takes is, on average, and how
  often the item is taken; interest and property vectors are free;
- the biased loss takes its negatives evenly from the catalogue; the unbiased one as often as items are taken, so that
  at its optimum a score is log p(user, item) / (p(user) p(item)), in which popularity has cancelled;
- right angles are measured on vectors of length 1: else shrinking would do.

Shape legend: U users, I items, E events, n events of a batch, latent the width of every vector.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from sememe.core.schema import FloatArray, Int64Array
from sememe.nn.mlp import relu_mlp

Float64Array = npt.NDArray[np.float64]

START = 0.1
"""Spread of the free vectors at the start: small, so that what is learnt soon outweighs what was drawn."""
FEATURE_HIDDEN = 16
"""Hidden width of the networks of one number."""


def popularity_feature(counts: Int64Array) -> FloatArray:
    """float32 (I, 1): log(1 + events) of each item, standardised; from the events (I,) of each."""
    return _standardised(np.log1p(counts))


def conformity_feature(users: Int64Array, items: Int64Array, *, popularity: FloatArray, num_users: int) -> FloatArray:
    """float32 (U, 1): mean popularity feature of what each user took, standardised; users of nothing are average.

    users, items: (E,) who took what.
    """
    counts = np.bincount(users, minlength=num_users)
    sums = np.bincount(users, weights=popularity[items, 0], minlength=num_users)
    known = counts > 0
    means = np.zeros((num_users, 1), np.float32)
    means[known] = _standardised(sums[known] / counts[known])
    return means


def _standardised(values: Float64Array) -> FloatArray:
    spread = float(values.std()) if len(values) else 0.0
    return np.asarray((values - values.mean()) / (spread if spread > 1e-8 else 1.0), dtype=np.float32)[:, None]


class SplitVectors(nn.Module):
    """One side: a free vector per member, a vector made of one number, and the two joined."""

    feature: Tensor
    """(members, 1)"""

    def __init__(self, feature: FloatArray, *, latent: int, rng: np.random.Generator) -> None:
        super().__init__()
        drawn = START * rng.standard_normal((len(feature), latent))
        self.free = nn.Parameter(torch.from_numpy(drawn.astype(np.float32)))
        self.bias = relu_mlp((1, FEATURE_HIDDEN, latent), rng=rng)
        self.join = relu_mlp((2 * latent, 2 * latent, latent), rng=rng)
        self.register_buffer("feature", torch.from_numpy(feature), persistent=False)

    def of(self, members: Tensor) -> "Split":
        """The vectors of int64 members (n,)."""
        free, bias = functional.embedding(members, self.free), self.bias(self.feature[members])
        return Split(free, bias, self.join(torch.cat([free, bias], dim=1)))


@dataclass(frozen=True, eq=False)
class Split:
    """Vectors of n users or items, (n, latent) each."""

    free: Tensor
    """Interest or property."""
    bias: Tensor
    """Conformity or popularity."""
    joined: Tensor


def score_loss(left: Tensor, right: Tensor, others: Tensor) -> Tensor:
    """Binary cross-entropy of dot products: row k of the left belongs to row k of the right and to no other; scalar.

    left, right: (n, latent); others: (k, latent), each of which is a negative of every row, at a weight of 1 / k.
    """
    own, other = (left * right).sum(dim=1), left @ others.T
    return (functional.softplus(-own) + functional.softplus(other).mean(dim=1)).mean()


def right_angles(split: Split) -> Tensor:
    """Mean squared cosine of free and bias vectors; scalar."""
    return functional.cosine_similarity(split.free, split.bias, dim=1).square().mean()


def debiased_loss(users: Split, items: Split, *, even: Split, popular: Split) -> Tensor:
    """Biased and unbiased loss, and right angles on both sides; scalar.

    Args:
        users, items: who took what.
        even: an item for each event, each item as likely as any other.
        popular: an item for each event, each as likely as it is taken.
    """
    biased = score_loss(users.joined, items.joined, even.joined)
    unbiased = score_loss(users.free, items.free, popular.free)
    return biased + unbiased + right_angles(users) + right_angles(items)


def plain_loss(users: Split, items: Split, *, even: Split) -> Tensor:
    """What is left without debiasing: the scores of the free vectors against items drawn evenly; scalar."""
    return score_loss(users.free, items.free, even.free)
