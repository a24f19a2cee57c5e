"""A living catalogue and the search that follows it: what comes can be recommended, what went cannot."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sememe.core.schema import Codes, FloatArray, ModelInputs
from sememe.data.simulator import PlantedWorld
from sememe.decode.beam import BeamSearch
from sememe.decode.trie import Trie
from sememe.decode.trie_edit import edit_trie
from sememe.models.encdec import EncDec
from sememe.sid.balanced import BalancedKMeans
from sememe.sid.catalogue import LiveCatalogue
from sememe.sid.collisions import CollisionToken, KeepTied
from sememe.sid.controls import RandomCodes, RandomPlanes
from sememe.sid.encode import settle_catalog
from sememe.sid.extra_level import ExtraLevel
from sememe.sid.fsq import FiniteScalar
from sememe.sid.product import ProductKMeans
from sememe.sid.reassign import ReassignLast
from sememe.sid.rqkmeans import ResidualKMeans

WORLD = PlantedWorld(branching=(4, 3), items_per_leaf=5, dim=8, noise=0.1, num_users=1).generate(seed=0)
assert WORLD.catalog.vectors is not None
VECTORS: FloatArray = WORLD.catalog.vectors
TOKENIZERS = {
    "rqkmeans": ResidualKMeans(levels=2, codebook_size=(6, 48)),
    "balanced": BalancedKMeans(levels=2, codebook_size=(6, 24)),
    "product": ProductKMeans(levels=2, codebook_size=20),
    "fsq": FiniteScalar(levels=2, steps=(4, 4, 2)),
    "planes": RandomPlanes(levels=2, bits=5),
    "random": RandomCodes(levels=2, codebook_size=40),
}
RULES = {
    "token": CollisionToken(size=40),
    "reassigned": ReassignLast(),
    "extra": ExtraLevel(size=16, token=40),
    "tied": KeepTied(),
}
every_pair = pytest.mark.parametrize(("tokenizer", "rule"), [(one, other) for one in TOKENIZERS for other in RULES])


def start(tokenizer: str, rule: str, *, items: int = 50) -> LiveCatalogue:
    fitted = TOKENIZERS[tokenizer].fit(VECTORS[:items], seed=0)
    settled = settle_catalog(RULES[rule], tokenizer=fitted, vectors=VECTORS[:items], seed=0)
    return LiveCatalogue.start(
        settled.codes, item_ids=list(range(items)), tokenizer=settled.tokenizer, vectors=VECTORS[:items]
    )


def follow(trie: Trie, newer: LiveCatalogue, older: LiveCatalogue) -> Trie:
    change = newer.changes_since(older)
    return edit_trie(trie, newer.codes, gone=change.gone, come=change.come)


def assert_same_tree(ours: Trie, theirs: Trie) -> None:
    for name in ("child_starts", "child_codes", "item_starts"):
        assert [array.tolist() for array in getattr(ours, name)] == [array.tolist() for array in getattr(theirs, name)]
    assert ours.items.tolist() == theirs.items.tolist() and ours.positions.tolist() == theirs.positions.tolist()


@every_pair
def test_what_comes_gets_codes_of_its_own_and_moves_nobody(tokenizer: str, rule: str) -> None:
    before = start(tokenizer, rule)
    after = before.add(list(range(50, 60)), vectors=VECTORS[50:])
    np.testing.assert_array_equal(after.codes.matrix[:50], before.codes.matrix)
    assert np.all((after.codes.matrix >= 0) & (after.codes.matrix < np.array(after.codes.codebook_sizes)))
    if rule != "tied":
        assert len(np.unique(after.codes.matrix, axis=0)) == 60
    one_by_one = before
    for item in range(50, 60):
        one_by_one = one_by_one.add([item], vectors=VECTORS[item : item + 1])
    if rule in ("token", "tied"):  # numbers follow the order of coming; dealt last codes depend on who comes together
        np.testing.assert_array_equal(one_by_one.codes.matrix, after.codes.matrix)


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_tree_that_follows_is_the_tree_built_anew(rule: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    now = start("rqkmeans", rule)
    trie = Trie.build(now.codes)
    for _ in range(5):
        before, live = now, rng.permutation(np.flatnonzero(now.live))
        step = rng.choice(["add", "remove", "update"])
        if step == "add":
            new = int(rng.integers(1, 4))
            now = now.add([len(now.live) + place for place in range(new)], vectors=VECTORS[rng.integers(60, size=new)])
        elif step == "remove":
            now = now.remove(live[: rng.integers(len(live))].tolist(), retire=bool(rng.integers(2)))
        else:
            moved = live[: rng.integers(len(live)) + 1]
            now = now.update(moved.tolist(), vectors=VECTORS[rng.integers(60, size=len(moved))])
        trie = follow(trie, now, before)
        assert_same_tree(trie, Trie.build(now.codes, offered=now.live))


def test_a_catalogue_that_changed_whole_is_followed() -> None:
    before = start("fsq", "token", items=4)
    after = before.update([0, 1, 2, 3], vectors=VECTORS[[50, 57, 41, 33]])
    assert_same_tree(follow(Trie.build(before.codes), after, before), Trie.build(after.codes))


def generator(codes: Codes) -> Any:
    """An untrained generator: its weights depend on the codebooks, not on the items."""
    part = EncDec(layers=1, d_model=8, heads=1, head_dim=8, ff=8, user_buckets=3)
    return part.build(ModelInputs(num_users=1, num_items=codes.num_items, codes=codes), seed=0).eval()


@pytest.mark.parametrize("rule", RULES)
def test_the_generator_returns_what_came_and_not_what_went(rule: str) -> None:
    before = start("rqkmeans", rule)
    after = before.add(list(range(50, 60)), vectors=VECTORS[50:]).remove([3, 7])
    old, new = generator(before.codes), generator(after.codes)
    for name, weight in old.state_dict().items():
        assert torch.equal(weight, new.state_dict()[name]), name
    # Item 3 has gone, and still stands in the history.
    request = {"history": torch.tensor([[3, 55]]), "lengths": torch.tensor([2]), "user": torch.tensor([0])}
    trie = follow(Trie.build(before.codes), after, before)
    ranked = BeamSearch(width=60).recommend(new, request, k=60, trie=trie, seen=np.array([[3, 55]], np.int32))
    assert sorted(ranked.items[0][ranked.items[0] >= 0].tolist()) == sorted(set(range(60)) - {3, 7, 55})
    # Whoever was there scores as before: the codes of others are no part of an item's score.
    known = {"history": torch.tensor([[5]]), "lengths": torch.tensor([1]), "user": torch.tensor([0])}
    first = BeamSearch(width=60).recommend(old, known, k=50, trie=Trie.build(before.codes))
    second = BeamSearch(width=60).recommend(new, known, k=58, trie=trie)
    scores = dict(zip(first.items[0].tolist(), first.scores[0].tolist(), strict=True))
    for item, score in zip(second.items[0].tolist(), second.scores[0].tolist(), strict=True):
        if item < 50:
            assert score == pytest.approx(scores[item], abs=1e-5)
