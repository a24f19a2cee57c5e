"""Contrast: what belongs together scores higher than what happens to stand in the same batch.

Sources: InfoNCE, van den Oord et al. 2018, arXiv 1807.03748; logQ correction of in-batch candidates, Yi et al.,
"Sampling-Bias-Corrected Neural Modeling", RecSys 2019.
Kept: both.  Changed: candidates that belong to the row, too, can be left out of its denominator, since true positives
are no negatives.

Shape legend: n rows, m candidates.
"""

import torch
from torch import Tensor
from torch.nn import functional


def info_nce(
    scores: Tensor,
    positive: Tensor,
    *,
    left_out: Tensor | None = None,
    log_q: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Mean over rows of -log softmax(scores)[positive]; scalar.

    Args:
        scores: (n, m)
        positive: int64 (n,), the candidate that belongs to each row.
        left_out: bool (n, m), candidates that do not count for a row; its positive counts in any case.
        log_q: (m,) log of each candidate's chance to be in a batch, which the scores are freed from.
        weights: (n,) how much each row counts; only their ratios matter.
    """
    if log_q is not None:
        scores = scores - log_q
    if left_out is not None:
        others = left_out.scatter(1, positive.unsqueeze(1), value=False)
        scores = scores.masked_fill(others, -torch.inf)
    losses = functional.cross_entropy(scores, positive, reduction="none")
    return losses.mean() if weights is None else (weights * losses).sum() / weights.sum()


def info_nce_of_pairs(
    scores: Tensor, *, belong: Tensor, log_q: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """`info_nce` of 2 N rows that are candidates, too, where row k belongs to row k + N and back; scalar.

    scores: (2 N, 2 N).  belong: bool (2 N, 2 N), rows that are no negatives of each other; a row is none of its own.
    """
    count = len(scores)
    partner = torch.arange(count, device=scores.device).roll(count // 2)
    itself = torch.eye(count, dtype=torch.bool, device=scores.device)
    return info_nce(scores, partner, left_out=belong | itself, log_q=log_q, weights=weights)
