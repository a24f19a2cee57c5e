"""What every tokenizer promises: one battery, run over each kind, on clusters whose tree is known."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import FloatArray, Interactions
from sememe.data.simulator import PlantedWorld
from sememe.sid.aligned import AlignedRqVae
from sememe.sid.balanced import BalancedKMeans
from sememe.sid.codebook_training import CodebookTraining
from sememe.sid.context import CodeContext
from sememe.sid.controls import RandomCodes, RandomPlanes
from sememe.sid.dual import DualRqVae
from sememe.sid.dual_net import Branch
from sememe.sid.encode import encode_catalog
from sememe.sid.fsq import FiniteScalar
from sememe.sid.kmeans import distinct_rows
from sememe.sid.product import ProductKMeans
from sememe.sid.report import relative_error
from sememe.sid.rqkmeans import ResidualKMeans
from sememe.sid.rqvae import RqVae
from sememe.sid.two_sided import TwoSidedRqVae
from sememe.sid.views import VIEWS

WORLD = PlantedWorld(branching=(4, 3), items_per_leaf=5, dim=8, noise=0.01, num_users=1).generate(seed=0)
assert WORLD.catalog.vectors is not None
VECTORS: FloatArray = WORLD.catalog.vectors


@dataclass(frozen=True)
class InContext:
    """A tokenizer that reads more than the vectors, with a log of users who take everything in the order of content."""

    part: Any

    def fit(self, vectors: FloatArray, *, seed: int) -> Any:
        ordered = (
            np.argsort(distinct_rows(vectors).inverse, kind="stable") if vectors.ndim == 2 and vectors.size else []
        )
        train = Interactions(
            offsets=np.arange(9, dtype=np.int64) * len(ordered),
            items=np.tile(np.array(ordered, np.int32), 8),
            user_ids=pl.Series(range(8), dtype=pl.Int64),
            item_ids=pl.Series(range(len(vectors)), dtype=pl.Int64),
        )
        return self.part.fit_in(vectors, context=CodeContext((5, 3), train), seed=seed)


@dataclass(frozen=True)
class OneBranch:
    """One of the two IDs of a dual tokenizer."""

    part: InContext
    branch: Branch

    def fit(self, vectors: FloatArray, *, seed: int) -> Any:
        return self.part.fit(vectors, seed=seed).branch(self.branch)


PACE = CodebookTraining(epochs=6, warmup_epochs=10, batch_size=16)
SMALL_DUAL = InContext(DualRqVae(shared=(6,), semantic=(6,), collaborative=(6,), hidden=(16,), latent=6, training=PACE))
SMALL_RQVAE = RqVae(levels=2, codebook_size=6, hidden=(16,), latent=6, epochs=6, warmup_epochs=10, batch_size=16)
KINDS = {
    "rqvae": SMALL_RQVAE,
    "rqvae-uneven": replace(SMALL_RQVAE, codebook_size=(6, 4)),
    "rqvae-rotation": replace(SMALL_RQVAE, gradient="rotation"),
    "rqvae-ema": replace(SMALL_RQVAE, codebooks="ema"),
    "rqkmeans": ResidualKMeans(levels=2, codebook_size=6),
    "rqkmeans-uneven": ResidualKMeans(levels=2, codebook_size=(6, 4)),
    "balanced": BalancedKMeans(levels=2, codebook_size=6),
    "balanced-greedy": BalancedKMeans(levels=2, codebook_size=6, assignment="greedy"),
    "product": ProductKMeans(levels=2, codebook_size=6),
    "product-plain": ProductKMeans(levels=2, codebook_size=6, rotate=False),
    "fsq": FiniteScalar(levels=2, steps=(3, 2)),
    "planes": RandomPlanes(levels=2, bits=3),
    "random": RandomCodes(levels=2, codebook_size=6),
    "aligned": InContext(
        AlignedRqVae(levels=2, codebook_size=12, hidden=(16,), latent=6, cooccurrence=0.0, training=PACE)
    ),
    "two-sided": InContext(
        TwoSidedRqVae(
            levels=2,
            codebook_size=6,
            hidden=(16,),
            latent=6,
            views=VIEWS[:4],
            training=CodebookTraining(epochs=6, warmup_epochs=10, batch_size=240),
        )
    ),
    "dual-semantic": OneBranch(SMALL_DUAL, "semantic"),
    "dual-collaborative": OneBranch(SMALL_DUAL, "collaborative"),
}
SIZES = {"aligned": (12, 6), "rqvae-uneven": (6, 4), "rqkmeans-uneven": (6, 4), "planes": (8, 8)}
"""Where they are not (6, 6)."""
WITHOUT_RANDOMNESS = {"fsq"}
WITHOUT_CODEBOOKS = {"fsq", "planes", "random"}
"""All others refuse a catalogue with fewer items than a level has codes."""
BLIND = {"planes", "random"}
"""Controls, which do not see what belongs together."""
every_kind = pytest.mark.parametrize("part", KINDS.values(), ids=KINDS.keys())
every_name = pytest.mark.parametrize("name", KINDS)


@every_name
def test_codes_are_small_whole_numbers_of_known_sizes(name: str) -> None:
    fitted = KINDS[name].fit(VECTORS, seed=0)
    assert fitted.codebook_sizes == SIZES.get(name, (6, 6))
    for codes in (fitted.encode(VECTORS), encode_catalog(fitted, VECTORS)):
        assert codes.dtype == np.int32 and codes.shape == (len(VECTORS), 2)
        assert np.all(codes >= 0) and np.all(codes < np.array(fitted.codebook_sizes))
        rebuilt = fitted.reconstruct(codes)
        assert rebuilt.dtype == np.float32 and rebuilt.shape == VECTORS.shape


REBUILDING = {name for name in KINDS if name not in BLIND}


@every_name
def test_the_first_codes_alone_stand_for_something_where_a_tokenizer_says_so(name: str) -> None:
    fitted = KINDS[name].fit(VECTORS, seed=0)
    assert getattr(fitted, "rebuilds_prefixes", False) == (name in REBUILDING)
    if name not in REBUILDING:
        return
    codes = encode_catalog(fitted, VECTORS)
    one, two = (fitted.reconstruct(codes[:, :depth]) for depth in (1, 2))
    assert one.dtype == np.float32 and one.shape == VECTORS.shape
    # What one code stands for is the same for all that have it, whatever comes after.
    assert len(np.unique(one, axis=0)) == len(np.unique(codes[:, 0]))
    assert relative_error(VECTORS, two) < relative_error(VECTORS, one) < 1


@every_kind
def test_permuted_items_get_permuted_codes(part: Any) -> None:
    order = np.random.default_rng(0).permutation(len(VECTORS))
    fitted, permuted = part.fit(VECTORS, seed=3), part.fit(VECTORS[order], seed=3)
    np.testing.assert_array_equal(permuted.encode(VECTORS[order]), fitted.encode(VECTORS)[order])
    np.testing.assert_array_equal(encode_catalog(permuted, VECTORS[order]), encode_catalog(fitted, VECTORS)[order])


@every_name
def test_the_seed_decides_and_nothing_else(name: str) -> None:
    part, before = KINDS[name], VECTORS.copy()
    first = part.fit(VECTORS, seed=3).encode(VECTORS)
    torch.manual_seed(99)
    np.random.default_rng().random()
    np.testing.assert_array_equal(part.fit(VECTORS, seed=3).encode(VECTORS), first)
    others = [part.fit(VECTORS, seed=seed).encode(VECTORS) for seed in (4, 5)]
    assert all(np.array_equal(other, first) for other in others) == (name in WITHOUT_RANDOMNESS)
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
    np.testing.assert_array_equal(encode_catalog(restored, unseen), encode_catalog(fitted, unseen))
    assert restored.codebook_sizes == fitted.codebook_sizes


@every_kind
def test_inputs_that_cannot_be_coded_are_refused_in_words(part: Any) -> None:
    fitted = part.fit(VECTORS, seed=0)
    broken = VECTORS.copy()
    broken[7, 2] = np.inf
    for use in (lambda vectors: part.fit(vectors, seed=0), fitted.encode, lambda some: encode_catalog(fitted, some)):
        with pytest.raises(DataError, match=r"item vectors have shape \(0, 8\)"):
            use(VECTORS[:0])
        with pytest.raises(DataError, match=r"item vectors have shape \(8,\)"):
            use(VECTORS[0])
        with pytest.raises(DataError, match="1 of 60 item vectors hold NaN or infinity, first at item index 7"):
            use(broken)
    with pytest.raises(DataError, match="5 wide, the tokenizer was fitted on width 8"):
        fitted.encode(VECTORS[:, :5])


@every_name
def test_a_catalogue_without_differences_gets_codes_and_its_vector_back(name: str) -> None:
    """Fewer distinct vectors than codes is no error; fewer items is one."""
    for rows in (5, 20):
        same = np.full((rows, 8), 0.3, np.float32)
        if rows == 5 and name not in WITHOUT_CODEBOOKS:
            with pytest.raises(ConfigError, match="larger than the catalogue of 5 items") as caught:
                KINDS[name].fit(same, seed=0)
            assert "at most as many codes as there are items" in caught.value.fix
            continue
        fitted = KINDS[name].fit(same, seed=0)
        codes = fitted.encode(same)
        assert len(np.unique(codes, axis=0)) == 1
        np.testing.assert_allclose(fitted.reconstruct(codes), same, atol=1e-3)


@pytest.mark.parametrize("name", [name for name in KINDS if name not in BLIND])
def test_items_of_a_leaf_share_their_first_code_and_far_leaves_do_not(name: str) -> None:
    first = KINDS[name].fit(VECTORS, seed=0).encode(VECTORS)[:, 0]
    by_leaf = first[WORLD.leaf_items]
    assert np.all(by_leaf == by_leaf[:, :1])
    assert len(np.unique(first)) >= 4
