"""Are these semantic IDs any good?  Numbers, and warnings in words where they are not.

Known cases behind the limits below: independent rebuilds of TIGER on Amazon Beauty reach 86.8 % distinct tuples and
perplexities of 190-240 of 256; MovieLens-100K from genres alone gives 199 distinct tuples for 1,682 items, and its
semantic IDs lose to random ones.

Shape legend: I items, dim the width of the vectors, L semantic levels.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sememe.core.schema import Codes, FloatArray, Int32Array, Int64Array
from sememe.core.seeding import generator
from sememe.sid.collisions import tuple_groups
from sememe.sid.kmeans import distinct_rows
from sememe.sid.rqkmeans import check_vectors

NEIGHBOURS = 10
MAX_QUERIES = 1000
"""Items whose neighbours are looked up; more would sharpen the shares beyond need."""
BLOCK_CELLS = 1 << 24
BLOCK_ROWS = 1 << 17
"""Vectors whose error is added up at once."""
ROUNDING = 1e-12
"""Of the squared length of float32 vectors: smaller squares are no differences."""
COARSE_SHARE = 0.7
LOW_USE = 0.4
"""Perplexity below this share of what the level could reach is called out."""


@dataclass(frozen=True)
class LevelUse:
    """How one level uses its codes."""

    size: int
    used: int
    entropy: float
    """Bits."""
    perplexity: float
    """2^entropy: how many equally frequent codes would be as varied."""
    distinct_prefixes: int
    """Different code tuples up to and including this level."""


@dataclass(frozen=True)
class PrefixNeighbours:
    """How often an item's nearest neighbours by cosine share its first codes."""

    depth: int
    share: float
    """Of the pairs (item, one of its 10 nearest)."""
    by_chance: float
    """The share for two items drawn at random."""
    ceiling: float
    """The share if each group of equal prefixes held nothing but neighbours, given the sizes of the groups."""


@dataclass(frozen=True)
class SidReport:
    """The health of a set of semantic IDs; the collision level is left out of all numbers."""

    items: int
    distinct_contents: int
    """Different vectors; items that share one cannot be told apart by any tokenizer."""
    items_without_content: int
    """Items whose vector is zero."""
    distinct_tuples: int
    unique_share: float
    """distinct_tuples / items."""
    colliding_items: int
    """Items that share their tuple with another."""
    largest_group: int
    levels: tuple[LevelUse, ...]
    reconstruction_error: float | None
    """Squared error of the reconstructed vectors over that of the mean vector: 0 is perfect, 1 is no better than it."""
    neighbours: tuple[PrefixNeighbours, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "SidReport":
        """The report that `to_json` described."""
        rows = {
            "levels": tuple(LevelUse(**use) for use in content["levels"]),
            "neighbours": tuple(PrefixNeighbours(**near) for near in content["neighbours"]),
            "warnings": tuple(content["warnings"]),
        }
        return cls(**{**content, **rows})

    def render(self) -> str:
        """The report as lines of text."""
        lines = [
            f"semantic IDs of {self.items:,} items ({self.distinct_contents:,} distinct vectors, "
            f"{self.items_without_content:,} without content)",
            f"  distinct tuples  {self.distinct_tuples:,} ({self.unique_share:.1%} of items), {self.colliding_items:,} "
            f"items share theirs, largest group {self.largest_group:,}",
        ]
        lines += [
            f"  level {place}          {use.used:,} of {use.size:,} codes used, perplexity {use.perplexity:.1f}, "
            f"entropy {use.entropy:.2f} bits, {use.distinct_prefixes:,} prefixes"
            for place, use in enumerate(self.levels, start=1)
        ]
        if self.reconstruction_error is not None:
            lines.append(f"  reconstruction   {self.reconstruction_error:.3f} of the variance is lost")
        lines += [
            f"  neighbours       {near.share:.1%} of the {NEIGHBOURS} nearest share the first {near.depth} "
            f"(by chance {near.by_chance:.2%}, at best {near.ceiling:.1%})"
            for near in self.neighbours
        ]
        lines += [f"  warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)


def sid_report(codes: Codes, vectors: FloatArray, *, reconstruction: FloatArray | None = None) -> SidReport:
    """Judge semantic codes (I, L) against the vectors (I, dim) that they were made from.

    reconstruction: (I, dim) what the tokenizer makes of the codes, for the reconstruction error.

    Raises DataError where there is no item, or a vector is not finite.
    """
    check_vectors(vectors)
    assert len(vectors) == codes.num_items, "one vector per item"
    depth = codes.num_semantic_levels
    matrix, sizes = codes.matrix[:, :depth], codes.codebook_sizes[:depth]
    prefixes = prefix_groups(codes)
    counts = np.bincount(prefixes[-1])
    contents = len(distinct_rows(vectors).rows)
    numbers: dict[str, Any] = {
        "items": codes.num_items,
        "distinct_contents": contents,
        "items_without_content": int((~vectors.any(axis=1)).sum()),
        "distinct_tuples": len(counts),
        "unique_share": len(counts) / codes.num_items,
        "colliding_items": int(counts[counts > 1].sum()),
        "largest_group": int(counts.max()),
        "levels": tuple(
            _level_use(matrix[:, level], size=sizes[level], prefixes=int(prefixes[level].max()) + 1)
            for level in range(depth)
        ),
        "reconstruction_error": None if reconstruction is None else relative_error(vectors, reconstruction),
        "neighbours": neighbour_shares(vectors, prefixes[: min(2, depth)]),
    }
    return SidReport(**numbers, warnings=_warnings(numbers))


def prefix_groups(codes: Codes) -> list[Int64Array]:
    """For each prefix length of the semantic codes, from 1 on: int64 (I,), equal for items that share the prefix."""
    depths = range(1, codes.num_semantic_levels + 1)
    return [tuple_groups(codes.matrix[:, :depth], codes.codebook_sizes[:depth]) for depth in depths]


def relative_error(vectors: FloatArray, reconstruction: FloatArray) -> float:
    """Squared error over the squared distance to the mean vector; 0 where the vectors are all equal and met."""
    return blockwise_error(vectors, lambda rows: reconstruction[rows])


def blockwise_error(vectors: FloatArray, rebuild: Callable[[slice], FloatArray]) -> float:
    """`relative_error` of what `rebuild` gives for slices of the rows, so that not all is rebuilt at once."""
    mean = vectors.mean(axis=0, dtype=np.float64)
    lost = spread = size = 0.0
    for start in range(0, len(vectors), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        lost += float(np.square(vectors[rows] - rebuild(rows), dtype=np.float64).sum())
        spread += float(np.square(vectors[rows] - mean, dtype=np.float64).sum())
        size += float(np.square(vectors[rows], dtype=np.float64).sum())
    # Vectors that are all equal differ from their mean by rounding.
    rounding = ROUNDING * size
    return lost / spread if spread > rounding else float(lost > rounding)


def neighbour_shares(vectors: FloatArray, prefixes: list[Int64Array]) -> tuple[PrefixNeighbours, ...]:
    """For each list of prefix groups (I,): the share of true cosine neighbours that share the group.

    Items without content take no part.  Empty where fewer than two items are left.
    """
    known = np.flatnonzero(vectors.any(axis=1))
    if len(known) < 2:
        return ()
    queries = generator(0, "sid", "report").permutation(len(known))[:MAX_QUERIES]
    neighbours = nearest_by_cosine(vectors[known], queries, count=min(NEIGHBOURS, len(known) - 1))
    shares = []
    for depth, groups in enumerate(prefixes, start=1):
        group = groups[known]
        same = group[neighbours] == group[queries][:, None]
        sizes = np.bincount(group).astype(np.float64)
        pairs = len(known) * (len(known) - 1)
        shares.append(
            PrefixNeighbours(
                depth=depth,
                share=float(same.mean()),
                by_chance=float((sizes * (sizes - 1)).sum() / pairs),
                ceiling=float(np.minimum(sizes[group[queries]] - 1, same.shape[1]).mean() / same.shape[1]),
            )
        )
    return tuple(shares)


def nearest_by_cosine(vectors: FloatArray, queries: Int64Array, *, count: int) -> Int64Array:
    """(len(queries), count) row numbers of the nearest other rows by cosine, in no order; no row may be zero."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = np.empty((len(queries), count), np.int64)
    step = max(1, BLOCK_CELLS // len(unit))
    for start in range(0, len(queries), step):
        rows = queries[start : start + step]
        cosine = unit[rows] @ unit.T
        cosine[np.arange(len(rows)), rows] = -np.inf
        found[start : start + step] = np.argpartition(-cosine, count - 1, axis=1)[:, :count]
    return found


def _level_use(column: Int32Array, *, size: int, prefixes: int) -> LevelUse:
    counts = np.bincount(column, minlength=size)
    probability = counts[counts > 0] / len(column)
    entropy = float(-(probability * np.log2(probability)).sum()) + 0.0
    return LevelUse(size, int((counts > 0).sum()), entropy, float(2**entropy), prefixes)


def _warnings(numbers: Mapping[str, Any]) -> tuple[str, ...]:
    """What a person should know before trusting these codes."""
    items, contents, tuples = numbers["items"], numbers["distinct_contents"], numbers["distinct_tuples"]
    warnings = []
    if contents < COARSE_SHARE * items:
        warnings.append(
            f"the content signal is too coarse: {items:,} items have only {contents:,} distinct vectors, and items "
            "with equal vectors cannot be told apart; add text fields or collaborative vectors"
        )
    elif tuples < COARSE_SHARE * items:
        warnings.append(
            f"the codes are too coarse: {tuples:,} distinct tuples for {items:,} items ({tuples / items:.0%}); "
            "use more levels or codes, or vectors that spread items more"
        )
    empty = numbers["items_without_content"]
    if empty > 0.01 * items:
        warnings.append(f"{empty:,} of {items:,} items have no content (a zero vector) and share one tuple")
    for place, use in enumerate(numbers["levels"], start=1):
        if use.perplexity < LOW_USE * min(use.size, contents):
            warnings.append(
                f"level {place} hardly uses its codes: {use.used} of {use.size} used, perplexity {use.perplexity:.1f}"
            )
    for near in numbers["neighbours"][:1]:
        if near.share < 2 * near.by_chance:
            warnings.append(
                f"similar items do not share codes: {near.share:.1%} of nearest neighbours have the same first code, "
                f"{near.by_chance:.1%} by chance"
            )
    return tuple(warnings)
