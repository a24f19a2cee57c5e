"""Finite scalars: steps by hand, even use, coarse to fine, and what happens where nothing varies."""

import numpy as np
import pytest

from sememe.core.errors import ConfigError, DataError
from sememe.sid.fsq import SPREAD, FiniteScalar, FittedFiniteScalar


def cloud(rows: int, dim: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)


def test_steps_by_hand() -> None:
    fitted = FittedFiniteScalar(
        mean=np.array([1.0, 0, 0], np.float32),
        directions=np.eye(3, dtype=np.float32)[:, :2],
        deviations=np.array([2.0, 1.0], np.float32),
        steps=(4, 3),
    )
    # Borders lie where tanh is -1/2, 0, 1/2 and -1/3, 1/3: at .549 * 1.2533 * 2 = 1.377 and .347 * 1.2533 = .434.
    vectors = np.array([[-0.5, 0, 9], [0.9, 0.5, 9], [2.3, -0.4, 9], [2.5, -0.5, 9], [1e6, -1e6, 9]], np.float32)
    codes = fitted.encode(vectors)
    assert fitted.codebook_sizes == (12,)
    assert codes[:, 0].tolist() == [0 * 3 + 1, 1 * 3 + 2, 2 * 3 + 1, 3 * 3 + 0, 3 * 3 + 0]
    # The middles of steps 3 of 4 and 0 of 3 are tanh = 3/4 and -2/3; the third dimension is not coded.
    expected = [1 + 2 * SPREAD * np.arctanh(3 / 4), SPREAD * np.arctanh(-2 / 3), 0]
    np.testing.assert_allclose(fitted.reconstruct(codes[3:4]), [expected], rtol=1e-6)


def test_steps_and_codes_come_back_from_their_middles() -> None:
    fitted = FiniteScalar(levels=2, steps=(5, 4, 3)).fit(cloud(300, 8), seed=0)
    codes = np.stack([np.arange(60), np.arange(60)[::-1]], axis=1).astype(np.int32)
    np.testing.assert_array_equal(fitted.encode(fitted.reconstruct(codes)), codes)


def test_normal_scores_use_all_codes_about_equally_often() -> None:
    vectors = cloud(20_000, 4) * np.array([5, 2, 1, 0.1], np.float32)
    codes = FiniteScalar(levels=2, steps=(4, 4)).fit(vectors, seed=0).encode(vectors)
    for level in range(2):
        share = np.bincount(codes[:, level], minlength=16) / 20_000
        assert share.min() > 0.75 / 16 and share.max() < 1.25 / 16


def test_the_first_code_says_most() -> None:
    vectors = cloud(2_000, 12) * np.linspace(3, 0.5, 12, dtype=np.float32)
    fitted = FiniteScalar(levels=3, steps=(8, 8)).fit(vectors, seed=0)
    codes = fitted.encode(vectors)
    kept = []
    for level in range(3):
        known = fitted.reconstruct(codes) - fitted.mean
        only = known @ fitted.directions
        only[:, np.arange(6) // 2 != level] = 0
        kept.append(float(np.square(vectors).sum() - np.square(vectors - only @ fitted.directions.T).sum()))
    assert kept[0] > kept[1] > kept[2] > 0


def test_more_steps_lose_less() -> None:
    vectors = cloud(1_000, 6)
    errors = []
    for steps in (2, 4, 16):
        fitted = FiniteScalar(levels=3, steps=(steps, steps)).fit(vectors, seed=0)
        errors.append(float(np.square(vectors - fitted.reconstruct(fitted.encode(vectors))).mean()))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_directions_without_spread_get_the_middle_step() -> None:
    vectors = np.zeros((50, 6), np.float32)
    vectors[:, 2] = cloud(50, 1)[:, 0]
    fitted = FiniteScalar(levels=2, steps=(5, 3)).fit(vectors, seed=0)
    codes = fitted.encode(vectors)
    assert (fitted.deviations > 0).tolist() == [True, False, False, False]
    assert set((codes[:, 0] % 3).tolist()) == {1}
    assert set(codes[:, 1].tolist()) == {2 * 3 + 1}


def test_the_seed_and_the_sign_of_a_direction_do_not_matter() -> None:
    vectors = cloud(200, 6) * np.linspace(2, 1, 6, dtype=np.float32)
    part = FiniteScalar(levels=2, steps=(4, 4))
    codes = part.fit(vectors, seed=0).encode(vectors)
    np.testing.assert_array_equal(part.fit(vectors, seed=1).encode(vectors), codes)
    directions = part.fit(vectors, seed=0).directions
    assert (directions[np.abs(directions).argmax(axis=0), np.arange(4)] > 0).all()


@pytest.mark.parametrize(
    "part",
    [
        FiniteScalar(levels=0),
        FiniteScalar(steps=()),
        FiniteScalar(steps=(8, 1)),
        FiniteScalar(steps=8),  # type: ignore[arg-type]
        FiniteScalar(steps=((8, 8), (4, 4), (2, 2))),  # type: ignore[arg-type]
    ],
)
def test_impossible_settings_are_refused(part: FiniteScalar) -> None:
    with pytest.raises(ConfigError, match="give levels >= 1 and a tuple of steps"):
        part.fit(cloud(30, 12), seed=0)


def test_vectors_too_narrow_are_refused() -> None:
    with pytest.raises(DataError, match="8 wide, and 3 codes of 3 numbers need 9"):
        FiniteScalar().fit(cloud(30, 8), seed=0)
