"""Codes saved, loaded, written as text, and looked up both ways."""

from pathlib import Path

import numpy as np
import pytest

from sememe.core.errors import ArtifactError, DataError
from sememe.sid.collisions import CollisionToken, KeepTied
from sememe.sid.vocab import SidLookup, load_codes, parse_sid, save_codes, sid_text

MATRIX = np.array([[1, 2], [0, 0], [1, 2], [1, 1]], np.int32)


def test_saved_codes_come_back(tmp_path: Path) -> None:
    codes = CollisionToken(size=4).resolve(MATRIX, (2, 3))
    save_codes(tmp_path, codes)
    loaded = load_codes(tmp_path)
    np.testing.assert_array_equal(loaded.matrix, codes.matrix)
    assert loaded.codebook_sizes == (2, 3, 4)
    assert (loaded.num_semantic_levels, loaded.collisions) == (2, "token")


def test_missing_or_foreign_codes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"codes\.npy is missing"):
        load_codes(tmp_path)
    save_codes(tmp_path, KeepTied().resolve(MATRIX, (2, 3)))
    np.save(tmp_path / "codes.npy", MATRIX + 2)
    with pytest.raises(ArtifactError, match="does not fit the codebook sizes"):
        load_codes(tmp_path)


def test_lookup_there_and_back() -> None:
    lookup = SidLookup.of(CollisionToken(size=4).resolve(MATRIX, (2, 3)))
    for item in range(4):
        assert lookup.item_of(lookup.sid_of(item)) == item
    assert lookup.sid_of(2) == (1, 2, 1)
    assert lookup.items_of((1,)).tolist() == [0, 2, 3]
    assert lookup.items_of((1, 2)).tolist() == [0, 2]
    assert lookup.items_of(()).tolist() == [0, 1, 2, 3]
    assert lookup.items_of((0, 2)).tolist() == []


def test_a_sid_of_no_item_or_of_several_is_an_error() -> None:
    lookup = SidLookup.of(KeepTied().resolve(MATRIX, (2, 3)))
    assert lookup.item_of((0, 0)) == 1
    for sid, count in (((1, 2), 2), ((0, 1), 0), ((1,), 0)):
        with pytest.raises(DataError, match=f"names {count} items"):
            lookup.item_of(sid)


def test_text_there_and_back() -> None:
    assert sid_text((12, 7, 255)) == "<a_12><b_7><c_255>"
    assert parse_sid("<a_12><b_7><c_255>") == (12, 7, 255)
    for text in ("", "<a_1", "<b_1>", "<a_1> <b_2>", "<a_01>"):
        with pytest.raises(DataError, match="is no semantic ID"):
            parse_sid(text)
