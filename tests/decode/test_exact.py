import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_steps import TableModel, random_codes

from sememe.core.errors import ArtifactError
from sememe.core.schema import PAD
from sememe.decode.exact import UNREACHABLE, ExactCodes, ExactItems, count_better, mask_seen
from sememe.decode.trie import Trie


class Fixed:
    """ItemScorer that gives the scores it was made with."""

    def __init__(self, scores: np.ndarray | torch.Tensor) -> None:
        self.scores = scores

    def score_items(self, batch: object) -> np.ndarray | torch.Tensor:
        return self.scores


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_code_scores_are_the_sums_of_the_table(chunk: int) -> None:
    codes = random_codes((4, 3, 5), items=50, seed=0)
    model = TableModel((4, 3, 5), users=3, seed=0)
    scores = ExactCodes(chunk=chunk).score_items(model, {"user": torch.arange(3)}, trie=Trie.build(codes))
    expected = [[model.score(user, tuple(row)) for row in codes.matrix.tolist()] for user in range(3)]
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_a_full_code_space_sums_to_one() -> None:
    matrix = np.array([[a, b] for a in range(4) for b in range(3)], np.int32)
    codes = random_codes((4, 3), items=12, seed=0)
    trie = Trie.build(type(codes)(matrix=matrix, codebook_sizes=(4, 3), num_semantic_levels=2))
    scores = ExactCodes().score_items(TableModel((4, 3), users=2, seed=5), {"user": torch.arange(2)}, trie=trie)
    np.testing.assert_allclose(scores.exp().sum(dim=1), 1, atol=1e-5)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_items_by_hand(kind: str) -> None:
    table = np.array([[0.1, 0.5, 0.5, 0.2, 0.5], [3, 2, 1, 0, -np.inf]], np.float32)
    model = Fixed(torch.from_numpy(table) if kind == "torch" else table)
    ranked = ExactItems().recommend(model, {}, k=2)
    assert ranked.items.tolist() == [[1, 2], [0, 1]]
    assert ranked.tied_beyond.tolist() == [1, 0]
    assert ranked.source == "exact:item_score"
    seen = np.array([[2, PAD, 2], [0, 1, 2]], np.int32)
    masked = ExactItems().recommend(model, {}, k=3, seen=seen)
    assert masked.items.tolist() == [[1, 4, 3], [3, PAD, PAD]]
    assert masked.scores[1].tolist() == [0, -np.inf, -np.inf]
    assert masked.tied_beyond.tolist() == [0, 0]
    assert table[0, 2] == np.float32(0.5), "the model's scores stay as they were"


def test_more_wanted_than_there_are() -> None:
    ranked = ExactItems().recommend(Fixed(np.array([[1.0, 2.0]], np.float32)), {}, k=4)
    assert ranked.items.tolist() == [[1, 0, PAD, PAD]] and ranked.tied_beyond.tolist() == [0]


def test_rank_counts_by_hand() -> None:
    scores = np.array([[5, 4, 4, 3, 4], [1, 2, 3, 4, -np.inf]], np.float32)
    targets = np.array([[2, 0], [4, PAD]], np.int32)
    counts = count_better(scores, targets)
    assert counts.better.tolist() == [[1, 0], [UNREACHABLE, PAD]]
    assert counts.tied.tolist() == [[2, 0], [0, 0]]
    masked = count_better(scores, targets, seen=np.array([[0, 1], [PAD, PAD]], np.int32))
    assert masked.better.tolist() == [[0, UNREACHABLE], [UNREACHABLE, PAD]]
    assert masked.tied.tolist() == [[1, 0], [0, 0]]


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(1, 4), items=st.integers(1, 20), seed=st.integers(0, 1000))
def test_counts_agree_with_a_list_of_everything(rows: int, items: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 5, size=(rows, items)).astype(np.float32)
    targets = rng.integers(PAD, items, size=(rows, 3)).astype(np.int32)
    seen = rng.integers(PAD, items, size=(rows, 4)).astype(np.int32)
    counts = count_better(scores, targets, seen=seen)
    ranked = ExactItems().recommend(Fixed(scores), {}, k=items, seen=seen)
    for row in range(rows):
        listed = ranked.items[row].tolist()
        for place, target in enumerate(targets[row].tolist()):
            if target == PAD:
                assert counts.better[row, place] == PAD
            elif target not in listed:
                assert counts.better[row, place] == UNREACHABLE
            else:
                others = ranked.scores[row][ranked.items[row] != PAD]
                assert counts.better[row, place] == (others > scores[row, target]).sum()
                assert counts.tied[row, place] == (others == scores[row, target]).sum() - 1


def test_masking_copies() -> None:
    scores = torch.zeros(1, 3)
    assert mask_seen(scores, np.array([[1, PAD]], np.int32)).tolist() == [[0, -np.inf, 0]]
    assert scores.tolist() == [[0, 0, 0]]


def test_a_score_that_is_not_a_number_stops() -> None:
    bad = np.array([[0, np.nan]], np.float32)
    with pytest.raises(ArtifactError, match="not a number"):
        ExactItems().recommend(Fixed(bad), {}, k=1)
    with pytest.raises(ArtifactError, match="not a number"):
        count_better(bad, np.array([[0]], np.int32))
