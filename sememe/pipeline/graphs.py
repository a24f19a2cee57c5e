"""Recorded searches of one model on a GPU, for batches of a few sizes; each is recorded when it is first needed.

A batch takes the smallest recording that holds it, with histories padded to the longest that the model reads.  What no
recording holds (a list longer than the beam, rules that differ from row to row, very many items to leave out) is left
to the search that is not recorded.

Shape legend: N rows, T items of a history, S items to leave out.
"""

from dataclasses import dataclass, field
from threading import Lock

import numpy as np
import torch

from sememe.core.schema import PAD, Batch, Int32Array
from sememe.data.event_inputs import UNKNOWN
from sememe.decode.allowed import Allowed
from sememe.decode.beam import BeamSearch, Found, search
from sememe.decode.graphed import GraphedSearch
from sememe.decode.item_set import ItemSet
from sememe.decode.protocol import StepModel
from sememe.models.encdec import EncDecModel
from sememe.models.itemwise import ItemWiseModel
from sememe.models.itemwise_padded import PaddedSteps
from sememe.pipeline.recommend import Recommender
from sememe.train.device import to_tensors

ROWS = (1, 8, 64)
"""Batches that searches are recorded for."""
NEAR = 1e-3
"""Scores of the two ways differ by less; a GPU sums batches of other sizes in another order."""
MOST_SEEN = 512
"""Items that a row can have to leave out: columns of every search, whether used or not."""


@dataclass(frozen=True, eq=False)
class Graphs:
    """The recorded searches of one recommender."""

    recommender: Recommender
    model: StepModel
    decode: BeamSearch
    recorded: dict[int, GraphedSearch] = field(default_factory=dict)
    """By rows."""
    lock: Lock = field(default_factory=Lock)

    @classmethod
    def build(cls, recommender: Recommender) -> "Graphs | None":
        """None where the lists of `recommender` are not those of a beam, or its model has no steps of fixed shapes."""
        decode, model = recommender.decode, recommender.model
        if recommender.rerank is not None or type(decode) is not BeamSearch:
            return None
        if isinstance(model, ItemWiseModel):
            return cls(recommender, PaddedSteps.of(model), decode)
        return cls(recommender, model, decode) if isinstance(model, EncDecModel) else None

    def search(self, batch: Batch, *, k: int, seen: Int32Array | None, allowed: Allowed) -> Found | None:
        """The lists for `batch`; None where no recording holds it."""
        rows = len(batch["history"])
        if k > self.decode.width or rows > ROWS[-1] or not isinstance(allowed, ItemSet | None):
            return None
        if seen is not None and seen.shape[1] > MOST_SEEN:
            return None
        padded = to_tensors(self._padded(batch), self.recommender.device)
        recorded = self._for(rows, padded)
        return recorded.search(padded, k=k, seen=None if seen is None else torch.from_numpy(seen), allowed=allowed)

    def record_all(self) -> str | None:
        """Record every size now (while other threads use the device, and in front of a user, it would be late), and see
        that the recordings find what the search finds that is not recorded.

        Returns why they must not be used, or None.
        """
        try:
            alike = self._record_and_compare()
        except RuntimeError as error:
            return f"CUDA graphs could not be recorded ({str(error).splitlines()[0]})"
        return None if alike else "what CUDA graphs find differs from what the search finds without them"

    def _record_and_compare(self) -> bool:
        history = np.zeros((1, 1), np.int32)
        events = {name: np.full((1, 1), UNKNOWN, np.int32) for name in self.recommender.events}
        one = {"history": history, "lengths": np.ones(1, np.int32), "user": np.full(1, PAD, np.int32), **events}
        padded = to_tensors(self._padded(one), self.recommender.device)
        width, first_width = self.decode.width, self.decode.first_width
        plain = search(self.model, padded, trie=self.recommender.trie, width=width, first_width=first_width, k=width)
        recorded = [self._for(rows, padded).search(padded, k=width) for rows in ROWS]
        return all(torch.allclose(found.scores, plain.scores, rtol=0, atol=NEAR) for found in recorded)

    def _padded(self, batch: Batch) -> Batch:
        """`batch` with T as long as the model reads."""
        longest = self.recommender.max_history
        padded = dict(batch)
        for name in ("history", *self.recommender.events):
            values, fill = batch[name], PAD if name == "history" else UNKNOWN
            padded[name] = np.pad(values, ((0, 0), (0, longest - values.shape[1])), constant_values=fill)
        return padded

    def _for(self, rows: int, batch: dict[str, torch.Tensor]) -> GraphedSearch:
        """The smallest recording that holds so many rows like those of `batch`."""
        size = next(size for size in ROWS if rows <= size)
        with self.lock:
            if size not in self.recorded:
                example = {name: values[:1].expand(size, *values.shape[1:]) for name, values in batch.items()}
                self.recorded[size] = GraphedSearch.record(
                    self.model,
                    self.recommender.trie,
                    example,
                    width=self.decode.width,
                    first_width=self.decode.first_width,
                    most_seen=MOST_SEEN,
                )
            return self.recorded[size]
