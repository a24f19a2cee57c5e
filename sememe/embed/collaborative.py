"""Item vectors from behaviour: who is met together with whom in the training part of the log, and nothing after it.

Sources: PPMI and its SVD as word vectors, Levy & Goldberg 2014, Levy et al. 2015 (square-root singular values, context
smoothing .75); implicit ALS, Hu, Koren & Volinsky 2008, by the package `implicit`.
Kept: PPMI without shift, symmetric split of the singular values.  Changed: the context of an item is its neighbourhood
in a user's sequence, weighted by decay ** (distance - 1), as in the item-kNN that is our baseline.

Shape legend: U users, I items, E events, dim the width of the vectors.
"""

import importlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg

from sememe.core.errors import ConfigError, MissingExtraError, NothingToEmbedError
from sememe.core.schema import Catalog, FloatArray, Interactions
from sememe.core.seeding import derive_seed, generator
from sememe.data.cooccurrence import cooccurrence

DENSE_ITEMS = 256
"""Up to here a full SVD is as fast as an iterative one, and always converges."""


@dataclass(frozen=True)
class CooccurrenceSvd:
    """Truncated SVD of the positive pointwise mutual information of items met close together in a user's sequence."""

    reads_log: ClassVar[bool] = True
    dim: int = 64
    window: int = 10
    """Pairs of events of a user that lie at most this many places apart count."""
    decay: float = 0.8
    """Weight of a pair per further place of distance."""
    context_power: float = 0.75
    """Popularity of the context is raised to this power, which damps the pull of rare items."""

    def embed(self, catalog: Catalog, train: Interactions, *, seed: int) -> FloatArray:
        """float32 (I, dim); zero rows for items that co-occur with nothing in `train`, zero columns beyond the rank.

        Raises NothingToEmbedError where no two events of a user lie within the window.
        """
        if self.dim < 1 or self.window < 1 or not 0 < self.decay <= 1:
            raise ConfigError(
                f"CooccurrenceSvd got dim={self.dim}, window={self.window}, decay={self.decay}",
                fix="give dim >= 1, window >= 1 and 0 < decay <= 1",
            )
        counts = cooccurrence(train, window=self.window, decay=self.decay)
        if counts.nnz == 0:
            raise NothingToEmbedError(
                "no user of the training part has two events of different items, so no items co-occur",
                fix="use text vectors, or a log with longer histories",
            )
        return _symmetric_svd(ppmi(counts, context_power=self.context_power), self.dim, seed=seed)


@dataclass(frozen=True)
class ImplicitAls:
    """Item factors of implicit-feedback matrix factorisation (needs the extra "als")."""

    reads_log: ClassVar[bool] = True
    dim: int = 64
    iterations: int = 15
    regularization: float = 0.05
    alpha: float = 1.0
    """Confidence of an observed event over an unobserved one."""

    def embed(self, catalog: Catalog, train: Interactions, *, seed: int) -> FloatArray:
        """float32 (I, dim); zero rows for items without an event in `train`."""
        try:
            als = importlib.import_module("implicit.cpu.als")
        except ModuleNotFoundError as error:
            raise MissingExtraError("implicit", extra="als", purpose="ImplicitAls") from error
        shape = (train.num_users, train.num_items)
        ones = np.ones(train.num_events, np.float32)
        matrix = sp.csr_matrix((ones, train.items, train.offsets), shape=shape)
        matrix.sum_duplicates()
        model = als.AlternatingLeastSquares(
            factors=self.dim,
            iterations=self.iterations,
            regularization=self.regularization,
            alpha=self.alpha,
            # One thread: with more, the order of additions and so the result changes from run to run.
            num_threads=1,
            random_state=derive_seed(seed, "embed", "als") % 2**32,
        )
        model.fit(matrix, show_progress=False)
        factors = np.array(model.item_factors, dtype=np.float32)
        factors[np.bincount(train.items, minlength=train.num_items) == 0] = 0
        return factors


def ppmi(counts: sp.csr_matrix, *, context_power: float) -> sp.csr_matrix:
    """max(0, log(p(a, b) / (p(a) p'(b)))) of symmetric counts, made symmetric again by averaging with its transpose.

    p' is the context distribution, counts ** context_power normalised.
    """
    pairs = counts.tocoo()
    marginal = np.asarray(counts.sum(axis=1)).ravel()
    context = np.where(marginal > 0, marginal, 1) ** context_power * (marginal > 0)
    joint = pairs.data / marginal.sum()
    expected = marginal[pairs.row] / marginal.sum() * context[pairs.col] / context.sum()
    values = np.maximum(np.log(joint / expected), 0)
    matrix = sp.csr_matrix((values, (pairs.row, pairs.col)), shape=counts.shape)
    matrix.eliminate_zeros()
    return sp.csr_matrix((matrix + matrix.T) * 0.5)


def _symmetric_svd(matrix: sp.csr_matrix, dim: int, *, seed: int) -> FloatArray:
    """U sqrt(S) of the largest `dim` singular values, float32 (I, dim), largest first, signs fixed."""
    rank = min(dim, matrix.shape[0] - 1)
    if matrix.shape[0] <= DENSE_ITEMS:
        left, values, _ = np.linalg.svd(matrix.toarray())
        left, values = left[:, :rank], values[:rank]
    else:
        start = generator(seed, "embed", "svd").standard_normal(matrix.shape[0])
        left, values, _ = scipy.sparse.linalg.svds(matrix, k=rank, v0=start, solver="arpack")
        order = np.argsort(-values, kind="stable")
        left, values = left[:, order], values[order]
    # Directions beyond the rank of the matrix are noise of the solver.
    values = np.where(values > 1e-7 * values[0], values, 0)
    # An eigenvector's sign is arbitrary: the entry of the largest size is made positive.
    signs = np.sign(left[np.abs(left).argmax(axis=0), np.arange(rank)])
    vectors = np.zeros((matrix.shape[0], dim), np.float32)
    vectors[:, :rank] = left * signs * np.sqrt(values)
    vectors[np.diff(matrix.indptr) == 0] = 0
    return vectors
