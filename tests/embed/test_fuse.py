"""Fusing vectors: scaling, weights, whitening, and what is refused."""

from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest

from sememe.core.errors import ConfigError, DataError, NothingToEmbedError
from sememe.core.schema import Catalog, FloatArray, Interactions
from sememe.embed.fuse import Fuse, ProvidedVectors, unit_rows, whitened

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
