"""Pairs of vectors that the training log shows together, to draw from and to look up.

Shape legend: I members (items or users), m distinct vectors, P pairs.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

from sememe.core.schema import Int64Array


@dataclass(frozen=True, eq=False)
class Together:
    """Which distinct vectors were met together, and how often."""

    counts: sp.csr_matrix
    """(m, m) symmetric, positive where two were met together, nothing on the diagonal."""
    pairs: Int64Array
    """(2, P) each pair once, the smaller number first, in ascending order."""
    total: npt.NDArray[np.float64]
    """(P,) running sum of how often."""

    @classmethod
    def of(cls, counts: sp.csr_matrix, rows: Int64Array, *, num_rows: int) -> "Together":
        """From symmetric counts (I, I) of members and the distinct vector (I,) that each has."""
        cells = counts.tocoo()
        shape = (num_rows, num_rows)
        by_row = sp.csr_matrix((cells.data, (rows[cells.row], rows[cells.col])), shape=shape)
        upper = sp.csr_matrix(sp.triu(by_row, k=1))
        upper.sort_indices()
        ordered = upper.tocoo()
        pairs = np.stack([ordered.row, ordered.col]).astype(np.int64)
        return cls(sp.csr_matrix(upper + upper.T), pairs, np.cumsum(ordered.data, dtype=np.float64))

    def __len__(self) -> int:
        return int(self.pairs.shape[1])

    def draw(self, count: int, rng: np.random.Generator) -> Tensor:
        """int64 (2, count): pairs drawn with replacement, each as often as it was met."""
        place = np.searchsorted(self.total, rng.random(count) * self.total[-1], side="right")
        return torch.from_numpy(self.pairs[:, np.minimum(place, len(self) - 1)])

    def log_shares(self) -> Tensor:
        """float32 (m,): log of the chance that a place in a drawn pair holds this vector; -inf where none does."""
        degree = np.asarray(self.counts.sum(axis=1), dtype=np.float64).ravel()
        with np.errstate(divide="ignore"):
            return torch.from_numpy(np.log(degree / degree.sum()).astype(np.float32))

    def met(self, left: Tensor, right: Tensor) -> Tensor:
        """bool (n, k): whether vectors `left` (n,) and `right` (k,) were met together, or are one."""
        found = self.counts[left.numpy()][:, right.numpy()].toarray() > 0
        return torch.from_numpy(found) | (left.unsqueeze(1) == right)
