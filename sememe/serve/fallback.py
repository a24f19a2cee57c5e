"""What answers when the model does not: items that go with the history, or popular ones.

Both are counted on the run's training part when the server starts, and take a fraction of a millisecond.

Shape legend: I items, T items of a history.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array

from sememe.core.schema import BoolArray, FloatArray, Int32Array, Int64Array, Interactions
from sememe.models.counting import FittedItemKnn, ItemKnn

READ = 50
"""Items of a history that are read: what is further back weighs less than 1e-11."""


@dataclass(frozen=True, eq=False)
class FallbackList:
    """Items, best first."""

    items: Int64Array
    scores: FloatArray
    source: str


@dataclass(frozen=True, eq=False)
class Fallback:
    """Counts of the training part."""

    knn: FittedItemKnn

    @classmethod
    def fit(cls, train: Interactions) -> "Fallback":
        """Count items, and pairs of items that follow each other."""
        return cls(ItemKnn(fill="none").fit(train))

    def grown(self, num_items: int) -> "Fallback":
        """The same for a catalogue of `num_items`: of those that came, nothing is counted."""
        more, knn = num_items - len(self.knn.counts), self.knn
        old = knn.similarity
        # Rows and columns that hold nothing are at the end, so that the arrays stay as they are.
        starts = np.pad(old.indptr, (0, more), mode="edge")
        similarity = csr_array((old.data, old.indices, starts), shape=(num_items, num_items))
        return Fallback(replace(knn, similarity=similarity, counts=np.pad(knn.counts, (0, more))))

    def recommend(
        self, history: Int32Array, *, left_out: Int32Array, allowed: BoolArray | None, k: int
    ) -> FallbackList:
        """Up to k items that go with `history` (T,), and then popular ones; or only those, where nothing goes with it.

        left_out: items that must not be listed; allowed: (I,) those that may be, None: all.
        """
        open_items = np.ones(len(self.knn.counts), np.bool_) if allowed is None else allowed.copy()
        open_items[left_out] = False
        if len(history):
            read = history[-READ:]
            batch = {"history": read[np.newaxis], "lengths": np.array([len(read)], np.int32)}
            scores = self.knn.score_items(batch)[0]
            if (scores[open_items] > 0).any():
                counts = self.knn.counts
                below = (counts / (counts.max(initial=0) + 1) - 1).astype(np.float32)
                mixed = np.where(scores > 0, scores, below)
                return _best(mixed, open_items, k=k, source="fallback:item_knn")
        return _best(self.knn.counts.astype(np.float32), open_items, k=k, source="fallback:popularity")


def _best(scores: FloatArray, open_items: BoolArray, *, k: int, source: str) -> FallbackList:
    """The best of the open items; of equal ones, the one with the lower index."""
    masked = np.where(open_items, scores, -np.inf)
    count = min(k, int(open_items.sum()))
    if count == 0:
        return FallbackList(items=np.zeros(0, np.int64), scores=np.zeros(0, np.float32), source=source)
    least = np.partition(masked, len(masked) - count)[len(masked) - count]
    candidates = np.flatnonzero(masked >= least)
    order = candidates[np.argsort(-masked[candidates], kind="stable")][:count]
    return FallbackList(items=order, scores=scores[order].astype(np.float32), source=source)
