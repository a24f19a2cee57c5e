"""New codes called by old names after a tokenizer was fitted again.

A fit numbers its codes by chance, so that two fits that cut the items alike agree on no number.  Level by level, each
new code takes the number of the old code with which it shares most items (an assignment problem).  From the second
level on, items whose first codes agree already count before all others: a code means most below the prefix that it
refines, while it is one code of the level everywhere, so that the tokenizer can be renamed with the items.

Shape legend: n items, D levels of the tokenizer, K codes of a level, dim the width of vectors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from sememe.core.errors import DataError
from sememe.core.schema import FloatArray, Int32Array, Int64Array
from sememe.sid.catalogue import LiveCatalogue
from sememe.sid.fitted import FittedTokenizer, pack_tokenizer, unpack_tokenizer
from sememe.sid.place import is_among, joint_keys, smallest_free

MOST_CODES = 8192
"""Codes of a level; the table of overlaps has that many rows and columns (512 MiB of float64)."""
BASE = "base."


@dataclass(frozen=True)
class CodeChanges:
    """What a new fit changed for items that both catalogues offer."""

    items: int
    codes: tuple[float, ...]
    """(D,) share of the items whose code of this level is another one."""
    prefixes: tuple[float, ...]
    """(D,) share of the items whose codes up to this level are not all the same."""
    ids: float
    """Share of the items whose full code is another one, the number that tells items apart included."""
    prefixes_unmatched: tuple[float, ...]
    """(D,) what `prefixes` was before the new codes took the old names."""
    given_again: int
    """Items whose code the old catalogue had retired.  None where a number tells items apart: another is given then."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    def render(self) -> str:
        """The changes as lines of text."""
        lines = [f"{self.ids:.1%} of {self.items:,} items have another semantic ID after the new fit"]
        lines += [
            f"  level {level}  {code:.1%} another code, {prefix:.1%} another prefix ({before:.1%} before matching)"
            for level, (code, prefix, before) in enumerate(
                zip(self.codes, self.prefixes, self.prefixes_unmatched, strict=True), start=1
            )
        ]
        if self.given_again:
            lines.append(f"  {self.given_again:,} items have a code that the old catalogue had retired")
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class Matched:
    """A catalogue whose codes were renamed after an older one."""

    catalogue: LiveCatalogue
    changes: CodeChanges


def match_catalogue(new: LiveCatalogue, *, old: LiveCatalogue) -> Matched:
    """`new`, fitted again, with codes, numbers and tokenizer renamed after `old`, over the items that both offer.

    Codes that `old` had retired stay retired, where the catalogues have as many levels.  With numbers that tell items
    apart, nobody has one of them; without, a new item may (`CodeChanges.given_again`), since its codes say what it is.

    Raises:
        DataError: the tokenizers have other codebook sizes, no item is offered by both, or a tuple has no number left
            that is not retired.
    """
    sizes = new.tokenizer.codebook_sizes
    if sizes != old.tokenizer.codebook_sizes or max(sizes) > MOST_CODES:
        raise DataError(
            f"codes of sizes {sizes} cannot take the names of codes of sizes {old.tokenizer.codebook_sizes}",
            fix=f"fit the tokenizer again with as many levels and codes, at most {MOST_CODES} per level",
        )
    shared = new.item_ids.filter(new.live).is_in(old.item_ids.filter(old.live).implode())
    ids = new.item_ids.filter(new.live).filter(shared)
    if len(ids) == 0:
        raise DataError("no item is offered by both catalogues", fix="match catalogues of the same items")
    here, there = new.rows(ids), old.rows(ids)
    depth = len(sizes)
    before, after = old.codes.matrix[there, :depth], new.codes.matrix[here, :depth]
    labels = match_levels(after, before, sizes)
    renamed = _retiring(_renamed(new, labels), old)
    renamed = _renumbered(renamed, here, old.codes.matrix[there], old.codes.num_levels)
    retired = _kept_from_all(renamed)
    now = renamed.codes.matrix[here]
    same_shape = now.shape[1] == old.codes.num_levels
    ids_changed = (now != old.codes.matrix[there]).any(axis=1) if same_shape else np.ones(len(ids), np.bool_)
    changes = CodeChanges(
        items=len(ids),
        codes=tuple((now[:, :depth] != before).mean(axis=0).tolist()),
        prefixes=_prefix_shares(now[:, :depth], before),
        ids=float(ids_changed.mean()),
        prefixes_unmatched=_prefix_shares(after, before),
        given_again=len(renamed.retired) - len(retired),
    )
    return Matched(replace(renamed, retired=retired), changes)


def match_levels(new: Int32Array, old: Int32Array, sizes: tuple[int, ...]) -> tuple[Int64Array, ...]:
    """For each level (K,), the number that each new code takes: a permutation of the level's codes.

    new, old: (n, D) codes of the same items.
    """
    agrees = np.ones(len(new), np.bool_)
    labels = []
    for level, size in enumerate(sizes):
        pairs = new[:, level].astype(np.int64) * size + old[:, level]
        # Below equal prefixes one item outweighs all others together; those only decide between equals.
        weights = np.where(agrees, len(new) + 1.0, 1.0)
        overlap = np.bincount(pairs, weights=weights, minlength=size * size).reshape(size, size)
        label = linear_sum_assignment(overlap, maximize=True)[1].astype(np.int64)
        labels.append(label)
        agrees &= label[new[:, level]] == old[:, level]
    return tuple(labels)


@dataclass(frozen=True, eq=False)
class FittedRelabelled:
    """A fitted tokenizer whose codes go by other numbers."""

    base: FittedTokenizer
    labels: Sequence[Int64Array]
    """D times (K,) the number of each code of the base, a permutation."""

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """(D,)"""
        return self.base.codebook_sizes

    @property
    def rebuilds_prefixes(self) -> bool:
        """Whether `reconstruct` takes the first codes alone, too."""
        return bool(getattr(self.base, "rebuilds_prefixes", False))

    def encode(self, vectors: FloatArray) -> Int32Array:
        """int32 (n, D); equal vectors get equal codes wherever they stand in the input."""
        return _rename(self.base.encode(vectors), self.labels)

    def reconstruct(self, codes: Int32Array) -> FloatArray:
        """float32 (n, dim): what the base makes of the codes that these were."""
        return self.base.reconstruct(_rename(codes, [np.argsort(label) for label in self.labels]))

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """Arrays from which `from_state` makes an equal tokenizer."""
        named = {f"labels.{level}": label for level, label in enumerate(self.labels)}
        return {**named, **pack_tokenizer(self.base, prefix=BASE)}

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray[np.generic]]) -> "FittedRelabelled":
        """The tokenizer that `state` described."""
        base = unpack_tokenizer(state, prefix=BASE)
        levels = range(len(base.codebook_sizes))
        return cls(base, tuple(np.asarray(state[f"labels.{level}"], np.int64) for level in levels))


def _rename(codes: Int32Array, labels: Sequence[Int64Array]) -> Int32Array:
    """Codes (n, d), d <= D, under their new numbers."""
    renamed = np.empty_like(codes)
    for level in range(codes.shape[1]):
        renamed[:, level] = labels[level][codes[:, level]]
    return renamed


def _renamed(catalogue: LiveCatalogue, labels: Sequence[Int64Array]) -> LiveCatalogue:
    def full(codes: Int32Array) -> Int32Array:
        return np.column_stack([_rename(codes[:, : len(labels)], labels), codes[:, len(labels) :]])

    return replace(
        catalogue,
        codes=replace(catalogue.codes, matrix=full(catalogue.codes.matrix)),
        said=_rename(catalogue.said, labels),
        retired=full(catalogue.retired),
        tokenizer=FittedRelabelled(catalogue.tokenizer, labels),
    )


def _retiring(catalogue: LiveCatalogue, old: LiveCatalogue) -> LiveCatalogue:
    """With what `old` had retired, as far as `catalogue` could give it to anybody."""
    codes = catalogue.codes
    if codes.num_levels != old.codes.num_levels or codes.collisions == "tied":
        return catalogue
    could = (old.retired < np.array(codes.codebook_sizes)).all(axis=1)
    return replace(catalogue, retired=np.unique(np.concatenate([catalogue.retired, old.retired[could]]), axis=0))


def _kept_from_all(catalogue: LiveCatalogue) -> Int32Array:
    """(R, L) the retired codes that no offered item has."""
    codes = catalogue.codes
    retired, given = joint_keys([catalogue.retired, codes.matrix[catalogue.live]], codes.codebook_sizes)
    return catalogue.retired[~is_among(retired, given)]


def _renumbered(catalogue: LiveCatalogue, here: Int64Array, old: Int32Array, old_levels: int) -> LiveCatalogue:
    """With the old number for items whose other codes are the old ones, and the smallest free numbers for the rest.

    here: (n,) rows of `catalogue`; old: (n, old_levels) the codes that these items had.
    """
    codes, depth = catalogue.codes, len(catalogue.tokenizer.codebook_sizes)
    if not codes.num_levels == old_levels == depth + 1:
        return catalogue
    sizes, size = codes.codebook_sizes, codes.codebook_sizes[-1]
    keeps = (codes.matrix[here, :depth] == old[:, :depth]).all(axis=1) & (old[:, -1] < size)
    barred, wanted = joint_keys([catalogue.retired, old[keeps]], sizes)
    keepers = here[np.flatnonzero(keeps)[~is_among(wanted, barred)]]
    matrix = codes.matrix.copy()
    matrix[here[keeps], -1] = old[keeps, -1]
    others = np.setdiff1d(np.flatnonzero(catalogue.live), keepers)
    held = np.concatenate([matrix[keepers], catalogue.retired])
    asked, known = joint_keys([matrix[others, :depth], held[:, :depth]], sizes[:depth])
    numbers = smallest_free(asked, known, held[:, -1], size=size)
    if (numbers >= size).any():
        full = tuple(int(code) for code in matrix[others[int((numbers >= size).argmax())], :depth])
        raise DataError(
            f"of the {size} numbers of the semantic codes {full}, too few are neither given nor retired",
            fix="release() the old catalogue's retired codes where nothing refers to them any more",
        )
    matrix[others, -1] = numbers
    return replace(catalogue, codes=replace(codes, matrix=matrix))


def _prefix_shares(ours: Int32Array, theirs: Int32Array) -> tuple[float, ...]:
    return tuple((np.cumsum(ours != theirs, axis=1) > 0).mean(axis=0).tolist())
