"""Lists written item by item, against the slowest search there is: every list, scored by teacher forcing."""

import itertools

import numpy as np
import pytest
import torch
from planted_steps import TableModel, random_codes, unique_codes

from sememe.core.errors import ConfigError
from sememe.core.schema import PAD, Codes, ModelInputs
from sememe.decode.allowed import AllowedByRow
from sememe.decode.item_set import ItemSet
from sememe.decode.sessions import SessionSearch
from sememe.decode.trie import Trie
from sememe.models.generator import ListGenerator
from sememe.models.onerec import OneRec

CODES = unique_codes((3, 2, 2), items=7, seed=3)
PART = OneRec(
    session=3, encoder_layers=1, decoder_layers=2, d_model=16, heads=2, head_dim=8, ff=32, experts=3, user_buckets=5
)
ROWS = 4


def build(codes: Codes = CODES) -> ListGenerator:
    model = PART.build(ModelInputs(num_users=9, num_items=codes.num_items, codes=codes), seed=3).eval()
    with torch.no_grad():
        for weight in model.parameters():
            # Sharper than fresh weights are, so that what was written matters for what follows.
            weight.mul_(1.7)
    return model


def batch(codes: Codes = CODES) -> dict[str, torch.Tensor]:
    history = torch.from_numpy(np.random.default_rng(1).integers(0, codes.num_items, (ROWS, 3)))
    return {"history": history, "user": torch.arange(ROWS), "lengths": torch.full((ROWS,), 3)}


@torch.no_grad()
def scores_of(model: ListGenerator, row: int, lists: list[tuple[int, ...]], codes: Codes = CODES) -> np.ndarray:
    """(len(lists), j) log-probability of each list up to each place."""
    one = {name: values[[row]] for name, values in batch(codes).items()}
    wanted = torch.from_numpy(codes.matrix[np.array(lists)]).flatten(1).unsqueeze(0)
    log_probs = model.sample_log_probs(one, wanted)[0].view(len(lists), -1, codes.num_levels)
    return log_probs.sum(2).cumsum(1).numpy()


def test_lists_searched_together_hold_the_best_of_all_lists() -> None:
    model, trie = build(), Trie.build(CODES)
    seen = torch.tensor([[0, PAD], [1, 4], [PAD, PAD], [6, 6]])
    ranked = SessionSearch(width=7, lists=400).recommend(model, batch(), k=3, trie=trie, seen=seen)
    greedy = SessionSearch(width=7).recommend(model, batch(), k=3, trie=trie, seen=seen)
    better = 0
    for row in range(ROWS):
        allowed = sorted(set(range(7)) - set(seen[row].tolist()))
        lists = list(itertools.permutations(allowed, 3))
        scores = scores_of(model, row, lists)
        best = int(scores[:, 2].argmax())
        assert tuple(ranked.items[row]) == lists[best]
        np.testing.assert_allclose(ranked.scores[row], scores[best], atol=1e-5)
        better += scores[best, 2] > greedy.scores[row, 2] + 1e-4
    assert better, "nowhere did looking ahead find a better list, so that the test shows nothing"


def test_item_by_item_each_place_has_the_best_item_given_those_before() -> None:
    model, trie = build(), Trie.build(CODES)
    ranked = SessionSearch(width=7).recommend(model, batch(), k=3, trie=trie)
    for row in range(ROWS):
        so_far: tuple[int, ...] = ()
        for place in range(3):
            lists = [(*so_far, item) for item in range(7) if item not in so_far]
            scores = scores_of(model, row, lists)[:, place]
            so_far = lists[int(scores.argmax())]
            assert ranked.scores[row, place] == pytest.approx(float(scores.max()), abs=1e-5)
        assert tuple(ranked.items[row]) == so_far


@pytest.mark.parametrize("lists", [1, 5])
def test_a_list_has_no_item_twice_and_ends_where_nothing_is_left(lists: int) -> None:
    codes = random_codes((2, 2), items=9, seed=1)  # several items share their codes
    model, trie = build(codes), Trie.build(codes)
    seen = torch.full((ROWS, 9), PAD)
    seen[1, :7] = torch.arange(7)
    seen[2] = torch.arange(9)
    ranked = SessionSearch(width=2, lists=lists).recommend(model, batch(codes), k=12, trie=trie, seen=seen)
    assert ranked.items.shape == ranked.scores.shape == (ROWS, 12)
    for row, left in ((0, set(range(9))), (1, {7, 8}), (2, set()), (3, set(range(9)))):
        items = ranked.items[row].tolist()
        assert sorted(items[: len(left)]) == sorted(left)
        assert items[len(left) :] == [PAD] * (12 - len(left))
        assert np.isfinite(ranked.scores[row, : len(left)]).all()
        assert (ranked.scores[row, len(left) :] == -np.inf).all()
        assert (np.diff(ranked.scores[row, : len(left)]) <= 0).all()


def test_where_there_are_fewer_lists_there_is_nothing() -> None:
    model, trie = build(), Trie.build(CODES)
    seen = torch.full((ROWS, 7), PAD)
    seen[1, :4] = torch.arange(4)  # 6 lists of the 3 that are left
    found = SessionSearch(width=9, lists=9).search(model, batch(), k=3, trie=trie, seen=seen)
    assert found.items.shape == (ROWS, 9, 3)
    alive = found.total > -np.inf
    assert alive.sum(1).tolist() == [9, 6, 9, 9]
    assert (found.items[alive] != PAD).all() and (found.items[~alive] == PAD).all()
    torch.testing.assert_close(found.scores[:, :, -1], found.total)
    assert len({tuple(row) for row in found.items[1, :6].tolist()}) == 6


@pytest.mark.parametrize("lists", [1, 3])
def test_users_of_a_batch_do_not_meet(lists: int) -> None:
    model, trie, search = build(), Trie.build(CODES), SessionSearch(width=4, lists=lists)
    seen = batch()["history"]
    together = search.recommend(model, batch(), k=4, trie=trie, seen=seen)
    for row in range(ROWS):
        one = {name: values[[row]] for name, values in batch().items()}
        alone = search.recommend(model, one, k=4, trie=trie, seen=seen[[row]])
        np.testing.assert_array_equal(alone.items[0], together.items[row])
        np.testing.assert_allclose(alone.scores[0], together.scores[row], atol=1e-5)


@pytest.mark.parametrize("lists", [1, 3])
def test_rules_hold_at_every_place(lists: int) -> None:
    model, trie = build(), Trie.build(CODES)
    sets = tuple(ItemSet.of_items(np.array(part), trie) for part in ((0, 2, 3, 5), (1, 6)))
    by_row = AllowedByRow(sets=sets, set_of_row=np.array([0, 1, 1, 0]))
    ranked = SessionSearch(width=4, lists=lists).recommend(model, batch(), k=4, trie=trie, allowed=by_row)
    assert ranked.eligible is not None and ranked.eligible.tolist() == [4, 2, 2, 4]
    for row in (0, 3):
        assert sorted(ranked.items[row].tolist()) == [0, 2, 3, 5]
    for row in (1, 2):
        assert ranked.items[row, 2:].tolist() == [PAD, PAD] and sorted(ranked.items[row, :2].tolist()) == [1, 6]


def test_a_model_of_single_items_and_empty_searches_are_refused() -> None:
    trie = Trie.build(CODES)
    single = TableModel(CODES.codebook_sizes, users=4, seed=0)
    with pytest.raises(ConfigError, match="writes single items"):
        SessionSearch().recommend(single, batch(), k=3, trie=trie)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="width is 0"):
        SessionSearch(width=0).recommend(build(), batch(), k=3, trie=trie)
