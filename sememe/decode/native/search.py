"""Beam search of an item-wise generator by the C++ kernel: the lists of `decode.beam`, with scores equal to rounding.

A history may be kept and continued (`HistoryState`).  Positions count from the first item of the window, so as long as
the history is shorter than `max_history`, one more item costs one position; from then on every item shifts the window
and with it every position, and the window is read anew, as the model itself would.  The answer is the same either way,
bit for bit.

Shape legend: N rows, T items of a history, k listed items, L levels.
"""

from collections.abc import Mapping, Sequence
from ctypes import addressof
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sememe.core.errors import DataError
from sememe.core.schema import Int64Array
from sememe.decode.allowed import Allowed
from sememe.decode.beam import Found
from sememe.decode.native.calls import OPEN, Closing, Reading, Workspaces, fault
from sememe.decode.native.packed import PackedModel, Precision, pack
from sememe.decode.native.paths import PATHS, Kernel, open_kernel
from sememe.decode.native.structs import AnyArray, address, room_for
from sememe.decode.native.tree import PackedTrie, check_codes_match, pack_trie
from sememe.decode.protocol import Seen
from sememe.decode.trie import Trie
from sememe.nn.itemwise_weights import ItemWiseWeights

HistoryBatch = Mapping[str, Tensor | AnyArray]
"""As a `TensorBatch`, on the CPU; arrays will do."""

GROWTH = 16
"""Positions by which a kept history's room grows."""


class HistoryState:
    """A history that was read: keys and values of every layer, and what comes after the last item.

    It belongs to the model that made it, and to one thread at a time.
    """

    def __init__(self, model: PackedModel) -> None:
        self.items: list[int] = []
        """Those of the window, the newest last."""
        self.values = room_for(0, model.position_floats)
        self.hidden = room_for(model.struct.padded)
        self._place = self._hidden_place = address(self.hidden)

    @property
    def positions(self) -> int:
        """How many items it holds."""
        return len(self.items)

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return self.values.nbytes + self.hidden.nbytes

    def told(self, past: int) -> tuple[int, int, int]:
        """The kernel's `State` with its first `past` positions."""
        return self._place, past, self._hidden_place

    def reserve(self, count: int) -> None:
        """Make room for so many positions."""
        if count > len(self.values):
            larger = room_for(-(-count // GROWTH) * GROWTH, self.values.shape[1])
            larger[: len(self.values)] = self.values
            self.values, self._place = larger, address(larger)


@dataclass(frozen=True, eq=False)
class NativeSearch:
    """A model and a tree, ready to search; safe to share between threads."""

    model: PackedModel
    trie: Trie
    packed_trie: PackedTrie
    kernel: Kernel
    path: str
    """One of `paths.PATHS`."""
    workspaces: Workspaces
    place: tuple[int, int, int]
    """Number of the path, addresses of the structs of model and tree."""

    @classmethod
    def build(
        cls, weights: ItemWiseWeights, trie: Trie, *, path: str | None = None, precision: Precision = "fp32"
    ) -> "NativeSearch":
        """path: as in `paths.native_status`.

        Raises:
            ConfigError: no kernel runs here.
            ArtifactError: the tree is of other codes than the weights, or the weights do not fit together.
        """
        kernel, taken = open_kernel(path)
        trie = trie.to("cpu")
        check_codes_match(kernel, trie, weights.codes.matrix, weights.codes.codebook_sizes)
        tree = trie if trie.num_items == weights.codes.num_items else Trie.build(weights.codes)
        model, packed_trie = pack(weights, tree, precision=precision), pack_trie(kernel, trie, tree)
        return cls(
            model=model,
            trie=trie,
            packed_trie=packed_trie,
            kernel=kernel,
            path=taken,
            workspaces=Workspaces(kernel),
            place=(PATHS.index(taken), addressof(model.struct), addressof(packed_trie.struct)),
        )

    def with_trie(self, trie: Trie) -> "NativeSearch":
        """The same model over another tree of its items; kept histories go on.

        Raises:
            ArtifactError: the tree is of other codes than the model.
        """
        trie, tree = trie.to("cpu"), self.model.tree
        check_codes_match(self.kernel, trie, self.model.code_matrix, tree.codebook_sizes)
        packed_trie = pack_trie(self.kernel, trie, tree)
        place = (*self.place[:2], addressof(packed_trie.struct))
        return replace(self, trie=trie, packed_trie=packed_trie, place=place)

    @property
    def nbytes(self) -> int:
        """Bytes of weights, item codes and trees, and of the room that this thread works in."""
        shared = {**self.model.owner.arrays, **self.packed_trie.owner.arrays}
        return sum(array.nbytes for array in shared.values()) + self.workspaces.nbytes

    def search(
        self,
        batch: HistoryBatch,
        *,
        width: int,
        k: int,
        seen: Seen = None,
        allowed: Allowed = None,
        first_width: int = 0,
    ) -> Found:
        """What `decode.beam.search` finds for "history" and "lengths" of `batch`.

        Raises:
            DataError: shapes do not belong together, or an item is not of the catalogue.
            ConfigError: a history is longer than the model reads.
            ArtifactError: a score is not a number.
        """
        return self._search(_reading(batch), width=width, k=k, seen=seen, allowed=allowed, first_width=first_width)

    def encode(self, batch: HistoryBatch) -> list[HistoryState]:
        """Read the histories of `batch`, to be kept per user.  Raises as `search` does."""
        reading = _reading(batch)
        assert reading.items is not None and reading.counts is not None, "histories have items"
        states = [HistoryState(self.model) for _ in range(reading.rows)]
        for state, row, count in zip(states, reading.items.tolist(), reading.counts.tolist(), strict=True):
            state.items = row[: max(0, count)]
            state.reserve(len(state.items))
        self._run(replace(reading, states=_told(states, [0] * len(states))))
        return states

    def extend(self, states: Sequence[HistoryState], items: AnyArray) -> None:
        """Put one item behind each history; items: (N,) indices.

        Raises:
            DataError: there is not one item per history, or one is not of the catalogue; no history changes then.
        """
        if items.shape != (len(states),):
            raise DataError(
                f"the items have shape {items.shape}, for {len(states)} histories", fix="give one item per history"
            )
        longest = self.model.struct.max_history
        windows = [[*state.items, item][-longest:] for state, item in zip(states, items.tolist(), strict=True)]
        # In a window that moves, every item gets another position.
        pasts = [state.positions % longest for state in states]
        new = [window[past:] for window, past in zip(windows, pasts, strict=True)]
        for state, window in zip(states, windows, strict=True):
            state.reserve(len(window))
        self._run(Reading.of_rows(new, states=_told(states, pasts)))
        for state, window in zip(states, windows, strict=True):
            state.items = window

    def search_states(
        self,
        states: Sequence[HistoryState],
        *,
        width: int,
        k: int,
        seen: Seen = None,
        allowed: Allowed = None,
        first_width: int = 0,
    ) -> Found:
        """What `search` finds for histories that are kept.  Raises as it does."""
        reading = Reading(rows=len(states), states=_told(states, [state.positions for state in states]))
        return self._search(reading, width=width, k=k, seen=seen, allowed=allowed, first_width=first_width)

    def count_work(self, batch: HistoryBatch, *, width: int) -> Int64Array:
        """(L, 2) how many queries each level asked, and how many children it compared with them, in one search."""
        work = np.zeros((self.trie.num_levels, 2), np.int64)
        self._search(_reading(batch), width=width, k=1, work=work)
        return work

    def _search(
        self,
        reading: Reading,
        *,
        width: int,
        k: int,
        seen: Seen = None,
        allowed: Allowed = None,
        first_width: int = 0,
        work: Int64Array | None = None,
    ) -> Found:
        assert width >= 1 and k >= 1, "a search keeps and lists at least one"
        rows, closing = reading.rows, OPEN
        if seen is not None or allowed is not None:
            closing = Closing.build(seen, allowed, trie=self.trie, rows=rows)
        items, scores = np.empty((rows, k), np.int64), np.empty((rows, k), np.float32)
        tied, eligible = np.empty(rows, np.int64), None if allowed is None else np.empty(rows, np.int64)
        closed = (closing.seen, closing.words, closing.ranks)
        # No level has more hypotheses than the tree has items.
        sizes = (min(width, self.trie.num_items), min(first_width, self.trie.num_items), k)
        self._run(reading, sizes=sizes, closed=closed, answers=(items, scores, tied, eligible, work))
        return Found(
            items=torch.from_numpy(items),
            scores=torch.from_numpy(scores),
            tied_beyond=torch.from_numpy(tied),
            eligible=None if eligible is None else torch.from_numpy(eligible),
        )

    def _run(
        self,
        reading: Reading,
        *,
        sizes: tuple[int, int, int] = (0, 0, 0),
        closed: Sequence[AnyArray | None] = (None,) * 3,
        answers: Sequence[AnyArray | None] = (None,) * 5,
    ) -> None:
        """sizes: width, first_width and k, which is 0 to read only; closed, answers: as `run` of `module.cpp` does."""
        answer = self.kernel.run(
            *self.place,
            self.workspaces.here(),
            reading.rows,
            *sizes,
            reading.items,
            reading.counts,
            reading.states,
            *closed,
            *answers,
        )
        if answer is not None:
            model, num_known = self.model.struct, len(self.trie.positions)
            raise fault(answer, num_items=model.num_items, num_known=num_known, max_history=model.max_history)
        self.workspaces.shrink()


def _reading(batch: HistoryBatch) -> Reading:
    return Reading.of_histories(batch["history"], batch["lengths"])


def _told(states: Sequence[HistoryState], pasts: Sequence[int]) -> Int64Array:
    told = [state.told(past) for state, past in zip(states, pasts, strict=True)]
    return np.array(told, np.int64).reshape(-1, 3)
