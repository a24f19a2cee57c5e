"""Residual k-means on a planted tree, and the errors it gives."""

import numpy as np
import pytest
from planted_tree import same_tree, tree

from sememe.core.errors import ConfigError, DataError
from sememe.sid.rqkmeans import FittedResidualKMeans, ResidualKMeans, quantize_residuals


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_codes_recover_the_planted_tree(seed: int) -> None:
    vectors, paths = tree(seed)
    fitted = ResidualKMeans(levels=3, codebook_size=4).fit(vectors, seed=seed)
    assert fitted.codebook_sizes == (4, 4, 4)
    assert same_tree(fitted.encode(vectors), paths)


def test_residual_codes_by_hand() -> None:
    codebooks = np.array([[[0.0], [10.0]], [[-1.0], [2.0]]], np.float32)
    vectors = np.array([[9.0], [1.5], [4.0]], np.float32)
    # 9 -> 10, rest -1 -> -1.  1.5 -> 0, rest 1.5 -> 2.  4 -> 0, rest 4 -> 2.
    codes = quantize_residuals(vectors, codebooks)
    assert codes.tolist() == [[1, 0], [0, 1], [0, 1]]
    assert FittedResidualKMeans(codebooks).reconstruct(codes).tolist() == [[9.0], [2.0], [2.0]]


def test_each_level_lowers_the_error() -> None:
    vectors = np.random.default_rng(0).standard_normal((400, 8)).astype(np.float32)
    fitted = ResidualKMeans(levels=3, codebook_size=16).fit(vectors, seed=0)
    codes = fitted.encode(vectors)
    errors = [
        float(np.square(vectors - FittedResidualKMeans(fitted.codebooks[:depth]).reconstruct(codes[:, :depth])).sum())
        for depth in (1, 2, 3)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_order_seed_and_state() -> None:
    vectors = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
    order = np.random.default_rng(1).permutation(300)
    part = ResidualKMeans(levels=2, codebook_size=16)
    fitted, permuted = part.fit(vectors, seed=3), part.fit(vectors[order], seed=3)
    codes = fitted.encode(vectors)
    np.testing.assert_array_equal(permuted.encode(vectors[order]), codes[order])
    np.testing.assert_array_equal(fitted.encode(vectors[:1]), codes[:1])
    restored = FittedResidualKMeans.from_state(fitted.state())
    np.testing.assert_array_equal(restored.encode(vectors), codes)


def test_levels_of_different_sizes() -> None:
    vectors = np.random.default_rng(0).standard_normal((200, 6)).astype(np.float32)
    fitted = ResidualKMeans(levels=3, codebook_size=(16, 4, 2)).fit(vectors, seed=0)
    codes = fitted.encode(vectors)
    assert fitted.codebook_sizes == (16, 4, 2)
    assert [len(np.unique(codes[:, level])) for level in range(3)] == [16, 4, 2]
    # The first level does not know of the others.
    even = ResidualKMeans(levels=3, codebook_size=16).fit(vectors, seed=0)
    np.testing.assert_array_equal(codes[:, 0], even.encode(vectors)[:, 0])
    restored = FittedResidualKMeans.from_state(fitted.state())
    assert restored.codebook_sizes == (16, 4, 2)
    np.testing.assert_array_equal(restored.encode(vectors), codes)
    np.testing.assert_array_equal(restored.reconstruct(codes), fitted.reconstruct(codes))
    assert set(even.state()) == {"codebooks"}, "equal sizes are saved as they always were"


def test_sizes_must_be_as_many_as_levels() -> None:
    with pytest.raises(ConfigError, match=r"codebook_size=\(4, 4\) names 2 sizes for levels=3"):
        ResidualKMeans(levels=3, codebook_size=(4, 4)).fit(np.ones((3, 2), np.float32), seed=0)


@pytest.mark.parametrize(
    "part",
    [
        ResidualKMeans(levels=0),
        ResidualKMeans(codebook_size=1),
        ResidualKMeans(levels=2, codebook_size=(4, 1)),
        ResidualKMeans(levels=0, codebook_size=()),
        ResidualKMeans(iterations=0),
    ],
)
def test_impossible_sizes_are_refused(part: ResidualKMeans) -> None:
    with pytest.raises(ConfigError):
        part.fit(np.ones((3, 2), np.float32), seed=0)


def test_vectors_that_cannot_be_used_are_refused() -> None:
    vectors = np.ones((5, 2), np.float32)
    fitted = ResidualKMeans(levels=1, codebook_size=2).fit(vectors, seed=0)
    with pytest.raises(DataError, match="fitted on width 2"):
        fitted.encode(np.ones((5, 3), np.float32))
    vectors[3, 1] = np.nan
    with pytest.raises(DataError, match="1 of 5 item vectors hold NaN or infinity, first at item index 3"):
        ResidualKMeans().fit(vectors, seed=0)


@pytest.mark.filterwarnings("error")
def test_vectors_whose_distances_overflow_are_refused_and_long_ones_are_not() -> None:
    """In float32 1e25 squared is infinite, and then every code is as near as any other."""
    near = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    part = ResidualKMeans(levels=2, codebook_size=4)
    long = near * np.float32(2**46)
    np.testing.assert_array_equal(part.fit(long, seed=0).encode(long), part.fit(near, seed=0).encode(near))
    for value in (1e25, -1e25):
        huge = near.copy()
        huge[7, 2] = value
        for call in (lambda rows: part.fit(rows, seed=0), part.fit(near, seed=0).encode):
            with pytest.raises(DataError, match="1 of 40 item vectors hold numbers beyond 5e.14, .* index 7") as caught:
                call(huge)
            assert "scale the vectors" in caught.value.fix


@pytest.mark.parametrize(("items", "sizes"), [(16, (4, 3)), (31, (4, 3)), (32, (8, 3)), (500, (16, 3)), (2, (2, 2))])
def test_small_catalogues_get_smaller_codebooks_where_asked_for(items: int, sizes: tuple[int, int]) -> None:
    vectors = np.random.default_rng(0).standard_normal((items, 3)).astype(np.float32)
    part = ResidualKMeans(levels=2, codebook_size=(16, 3), items_per_code=4)
    assert part.fit(vectors, seed=0).codebook_sizes == sizes


def test_more_codes_than_items_are_refused() -> None:
    vectors = np.random.default_rng(0).standard_normal((19, 3)).astype(np.float32)
    with pytest.raises(ConfigError, match=r"codebooks of \(20, 20, 20\) codes are larger than the catalogue of 19"):
        ResidualKMeans(codebook_size=20).fit(vectors, seed=0)
    assert ResidualKMeans(codebook_size=19).fit(vectors, seed=0).codebook_sizes == (19, 19, 19)
