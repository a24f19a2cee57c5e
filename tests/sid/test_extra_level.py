"""An extra residual level: fitted on what is left over, a token only where items still collide, or an error."""

import numpy as np
import pytest
from planted_tree import BRANCHES, tree

from sememe.core.errors import ConfigError, DataError
from sememe.sid.balanced import BalancedKMeans
from sememe.sid.encode import settle_catalog
from sememe.sid.extra_level import ExtraLevel, FittedExtraLevel
from sememe.sid.fitted import kind_of, restore_tokenizer
from sememe.sid.rqkmeans import ResidualKMeans

VECTORS, PATHS = tree(0, per_leaf=1)
SHORT = ResidualKMeans(levels=2, codebook_size=BRANCHES).fit(VECTORS, seed=0)
"""Leaves out the last branch of the planted tree."""


def test_the_extra_level_finds_what_the_tokenizer_leaves_over() -> None:
    settled = settle_catalog(ExtraLevel(size=BRANCHES, token=0), tokenizer=SHORT, vectors=VECTORS, seed=0)
    codes = settled.codes
    assert codes.codebook_sizes == (4, 4, 4) and codes.collisions == "extra"
    assert codes.num_semantic_levels == 2
    np.testing.assert_array_equal(codes.matrix[:, :2], SHORT.encode(VECTORS))
    assert len(np.unique(codes.matrix, axis=0)) == len(VECTORS)
    # Each extra code is one branch of the tree's third level, everywhere.
    assert len(np.unique(np.stack([codes.matrix[:, 2], PATHS[:, 2]]), axis=1).T) == BRANCHES
    lost = np.square(VECTORS - settled.tokenizer.reconstruct(codes.matrix)).sum()
    assert lost < 0.01 * np.square(VECTORS - SHORT.reconstruct(codes.matrix[:, :2])).sum()


def test_a_token_comes_only_where_items_still_collide() -> None:
    twice = np.repeat(VECTORS, 2, axis=0)
    codes = settle_catalog(ExtraLevel(size=BRANCHES, token=8), tokenizer=SHORT, vectors=twice, seed=0).codes
    assert codes.codebook_sizes == (4, 4, 4, 8) and codes.num_semantic_levels == 2
    assert codes.matrix[:, 3].tolist() == [0, 1] * len(VECTORS)
    assert len(np.unique(codes.matrix, axis=0)) == len(twice)


def test_without_a_token_items_that_still_collide_are_an_error() -> None:
    twice = np.concatenate([VECTORS, VECTORS[:3]])
    with pytest.raises(DataError, match="6 items still share all their codes with another after an extra level of 4"):
        settle_catalog(ExtraLevel(size=BRANCHES, token=0), tokenizer=SHORT, vectors=twice, seed=0)
    with pytest.raises(DataError, match="at most 2 apart"):
        same = np.repeat(VECTORS, 3, axis=0)
        settle_catalog(ExtraLevel(size=BRANCHES, token=2), tokenizer=SHORT, vectors=same, seed=0)


@pytest.mark.parametrize(("setting", "value"), [("size", 1), ("token", -1), ("iterations", 0)])
def test_settings_that_cannot_be_are_refused(setting: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"ExtraLevel got {setting}={value}"):
        settle_catalog(ExtraLevel(**{setting: value}), tokenizer=SHORT, vectors=VECTORS, seed=0)


@pytest.mark.parametrize("part", [ResidualKMeans(levels=2, codebook_size=4), BalancedKMeans(levels=2, codebook_size=4)])
def test_what_it_learnt_codes_later_items_and_survives_being_written_down(part: ResidualKMeans) -> None:
    base = part.fit(VECTORS, seed=0)
    settled = settle_catalog(ExtraLevel(size=4), tokenizer=base, vectors=VECTORS, seed=0)
    extended = settled.tokenizer
    assert isinstance(extended, FittedExtraLevel) and extended.codebook_sizes == (4, 4, 4)
    if isinstance(part, ResidualKMeans):  # a balanced tokenizer deals out the catalogue as a whole
        np.testing.assert_array_equal(extended.encode(VECTORS), settled.codes.matrix[:, :3])
    new = np.random.default_rng(0).standard_normal(VECTORS.shape).astype(np.float32)
    codes = extended.encode(new)
    assert codes.dtype == np.int32
    np.testing.assert_array_equal(extended.encode(new[::-1].copy()), codes[::-1])
    read = restore_tokenizer(kind_of(extended), {name: array.copy() for name, array in extended.state().items()})
    np.testing.assert_array_equal(read.encode(new), codes)
    np.testing.assert_array_equal(read.reconstruct(codes), extended.reconstruct(codes))


def test_the_seed_decides() -> None:
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((300, 8)).astype(np.float32)
    base = ResidualKMeans(levels=1, codebook_size=4).fit(vectors, seed=0)
    first, again, other = (
        settle_catalog(ExtraLevel(size=8), tokenizer=base, vectors=vectors, seed=seed).codes.matrix
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    order = rng.permutation(300)
    moved = settle_catalog(ExtraLevel(size=8), tokenizer=base, vectors=vectors[order], seed=0).codes.matrix
    np.testing.assert_array_equal(moved[:, :2], first[order][:, :2])
    assert other.shape[0] == 300
