"""The best k of each row, with ties broken in favour of the lower index: the one order that search and scoring share.

`torch.topk` leaves the order of equal values open, so that lists would differ between machines and batch sizes.

Shape legend: N rows, C columns, k kept columns.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sememe.core.errors import ArtifactError


@dataclass(frozen=True, eq=False)
class Selected:
    """The chosen columns of each row."""

    values: Tensor
    """(N, k)"""
    columns: Tensor
    """(N, k) int64"""


def refuse_nan(scores: Tensor) -> None:
    """Raise an ArtifactError where a score is not a number: no order could be right."""
    if bool(torch.isnan(scores).any()):
        raise ArtifactError(
            "the model gave a score that is not a number, so nothing can be ranked",
            fix="its weights are not finite: go back to an earlier checkpoint, or train with a lower learning rate",
        )


def select_best(scores: Tensor, *, k: int) -> Selected:
    """The k highest of each row in order of their *column*; of equal ones at the edge, the lower columns.

    scores: (N, C) floating point, -inf allowed, k <= C.

    Raises:
        ArtifactError: a score is not a number.
    """
    best = torch.topk(scores, min(k + 1, scores.shape[1]), dim=1)
    # topk puts NaN first, so that the first column tells about the whole row.
    refuse_nan(best.values[:, 0])
    columns = best.indices[:, :k].sort(dim=1).values
    edge = best.values[:, k - 1 : k]
    # Only where the next one equals the last did topk have a choice.
    open_rows = (best.values[:, k:] == edge).nonzero()[:, 0]
    if len(open_rows):
        columns[open_rows] = _lowest_at_edge(scores[open_rows], edge[open_rows], k=k)
    return Selected(values=scores.gather(1, columns), columns=columns)


def _lowest_at_edge(scores: Tensor, edge: Tensor, *, k: int) -> Tensor:
    """(N, k) columns, ascending: all above `edge` (N, 1), and the lowest of those that equal it."""
    above = scores > edge
    at_edge = scores == edge
    room = k - above.sum(dim=1, keepdim=True)
    chosen = above | (at_edge & (at_edge.cumsum(dim=1) <= room))
    return chosen.nonzero()[:, 1].view(len(scores), k)


def rank_best(scores: Tensor, *, k: int) -> Selected:
    """The k highest of each row, best first; of equal ones, the lower column first.  (N, C), k <= C."""
    if k == scores.shape[1]:
        values, columns = scores.sort(dim=1, descending=True, stable=True)
        refuse_nan(values[:, :1])
        return Selected(values=values, columns=columns)
    chosen = select_best(scores, k=k)
    order = torch.argsort(chosen.values, dim=1, descending=True, stable=True)
    return Selected(values=chosen.values.gather(1, order), columns=chosen.columns.gather(1, order))
