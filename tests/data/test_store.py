"""What is stored is what is loaded, mapped or not, inside an artifact too."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from sememe.core.artifact import read_artifact, write_artifact
from sememe.core.errors import ArtifactError
from sememe.core.schema import Catalog, Interactions
from sememe.data.index import build_interactions
from sememe.data.readers import open_tables
from sememe.data.store import (
    load_catalog,
    load_interactions,
    load_vocabularies,
    save_catalog,
    save_interactions,
    save_vocabularies,
)

LOG = Interactions(
    offsets=np.array([0, 2, 3], np.int64),
    items=np.array([1, 0, 1], np.int32),
    user_ids=pl.Series("user_id", ["a", "b"]),
    item_ids=pl.Series("item_id", [10, 20]),
    timestamps=np.array([5, 6, 7], np.int64),
    columns={"rating": np.array([1.0, np.nan, 3.0], np.float32), "session": np.array([1, 1, 2], np.int64)},
)
CATALOG = Catalog(
    frame=pl.DataFrame({"item_id": [10, 20], "title": ["A", None], "categories": [["x"], []]}),
    vectors=np.array([[1, 2], [3, 4]], np.float32),
)


@pytest.mark.parametrize("memory_map", [True, False])
def test_interactions_come_back_equal(tmp_path: Path, memory_map: bool):
    save_interactions(tmp_path, LOG)
    loaded = load_interactions(tmp_path, memory_map=memory_map)
    for name in ("offsets", "items", "timestamps"):
        before, after = getattr(LOG, name), getattr(loaded, name)
        np.testing.assert_array_equal(before, after)
        assert before.dtype == after.dtype
    assert loaded.user_ids.equals(LOG.user_ids, check_names=True)
    assert loaded.item_ids.equals(LOG.item_ids, check_names=True)
    assert list(loaded.columns) == ["rating", "session"]
    np.testing.assert_array_equal(loaded.columns["rating"], LOG.columns["rating"])
    assert isinstance(loaded.items, np.memmap) == memory_map


def test_interactions_without_time_have_none_after_loading(tmp_path: Path):
    save_interactions(tmp_path, Interactions(LOG.offsets, LOG.items, LOG.user_ids, LOG.item_ids))
    loaded = load_interactions(tmp_path, memory_map=True)
    assert loaded.timestamps is None
    assert loaded.columns == {}


def test_catalogues_come_back_equal(tmp_path: Path):
    save_catalog(tmp_path, CATALOG)
    loaded = load_catalog(tmp_path)
    assert loaded.frame.equals(CATALOG.frame)
    assert loaded.frame.schema == CATALOG.frame.schema
    np.testing.assert_array_equal(loaded.vectors, CATALOG.vectors)
    (tmp_path / "vectors.npy").unlink()
    assert load_catalog(tmp_path).vectors is None


def test_vocabularies_come_back_equal(tmp_path: Path):
    frame = pl.DataFrame(
        {
            "user_id": [1, 1, 1],
            "item_id": [1, 2, 3],
            "position": [0, 1, 2],
            "event_type": ["view", "buy", None],
            "query": ["line\nbreak", 'quote "é" 👟', ""],
            "session_id": ["s2", "s1", "s1"],
        }
    )
    indexed = build_interactions(open_tables(frame))
    save_vocabularies(tmp_path, indexed.vocabularies)
    loaded = load_vocabularies(tmp_path)
    assert set(loaded) == {"event_type", "query", "session"}
    for name, texts in loaded.items():
        assert texts.equals(indexed.vocabularies[name])
        assert texts.dtype == pl.String
        assert texts.name == name
    codes = indexed.interactions.columns["event_type"].tolist()
    assert [None if code < 0 else loaded["event_type"][code] for code in codes] == ["view", "buy", None]
    written = (tmp_path / "vocabularies.json").read_bytes()
    save_vocabularies(tmp_path, dict(reversed(indexed.vocabularies.items())))
    assert (tmp_path / "vocabularies.json").read_bytes() == written, "the order of the mapping does not matter"


def test_no_vocabularies(tmp_path: Path):
    with pytest.raises(ArtifactError, match=r"vocabularies\.json is missing"):
        load_vocabularies(tmp_path)
    save_vocabularies(tmp_path, {})
    assert load_vocabularies(tmp_path) == {}
    save_vocabularies(tmp_path, {"query": pl.Series([], dtype=pl.String)})
    assert load_vocabularies(tmp_path)["query"].dtype == pl.String


def test_both_live_in_one_artifact(tmp_path: Path):
    with write_artifact(tmp_path / "data", kind="data", meta={}) as directory:
        save_interactions(directory, LOG)
        save_catalog(directory, CATALOG)
    manifest = read_artifact(tmp_path / "data", kind="data")
    assert load_interactions(manifest.path, memory_map=True).num_events == 3
    assert load_catalog(manifest.path).num_items == 2


def test_a_missing_file_is_named(tmp_path: Path):
    save_interactions(tmp_path, LOG)
    (tmp_path / "items.npy").unlink()
    with pytest.raises(ArtifactError, match="items.npy is missing"):
        load_interactions(tmp_path, memory_map=True)
    with pytest.raises(ArtifactError, match="catalog.parquet is missing"):
        load_catalog(tmp_path)
