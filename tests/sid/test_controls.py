"""Controls: LSH sees what is near, random codes see nothing, both as exactly as they say."""

import numpy as np
import pytest
from planted_tree import tree

from sememe.core.errors import ConfigError
from sememe.sid.controls import FittedRandomPlanes, RandomCodes, RandomPlanes


def cloud(rows: int, dim: int = 8, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)


def test_sides_of_planes_by_hand() -> None:
    fitted = FittedRandomPlanes(
        mean=np.array([1.0, 1.0], np.float32),
        planes=np.array([[1.0, 0, 1, -1], [0, 1, 1, 0]], np.float32),
        decoder=np.array([[1.0, 0], [0, 1], [0, 0], [0, 0]], np.float32),
        bits=2,
    )
    # (3, 0) - (1, 1) = (2, -1): sides + - and + -, so codes 10 and 10 in binary.
    codes = fitted.encode(np.array([[3.0, 0.0], [0.0, 0.0]], np.float32))
    assert codes.tolist() == [[0b10, 0b10], [0b00, 0b01]]
    assert fitted.codebook_sizes == (4, 4)
    assert fitted.reconstruct(codes).tolist() == [[2.0, 0.0], [0.0, 0.0]]


def test_the_share_of_equal_bits_is_the_angle() -> None:
    """For planes through the middle, two vectors at angle a lie on one side with probability 1 - a / pi."""
    corner = np.array([[1.0, 0], [0.5, 0.75**0.5], [-1, 0], [-0.5, -(0.75**0.5)]], np.float32)
    codes = RandomPlanes(levels=400, bits=1).fit(corner, seed=0).encode(corner)
    assert np.mean(codes[0] == codes[1]) == pytest.approx(1 - 60 / 180, abs=0.07)
    assert np.mean(codes[0] == codes[2]) == 0


def test_a_shift_of_all_vectors_changes_no_code() -> None:
    vectors = np.round(cloud(100) * 8) / 8
    part = RandomPlanes(levels=2, bits=4)
    codes = part.fit(vectors, seed=0).encode(vectors)
    shifted = vectors + np.float32(64)
    np.testing.assert_array_equal(part.fit(shifted, seed=0).encode(shifted), codes)
    assert len(np.unique(codes[:, 0])) > 8


def test_planes_see_the_tree_and_random_codes_do_not() -> None:
    vectors, paths = tree(0)
    lost, together = [], []
    siblings = (paths[:, None] == paths[None]).all(axis=2) & ~np.eye(len(paths), dtype=bool)
    for part in (RandomPlanes(levels=2, bits=4), RandomCodes(levels=2, codebook_size=16)):
        fitted = part.fit(vectors, seed=0)
        codes = fitted.encode(vectors)
        rest = np.square(vectors - fitted.reconstruct(codes)).sum()
        lost.append(rest / np.square(vectors - vectors.mean(axis=0)).sum())
        together.append(float(np.mean((codes[:, None, 0] == codes[None, :, 0])[siblings])))
    assert lost[0] < 0.7 and lost[1] == pytest.approx(1)
    assert together[0] > 0.9 and together[1] < 0.2


def test_random_codes_are_even_and_independent_of_each_other() -> None:
    codes = RandomCodes(levels=2, codebook_size=(4, 5)).fit(cloud(8_000, 2), seed=0).encode(cloud(8_000, 2))
    table = np.zeros((4, 5))
    np.add.at(table, (codes[:, 0], codes[:, 1]), 1)
    # 400 of each pair expected; chi-squared with 19 degrees of freedom stays below 45 in 99.9 % of draws.
    assert float(np.square(table - 400).sum() / 400) < 45


def test_equal_vectors_get_equal_random_codes_whatever_else_is_there() -> None:
    vectors = cloud(200)
    vectors[10] = vectors[20]
    vectors[30], vectors[31] = 0.0, -0.0
    fitted = RandomCodes().fit(vectors, seed=0)
    codes = fitted.encode(vectors)
    assert codes[10].tolist() == codes[20].tolist() and codes[30].tolist() == codes[31].tolist()
    fewer = RandomCodes().fit(vectors[:50], seed=0)
    np.testing.assert_array_equal(fewer.encode(vectors[:50]), codes[:50])
    other = RandomCodes().fit(vectors, seed=1).encode(vectors)
    assert np.mean(other == codes) < 0.02


@pytest.mark.parametrize(
    "part",
    [
        RandomPlanes(levels=0),
        RandomPlanes(bits=0),
        RandomPlanes(bits=17),
        RandomPlanes(bits=(8, 4, 4)),  # type: ignore[arg-type]
        RandomCodes(codebook_size=1),
    ],
)
def test_impossible_settings_are_refused(part: RandomPlanes | RandomCodes) -> None:
    with pytest.raises(ConfigError):
        part.fit(cloud(5), seed=0)
