"""The nouns that every part of Sememe speaks: Interactions, Catalog, Codes, Batch, Ranked.

Inside, users and items are row numbers ("indices", 0-based int32); the ids that people use live in `user_ids` and
`item_ids` and are looked up only at the edges.  Everything here is numpy and polars; no torch.

Shape legend: U users, I items, E events, L code levels, N rows of a request, K recommendations per row.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import polars as pl

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

Batch = Mapping[str, npt.NDArray[np.generic]]
"""Named arrays for one step; the first axis of each is the row.  PAD fills item positions that hold nothing."""

PAD = -1


@dataclass(frozen=True, eq=False)
class Interactions:
    """Who did what, when: events grouped by user and ordered in time, stored as one flat array per column (CSR).

    Events of user u are the slice `offsets[u]:offsets[u + 1]` of every column.
    """

    offsets: Int64Array
    """(U + 1,), first 0, last E."""
    items: Int32Array
    """(E,), each in 0..I-1; may be a read-only memory map."""
    user_ids: pl.Series
    """(U,), Int64 or String: the id of each user index."""
    item_ids: pl.Series
    """(I,), Int64 or String: the id of each item index, aligned with the rows of the Catalog."""
    timestamps: Int64Array | None = None
    """(E,), milliseconds since 1970 UTC; None where the data has no time."""
    columns: Mapping[str, npt.NDArray[np.generic]] = field(default_factory=dict)
    """Optional per-event arrays, (E,) each: rating, session (int64 number), event_type, and those of
    `sememe.data.feedback_columns`."""

    @property
    def num_users(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_items(self) -> int:
        return len(self.item_ids)

    @property
    def num_events(self) -> int:
        return len(self.items)

    def lengths(self) -> Int64Array:
        """(U,) number of events of each user."""
        return np.diff(self.offsets)

    def users(self) -> Int32Array:
        """(E,) user index of each event."""
        return np.repeat(np.arange(self.num_users, dtype=np.int32), self.lengths())

    def history(self, user: int) -> Int32Array:
        """(events of the user,) item indices in time order."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def prefix(self, ends: Int64Array) -> "Interactions":
        """Keep the first `ends[u]` events of every user u; ids, indices and U stay as they are.

        ends: (U,) with 0 <= ends[u] <= number of events of u.
        """
        lengths = self.lengths()
        assert ends.shape == lengths.shape, "one end per user"
        assert bool(np.all((ends >= 0) & (ends <= lengths))), "an end lies outside the user's history"
        position = np.arange(self.num_events, dtype=np.int64) - np.repeat(self.offsets[:-1], lengths)
        keep = position < np.repeat(ends, lengths)
        return replace(
            self,
            offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(ends, dtype=np.int64)]),
            items=self.items[keep],
            timestamps=None if self.timestamps is None else self.timestamps[keep],
            columns={name: values[keep] for name, values in self.columns.items()},
        )

    def without_items(self, items: Int32Array) -> "Interactions":
        """All events but those of `items` (n,); users and items keep their indices."""
        gone = np.zeros(self.num_items, np.bool_)
        gone[items] = True
        keep = ~gone[self.items]
        left_before = np.concatenate([np.zeros(1, np.int64), np.cumsum(keep, dtype=np.int64)])
        return replace(
            self,
            offsets=left_before[self.offsets],
            items=self.items[keep],
            timestamps=None if self.timestamps is None else self.timestamps[keep],
            columns={name: values[keep] for name, values in self.columns.items()},
        )


@dataclass(frozen=True, eq=False)
class Catalog:
    """Items and their features.  Row i describes item index i."""

    frame: pl.DataFrame
    """One row per item: `item_id`, and whatever is known: title, categories (String or list), brand, price, ..."""
    vectors: FloatArray | None = None
    """(I, dim) vectors that the user brought, or None."""

    @property
    def num_items(self) -> int:
        return self.frame.height

    def title(self, item: int) -> str:
        """What to print for an item: its title, or its id where it has none."""
        if "title" in self.frame.columns:
            title = self.frame["title"][int(item)]
            if title:
                return str(title)
        return str(self.frame["item_id"][int(item)])


@dataclass(frozen=True, eq=False)
class Codes:
    """Semantic IDs: one tuple of discrete codes per item."""

    matrix: Int32Array
    """(I, L), column l in 0..codebook_sizes[l]-1."""
    codebook_sizes: tuple[int, ...]
    """(L,)"""
    num_semantic_levels: int
    """Levels that come from content; the levels after them only tell colliding items apart."""
    collisions: str = "tied"
    """How items with equal semantic codes are treated: "token" (an extra level numbers them), "tied", "reassigned"
    (they get other last codes) or "extra" (a further residual level, and numbers where that is not enough)."""

    @property
    def num_items(self) -> int:
        return len(self.matrix)

    @property
    def num_levels(self) -> int:
        return int(self.matrix.shape[1])


@dataclass(frozen=True, eq=False)
class Ranked:
    """Recommendations: for each of N rows, up to K items, best first.

    Equal scores are ties.  Metrics count a tie as the average over its orders, so `tied_beyond` says how many items
    that are not in the list have exactly the score of its last entry.
    """

    items: Int32Array
    """(N, K) item indices; PAD after the last one."""
    scores: FloatArray
    """(N, K), not increasing along a row; -inf where `items` is PAD."""
    source: str
    """Where the scores came from, e.g. "beam:code_log_prob" or "exact:dot"."""
    tied_beyond: Int64Array | None = None
    """(N,), None where nothing outside the lists can tie."""
    eligible: Int64Array | None = None
    """(N,) how many items the row could have got: those that its rules allow and that it has not seen; None where there
    were no rules.  A list that is shorter than was asked for, and holds as many, lacks nothing."""

    def to_frame(self, users: pl.Series, item_ids: pl.Series) -> pl.DataFrame:
        """(user, item, score, rank, source) rows with the ids people use; rank counts from 1."""
        rows, width = self.items.shape
        frame = pl.DataFrame(
            {
                "row": np.repeat(np.arange(rows), width),
                "item_index": self.items.ravel(),
                "score": self.scores.ravel(),
                "rank": np.tile(np.arange(1, width + 1), rows),
            }
        ).filter(pl.col("item_index") != PAD)
        return frame.select(
            user=users.gather(frame["row"]),
            item=item_ids.gather(frame["item_index"]),
            score=pl.col("score"),
            rank=pl.col("rank"),
            source=pl.lit(self.source),
        )


@dataclass(frozen=True, eq=False)
class ModelInputs:
    """What a model may know when it is built; a model asks for what it needs and refuses what is missing."""

    num_users: int
    num_items: int
    codes: Codes | None = None
    item_vectors: FloatArray | None = None
    """(I, dim)"""
    train_counts: Int64Array | None = None
    """(I,) training events of each item."""
    num_actions: int = 0
    """Values of the event input "action", the unknown one among them; 0 where the data has no event types."""
    num_gaps: int = 0
    """Values of the event input "gap", the unknown one among them; 0 where the data has no times."""
