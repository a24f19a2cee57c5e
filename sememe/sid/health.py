"""The health of semantic IDs: all that can be said of them before a model is trained on them.

`sid_report` is the short form that is written when codes are made; this is the long one.  Every measure looks at the
semantic codes alone, by prefix length: what do two items have in common whose first codes are equal?  What cannot be
measured on given data is `Absent` and says why.

All measures are linear in items and events, but for true neighbours: those are looked up for 1,000 items, and in
catalogues of more than 131,072 items among a random sample of so many; `notes` says so.

Shape legend: I items, dim the width of the vectors, L semantic levels.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from sememe.core.schema import Catalog, Codes, FloatArray, Int32Array, Int64Array, Interactions
from sememe.core.seeding import generator
from sememe.metrics.sid_quality import (
    PrefixCooccurrence,
    PrefixPurity,
    PrefixStability,
    cooccurrence_by_prefix,
    purity_by_prefix,
    stability_by_prefix,
)
from sememe.sid.collisions import tuple_groups
from sememe.sid.limits import reachable
from sememe.sid.report import (
    MAX_QUERIES,
    NEIGHBOURS,
    PrefixNeighbours,
    SidReport,
    blockwise_error,
    neighbour_shares,
    prefix_groups,
)
from sememe.sid.rqkmeans import check_vectors

POOL = 1 << 17
"""Items among which neighbours are looked for."""


@dataclass(frozen=True)
class Absent:
    """A measure that these data do not allow."""

    absent: str
    """Why."""


@dataclass(frozen=True)
class Rebuilt:
    """What the first codes keep of the vectors."""

    depth: int
    error: float
    """Squared error over that of the mean vector; 1 where the codes tell nothing."""


@dataclass(frozen=True)
class Neighbours:
    """Whether true neighbours share prefixes."""

    items: int
    """Among so many items neighbours were looked for, all with content,"""
    queries: int
    """of so many items,"""
    nearest: int
    """so many each, by cosine."""
    rows: tuple[PrefixNeighbours, ...]


@dataclass(frozen=True)
class Categories:
    """Whether items that share a prefix are of one category: of all its categories together, written the same."""

    items: int
    """With a category."""
    different: int
    whole: float
    """Purity of the whole catalogue: the share of the largest category."""
    rows: tuple[PrefixPurity, ...]


@dataclass(frozen=True)
class Cooccurrence:
    """Whether items that share a prefix were used by the same users, in the training part."""

    users: int
    events: int
    rows: tuple[PrefixCooccurrence, ...]


@dataclass(frozen=True)
class Stability:
    """Whether a fit with another seed puts the same items together."""

    seed: int
    """Of the other fit."""
    rows: tuple[PrefixStability, ...]


@dataclass(frozen=True, eq=False)
class SecondFit:
    """Codes that the same tokenizer gave the same items after a fit with another seed."""

    seed: int
    matrix: Int32Array
    """(I, L), semantic levels only."""
    codebook_sizes: tuple[int, ...]
    """(L,)"""


@dataclass(frozen=True)
class CodesHealth:
    """The long report on a set of semantic IDs; the collision level is left out of all numbers."""

    summary: SidReport
    group_sizes: tuple[tuple[int, int], ...]
    """(items that share all their codes, how many such groups), sizes rising."""
    reconstruction: tuple[Rebuilt, ...]
    """By number of codes; the last one alone where the tokenizer cannot rebuild from fewer."""
    neighbours: Neighbours | Absent
    categories: Categories | Absent
    cooccurrence: Cooccurrence | Absent
    stability: Stability | Absent
    notes: tuple[str, ...]
    """What was sampled or left out."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; an absent measure is {"absent": why}."""
        summary, items = self.summary.to_json(), self.summary.items
        for use, row in zip(self.summary.levels, summary["levels"], strict=True):
            most = reachable(use, items=items)
            row |= {"used_share": use.used / most, "perplexity_share": use.perplexity / most}
        rest = {name: value for name, value in asdict(self).items() if name != "summary"}
        return {**summary, "colliding_share": self.summary.colliding_items / items, **rest}


def codes_health(
    codes: Codes,
    vectors: FloatArray,
    *,
    report: SidReport,
    fitted: Any,
    catalog: Catalog,
    train: Interactions,
    second: SecondFit | Absent,
) -> CodesHealth:
    """Judge semantic codes against the vectors (I, dim) they were made from, the catalogue and the training events.

    Args:
        codes: of all items.
        vectors: what the tokenizer was fitted on.
        report: the short report on these codes.
        fitted: the fitted tokenizer, or None where it cannot be had.
        catalog: row i describes item i.
        train: training events alone; the rest of the log would tell what a model is to predict.
        second: another fit to compare with, or why there is none.

    Raises:
        DataError: there is no item, or a vector is not finite.
    """
    check_vectors(vectors)
    assert len(vectors) == codes.num_items == catalog.num_items == train.num_items, "one row per item"
    prefixes = prefix_groups(codes)
    sizes, groups = np.unique(np.bincount(prefixes[-1]), return_counts=True)
    notes = []
    if len(vectors) > POOL:
        notes.append(f"neighbours were looked for among a random sample of {POOL:,} of the {len(vectors):,} items")
    if not getattr(fitted, "rebuilds_prefixes", False):
        notes.append("the tokenizer does not say what its first codes alone stand for: no error by number of codes")
    return CodesHealth(
        summary=report,
        group_sizes=tuple(zip(sizes.tolist(), groups.tolist(), strict=True)),
        reconstruction=_reconstruction(codes, vectors, report=report, fitted=fitted),
        neighbours=_neighbours(vectors, prefixes),
        categories=_categories(catalog, prefixes),
        cooccurrence=_cooccurrence(train, prefixes),
        stability=second if isinstance(second, Absent) else _stability(second, prefixes),
        notes=tuple(notes),
    )


def _reconstruction(codes: Codes, vectors: FloatArray, *, report: SidReport, fitted: Any) -> tuple[Rebuilt, ...]:
    depth = codes.num_semantic_levels
    shorter = range(1, depth) if getattr(fitted, "rebuilds_prefixes", False) else ()
    rows = [Rebuilt(known, _error(fitted, codes.matrix[:, :known], vectors)) for known in shorter]
    last = [] if report.reconstruction_error is None else [Rebuilt(depth, report.reconstruction_error)]
    return (*rows, *last)


def _error(fitted: Any, matrix: Int32Array, vectors: FloatArray) -> float:
    return blockwise_error(vectors, lambda rows: fitted.reconstruct(matrix[rows]))


def _neighbours(vectors: FloatArray, prefixes: Sequence[Int64Array]) -> Neighbours | Absent:
    pool = np.arange(len(vectors))
    if len(pool) > POOL:
        pool = np.sort(generator(0, "sid", "health", "pool").permutation(len(pool))[:POOL])
    pool = pool[vectors[pool].any(axis=1)]
    rows = neighbour_shares(vectors[pool], [groups[pool] for groups in prefixes])
    if not rows:
        return Absent("fewer than two items have content (a vector that is not zero)")
    return Neighbours(len(pool), min(MAX_QUERIES, len(pool)), min(NEIGHBOURS, len(pool) - 1), rows)


def _categories(catalog: Catalog, prefixes: Sequence[Int64Array]) -> Categories | Absent:
    if "categories" not in catalog.frame.columns:
        return Absent("the catalogue has no column of categories")
    labels = category_labels(catalog.frame["categories"])
    known = np.flatnonzero(labels >= 0)
    if len(known) == 0:
        return Absent("no item has a category")
    counts = np.bincount(labels[known])
    if len(counts) == 1:
        return Absent("all items with a category have the same one")
    rows = purity_by_prefix([groups[known] for groups in prefixes], labels[known])
    return Categories(len(known), len(counts), float(counts.max() / len(known)), rows)


def category_labels(column: pl.Series) -> Int64Array:
    """(I,) a number from 0 for each item's categories as a whole, -1 where it has none.

    column: text, or lists of texts; items are of one category where all of it is written the same, but for spaces
        around it.
    """
    if isinstance(column.dtype, pl.List | pl.Array):
        text = column.cast(pl.List(pl.String)).list.drop_nulls().list.join(" | ")
    else:
        text = column.cast(pl.String)
    text = text.str.strip_chars()
    known = (text.is_not_null() & (text.str.len_chars() > 0)).to_numpy()
    labels = np.full(len(text), -1, np.int64)
    if known.any():
        labels[known] = text.filter(pl.Series(known)).rank("dense").to_numpy().astype(np.int64) - 1
    return labels


def _cooccurrence(train: Interactions, prefixes: Sequence[Int64Array]) -> Cooccurrence | Absent:
    users = train.users()
    rows = cooccurrence_by_prefix(users, train.items, prefixes)
    if not any(row.mean for row in rows):
        return Absent("no user has two different items in the training part")
    return Cooccurrence(len(np.unique(users)), train.num_events, rows)


def _stability(second: SecondFit, prefixes: Sequence[Int64Array]) -> Stability | Absent:
    if len(second.matrix) < 2:
        return Absent("one item alone has no pair to compare")
    theirs = [
        tuple_groups(second.matrix[:, :depth], second.codebook_sizes[:depth]) for depth in range(1, len(prefixes) + 1)
    ]
    return Stability(second.seed, stability_by_prefix(prefixes, theirs))
