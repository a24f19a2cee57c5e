"""What every tokenizer promises: one battery, run over each kind, on clusters whose tree is known."""

from typing import Any

import numpy as np
import pytest
import torch

from sememe.core.schema import FloatArray
from sememe.data.simulator import PlantedWorld
from sememe.sid.rqkmeans import ResidualKMeans
from sememe.sid.rqvae import RqVae

WORLD = PlantedWorld(branching=(4, 3), items_per_leaf=5, dim=8, noise=0.01, num_users=1).generate(seed=0)
assert WORLD.catalog.vectors is not None
VECTORS: FloatArray = WORLD.catalog.vectors
KINDS = {
    "rqvae": RqVae(levels=2, codebook_size=6, hidden=(16,), latent=6, epochs=6, warmup_epochs=10, batch_size=16),
    "rqkmeans": ResidualKMeans(levels=2, codebook_size=6),
}
every_kind = pytest.mark.parametrize("part", KINDS.values(), ids=KINDS.keys())


@every_kind
def test_codes_are_small_whole_numbers_of_known_sizes(part: Any) -> None:
    fitted = part.fit(VECTORS, seed=0)
    codes = fitted.encode(VECTORS)
    assert fitted.codebook_sizes == (6, 6)
    assert codes.dtype == np.int32 and codes.shape == (len(VECTORS), 2)
    assert np.all(codes >= 0) and np.all(codes < np.array(fitted.codebook_sizes))
    assert fitted.reconstruct(codes).shape == VECTORS.shape


@every_kind
def test_permuted_items_get_permuted_codes(part: Any) -> None:
    order = np.random.default_rng(0).permutation(len(VECTORS))
    codes = part.fit(VECTORS, seed=3).encode(VECTORS)
    np.testing.assert_array_equal(part.fit(VECTORS[order], seed=3).encode(VECTORS[order]), codes[order])


@every_kind
def test_the_seed_decides_and_nothing_else(part: Any) -> None:
    before = VECTORS.copy()
    first = part.fit(VECTORS, seed=3).encode(VECTORS)
    torch.manual_seed(99)
    np.random.default_rng().random()
    np.testing.assert_array_equal(part.fit(VECTORS, seed=3).encode(VECTORS), first)
    assert any(not np.array_equal(part.fit(VECTORS, seed=seed).encode(VECTORS), first) for seed in (4, 5))
    np.testing.assert_array_equal(VECTORS, before)


@every_kind
def test_an_item_has_one_code_however_it_is_asked_for(part: Any) -> None:
    """Fitting gives a tokenizer and no codes: the codes of the training vectors are what `encode` says, always."""
    fitted = part.fit(VECTORS, seed=0)
    codes = fitted.encode(VECTORS)
    np.testing.assert_array_equal(fitted.encode(VECTORS), codes)
    np.testing.assert_array_equal(fitted.encode(VECTORS[::-1].copy()), codes[::-1])
    np.testing.assert_array_equal(
        np.concatenate([fitted.encode(VECTORS[row : row + 1]) for row in range(9)]), codes[:9]
    )
    np.testing.assert_array_equal(fitted.encode(np.repeat(VECTORS, 2, axis=0)), np.repeat(codes, 2, axis=0))


@every_kind
def test_a_saved_tokenizer_is_the_same(part: Any) -> None:
    fitted = part.fit(VECTORS, seed=0)
    restored = type(fitted).from_state({name: np.array(array) for name, array in fitted.state().items()})
    unseen = np.random.default_rng(1).standard_normal(VECTORS.shape).astype(np.float32)
    codes = fitted.encode(unseen)
    np.testing.assert_array_equal(restored.encode(unseen), codes)
    np.testing.assert_array_equal(restored.reconstruct(codes), fitted.reconstruct(codes))
    assert restored.codebook_sizes == fitted.codebook_sizes


@every_kind
def test_items_of_a_leaf_share_their_first_code_and_far_leaves_do_not(part: Any) -> None:
    first = part.fit(VECTORS, seed=0).encode(VECTORS)[:, 0]
    by_leaf = first[WORLD.leaf_items]
    assert np.all(by_leaf == by_leaf[:, :1])
    assert len(np.unique(first)) >= 4
