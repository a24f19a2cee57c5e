"""Fusing vectors: scaling, weights, whitening, gaps, vectors without the log, and what is refused."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
import pytest

import sememe.embed.fuse
from sememe.core.errors import ConfigError, DataError, NothingToEmbedError
from sememe.core.schema import Catalog, FloatArray, Interactions
from sememe.embed.collaborative import CooccurrenceSvd, ImplicitAls
from sememe.embed.fuse import Embedder, Fuse, ProvidedVectors, fill_gaps, unit_rows, whitened

VECTORS = np.array([[3, 4], [0, 0], [0, 2]], np.float32)
CATALOG = Catalog(pl.DataFrame({"item_id": ["a", "b", "c"]}), vectors=VECTORS)
NO_EVENTS = Interactions(np.zeros(1, np.int64), np.zeros(0, np.int32), pl.Series([], dtype=pl.Int64), pl.Series([1]))


@dataclass(frozen=True)
class Constant:
    """The same one-wide vector for every item."""

    value: float = -2.0

    def embed(self, catalog: Catalog, train: Interactions, *, seed: int) -> FloatArray:
        return np.full((catalog.num_items, 1), self.value, np.float32)


def test_parts_are_scaled_weighted_and_joined() -> None:
    fused = Fuse(parts=(ProvidedVectors(), Constant()), weights=(2.0, 0.5)).embed(CATALOG, NO_EVENTS, seed=0)
    np.testing.assert_allclose(fused, [[1.2, 1.6, -0.5], [0, 0, -0.5], [0, 2, -0.5]])
    assert fused.dtype == np.float32
    equal = Fuse(parts=(ProvidedVectors(), Constant())).embed(CATALOG, NO_EVENTS, seed=0)
    np.testing.assert_allclose(equal, [[0.6, 0.8, -1], [0, 0, -1], [0, 1, -1]])


def test_parts_can_be_made_apart_and_joined_later() -> None:
    """`embed` is `join` of `embed_parts`; the parts come as they are, so that their widths can be told."""
    for fuse in (
        Fuse(parts=(ProvidedVectors(), Constant())),
        Fuse(parts=(Constant(), ProvidedVectors()), weights=(0.5, 2.0)),
        Fuse(parts=(ProvidedVectors(), ProvidedVectors()), whiten=1),
    ):
        parts = fuse.embed_parts(CATALOG, NO_EVENTS, seed=0)
        assert len(parts) == 2
        for part, made in zip(fuse.parts, parts, strict=True):
            np.testing.assert_array_equal(made, part.embed(CATALOG, NO_EVENTS, seed=0))
        joined, whole = fuse.join(parts), fuse.embed(CATALOG, NO_EVENTS, seed=0)
        np.testing.assert_array_equal(joined, whole)
        assert joined.shape[1] == (fuse.whiten or sum(made.shape[1] for made in parts))
    np.testing.assert_array_equal(CATALOG.vectors, VECTORS)


@dataclass(frozen=True)
class Nothing:
    """A part that finds nothing to read."""

    problem: str = "there is nothing"

    def embed(self, catalog: Catalog, train: Interactions, *, seed: int) -> FloatArray:
        raise NothingToEmbedError(self.problem, fix="none needed")


def test_a_part_that_finds_nothing_leaves_the_others_their_say() -> None:
    fused = Fuse(parts=(Nothing(), ProvidedVectors())).embed(CATALOG, NO_EVENTS, seed=0)
    np.testing.assert_allclose(fused, [[0, 0.6, 0.8], [0, 0, 0], [0, 0, 1]], atol=1e-7)
    with pytest.raises(NothingToEmbedError, match="the first"):
        Fuse(parts=(Nothing("the first"), Nothing("the second"))).embed(CATALOG, NO_EVENTS, seed=0)


def test_whitening_decorrelates_and_keeps_unknown_items_zero() -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((500, 6)) @ rng.standard_normal((6, 6)) + 3).astype(np.float32)
    vectors[:20] = 0
    white = whitened(vectors, num_directions=4)
    assert white.shape == (500, 4) and not white[:20].any()
    np.testing.assert_allclose(np.cov(white[20:].T, bias=True), np.eye(4), atol=1e-4)
    np.testing.assert_allclose(white[20:].mean(axis=0), 0, atol=1e-5)
    # The first direction carries the most variance of the input.
    centered = vectors[20:] - vectors[20:].mean(axis=0)
    explained = [np.square(np.linalg.lstsq(white[20:, [c]], centered, rcond=None)[0]).sum() for c in range(4)]
    assert explained == sorted(explained, reverse=True)


def test_fuse_whitens_what_it_joined() -> None:
    catalog = Catalog(
        pl.DataFrame({"item_id": list(range(60))}),
        vectors=np.random.default_rng(0).standard_normal((60, 5)).astype(np.float32),
    )
    joined = Fuse(parts=(ProvidedVectors(), Constant())).embed(catalog, NO_EVENTS, seed=0)
    white = Fuse(parts=(ProvidedVectors(), Constant()), whiten=3).embed(catalog, NO_EVENTS, seed=0)
    np.testing.assert_array_equal(white, whitened(joined, num_directions=3))
    with pytest.raises(ConfigError, match="span only 5 directions"):
        Fuse(parts=(ProvidedVectors(), Constant()), whiten=6).embed(catalog, NO_EVENTS, seed=0)


def test_unit_rows_leave_zero_rows_alone() -> None:
    np.testing.assert_allclose(unit_rows(VECTORS), [[0.6, 0.8], [0, 0], [0, 1]])


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_vector_whose_length_overflows_is_not_taken_for_an_unknown_one() -> None:
    with pytest.raises(DataError, match="1 of 2 vectors are too long .* first at row 1"):
        unit_rows(np.array([[1.0, 0.0], [1e25, 0.0]], np.float32))


@pytest.mark.parametrize(
    "part",
    [
        Fuse(),
        Fuse(parts=(Constant(),), weights=(1.0, 2.0)),
        Fuse(parts=(Constant(),), weights=(-1.0,)),
        Fuse(parts=(Constant(),), weights=(0.0,)),
    ],
)
def test_weights_that_do_not_fit_are_refused(part: Fuse) -> None:
    for make in (part.embed, part.embed_parts):
        with pytest.raises(ConfigError, match="Fuse got"):
            make(CATALOG, NO_EVENTS, seed=0)


def test_provided_vectors_must_be_there_and_finite() -> None:
    np.testing.assert_array_equal(ProvidedVectors().embed(CATALOG, NO_EVENTS, seed=0), VECTORS)
    with pytest.raises(DataError, match="the catalogue has no vectors"):
        ProvidedVectors().embed(Catalog(CATALOG.frame), NO_EVENTS, seed=0)
    broken = VECTORS.copy()
    broken[2, 0] = np.inf
    with pytest.raises(DataError, match=r"the vector of item c holds NaN or infinity \(1 such items\)"):
        ProvidedVectors().embed(Catalog(CATALOG.frame, vectors=broken), NO_EVENTS, seed=0)


# Four items in two parts; the second part does not know item 3.
KNOWN_PART = np.array([[1, 0], [0.6, 0.8], [-1, 0], [0.8, 0.6]], np.float32)
GAPPED_PART = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], np.float32)


@pytest.mark.parametrize(
    ("neighbors", "weights"),
    [
        (1, [0, 0.96, 0]),
        (2, [0.8, 0.96, 0]),
        # The cosine with item 2 is below zero: it has no say.
        (3, [0.8, 0.96, 0]),
        (50, [0.8, 0.96, 0]),
    ],
)
def test_a_gap_takes_the_weighted_mean_of_the_nearest(neighbors: int, weights: list[float]) -> None:
    """Cosines of item 3 with items 0, 1, 2 are .8, .96, -.8."""
    known, filled = fill_gaps([KNOWN_PART, GAPPED_PART], neighbors=neighbors)
    np.testing.assert_array_equal(known, KNOWN_PART)
    np.testing.assert_array_equal(filled[:3], GAPPED_PART[:3])
    np.testing.assert_allclose(filled[3], np.array(weights) / np.linalg.norm(weights), rtol=1e-6)
    assert not GAPPED_PART[3].any(), "what was given stays as it is"
    joined = Fuse(parts=(Constant(), Constant()), neighbors=neighbors, weights=(2, 0.5)).join([KNOWN_PART, GAPPED_PART])
    np.testing.assert_allclose(joined, np.concatenate([2 * known, 0.5 * filled], axis=1), rtol=1e-6)
    left = Fuse(parts=(Constant(), Constant())).join([KNOWN_PART, GAPPED_PART])
    assert not left[3, 2:].any()


def test_a_gap_stays_where_nothing_is_near() -> None:
    away = KNOWN_PART.copy()
    away[3] = (0, -1)  # at a right angle to items 0 and 2, and away from item 1
    assert not fill_gaps([away, GAPPED_PART], neighbors=3)[1][3].any()
    # An item that no part knows, and parts that have no item in common.
    nothing = KNOWN_PART.copy()
    nothing[3] = 0
    assert not np.concatenate(fill_gaps([nothing, GAPPED_PART], neighbors=3), axis=1)[3].any()
    apart = [KNOWN_PART * [[1], [1], [0], [0]], GAPPED_PART * [[0], [0], [1], [0]]]
    for filled, part in zip(fill_gaps(apart, neighbors=2), apart, strict=True):
        np.testing.assert_array_equal(filled, part)


def test_gaps_of_three_parts_against_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearness is the cosine over all other parts; only items that all parts know are borrowed from."""
    rng = np.random.default_rng(4)
    parts = [unit_rows(rng.standard_normal((40, width)).astype(np.float32)) for width in (3, 4, 2)]
    for number, part in enumerate(parts):
        part[rng.choice(40, 8 + number, replace=False)] = 0
    complete = [item for item in range(40) if all(part[item].any() for part in parts)]
    filled = fill_gaps(parts, neighbors=3)
    for number, part in enumerate(parts):
        others = np.concatenate([other for at, other in enumerate(parts) if at != number], axis=1)
        for item in range(40):
            expected = part[item]
            if not expected.any() and others[item].any():
                lengths = np.linalg.norm(others[complete], axis=1) * np.linalg.norm(others[item])
                cosines = others[complete] @ others[item] / lengths
                nearest = np.argsort(-cosines)[:3]
                mean = sum(max(cosines[at], 0) * part[complete[at]] for at in nearest)
                expected = mean / np.linalg.norm(mean)
            np.testing.assert_allclose(filled[number][item], expected, rtol=1e-4, atol=1e-5)
    for cosines_at_once in (1, 3 * len(complete)):
        monkeypatch.setattr(sememe.embed.fuse, "CHUNK_COSINES", cosines_at_once)
        for chunked, whole in zip(fill_gaps(parts, neighbors=3), filled, strict=True):
            np.testing.assert_allclose(chunked, whole, rtol=1e-5, atol=1e-6)


TABLE = np.random.default_rng(6).standard_normal((30, 3)).astype(np.float32)


@dataclass(frozen=True)
class FromLog:
    """A fixed vector for each item that the log holds."""

    reads_log: ClassVar[bool] = True

    def embed(self, catalog: Catalog, train: Interactions, *, seed: int) -> FloatArray:
        met = np.bincount(train.items, minlength=train.num_items) > 0
        return np.asarray(TABLE * met[:, None], np.float32)


def log_and_catalog() -> tuple[Interactions, Catalog]:
    rng = np.random.default_rng(7)
    items = np.concatenate([np.arange(30), rng.integers(0, 30, 30)]).astype(np.int32)
    log = Interactions(np.array([0, 25, 60]), items, pl.Series([0, 1]), pl.Series(range(30)))
    vectors = rng.standard_normal((30, 4)).astype(np.float32)
    return log, Catalog(pl.DataFrame({"item_id": list(range(30))}), vectors=vectors)


@pytest.mark.parametrize("neighbors", [0, 1, 4])
@pytest.mark.parametrize("order", [(ProvidedVectors(), FromLog()), (FromLog(), ProvidedVectors())])
def test_vectors_without_the_log_of_some_items_are_those_of_a_log_without_them(
    neighbors: int, order: tuple[Embedder, Embedder]
) -> None:
    log, catalog = log_and_catalog()
    new, others = np.array([2, 11, 29], np.int32), np.setdiff1d(np.arange(30), [2, 11, 29])
    fuse = Fuse(parts=order, weights=(1.0, 0.7), neighbors=neighbors)
    joined = fuse.embed(catalog, log, seed=0)
    before = joined.copy()
    widths = [3 if isinstance(part, FromLog) else 4 for part in order]
    found = fuse.without_log(joined, widths, new)
    np.testing.assert_array_equal(joined, before)
    np.testing.assert_array_equal(found[others], joined[others])
    np.testing.assert_allclose(found, fuse.embed(catalog, log.without_items(new), seed=0), rtol=1e-4, atol=1e-5)
    assert (found[new] != joined[new]).any(axis=1).all()


def test_what_does_not_read_the_log_or_is_mixed_stays() -> None:
    log, catalog = log_and_catalog()
    new = np.array([2, 11], np.int32)
    for fuse, widths in (
        (Fuse(parts=(ProvidedVectors(), FromLog()), whiten=5), [5]),
        # As many directions as there were: the parts are mixed all the same.
        (Fuse(parts=(ProvidedVectors(), FromLog()), whiten=7), [4, 3]),
        (Fuse(parts=(ProvidedVectors(),), whiten=3), [3]),
        (Fuse(parts=(ProvidedVectors(), ProvidedVectors()), neighbors=2), [4, 4]),
    ):
        joined = fuse.embed(catalog, log, seed=0)
        np.testing.assert_array_equal(fuse.without_log(joined, widths, new), joined)


@pytest.mark.parametrize("whiten", [0, 2])
def test_where_all_is_read_from_the_log_nothing_is_left(whiten: int) -> None:
    log, catalog = log_and_catalog()
    new = np.array([2, 11], np.int32)
    fuse = Fuse(parts=(FromLog(), FromLog()), whiten=whiten, neighbors=3)
    joined = fuse.embed(catalog, log, seed=0)
    found = fuse.without_log(joined, [2] if whiten else [3, 3], new)
    assert not found[new].any() and joined[new].any(axis=1).all()
    np.testing.assert_array_equal(np.delete(found, new, axis=0), np.delete(joined, new, axis=0))


def test_parts_that_can_be_told_apart_are_counted() -> None:
    parts = (ProvidedVectors(), FromLog())
    assert [Fuse(parts=parts, whiten=whiten).num_parts for whiten in (0, 5)] == [2, 1]
    assert CooccurrenceSvd.reads_log and ImplicitAls.reads_log and not hasattr(ProvidedVectors(), "reads_log")


def test_a_number_of_neighbours_below_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="neighbors of Fuse is -1"):
        Fuse(parts=(Constant(),), neighbors=-1).embed(CATALOG, NO_EVENTS, seed=0)


@pytest.mark.parametrize("neighbors", [0, 3])
def test_later_items_are_put_where_they_would_have_been(neighbors: int) -> None:
    """With the log as it was and all known items complete: as if they had been there from the start."""
    log, catalog = log_and_catalog()
    fuse = Fuse(parts=(ProvidedVectors(), FromLog()), weights=(1.0, 0.7), neighbors=neighbors)
    parts = fuse.embed_parts(catalog, log, seed=0)
    late = [parts[0][25:], np.zeros((5, 3), np.float32)]
    known = fuse.join([part[:25] for part in parts])
    together = fuse.join([np.concatenate([part[:25], new]) for part, new in zip(parts, late, strict=True)])
    np.testing.assert_allclose(fuse.extend(known, [4, 3], late), together[25:], rtol=1e-5, atol=1e-6)
    assert together[25:, 4:].any() == bool(neighbors)


def test_later_items_need_parts_that_can_be_told_apart_and_fit() -> None:
    log, catalog = log_and_catalog()
    mixed = Fuse(parts=(ProvidedVectors(), FromLog()), whiten=5)
    late = [np.ones((1, 4), np.float32), np.zeros((1, 3), np.float32)]
    with pytest.raises(ConfigError, match="keeps no directions"):
        mixed.extend(mixed.embed(catalog, log, seed=0), [5], late)
    joined = Fuse(parts=(ProvidedVectors(), FromLog()))
    with pytest.raises(DataError, match=r"widths \[3, 3\], the known ones \[4, 3\]"):
        joined.extend(joined.embed(catalog, log, seed=0), [4, 3], [late[1], late[1]])
