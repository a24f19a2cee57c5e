"""Last codes dealt out anew where items collide, so that no level is added.

Source: LC-Rec (arXiv 2311.09049, "uniform semantic mapping") and the pipelines after it, MiniOneRec's among them: items
that collide get their last code from an optimal transport plan in which no code is given twice, found by Sinkhorn.
Kept: the first codes stay, and items of one prefix get different last codes at the least cost in squared error.
Changed: within a prefix the plan is one item to one code, an assignment problem of a few hundred rows, so it is solved
exactly and once, where Sinkhorn is repeated until nothing collides.  The cost of a code is by how much its
reconstruction is worse than that of the item's own code, so that items move only where they must.

Shape legend: n items, dim the width of their vectors, L semantic levels, K codes of the last one, f of them free.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from sememe.core.errors import DataError
from sememe.core.schema import Codes, FloatArray, Int32Array
from sememe.sid.collisions import tuple_groups
from sememe.sid.encode import Settled
from sememe.sid.fitted import FittedTokenizer
from sememe.sid.kmeans import distinct_rows

STAY = 1e-9
"""What a move costs at least, as a share of the errors at hand: where the vectors do not mind, items stay."""


@dataclass(frozen=True)
class ReassignLast:
    """Deal out the last codes anew below each prefix in which items collide."""

    def settle(self, matrix: Int32Array, *, tokenizer: FittedTokenizer, vectors: FloatArray, seed: int) -> Settled:
        """Codes (n, L) whose rows are all different, from semantic codes (n, L) and vectors (n, dim).

        The seed changes nothing.  Where items have equal vectors, which gets which code follows their order.

        Raises:
            DataError: a prefix in which items collide has more items than the last level has codes.
        """
        del seed  # an assignment draws nothing
        sizes = tokenizer.codebook_sizes
        groups, prefixes = tuple_groups(matrix, sizes), tuple_groups(matrix[:, :-1], sizes[:-1])
        collides = np.bincount(groups)[groups] > 1
        settled = matrix.astype(np.int32)
        order = np.argsort(prefixes, kind="stable")
        bounds = np.searchsorted(prefixes[order], np.unique(prefixes[collides])[:, None] + np.array([0, 1]))
        everything = np.arange(sizes[-1], dtype=np.int32)
        for first, end in bounds:
            rows = order[first:end]
            if len(rows) > sizes[-1]:
                raise _too_many(matrix[rows[0]], items=len(rows), size=sizes[-1])
            settled[rows, -1] = deal_last(vectors[rows], matrix[rows], free=everything, tokenizer=tokenizer)
        return Settled(Codes(settled, sizes, num_semantic_levels=len(sizes), collisions="reassigned"), tokenizer)


def deal_last(vectors: FloatArray, wanted: Int32Array, *, free: Int32Array, tokenizer: FittedTokenizer) -> Int32Array:
    """(n,) different last codes out of `free` (f,), f >= n, for items of one prefix.

    wanted: (n, L) the codes that the items have by themselves.
    """
    # In one canonical order: where several ways cost the same, the items' order must not choose.
    order = np.argsort(distinct_rows(vectors).inverse, kind="stable")
    vectors, wanted = vectors[order], wanted[order]
    size = tokenizer.codebook_sizes[-1]
    children = np.repeat(wanted[:1], size, axis=0)
    children[:, -1] = np.arange(size)
    centers = tokenizer.reconstruct(children).astype(np.float64)
    # The squared norms of the vectors are the same for all codes of an item, and drop out of the comparison.
    error = np.square(centers).sum(axis=1) - 2 * vectors.astype(np.float64) @ centers.T
    own = wanted[:, -1:]
    worse = np.maximum(error - np.take_along_axis(error, own, axis=1), 0)
    worse += STAY * (1 + worse.mean()) * (np.arange(size) != own)
    rows, columns = linear_sum_assignment(worse[:, free])
    dealt = np.empty(len(vectors), np.int32)
    dealt[order[rows]] = free[columns]
    return dealt


def _too_many(codes: Int32Array, *, items: int, size: int) -> DataError:
    prefix = tuple(int(code) for code in codes[:-1])
    return DataError(
        f"{items} items share the first {len(prefix)} semantic codes {prefix}, and the last level has {size} codes",
        fix="give items a finer signal (more text fields, collaborative vectors), more levels or more codes on the "
        "last one, or use CollisionToken() or ExtraLevel()",
    )
