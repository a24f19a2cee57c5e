"""Collaborative vectors: counts by hand, PPMI by hand, and what they may and may not know."""

import importlib
from types import ModuleType

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp

from sememe.core.errors import ConfigError, MissingExtraError, NothingToEmbedError
from sememe.core.schema import Catalog, Interactions
from sememe.embed import collaborative
from sememe.embed.collaborative import CooccurrenceSvd, ImplicitAls, ppmi

NO_CATALOG = Catalog(pl.DataFrame({"item_id": []}))


def log(*histories: list[int], num_items: int) -> Interactions:
    lengths = [len(history) for history in histories]
    return Interactions(
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=np.concatenate([np.array(history, np.int32) for history in histories]),
        user_ids=pl.Series(list(range(len(histories)))),
        item_ids=pl.Series(list(range(num_items))),
    )


def two_worlds(users: int = 200, items: int = 40) -> Interactions:
    """Users of two kinds, each of whom meets only items of one half."""
    rng = np.random.default_rng(0)
    half = items // 2
    return log(*[(rng.integers(0, half, 8) + half * (user % 2)).tolist() for user in range(users)], num_items=items)


def test_ppmi_by_hand() -> None:
    counts = np.array([[0, 3, 1], [3, 0, 0], [1, 0, 0]], float)
    # Marginals .5, .375, .125 of 8.  p(0,1) = 3/8 over 3/16: log 2; p(0,2) = 1/8 over 1/16: log 2.
    expected = np.log(2) * (counts > 0)
    np.testing.assert_allclose(ppmi(sp.csr_matrix(counts), context_power=1.0).toarray(), expected)


def test_context_smoothing_by_hand() -> None:
    counts = np.array([[0, 3, 1], [3, 0, 0], [1, 0, 0]], float)
    marginal = np.array([4, 3, 1]) / 8
    context = np.array([4, 3, 1]) ** 0.75
    context /= context.sum()
    plain = np.log(np.where(counts > 0, counts / 8, 1) / np.outer(marginal, context))
    plain = np.where(counts > 0, np.maximum(plain, 0), 0)
    np.testing.assert_allclose(ppmi(sp.csr_matrix(counts), context_power=0.75).toarray(), (plain + plain.T) / 2)


@pytest.mark.parametrize("dense_items", [0, 256])
def test_items_met_together_lie_together(monkeypatch: pytest.MonkeyPatch, dense_items: int) -> None:
    monkeypatch.setattr(collaborative, "DENSE_ITEMS", dense_items)
    vectors = CooccurrenceSvd(dim=4).embed(NO_CATALOG, two_worlds(), seed=0)
    assert vectors.shape == (40, 4) and vectors.dtype == np.float32
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit.T
    assert cosine[:20, :20].min() > cosine[:20, 20:].max()


def test_iterative_and_full_svd_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    full = CooccurrenceSvd(dim=3).embed(NO_CATALOG, two_worlds(), seed=0)
    monkeypatch.setattr(collaborative, "DENSE_ITEMS", 0)
    iterative = CooccurrenceSvd(dim=3).embed(NO_CATALOG, two_worlds(), seed=5)
    # Singular vectors of equal values may mix; what they span may not.
    np.testing.assert_allclose(iterative @ iterative.T, full @ full.T, atol=1e-4)
    again = CooccurrenceSvd(dim=3).embed(NO_CATALOG, two_worlds(), seed=5)
    np.testing.assert_array_equal(again, iterative)


@pytest.mark.parametrize("part", [CooccurrenceSvd(dim=6), ImplicitAls(dim=6)])
def test_items_unseen_in_training_are_zero_and_later_events_unknown(part: CooccurrenceSvd | ImplicitAls) -> None:
    if isinstance(part, ImplicitAls):
        pytest.importorskip("implicit")
    whole = log([0, 1, 2, 5], [1, 2, 0, 6], [3, 4, 3, 5], num_items=8)
    train = whole.prefix(np.array([3, 3, 3]))
    vectors = part.embed(NO_CATALOG, train, seed=0)
    assert vectors.shape == (8, 6)
    assert vectors[:5].any(axis=1).all() and not vectors[5:].any()
    other_future = log([0, 1, 2, 7], [1, 2, 0, 7], [3, 4, 3, 7], num_items=8).prefix(np.array([3, 3, 3]))
    np.testing.assert_array_equal(part.embed(NO_CATALOG, other_future, seed=0), vectors)


def test_als_puts_items_of_a_world_together() -> None:
    pytest.importorskip("implicit")
    vectors = ImplicitAls(dim=4).embed(NO_CATALOG, two_worlds(), seed=0)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit.T
    assert cosine[:20, :20].mean() > cosine[:20, 20:].mean() + 0.5


def test_als_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> ModuleType:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(MissingExtraError, match=r"sememe\[als\]"):
        ImplicitAls().embed(NO_CATALOG, two_worlds(), seed=0)


def test_nothing_to_learn_from_and_bad_settings() -> None:
    with pytest.raises(NothingToEmbedError, match="no items co-occur"):
        CooccurrenceSvd().embed(NO_CATALOG, log([0], [1], num_items=2), seed=0)
    with pytest.raises(ConfigError, match=r"decay=1\.5"):
        CooccurrenceSvd(decay=1.5).embed(NO_CATALOG, two_worlds(), seed=0)
