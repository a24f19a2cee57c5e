"""Retrieve by codes and rank by items, against brute force over the catalogue."""

from itertools import product

import numpy as np
import pytest
import torch
from planted_steps import TableModel, random_codes, slow_beam, unique_codes
from torch import Tensor

from sememe.core.errors import ArtifactError, ConfigError
from sememe.core.schema import PAD, Codes, Ranked
from sememe.decode.beam import BeamSearch
from sememe.decode.rescore import Rescored
from sememe.decode.trie import Trie

SIZES = (4, 3, 4)
USERS = 3
BATCH = {"user": torch.arange(USERS)}


class TwoHeads(TableModel):
    """Codes by the table, items by scores of their own."""

    def __init__(self, *, items: int, distinct: int | None = None) -> None:
        super().__init__(SIZES, users=USERS, seed=0)
        random = torch.Generator().manual_seed(1)
        self.scores = torch.randn(USERS, items, generator=random) * 2
        if distinct is not None:
            self.scores = torch.randint(distinct, (USERS, items), generator=random).float()

    def score_items(self, batch: dict[str, Tensor]) -> Tensor:
        return self.scores[batch["user"]]

    def mixed(self, codes: Codes, *, user: int, weight: float) -> dict[int, float]:
        """Item -> the mixture of both log-probabilities, item by item."""
        items = self.scores[user].double()
        log_items = items - items.exp().sum().log()
        return {
            item: weight * self.score(user, tuple(code)) + (1 - weight) * float(log_items[item])
            for item, code in enumerate(codes.matrix.tolist())
        }


def listed(ranked: Ranked, row: int) -> list[int]:
    return [item for item in ranked.items[row].tolist() if item != PAD]


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("make", [unique_codes, random_codes])
def test_a_beam_as_wide_as_the_catalogue_ranks_all_of_it_by_the_mixture(weight: float, make) -> None:
    codes = make(SIZES, items=30, seed=2)
    model = TwoHeads(items=30)
    seen = np.array([[3, 7, 3, PAD], [PAD] * 4, [0, 1, 2, 29]], np.int32)
    found = Rescored(BeamSearch(width=30), code_weight=weight).recommend(
        model, BATCH, k=30, trie=Trie.build(codes), seen=seen
    )
    for user in range(USERS):
        expected = model.mixed(codes, user=user, weight=weight)
        for item in seen[user]:
            expected.pop(int(item), None)
        items = listed(found, user)
        assert sorted(items) == sorted(expected)
        np.testing.assert_allclose(found.scores[user, : len(items)], [expected[i] for i in items], rtol=1e-5)
        assert (np.diff(found.scores[user, : len(items)]) <= 0).all()
        assert (found.scores[user, len(items) :] == -np.inf).all()
    assert found.source == "beam:rescored"


@pytest.mark.parametrize(("width", "k"), [*product([2, 6], [2, 4, 8])])
def test_a_narrow_beam_gives_the_candidates_and_the_mixture_their_order(width: int, k: int) -> None:
    """As many candidates as the beam is wide, or as are wanted where that is more."""
    codes = unique_codes(SIZES, items=30, seed=2)
    model, seen = TwoHeads(items=30), {4, 9}
    columns = np.tile(np.array(sorted(seen), np.int32), (USERS, 1))
    found = Rescored(BeamSearch(width=width)).recommend(model, BATCH, k=k, trie=Trie.build(codes), seen=columns)
    for user in range(USERS):
        mixed = model.mixed(codes, user=user, weight=0.3)
        beam = [item for item, _ in slow_beam(model, codes, user, width=max(width, k), seen=seen)]
        assert listed(found, user) == sorted(beam, key=lambda item: -mixed[item])[:k]


def test_fewer_candidates_than_wanted_give_a_shorter_list() -> None:
    codes = unique_codes(SIZES, items=30, seed=2)
    almost_all = np.tile(np.setdiff1d(np.arange(30, dtype=np.int32), [5, 20]), (USERS, 1))
    found = Rescored(BeamSearch(width=3)).recommend(
        TwoHeads(items=30), BATCH, k=4, trie=Trie.build(codes), seen=almost_all
    )
    for user in range(USERS):
        assert sorted(found.items[user, :2].tolist()) == [5, 20]
        assert found.items[user, 2:].tolist() == [PAD, PAD]
        assert found.scores[user, 2:].tolist() == [-np.inf, -np.inf]
    assert found.tied_beyond is not None and found.tied_beyond.tolist() == [0] * USERS


def test_candidates_that_tie_beyond_the_list_are_counted() -> None:
    """Items that share a semantic ID and have equal item scores are told apart by nothing."""
    matrix = np.array([[0, 0, 0]] * 4 + [[1, 0, 0], [2, 0, 0]], np.int32)
    codes = Codes(matrix, SIZES, num_semantic_levels=3)
    model = TwoHeads(items=6, distinct=1)
    model.scores[:, :4] += 20
    found = Rescored(BeamSearch(width=6)).recommend(model, BATCH, k=3, trie=Trie.build(codes))
    assert found.items.tolist() == [[0, 1, 2]] * USERS
    assert found.tied_beyond is not None and found.tied_beyond.tolist() == [1] * USERS
    longer = Rescored(BeamSearch(width=6)).recommend(model, BATCH, k=5, trie=Trie.build(codes))
    assert longer.tied_beyond is not None and longer.tied_beyond.tolist() == [0] * USERS


@pytest.mark.parametrize("weight", [-0.1, 1.5])
def test_a_weight_outside_its_range_is_refused(weight: float) -> None:
    codes = unique_codes(SIZES, items=30, seed=2)
    with pytest.raises(ConfigError, match=f"code_weight is {weight}, outside 0..1"):
        Rescored(code_weight=weight).recommend(TwoHeads(items=30), BATCH, k=3, trie=Trie.build(codes))


def test_a_score_that_is_not_a_number_stops() -> None:
    codes, model = unique_codes(SIZES, items=30, seed=2), TwoHeads(items=30)
    model.scores[0, 0] = torch.nan
    with pytest.raises(ArtifactError, match="not a number"):
        Rescored(BeamSearch(width=30)).recommend(model, BATCH, k=3, trie=Trie.build(codes))
