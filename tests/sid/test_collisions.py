"""The collision level: unique, counted in item order, as large as the largest group, up to a bound."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import ModelInputs
from sememe.decode.beam import BeamSearch
from sememe.decode.trie import Trie
from sememe.models.depth import Depth
from sememe.models.encdec import EncDec
from sememe.models.itemwise import ItemWise
from sememe.nn.trunk import Trunk
from sememe.sid.collisions import CollisionToken, KeepTied, tuple_groups
from sememe.sid.report import sid_report
from sememe.sid.vocab import SidLookup, load_codes, save_codes

MATRIX = np.array([[1, 2], [0, 0], [1, 2], [1, 1], [1, 2], [0, 0]], np.int32)


def test_items_of_a_tuple_are_counted_in_item_order() -> None:
    codes = CollisionToken(size=4).resolve(MATRIX, (2, 3))
    assert codes.matrix.tolist() == [[1, 2, 0], [0, 0, 0], [1, 2, 1], [1, 1, 0], [1, 2, 2], [0, 0, 1]]
    assert codes.codebook_sizes == (2, 3, 4)
    assert (codes.num_semantic_levels, codes.num_levels, codes.collisions) == (2, 3, "token")
    assert codes.matrix.dtype == np.int32


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=60),
)
def test_full_tuples_are_unique_and_equal_the_slow_count(rows: list[tuple[int, int]]) -> None:
    codes = CollisionToken(size=64).resolve(np.array(rows, np.int32), (4, 3))
    seen: dict[tuple[int, int], int] = {}
    for row, full in zip(rows, codes.matrix.tolist(), strict=True):
        assert full == [*row, seen.get(row, 0)]
        seen[row] = seen.get(row, 0) + 1
    assert len(np.unique(codes.matrix, axis=0)) == len(rows)


@pytest.mark.parametrize(("size", "grown"), [(4, 4), (3, 3), (2, 3), (1, 3)])
def test_the_level_grows_to_the_largest_group_and_says_so(
    size: int, grown: int, caplog: pytest.LogCaptureFixture
) -> None:
    codes = CollisionToken(size=size, most=4).resolve(MATRIX, (2, 3))
    assert codes.codebook_sizes == (2, 3, grown)
    assert codes.matrix[:, 2].tolist() == [0, 0, 1, 0, 2, 1]
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    if size >= 3:
        assert said == []
        return
    ((level, message),) = said
    assert level == "WARNING"
    assert message.startswith(f"3 items share the semantic codes (1, 2): the collision level grows from {size} codes")
    assert "finer signal" in message and "more levels" in message


@pytest.mark.parametrize(("most", "grown"), [(100, 50), (45, 45), (40, 40)])
def test_a_level_that_grows_leaves_room_for_later_items(most: int, grown: int) -> None:
    codes = CollisionToken(size=8, most=most).resolve(np.zeros((40, 1), np.int32), (1,))
    assert codes.codebook_sizes == (1, grown)


def test_overflow_names_the_group_and_the_way_out() -> None:
    for part in (CollisionToken(size=2), CollisionToken(size=1, most=2)):
        with pytest.raises(DataError, match=r"3 items share the semantic codes \(1, 2\).*at most 2 apart") as caught:
            part.resolve(MATRIX, (2, 3))
        assert "a collision size of 3, or use KeepTied()" in str(caught.value)


@pytest.mark.parametrize(("size", "most"), [(0, 4), (5, -1)])
def test_sizes_that_cannot_be_are_refused(size: int, most: int) -> None:
    with pytest.raises(ConfigError, match=f"size={size} and most={most}"):
        CollisionToken(size=size, most=most).resolve(MATRIX, (2, 3))


def test_more_than_256_items_with_one_tuple_are_kept_reported_and_found(tmp_path: Path) -> None:
    """All that reads codes goes by the real size of the level: files, report, search and both generators."""
    semantic = np.array([[0, 0]] * 700 + [[1, 2], [1, 1]], np.int32)
    codes = CollisionToken(most=1000).resolve(semantic, (2, 3))
    assert codes.codebook_sizes == (2, 3, 875)
    save_codes(tmp_path, codes)
    loaded = load_codes(tmp_path)
    assert loaded.codebook_sizes == codes.codebook_sizes
    assert SidLookup.of(loaded).item_of((0, 0, 699)) == 699
    report = sid_report(loaded, np.eye(2, dtype=np.float32)[semantic[:, 0]])
    assert (report.largest_group, [use.size for use in report.levels]) == (700, [2, 3])
    trie = Trie.build(loaded)
    assert trie.leaf_codes()[trie.positions.long()].tolist() == codes.matrix.tolist()
    request = {"history": torch.tensor([[5, 701]]), "lengths": torch.tensor([2]), "user": torch.tensor([0])}
    small = Trunk(layers=1, d_model=8, heads=1, ff=8)
    for part in (
        EncDec(layers=1, d_model=8, heads=1, head_dim=8, ff=8, user_buckets=3),
        ItemWise(trunk=small, depth=Depth(hidden=8), content=False),
    ):
        model = part.build(ModelInputs(num_users=1, num_items=702, codes=loaded), seed=0).eval()
        ranked = BeamSearch(width=702).recommend(model, request, k=702, trie=trie)
        assert sorted(ranked.items[0].tolist()) == list(range(702))


def test_tied_items_stay_tied() -> None:
    codes = KeepTied().resolve(MATRIX, (2, 3))
    assert codes.matrix.tolist() == MATRIX.tolist()
    assert (codes.num_semantic_levels, codes.num_levels, codes.collisions) == (2, 2, "tied")


def test_groups_are_numbered_in_the_order_of_the_tuples() -> None:
    assert tuple_groups(MATRIX, (2, 3)).tolist() == [2, 0, 2, 1, 2, 0]
    with pytest.raises(AssertionError, match="outside its codebook"):
        tuple_groups(MATRIX, (2, 2))


def test_many_levels_do_not_overflow_the_key() -> None:
    matrix = np.zeros((3, 40), np.int32)
    matrix[1, 39] = matrix[2, 0] = 4095
    assert tuple_groups(matrix, (4096,) * 40).tolist() == [0, 1, 2]
