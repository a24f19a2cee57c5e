import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_steps import TableModel, random_codes, slow_beam, unique_codes

from sememe.core.errors import ArtifactError
from sememe.core.schema import PAD, Codes, Ranked
from sememe.decode.beam import BeamSearch, search
from sememe.decode.exact import ExactCodes, ExactItems
from sememe.decode.rescore import Rescored
from sememe.decode.sample import Sampled
from sememe.decode.trie import Trie
from sememe.pipeline.recipe import in_a_line

SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


def request(*users: int) -> dict[str, torch.Tensor]:
    return {"user": torch.tensor(users)}


def random_seen(rng: np.random.Generator, *, rows: int, items: int, width: int) -> np.ndarray:
    """Repeats and padding anywhere; some rows have seen everything."""
    seen = rng.integers(PAD, items, size=(rows, width)).astype(np.int32)
    if width >= items:
        seen[0, :items] = rng.permutation(items)
    return seen


def assert_same_lists(ours: Ranked, theirs: Ranked) -> None:
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)
    np.testing.assert_array_equal(ours.items, theirs.items)
    np.testing.assert_array_equal(ours.tied_beyond, theirs.tied_beyond)


@settings(max_examples=50, deadline=None)
@given(sizes=SIZES, items=st.integers(1, 40), seed=st.integers(0, 10_000), ties=st.booleans(), data=st.data())
def test_equals_the_slow_search_over_a_tree_without_the_seen_items(
    sizes: tuple[int, ...], items: int, seed: int, ties: bool, data: st.DataObject
) -> None:
    width = data.draw(st.integers(1, 12))
    k = data.draw(st.integers(1, width))
    first_width = data.draw(st.integers(0, 20))
    rng = np.random.default_rng(seed)
    codes = random_codes(sizes, items=items, seed=seed)
    model = TableModel(sizes, users=3, seed=seed, distinct=2 if ties else None)
    seen = random_seen(rng, rows=3, items=items, width=data.draw(st.integers(1, 2 * items)))
    beam = BeamSearch(width=width, first_width=first_width)
    ranked = beam.recommend(model, request(0, 1, 2), k=k, trie=Trie.build(codes), seen=seen)
    for row in range(3):
        blocked = set(seen[row].tolist()) - {PAD}
        found = slow_beam(model, codes, row, width=width, seen=blocked, first_width=first_width)
        listed, fill = found[:k], k - len(found[:k])
        assert ranked.items[row].tolist() == [item for item, _ in listed] + [PAD] * fill
        np.testing.assert_allclose(ranked.scores[row], [score for _, score in listed] + [-np.inf] * fill, atol=1e-6)
        tied = sum(score == listed[-1][1] for _, score in found[k:]) if listed else 0
        assert ranked.tied_beyond[row] == tied


@pytest.mark.parametrize(
    ("part", "line"),
    [
        (BeamSearch(width=50), "beam of 50 by code score"),
        (BeamSearch(width=20, first_width=40), "beam of 20 (40 at the first level) by code score"),
        (Rescored(BeamSearch(5, 9)), "beam of 5 (9 at the first level), 0.3 code + 0.7 item log-probability"),
        (ExactCodes(), "exact code scores of all items"),
        (ExactItems(), "exact scores of all items"),
        (Rescored(BeamSearch(width=50)), "beam of 50, 0.3 code + 0.7 item log-probability"),
        (Rescored(code_weight=0.0), "beam of 100, 0 code + 1 item log-probability"),
        (Sampled(), "drawn by code score at temperature 1"),
        (
            Sampled(temperature=0.5, level_temperatures=(1.0, 2.0), top_p=0.9),
            "drawn by code score at temperature 0.5 times (1.0, 2.0) by level, top-p 0.9",
        ),
        (Sampled(temperature=0.0, width=7), "beam of 7 by code score"),
        (TableModel((2,), users=1, seed=0), "TableModel"),
    ],
)
def test_a_decoder_says_in_a_line_how_lists_come_about(part: object, line: str) -> None:
    assert in_a_line(part) == line


@settings(max_examples=40, deadline=None)
@given(sizes=SIZES, items=st.integers(1, 50), seed=st.integers(0, 10_000), ties=st.booleans(), data=st.data())
def test_a_beam_as_wide_as_the_catalogue_is_exact(
    sizes: tuple[int, ...], items: int, seed: int, ties: bool, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, 60))
    trie = Trie.build(random_codes(sizes, items=items, seed=seed))
    model = TableModel(sizes, users=3, seed=seed, distinct=2 if ties else None)
    seen = random_seen(np.random.default_rng(seed), rows=4, items=items, width=data.draw(st.integers(1, items + 3)))
    batch = request(2, 0, 1, 2)
    for blocked in (None, seen):
        wide = BeamSearch(width=items + 5).recommend(model, batch, k=k, trie=trie, seen=blocked)
        exact = ExactCodes(chunk=data.draw(st.integers(1, 100))).recommend(model, batch, k=k, trie=trie, seen=blocked)
        assert_same_lists(wide, exact)


def test_by_hand() -> None:
    # p(first code) = .6, .4; under 0: .5, .5; under 1: .9, .1.  Greedy takes code 0 and misses the best item, 1-0.
    model = TableModel((2, 2), users=1, seed=0)
    model.tables = [torch.tensor([[[0.6, 0.4]]]).log(), torch.tensor([[[0.5, 0.5], [0.9, 0.1]]]).log()]
    matrix = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.int32)
    trie = Trie.build(Codes(matrix=matrix, codebook_sizes=(2, 2), num_semantic_levels=2))
    greedy = BeamSearch(width=1).recommend(model, request(0), k=1, trie=trie)
    assert greedy.items.tolist() == [[0]]
    wide = BeamSearch(width=2).recommend(model, request(0), k=1, trie=trie)
    assert wide.items.tolist() == [[2]]
    assert wide.scores[0, 0] == pytest.approx(np.log(0.36))
    assert wide.source == "beam:code_log_prob"
    # Without item 2 the second beam goes to what is left, not to nothing.
    rest = BeamSearch(width=2).recommend(model, request(0), k=2, trie=trie, seen=np.array([[2]], np.int32))
    assert rest.items.tolist() == [[0, 1]]
    assert rest.tied_beyond.tolist() == [0]


def test_items_that_share_a_semantic_id_are_tied_and_counted() -> None:
    matrix = np.array([[0], [1], [0], [0]], np.int32)
    trie = Trie.build(Codes(matrix=matrix, codebook_sizes=(2,), num_semantic_levels=1))
    model = TableModel((2,), users=1, seed=0)
    model.tables = [torch.tensor([[[0.7, 0.3]]]).log()]
    short = BeamSearch(width=2).recommend(model, request(0), k=2, trie=trie)
    assert short.items.tolist() == [[0, 2]] and short.tied_beyond.tolist() == [1]
    assert short.scores[0, 0] == short.scores[0, 1]
    masked = BeamSearch(width=2).recommend(model, request(0), k=2, trie=trie, seen=np.array([[2, PAD]], np.int32))
    assert masked.items.tolist() == [[0, 3]] and masked.tied_beyond.tolist() == [0]


def test_a_batch_is_its_rows() -> None:
    codes = random_codes((6, 5, 4), items=80, seed=3)
    trie, model = Trie.build(codes), TableModel((6, 5, 4), users=7, seed=3)
    seen = random_seen(np.random.default_rng(0), rows=7, items=80, width=90)
    together = BeamSearch(width=9).recommend(model, request(*range(7)), k=12, trie=trie, seen=seen)
    for user in range(7):
        alone = BeamSearch(width=9).recommend(model, request(user), k=12, trie=trie, seen=seen[user : user + 1])
        np.testing.assert_array_equal(together.items[user], alone.items[0])
        np.testing.assert_array_equal(together.scores[user], alone.scores[0])


def test_seen_items_never_cost_a_beam() -> None:
    """The best 20 items are seen; a beam of 20 still fills its list, with what is best without them."""
    codes = unique_codes((8, 8, 8), items=300, seed=1)
    trie, model = Trie.build(codes), TableModel((8, 8, 8), users=1, seed=1)
    first = ExactCodes().recommend(model, request(0), k=20, trie=trie)
    ranked = BeamSearch(width=20).recommend(model, request(0), k=20, trie=trie, seen=first.items)
    assert not set(ranked.items[0].tolist()) & {*first.items[0].tolist(), PAD}
    expected = slow_beam(model, codes, 0, width=20, seen=set(first.items[0].tolist()))
    assert ranked.items[0].tolist() == [item for item, _ in expected]


def test_an_impossible_code_is_never_listed() -> None:
    model = TableModel((2,), users=1, seed=0)
    model.tables = [torch.tensor([[[1.0, 0.0]]]).log()]
    matrix = np.array([[0], [1]], np.int32)
    trie = Trie.build(Codes(matrix=matrix, codebook_sizes=(2,), num_semantic_levels=1))
    for part in (BeamSearch(width=2), ExactCodes()):
        ranked = part.recommend(model, request(0), k=2, trie=trie)
        assert ranked.items.tolist() == [[0, PAD]] and ranked.scores[0, 1] == -np.inf


def test_larger_codebooks_than_a_byte() -> None:
    codes = random_codes((300, 2), items=200, seed=0)
    trie, model = Trie.build(codes), TableModel((300, 2), users=2, seed=0)
    wide = BeamSearch(width=400).recommend(model, request(0, 1), k=50, trie=trie)
    assert_same_lists(wide, ExactCodes().recommend(model, request(0, 1), k=50, trie=trie))


def test_a_model_that_gives_no_number_is_refused() -> None:
    model = TableModel((3, 3), users=1, seed=0)
    model.tables[1][:] = float("nan")
    trie = Trie.build(random_codes((3, 3), items=9, seed=0))
    with pytest.raises(ArtifactError, match="not a number"):
        BeamSearch(width=3).recommend(model, request(0), k=3, trie=trie)


def test_other_codes_than_the_models_are_our_fault() -> None:
    trie = Trie.build(random_codes((3, 4), items=9, seed=0))
    with pytest.raises(AssertionError, match="different codes"):
        search(TableModel((3, 3), users=1, seed=0), request(0), width=3, k=3, trie=trie)
