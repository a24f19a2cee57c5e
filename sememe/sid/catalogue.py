"""A catalogue that lives: items come, go and change, and nobody else's code does.

A fitted tokenizer codes what comes; nothing is fitted again.  An item keeps its row for ever, so that item tables of
models, histories and logs go on meaning what they meant: an item that was removed is no longer offered, and its row and
code can still be read.  Its code is retired: it is not given to another item, which would then be taken for it in
histories, in logs and by a model that was trained on it.

    catalogue = LiveCatalogue.start(codes, item_ids=ids, tokenizer=tokenizer, vectors=vectors)
    newer = catalogue.add(["b7", "b8"], vectors=new_vectors).remove(["a3"])
    change = newer.changes_since(catalogue)
    trie = edit_trie(trie, newer.codes, gone=change.gone, come=change.come)

Every change gives a new catalogue and leaves the old one as it was; one that fails gives none.

Vectors are kept of what came or was updated since the fit; those of the fit belong to whoever fitted.

Shape legend: I rows, F of them of the fit, S with a code since then, n items of a call, dim the width of vectors, D
levels of the tokenizer, L levels in all, R retired codes.
"""

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from sememe.core.errors import DataError
from sememe.core.schema import BoolArray, Codes, FloatArray, Int32Array, Int64Array
from sememe.sid.collisions import tuple_groups
from sememe.sid.fitted import FittedTokenizer
from sememe.sid.item_ids import ItemIds, id_series
from sememe.sid.place import Arrivals, is_among, joint_keys, place
from sememe.sid.rqkmeans import check_vectors

Number = TypeVar("Number", bound=np.generic)
BLOCK_ROWS = 65_536
"""Vectors that are coded or reconstructed at once."""


@dataclass(frozen=True, eq=False)
class Changes:
    """What a search has to learn to follow a catalogue; an item with a new code is in both."""

    gone: Int64Array
    """Rows, rising, that are no longer offered under the code they had."""
    come: Int64Array
    """Rows, rising, that are offered under a code they did not have."""


@dataclass(frozen=True)
class FreshItems:
    """What items look like that come right after a fit, of the same kind as those that it saw: a tokenizer serves
    what it was fitted on better than what comes, so that this and not the fit is what later items are held against."""

    error_ratio: float
    """Their mean squared error over that of the fitted items."""
    collision_share: float | None
    """Share of them whose tuple was another item's; None where a rule deals out last codes."""
    divergences: tuple[float, ...]
    """Per level, how far their use of codes is from that of the fitted items, in bits beyond the noise."""


@dataclass(frozen=True, eq=False)
class LiveCatalogue:
    """Codes of all items that are or were offered, and what gives codes to those that come."""

    codes: Codes
    """(I, L) the code of each row; of a removed item, the last one that it had."""
    said: Int32Array
    """(I, D) what the tokenizer's `encode` said of the row's vector when it got its code.  Where codes were dealt out
    to a catalogue as a whole, the code may be another one, and only this tells whether the content moved."""
    item_ids: pl.Series
    """(I,) Int64 or String, all different."""
    tokenizer: FittedTokenizer
    live: BoolArray
    """(I,) whether the item is offered."""
    retired: Int32Array
    """(R, L) codes that nobody has and nobody is given."""
    errors: FloatArray
    """(I,) squared distance of the item's vector from what its code stands for."""
    since_fit: BoolArray
    """(I,) whether the row's code was given to it later than the fit."""
    since_vectors: FloatArray
    """(S, dim) vectors of the rows of `since_fit`, in the order of the rows."""
    spread: float
    """Mean squared distance of the fitted vectors from their mean."""
    fresh: FreshItems | None = None
    """What `sememe.sid.drift` holds later items against; None where it was not measured."""

    @classmethod
    def start(
        cls,
        codes: Codes,
        *,
        item_ids: ItemIds,
        tokenizer: FittedTokenizer,
        vectors: FloatArray,
        fresh: FreshItems | None = None,
    ) -> "LiveCatalogue":
        """The catalogue that a tokenizer was fitted on.

        Args:
            codes: (I, L), settled by a collision rule.
            item_ids: (I,) all different.
            tokenizer: what `settle_catalog` gave beside the codes.
            vectors: (I, dim) of the items.
            fresh: what `measure_fresh` of `sememe.sid.drift` found, so that drift can be told from the usual.

        Raises:
            DataError: numbers of rows differ, an id is there twice, codes do not fit the tokenizer, or two items share
                a code though they are not left tied.
        """
        ids = id_series(item_ids)
        check_vectors(vectors)
        if not len(ids) == len(vectors) == codes.num_items:
            raise DataError(
                f"{len(ids)} item ids, {len(vectors)} vectors and {codes.num_items} codes are no catalogue",
                fix="give one id, one vector and one code per item, in the same order",
            )
        _check_codes(codes, tokenizer)
        said = _said(tokenizer, vectors)
        rows = len(ids)
        return cls(
            codes=codes,
            said=said,
            item_ids=ids,
            tokenizer=tokenizer,
            live=np.ones(rows, np.bool_),
            retired=np.empty((0, codes.num_levels), np.int32),
            errors=_errors(tokenizer, vectors, codes.matrix),
            since_fit=np.zeros(rows, np.bool_),
            since_vectors=np.empty((0, vectors.shape[1]), np.float32),
            spread=_spread(vectors),
            fresh=fresh,
        )

    @property
    def num_live(self) -> int:
        """Items that are offered."""
        return int(self.live.sum())

    def rows(self, item_ids: ItemIds) -> Int64Array:
        """(n,) rows of items, offered or removed.  Raises DataError for an id that never was there."""
        ids = id_series(item_ids, like=self.item_ids)
        rows = self._lookup(ids)
        if (rows < 0).any():
            raise self._unknown(ids[int((rows < 0).argmax())])
        return rows

    def vectors(self, fitted: FloatArray) -> FloatArray:
        """float32 (I, dim) of all rows, offered or not, given those of the fit (F, dim), in the order of their rows.

        Raises DataError where `fitted` are not those.
        """
        rows = len(fitted)
        if rows > len(self.live) or not self.since_fit[rows:].all() or fitted.shape[1:] != self.since_vectors.shape[1:]:
            raise DataError(
                f"vectors of shape {fitted.shape} are not those that the catalogue was started with: of its "
                f"{len(self.live)} rows {int((~self.since_fit).sum())} have the code of the fit, and its vectors are "
                f"{self.since_vectors.shape[1]} wide",
                fix="give the vectors that were given to LiveCatalogue.start()",
            )
        every = np.empty((len(self.live), fitted.shape[1]), np.float32)
        every[:rows] = fitted
        every[self.since_fit] = self.since_vectors
        return every

    def add(self, item_ids: ItemIds, *, vectors: FloatArray) -> "LiveCatalogue":
        """With these items too; one that was removed comes back to its row, with its old code where that still fits.

        Raises:
            DataError: ids are repeated or there already, vectors cannot be coded, or a tuple has no code left.
        """
        ids = id_series(item_ids, like=self.item_ids)
        rows = self._lookup(ids)
        again = np.flatnonzero((rows >= 0) & self.live[rows])
        if len(again):
            raise DataError(
                f"item {ids[int(again[0])]!r} is in the catalogue already ({len(again)} of {len(ids)} are)",
                fix="leave it out, or give it a code for its new vector with update()",
            )
        fresh = rows < 0
        grown = self._grown(ids.filter(pl.Series(fresh)))
        rows[fresh] = np.arange(len(self.live), len(self.live) + int(fresh.sum()))
        return grown._coded(rows, vectors, own=grown._old_codes(rows), retire=False)

    def remove(self, item_ids: ItemIds, *, retire: bool = True) -> "LiveCatalogue":
        """Without offering these items; their rows and codes can still be read.

        retire: whether their codes are kept from others.

        Raises:
            DataError: an id is unknown, repeated or removed already, or no item would be left.
        """
        rows = self._live_rows(item_ids)
        if len(rows) == self.num_live:
            raise DataError("no item would be left in the catalogue", fix="add the new items before")
        live = self.live.copy()
        live[rows] = False
        return replace(self, live=live, retired=self._retired_with(self.codes.matrix[rows], retire=retire))

    def update(self, item_ids: ItemIds, *, vectors: FloatArray, retire: bool = True) -> "LiveCatalogue":
        """With codes for new vectors of items that are offered; an item keeps its code where the tokenizer says the
        same of its new vector as of the one before.

        retire: whether codes that an item loses are kept from others.

        Raises:
            DataError: an id is unknown, repeated or removed, vectors cannot be coded, or a tuple has no code left.
        """
        rows = self._live_rows(item_ids)
        return self._coded(rows, vectors, own=self.codes.matrix[rows], retire=retire)

    def release(self) -> "LiveCatalogue":
        """With all retired codes free again: for when no model, log or history in use refers to them."""
        return replace(self, retired=self.retired[:0])

    def changes_since(self, older: "LiveCatalogue") -> Changes:
        """From `older`, which this catalogue came from by additions, removals and updates.

        Raises DataError where it did not.
        """
        known = len(older.item_ids)
        sizes = (self.codes.codebook_sizes, older.codes.codebook_sizes)
        if known > len(self.item_ids) or sizes[0] != sizes[1] or not self.item_ids[:known].equals(older.item_ids):
            raise DataError(
                "the two catalogues do not come from one another: their rows or codebooks differ",
                fix="build what follows the catalogue anew, e.g. Trie.build(catalogue.codes, offered=catalogue.live)",
            )
        kept = np.zeros(len(self.live), np.bool_)
        kept[:known] = older.live & (self.codes.matrix[:known] == older.codes.matrix).all(axis=1)
        gone = older.live & ~(self.live & kept)[:known]
        return Changes(gone=np.flatnonzero(gone), come=np.flatnonzero(self.live & ~kept))

    def _coded(self, rows: Int64Array, vectors: FloatArray, *, own: Int32Array, retire: bool) -> "LiveCatalogue":
        """`rows` (n,) offered, with codes for `vectors` (n, dim); `own` (n, L) is what each may keep."""
        if len(rows) != len(vectors):
            raise DataError(
                f"{len(rows)} item ids for {len(vectors)} vectors", fix="give one vector per id, in the same order"
            )
        said = self.tokenizer.encode(vectors)
        same = (own[:, 0] >= 0) & (said == self.said[rows]).all(axis=1)
        semantic = np.where(same[:, None], own[:, : said.shape[1]], said)
        arrivals = Arrivals(vectors=vectors, semantic=semantic, own=own)
        others = self.live.copy()
        others[rows] = False
        mine = own[arrivals.has_own]
        taken = np.concatenate([self.codes.matrix[others], self._without(self.retired, mine)])
        placed = place(arrivals, taken=taken, codes=self.codes, tokenizer=self.tokenizer)
        left = self.codes.matrix[rows][self.live[rows] & (self.codes.matrix[rows] != placed).any(axis=1)]
        newer = replace(
            self._noted(rows, vectors),
            codes=replace(self.codes, matrix=_with(self.codes.matrix, rows, placed)),
            said=_with(self.said, rows, said),
            live=_with(self.live, rows, True),
            errors=_with(self.errors, rows, _errors(self.tokenizer, vectors, placed)),
        )
        return replace(newer, retired=self._without(self._retired_with(left, retire=retire), placed))

    def _noted(self, rows: Int64Array, vectors: FloatArray) -> "LiveCatalogue":
        """With `vectors` (n, dim) as those of `rows` (n,), which have a code since the fit now."""
        since_fit = _with(self.since_fit, rows, True)
        place = np.cumsum(since_fit) - 1
        kept = np.empty((int(since_fit.sum()), vectors.shape[1]), np.float32)
        kept[place[self.since_fit]] = self.since_vectors
        kept[place[rows]] = vectors
        return replace(self, since_fit=since_fit, since_vectors=kept)

    def _grown(self, ids: pl.Series) -> "LiveCatalogue":
        """With rows for `ids`, which are not offered and have no code and no vector yet."""
        more = len(ids)
        blank = np.full((more, self.codes.num_levels), -1, np.int32)
        return replace(
            self,
            codes=replace(self.codes, matrix=np.concatenate([self.codes.matrix, blank])),
            said=np.concatenate([self.said, blank[:, : self.said.shape[1]]]),
            item_ids=pl.concat([self.item_ids, ids]),
            live=np.concatenate([self.live, np.zeros(more, np.bool_)]),
            errors=np.concatenate([self.errors, np.zeros(more, np.float32)]),
            since_fit=np.concatenate([self.since_fit, np.zeros(more, np.bool_)]),
        )

    def _old_codes(self, rows: Int64Array) -> Int32Array:
        """(n, L) the codes that `rows`, which are not offered, had, -1 where another item has it now or it never had
        one; codes that are left tied may be had by many."""
        own = self.codes.matrix[rows].copy()
        had = np.flatnonzero(own[:, 0] >= 0)
        if len(had) == 0 or self.codes.collisions == "tied":
            return own
        mine, others = joint_keys([own[had], self.codes.matrix[self.live]], self.codes.codebook_sizes)
        _, first = np.unique(mine, return_index=True)
        own[np.setdiff1d(had, had[first])] = -1
        own[had[is_among(mine, others)]] = -1
        return own

    def _retired_with(self, more: Int32Array, *, retire: bool) -> Int32Array:
        if not retire or self.codes.collisions == "tied":
            return self.retired
        return np.unique(np.concatenate([self.retired, more]), axis=0)

    def _without(self, codes: Int32Array, gone: Int32Array) -> Int32Array:
        keys, others = joint_keys([codes, gone], self.codes.codebook_sizes)
        return codes[~is_among(keys, others)]

    def _lookup(self, ids: pl.Series) -> Int64Array:
        """(n,) the row of each id, -1 where there is none."""
        repeated = ids.filter(ids.is_duplicated())
        if len(repeated):
            raise DataError(f"item id {repeated[0]!r} is given more than once", fix="give each item once")
        # Few ids are asked for: a join with the whole catalogue would hash it anew each time.
        hits = self.item_ids.is_in(ids.implode()).arg_true()
        known = pl.DataFrame({"id": self.item_ids.gather(hits), "row": hits.cast(pl.Int64)})
        found = pl.DataFrame({"id": ids}).join(known, on="id", how="left", maintain_order="left")
        return found["row"].fill_null(-1).to_numpy().copy()

    def _live_rows(self, item_ids: ItemIds) -> Int64Array:
        ids = id_series(item_ids, like=self.item_ids)
        rows = self._lookup(ids)
        missing = np.flatnonzero((rows < 0) | ~self.live[rows])
        if not len(missing):
            return rows
        wanted, row = ids[int(missing[0])], rows[missing[0]]
        if row < 0:
            raise self._unknown(wanted)
        raise DataError(f"item {wanted!r} was removed from the catalogue", fix="bring it back with add()")

    def _unknown(self, wanted: object) -> DataError:
        return DataError(
            f"there is no item {wanted!r} in the catalogue",
            fix=f"add it first; ids of this catalogue look like {self.item_ids[:3].to_list()}",
        )


def _check_codes(codes: Codes, tokenizer: FittedTokenizer) -> None:
    sizes = tokenizer.codebook_sizes
    numbered = codes.num_levels == len(sizes) + 1 and codes.collisions != "tied"
    if codes.codebook_sizes[: len(sizes)] != sizes or not (codes.num_levels == len(sizes) or numbered):
        raise DataError(
            f"codes of sizes {codes.codebook_sizes} do not come from a tokenizer with sizes {sizes}",
            fix="give the tokenizer that settle_catalog gave beside the codes",
        )
    if codes.collisions != "tied":
        groups = tuple_groups(codes.matrix, codes.codebook_sizes)
        shared = np.bincount(groups)[groups] > 1
        if shared.any():
            raise DataError(
                f"{int(shared.sum())} items share their code with another, first item index {int(shared.argmax())}",
                fix="settle the codes with a collision rule first; KeepTied() leaves items tied",
            )


def _with(before: npt.NDArray[Number], rows: Int64Array, values: Any) -> npt.NDArray[Number]:
    after = before.copy()
    after[rows] = values
    return after


def _said(tokenizer: FittedTokenizer, vectors: FloatArray) -> Int32Array:
    """(n, D) what `encode` says of each vector.  Raises DataError for vectors of another width."""
    blocks = range(0, len(vectors), BLOCK_ROWS)
    return np.concatenate([tokenizer.encode(vectors[start : start + BLOCK_ROWS]) for start in blocks])


def _spread(vectors: FloatArray) -> float:
    """Mean squared distance from the mean."""
    size = float(np.einsum("nd,nd->", vectors, vectors, dtype=np.float64)) / len(vectors)
    return max(size - float(np.square(vectors.mean(axis=0, dtype=np.float64)).sum()), 0.0)


def _errors(tokenizer: FittedTokenizer, vectors: FloatArray, codes: Int32Array) -> FloatArray:
    """(n,) squared distances of `vectors` from what the tokenizer's part of `codes` (n, L) stands for."""
    depth = len(tokenizer.codebook_sizes)
    blocks = [slice(start, start + BLOCK_ROWS) for start in range(0, len(vectors), BLOCK_ROWS)]
    errors = [np.square(vectors[rows] - tokenizer.reconstruct(codes[rows, :depth])).sum(axis=1) for rows in blocks]
    return np.concatenate([np.empty(0, np.float32), *errors]).astype(np.float32)
