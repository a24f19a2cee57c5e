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
    scores: Tensor, positive: Tensor, *, left_out: Tensor | None = None, log_q: Tensor | None = None
) -> Tensor:
    """Mean over rows of -log softmax(scores)[positive]; scalar.

    Args:
        scores: (n, m)
        positive: int64 (n,), the candidate that belongs to each row.
        left_out: bool (n, m), candidates that do not count for a row; its positive counts in any case.
        log_q: (m,) log of each candidate's chance to be in a batch, which the scores are freed from.
    """
    if log_q is not None:
        scores = scores - log_q
    if left_out is not None:
        others = left_out.scatter(1, positive.unsqueeze(1), value=False)
        scores = scores.masked_fill(others, -torch.inf)
    return functional.cross_entropy(scores, positive)
