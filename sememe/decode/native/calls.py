"""What goes into a call of the kernel and comes out of it: arrays with their shapes, room to work in, errors.

Shape legend: N rows, T items of a history, S seen items of a row.
"""

import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sememe.core.errors import ArtifactError, ConfigError, DataError
from sememe.core.schema import Int32Array, Int64Array
from sememe.decode.allowed import Allowed
from sememe.decode.item_set import ItemSet
from sememe.decode.native.paths import Kernel
from sememe.decode.native.structs import address
from sememe.decode.protocol import Seen
from sememe.decode.trie import Trie

_, BAD_ITEM, TOO_LONG, NOT_A_NUMBER, BAD_SEEN, BAD_LENGTH, NO_MEMORY = range(7)
"""As in `kernel.h`."""

MOST_KEPT = 64 * 2**20
"""Bytes of a workspace that a thread keeps between requests; 64 requests of 20 items at beam 50 need 2 MiB."""

LOOK_UP = "look ids up in the run's item_ids first"

AddressArray = np.ndarray[tuple[int], np.dtype[np.uint64]]


class Workspaces:
    """The kernel's working memory, one piece per thread; a thread's is given back when it ends."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._local = threading.local()

    def here(self) -> int:
        """Where this thread's is."""
        mine: _Workspace | None = getattr(self._local, "mine", None)
        if mine is None:
            mine = self._local.mine = _Workspace(self._kernel)
        return mine.place

    @property
    def nbytes(self) -> int:
        """Bytes of this thread's."""
        return self._kernel.workspace_bytes(self.here())

    def shrink(self) -> None:
        """Give this thread's back where one large request has made it larger than others need."""
        if self.nbytes > MOST_KEPT:
            self._local.mine = None


class _Workspace:
    def __init__(self, kernel: Kernel) -> None:
        self.place = kernel.new_workspace()
        # At the end of the process a thread may still be searching in it; the system takes it back then.
        weakref.finalize(self, kernel.free_workspace, self.place).atexit = False


def to_int32(items: object, *, what: str) -> Int32Array:
    """Item numbers in the kernel's type.  Raises DataError for one that it has no room for."""
    given = np.asarray(items)
    if given.dtype.itemsize > 4 and given.size:
        least, most = int(given.min()), int(given.max())
        if least < -(2**31) or most >= 2**31:
            worst = least if least < -(2**31) else most
            raise DataError(f"a {what} names item {worst}, which no catalogue has", fix=LOOK_UP)
    return np.ascontiguousarray(given, np.int32)


@dataclass(frozen=True, eq=False)
class Reading:
    """What rows read, and the states that they read behind; each array may be None."""

    rows: int
    """N"""
    items: Int32Array | None = None
    """(N, T)"""
    counts: Int64Array | None = None
    """(N,) items at the start of each row of `items`."""
    states: Int64Array | None = None
    """(N, 3) of each state: where its keys and values are, how many positions they have, where its hidden vector is."""

    @classmethod
    def of_histories(cls, history: object, lengths: object) -> "Reading":
        """Rows of their own: history (N, T) and lengths (N,), arrays or tensors.

        Raises DataError where the shapes do not belong together.
        """
        items, counts = to_int32(history, what="history"), np.ascontiguousarray(lengths, np.int64)
        if items.ndim != 2 or counts.shape != items.shape[:1]:
            raise DataError(
                f"the histories have shape {items.shape} and their lengths {counts.shape}, not (N, T) and (N,)",
                fix="give one row of items and one length per request",
            )
        return cls(rows=len(counts), items=items, counts=counts)

    @classmethod
    def of_rows(cls, rows: Sequence[list[int]], *, states: Int64Array) -> "Reading":
        """Rows of any length, at least one item each, behind states."""
        lengths = [len(row) for row in rows]
        longest = max(lengths, default=1)
        items = to_int32(np.array([row + [0] * (longest - len(row)) for row in rows]), what="history")
        items = items.reshape(-1, longest)
        return cls(rows=len(rows), items=items, counts=np.array(lengths, np.int64), states=states)


@dataclass(frozen=True, eq=False)
class Closing:
    """What rows must not get."""

    seen: Int32Array | None
    """(N, S)"""
    words: AddressArray | None
    """(N,) where the words of each row's set are."""
    ranks: AddressArray | None
    """(N,) where its ranks are."""
    sets: Sequence[ItemSet]
    """The sets, which have to live as long as this."""

    @classmethod
    def build(cls, seen: Seen, allowed: Allowed, *, trie: Trie, rows: int) -> "Closing":
        """Raises DataError where there is not one row or one set for each, or a set is of another tree."""
        items = None if seen is None else to_int32(torch.as_tensor(seen).cpu(), what="list of seen items")
        if items is not None and (items.ndim != 2 or len(items) != rows):
            raise DataError(f"the seen items have shape {items.shape}, for {rows} rows", fix="give one row per request")
        if allowed is None:
            return cls(seen=items, words=None, ranks=None, sets=())
        sets = _sets_of_rows(allowed, rows, trie)
        words = np.array([address(item_set.words) for item_set in sets], np.uint64)
        ranks = np.array([address(item_set.ranks) for item_set in sets], np.uint64)
        return cls(seen=items, words=words, ranks=ranks, sets=sets)


OPEN = Closing(seen=None, words=None, ranks=None, sets=())


def _sets_of_rows(allowed: Allowed, rows: int, trie: Trie) -> Sequence[ItemSet]:
    assert allowed is not None, "asked for only where there are rules"
    if isinstance(allowed, ItemSet):
        allowed.check(trie)
        return [allowed] * rows
    numbers = allowed.set_of_row
    if numbers.shape != (rows,) or bool(((numbers < 0) | (numbers >= len(allowed.sets))).any()):
        raise DataError(
            f"set_of_row has shape {numbers.shape} and numbers that should be in 0..{len(allowed.sets) - 1}, "
            f"for a batch of {rows} rows",
            fix="give the number of a set for each row",
        )
    for number in np.unique(numbers).tolist():
        allowed.sets[number].check(trie)
    return [allowed.sets[number] for number in numbers.tolist()]


def fault(answer: tuple[int, int, int], *, num_items: int, num_known: int, max_history: int) -> Exception:
    """The error that an answer of the kernel, (kind, row, value), stands for.

    num_items: those that the model reads; num_known: those that the tree knows of.
    """
    kind, row, value = answer
    if kind == NO_MEMORY:
        return MemoryError("no room for the kernel's workspace")
    if kind == NOT_A_NUMBER:
        return ArtifactError(
            "the model gave a score that is not a number, so nothing can be ranked",
            fix="its weights are not finite: go back to an earlier checkpoint, or train with a lower learning rate",
        )
    if kind == TOO_LONG:
        return ConfigError(
            f"a history of {value} items is longer than max_history = {max_history} of the model",
            fix="give model and batches the same max_history",
        )
    if kind == BAD_LENGTH:
        return DataError(
            f"the history of row {row} has length {value}, and its row has other room",
            fix="a length is the number of items at the start of its row",
        )
    assert kind in (BAD_ITEM, BAD_SEEN), "there are no other answers"
    told = "history" if kind == BAD_ITEM else "list of seen items"
    return DataError(
        f"the {told} of row {row} names item {value}, outside 0..{(num_items if kind == BAD_ITEM else num_known) - 1}",
        fix=LOOK_UP,
    )
