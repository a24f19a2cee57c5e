"""Product codes: parts, rotation and codes on data whose best answer is known."""

from dataclasses import replace

import numpy as np
import pytest

from sememe.core.errors import ConfigError, DataError
from sememe.sid.product import FittedProductKMeans, ProductKMeans, allocate_directions, best_rotation, split


def cloud(rows: int, dim: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)


def turn(dim: int, *, seed: int = 7) -> np.ndarray:
    return np.linalg.qr(cloud(dim, dim, seed=seed))[0].astype(np.float32)


def corners(rows: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (rows, 4) with one of 4 corners in each half, and which corners; every pair of corners occurs."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(np.indices((4, 4)).reshape(2, -1).T.repeat(rows // 16, axis=0))
    near = np.array([[3, 0], [-3, 0], [0, 3], [0, -3]], np.float32)
    far = 0.5 * near[[0, 2, 1, 3]]
    vectors = np.concatenate([near[chosen[:, 0]], far[chosen[:, 1]]], axis=1)
    return vectors + 0.01 * cloud(rows, 4, seed=seed + 1), chosen


def lost(part: ProductKMeans, vectors: np.ndarray, *, seed: int = 0) -> float:
    fitted = part.fit(vectors, seed=seed)
    return float(np.square(vectors - fitted.reconstruct(fitted.encode(vectors))).sum())


def same_groups(left: np.ndarray, right: np.ndarray) -> bool:
    pairs = len(np.unique(np.stack([left, right]), axis=1).T)
    return pairs == len(np.unique(left)) == len(np.unique(right))


def test_each_part_finds_its_own_clusters() -> None:
    vectors, chosen = corners(160)
    codes = ProductKMeans(levels=2, codebook_size=4, rotate=False).fit(vectors, seed=0).encode(vectors)
    assert same_groups(codes[:, 0], chosen[:, 0]) and same_groups(codes[:, 1], chosen[:, 1])


def test_codes_and_vectors_by_hand() -> None:
    # A quarter turn, then part 0 is what was the second dimension.
    rotation = np.array([[0.0, 1], [1, 0]], np.float32)
    books = [np.array([[0.0], [5.0]], np.float32), np.array([[-2.0], [2.0]], np.float32)]
    fitted = FittedProductKMeans(np.array([1.0, 0], np.float32), rotation, books)
    codes = fitted.encode(np.array([[3.5, 0.2], [-1.0, 4]], np.float32))
    # (3.5, .2) - (1, 0) = (2.5, .2), turned (.2, 2.5): nearest 0 and 2.  (-2, 4), turned (4, -2): nearest 5 and -2.
    assert codes.tolist() == [[0, 1], [1, 0]]
    assert fitted.reconstruct(codes).tolist() == [[3.0, 0.0], [-1.0, 5.0]]


@pytest.mark.parametrize("rotate", [False, True])
def test_a_size_per_part(rotate: bool) -> None:
    vectors, chosen = corners(160)
    part = ProductKMeans(levels=2, codebook_size=(4, 7), rotate=rotate)
    fitted = part.fit(vectors, seed=0)
    codes = fitted.encode(vectors)
    assert fitted.codebook_sizes == (4, 7) and [len(np.unique(column)) for column in codes.T] == [4, 7]
    if not rotate:
        assert same_groups(codes[:, 0], chosen[:, 0])
    state = fitted.state()
    restored = FittedProductKMeans.from_state({name: array.copy() for name, array in state.items()})
    np.testing.assert_array_equal(restored.encode(vectors), codes)
    np.testing.assert_array_equal(restored.reconstruct(codes), fitted.reconstruct(codes))
    np.testing.assert_array_equal(restored.reconstruct(codes[:, :1]), fitted.reconstruct(codes[:, :1]))
    # One size given for each part is the same as one size for all, and is kept as it always was.
    one, each = (replace(part, codebook_size=size).fit(vectors, seed=0).state() for size in (4, (4, 4)))
    assert set(one) == {"mean", "rotation", "codebook", "levels"} and one["codebook"].shape == (4, 4)
    for name, array in one.items():
        np.testing.assert_array_equal(each[name], array)
    with pytest.raises(ConfigError, match="names 3 sizes for levels=2"):
        replace(part, codebook_size=(4, 4, 4)).fit(vectors, seed=0)


def test_the_rotation_undoes_a_turn_that_mixes_the_parts() -> None:
    vectors, chosen = corners(320)
    turned = vectors @ turn(4)
    plain, learned = (lost(ProductKMeans(levels=2, codebook_size=4, rotate=one), turned) for one in (False, True))
    assert learned < 0.02 * plain
    # What is left is the noise, of deviation .01 in each of the four dimensions.
    assert learned < 320 * 4 * 0.01**2 * 1.5
    codes = ProductKMeans(levels=2, codebook_size=4).fit(turned, seed=0).encode(turned)
    assert len(np.unique(codes, axis=0)) == 16 == len(np.unique(chosen, axis=0))


def test_each_of_the_three_steps_pays_where_variances_differ() -> None:
    vectors = (cloud(500, 8) * np.array([4, 3, 2, 1, 0.5, 0.3, 0.2, 0.1], np.float32)) @ turn(8)
    parts = (
        ProductKMeans(levels=2, codebook_size=16, rotate=False),
        ProductKMeans(levels=2, codebook_size=16, rotation_steps=0),
        ProductKMeans(levels=2, codebook_size=16, rotation_steps=20),
    )
    plain, allocated, learned = (lost(part, vectors) for part in parts)
    assert learned < allocated < plain


def test_directions_are_dealt_out_to_even_products() -> None:
    # Variances 16, 8, 4, 2 along the axes: 16 | 8, then 4 to the 8, and 2 fills up the 16.
    axes = np.diag(np.sqrt([16, 8, 4, 2]))
    vectors = np.concatenate([axes, -axes]).astype(np.float32)
    found = allocate_directions(vectors, parts=2)
    np.testing.assert_allclose(found, np.eye(4)[:, [0, 3, 1, 2]], atol=1e-6)


def test_procrustes_finds_the_turn() -> None:
    vectors, rotation = cloud(50, 5), turn(5)
    np.testing.assert_allclose(best_rotation(vectors, vectors @ rotation), rotation, atol=1e-5)
    found = best_rotation(vectors, cloud(50, 5, seed=1))
    np.testing.assert_allclose(found @ found.T, np.eye(5), atol=1e-5)


def test_widths_need_not_divide_and_no_direction_is_lost() -> None:
    vectors = cloud(40, 7)
    assert [part.shape[1] for part in split(vectors, 3)] == [3, 2, 2]
    fitted = ProductKMeans(levels=3, codebook_size=40).fit(vectors, seed=0)
    # A code per item in every part rebuilds the items.
    np.testing.assert_allclose(fitted.reconstruct(fitted.encode(vectors)), vectors, atol=1e-4)


def test_a_sample_is_fitted_and_everything_coded() -> None:
    vectors, chosen = corners(320)
    codes = (
        ProductKMeans(levels=2, codebook_size=4, rotate=False, max_fit_rows=100).fit(vectors, seed=0).encode(vectors)
    )
    assert same_groups(codes[:, 0], chosen[:, 0]) and same_groups(codes[:, 1], chosen[:, 1])


@pytest.mark.parametrize(
    "part",
    [
        ProductKMeans(levels=0),
        ProductKMeans(codebook_size=1),
        ProductKMeans(iterations=0),
        ProductKMeans(rotation_steps=-1),
        ProductKMeans(max_fit_rows=0),
    ],
)
def test_impossible_settings_are_refused(part: ProductKMeans) -> None:
    with pytest.raises(ConfigError):
        part.fit(cloud(6, 6), seed=0)


def test_vectors_too_narrow_for_the_parts_are_refused() -> None:
    with pytest.raises(DataError, match="3 wide, too narrow for 4 parts"):
        ProductKMeans(levels=4, codebook_size=4).fit(cloud(6, 3), seed=0)
