"""Balanced residual k-means: equal use of every code, on planted trees, duplicates and degenerate catalogues."""

from typing import Any

import numpy as np
import pytest
from planted_tree import same_tree, tree

from sememe.core.errors import ConfigError, DataError
from sememe.sid.balanced import BalancedKMeans, FittedBalancedKMeans
from sememe.sid.encode import encode_catalog
from sememe.sid.rqkmeans import ResidualKMeans

both = pytest.mark.parametrize("form", ["sinkhorn", "greedy"])


def cloud(rows: int, dim: int = 8, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)


def sizes(codes: np.ndarray, num_codes: int) -> list[set[int]]:
    return [set(np.bincount(column, minlength=num_codes).tolist()) for column in codes.T]


@both
@pytest.mark.parametrize("seed", range(3))
def test_codes_recover_the_planted_tree(form: Any, seed: int) -> None:
    vectors, paths = tree(seed)
    fitted = BalancedKMeans(levels=3, codebook_size=4, assignment=form).fit(vectors, seed=seed)
    assert fitted.codebook_sizes == (4, 4, 4)
    assert same_tree(fitted.assign(vectors), paths)
    assert same_tree(fitted.encode(vectors), paths)


@both
def test_every_code_of_a_level_is_used_equally_often(form: Any) -> None:
    vectors = np.concatenate([cloud(70), 0.1 * cloud(30, seed=1) + 5])
    part = BalancedKMeans(levels=3, codebook_size=(16, 8, 5), assignment=form)
    fitted = part.fit(vectors, seed=0)
    assert fitted.codebook_sizes == (16, 8, 5)
    assert sizes(fitted.assign(vectors), 16)[0] == {6, 7}
    assert [set(np.bincount(column).tolist()) for column in fitted.assign(vectors).T[1:]] == [{12, 13}, {20}]


@both
def test_the_catalogue_is_dealt_out_and_later_items_go_to_the_nearest(form: Any) -> None:
    vectors = cloud(90) ** 3
    fitted = BalancedKMeans(levels=1, codebook_size=9, assignment=form).fit(vectors, seed=0)
    np.testing.assert_array_equal(encode_catalog(fitted, vectors), fitted.assign(vectors))
    distances = np.square(vectors[:, None] - fitted.codebooks[0]).sum(axis=2)
    np.testing.assert_array_equal(fitted.encode(vectors)[:, 0], distances.argmin(axis=1))
    assert sizes(fitted.assign(vectors), 9) == [{10}] != sizes(fitted.encode(vectors), 9)
    plain = ResidualKMeans(levels=1, codebook_size=9).fit(vectors, seed=0)
    np.testing.assert_array_equal(encode_catalog(plain, vectors), plain.encode(vectors))


@both
def test_the_order_of_items_changes_nothing(form: Any) -> None:
    vectors = cloud(150)
    order = np.random.default_rng(1).permutation(150)
    part = BalancedKMeans(levels=2, codebook_size=12, assignment=form)
    fitted, permuted = part.fit(vectors, seed=3), part.fit(vectors[order], seed=3)
    np.testing.assert_array_equal(permuted.assign(vectors[order]), fitted.assign(vectors)[order])


@both
def test_equal_vectors_share_codes_as_far_as_there_is_room(form: Any) -> None:
    vectors = np.concatenate([np.repeat(cloud(1), 40, axis=0), cloud(60, seed=1)])
    order = np.random.default_rng(1).permutation(100)
    part = BalancedKMeans(levels=2, codebook_size=10, assignment=form)
    codes, permuted = part.fit(vectors, seed=0).assign(vectors), part.fit(vectors[order], seed=0).assign(vectors[order])
    assert sizes(codes, 10) == [{10}, {10}]
    # Equal vectors may swap their codes with each other, with no one else.
    np.testing.assert_array_equal(permuted[np.argsort(order)][40:], codes[40:])
    assert sorted(permuted[np.argsort(order)][:40].tolist()) == sorted(codes[:40].tolist())


def test_all_choosing_at_once_beats_turns() -> None:
    vectors = cloud(600) * np.linspace(2, 0.2, 8, dtype=np.float32)
    lost = {}
    for form in ("sinkhorn", "greedy"):
        fitted = BalancedKMeans(levels=1, codebook_size=30, assignment=form).fit(vectors, seed=0)  # type: ignore[arg-type]
        lost[form] = float(np.square(vectors - fitted.reconstruct(fitted.assign(vectors))).sum())
    assert lost["sinkhorn"] < lost["greedy"]


@both
def test_each_level_lowers_the_error(form: Any) -> None:
    vectors = cloud(300)
    fitted = BalancedKMeans(levels=3, codebook_size=16, assignment=form).fit(vectors, seed=0)
    codes = fitted.assign(vectors)
    errors = [
        np.square(vectors - FittedBalancedKMeans(fitted.codebooks[:depth], form).reconstruct(codes[:, :depth])).sum()
        for depth in (1, 2, 3)
    ]
    assert errors[0] > errors[1] > errors[2]


@both
def test_centres_from_a_sample_still_give_exact_sizes(form: Any) -> None:
    vectors = cloud(500)
    fitted = BalancedKMeans(levels=2, codebook_size=10, assignment=form, max_fit_rows=100).fit(vectors, seed=0)
    assert sizes(fitted.assign(vectors), 10) == [{50}, {50}]


@both
def test_the_seed_decides_and_a_saved_tokenizer_is_the_same(form: Any) -> None:
    vectors, _ = tree(0)
    part = BalancedKMeans(levels=2, codebook_size=4, assignment=form)
    fitted = part.fit(vectors, seed=3)
    np.testing.assert_array_equal(part.fit(vectors, seed=3).assign(vectors), fitted.assign(vectors))
    restored = FittedBalancedKMeans.from_state(fitted.state())
    assert restored.assignment == form
    np.testing.assert_array_equal(restored.assign(vectors), fitted.assign(vectors))
    uneven = BalancedKMeans(levels=2, codebook_size=(8, 3), assignment=form).fit(vectors, seed=0)
    assert FittedBalancedKMeans.from_state(uneven.state()).codebook_sizes == (8, 3)


@both
def test_as_many_items_as_codes_get_a_code_each(form: Any) -> None:
    vectors = cloud(5)
    fitted = BalancedKMeans(levels=2, codebook_size=5, assignment=form).fit(vectors, seed=0)
    assert sizes(fitted.assign(vectors), 5) == [{1}, {1}]
    np.testing.assert_allclose(fitted.reconstruct(fitted.encode(vectors)), vectors, atol=1e-5)


@both
def test_a_constant_catalogue_is_shared_out_evenly(form: Any) -> None:
    vectors = np.full((50, 3), 2.5, np.float32)
    fitted = BalancedKMeans(levels=2, codebook_size=10, assignment=form).fit(vectors, seed=0)
    codes = fitted.assign(vectors)
    assert sizes(codes, 10) == [{5}, {5}]
    np.testing.assert_allclose(fitted.reconstruct(codes), vectors, atol=1e-6)
    assert (fitted.encode(vectors) == 0).all()


@pytest.mark.parametrize(
    "part",
    [
        BalancedKMeans(levels=0),
        BalancedKMeans(codebook_size=1),
        BalancedKMeans(levels=2, codebook_size=(4, 4, 4)),
        BalancedKMeans(iterations=0),
        BalancedKMeans(max_fit_rows=0),
        BalancedKMeans(assignment="even"),  # type: ignore[arg-type]
    ],
)
def test_impossible_settings_are_refused(part: BalancedKMeans) -> None:
    with pytest.raises(ConfigError):
        part.fit(np.ones((3, 2), np.float32), seed=0)


def test_vectors_that_cannot_be_used_are_refused() -> None:
    part = BalancedKMeans(levels=1, codebook_size=2)
    fitted = part.fit(cloud(5, 2), seed=0)
    for use in (fitted.encode, fitted.assign):
        with pytest.raises(DataError, match="3 wide, the tokenizer was fitted on width 2"):
            use(cloud(5, 3))
        with pytest.raises(DataError, match=r"shape \(0, 2\)"):
            use(cloud(0, 2))
    vectors = cloud(5, 2)
    vectors[3, 1] = np.nan
    for use in (fitted.encode, fitted.assign, lambda bad: part.fit(bad, seed=0)):
        with pytest.raises(DataError, match="hold NaN or infinity, first at item index 3"):
            use(vectors)
