"""Versions of a catalogue: read as they were written, never half there, and none lost to another writer."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import killed_save
import numpy as np
import pytest
from planted_line import LINE, on_line
from planted_tree import tree
from safetensors.numpy import load_file, save_file

import sememe.sid.catalogue_store as store
from sememe.core.artifact import only_writer, write_artifact
from sememe.core.errors import ArtifactError, SememeError
from sememe.sid.catalogue import FreshItems, LiveCatalogue
from sememe.sid.catalogue_store import catalogue_versions, open_catalogue, roll_back, save_catalogue
from sememe.sid.collisions import CollisionToken, KeepTied
from sememe.sid.encode import settle_catalog
from sememe.sid.extra_level import ExtraLevel
from sememe.sid.fsq import FiniteScalar
from sememe.sid.reassign import ReassignLast
from sememe.sid.rqkmeans import ResidualKMeans
from sememe.sid.rqvae import RqVae


def small() -> LiveCatalogue:
    vectors = on_line(0, 0.1, 100)
    codes = settle_catalog(CollisionToken(size=4), tokenizer=LINE, vectors=vectors, seed=0).codes
    fresh = FreshItems(error_ratio=1.1, collision_share=None, divergences=(0.25, 0.0))
    return LiveCatalogue.start(codes, item_ids=["a", "b", "ü"], tokenizer=LINE, vectors=vectors, fresh=fresh)


def assert_same(ours: LiveCatalogue, theirs: LiveCatalogue) -> None:
    for name in ("live", "retired", "errors", "since_fit", "said", "since_vectors"):
        left, right = getattr(ours, name), getattr(theirs, name)
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)
    np.testing.assert_array_equal(ours.codes.matrix, theirs.codes.matrix)
    assert ours.codes.matrix.dtype == np.int32
    for name in ("codebook_sizes", "num_semantic_levels", "collisions"):
        assert getattr(ours.codes, name) == getattr(theirs.codes, name)
    assert ours.item_ids.equals(theirs.item_ids, check_dtypes=True)
    assert (ours.spread, ours.fresh) == (theirs.spread, theirs.fresh)


@pytest.mark.parametrize(
    ("part", "rule"),
    [
        (ResidualKMeans(levels=2, codebook_size=(8, 16)), CollisionToken()),
        (ResidualKMeans(levels=2, codebook_size=8), ExtraLevel(size=4)),
        (FiniteScalar(levels=2, steps=(4, 4, 4)), ReassignLast()),
        (
            RqVae(levels=2, codebook_size=8, hidden=(16,), latent=4, epochs=1, warmup_epochs=1, batch_size=64),
            KeepTied(),
        ),
    ],
)
def test_what_was_saved_is_read_and_goes_on_as_it_would_have(part: Any, rule: Any, tmp_path: Path) -> None:
    vectors, _ = tree(0, per_leaf=2)
    settled = settle_catalog(rule, tokenizer=part.fit(vectors[:100], seed=0), vectors=vectors[:100], seed=0)
    catalogue = LiveCatalogue.start(
        settled.codes, item_ids=np.arange(100), tokenizer=settled.tokenizer, vectors=vectors[:100]
    )
    catalogue = catalogue.remove([5, 7]).add([200], vectors=vectors[100:101])
    assert save_catalogue(tmp_path / "c", catalogue, based_on=None, note="first") == 1
    saved = open_catalogue(tmp_path / "c")
    assert saved.version == 1
    assert saved.manifest.meta == {
        "based_on": None,
        "note": "first",
        "rows": 101,
        "items": 99,
        "retired_codes": 0 if isinstance(rule, KeepTied) else 2,
    }
    assert_same(saved.catalogue, catalogue)
    ids = list(range(201, 229))
    assert_same(saved.catalogue.add(ids, vectors=vectors[100:]), catalogue.add(ids, vectors=vectors[100:]))
    assert not [path for path in (tmp_path / "c").rglob("*") if path.suffix in (".pkl", ".pt", ".npy")]


def test_versions_follow_one_another_and_any_can_be_opened_or_made_current(tmp_path: Path) -> None:
    first = small()
    save_catalogue(tmp_path, first, based_on=None)
    second = first.add(["d"], vectors=on_line(0))
    assert save_catalogue(tmp_path, second, based_on=1) == 2
    assert catalogue_versions(tmp_path) == store.Versions(current=2, kept=(1, 2))
    assert_same(open_catalogue(tmp_path, version=1).catalogue, first)
    roll_back(tmp_path, version=1)
    back = open_catalogue(tmp_path)
    assert back.version == 1
    assert_same(back.catalogue, first)
    # A number never means two things, so the next one is 3.
    assert save_catalogue(tmp_path, back.catalogue.remove(["a"]), based_on=1) == 3
    assert_same(open_catalogue(tmp_path, version=2).catalogue, second)
    roll_back(tmp_path, version=1)
    for number in (2, 3):
        shutil.rmtree(tmp_path / "versions" / f"{number:06d}")
    assert save_catalogue(tmp_path, first, based_on=1) == 4


def test_a_ratio_without_bound_is_no_json_and_comes_back_all_the_same(tmp_path: Path) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    endless = replace(small(), fresh=FreshItems(error_ratio=float("inf"), collision_share=0.5, divergences=(0.25,)))
    save_catalogue(tmp_path, endless, based_on=None)
    saved = open_catalogue(tmp_path)
    assert saved.catalogue.fresh == endless.fresh
    json.loads((saved.manifest.path / "catalogue.json").read_text(), parse_constant=refuse)


def test_a_version_without_the_vectors_of_later_items_is_refused(tmp_path: Path) -> None:
    with write_artifact(tmp_path / "old", kind="catalogue", meta={}) as folder:
        store._write(folder, small())
        arrays = load_file(folder / "arrays.safetensors")
        save_file(
            {name: array for name, array in arrays.items() if name != "since_vectors"}, folder / "arrays.safetensors"
        )
    with pytest.raises(ArtifactError, match="holds no vectors of the items that came since the fit"):
        store._read(tmp_path / "old")


def test_a_writer_that_knows_only_an_older_version_is_refused(tmp_path: Path) -> None:
    save_catalogue(tmp_path, small(), based_on=None)
    ours, theirs = open_catalogue(tmp_path), open_catalogue(tmp_path)
    save_catalogue(tmp_path, theirs.catalogue.add(["x"], vectors=on_line(0)), based_on=theirs.version)
    mine = ours.catalogue.add(["y"], vectors=on_line(0))
    for based_on in (ours.version, None):
        with pytest.raises(ArtifactError, match="version 2 of .* is current, and these changes are based on"):
            save_catalogue(tmp_path, mine, based_on=based_on)
    assert catalogue_versions(tmp_path).kept == (1, 2)
    with pytest.raises(ArtifactError, match="version None of"):
        save_catalogue(tmp_path / "other", mine, based_on=1)


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    save_catalogue(tmp_path, small(), based_on=None)
    with only_writer(tmp_path):
        for write in (
            lambda: save_catalogue(tmp_path, small(), based_on=1),
            lambda: roll_back(tmp_path, version=1),
        ):
            with pytest.raises(SememeError, match="another process is writing"):
                write()
        assert open_catalogue(tmp_path).version == 1


@pytest.mark.parametrize("broken", ["_write", "_publish"])
def test_a_save_that_fails_leaves_the_old_version_current(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = small()
    save_catalogue(tmp_path, first, based_on=None)

    def fail(*_: Any) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(store, broken, fail)
        with pytest.raises(OSError, match="no space"):
            save_catalogue(tmp_path, first.remove(["a"]), based_on=1)
    saved = open_catalogue(tmp_path)
    assert saved.version == 1
    assert_same(saved.catalogue, first)
    assert not list((tmp_path / "versions").glob(".*"))
    number = save_catalogue(tmp_path, first.remove(["b"]), based_on=1)
    assert open_catalogue(tmp_path).version == number == (2 if broken == "_write" else 3)


def test_a_process_that_is_killed_while_saving_leaves_the_old_version_current(tmp_path: Path) -> None:
    moments = (
        r"mkdir .*/versions/\.000002\..*",
        r"open .*/versions/\.000002\..*/catalogue\.json",
        r"open .*/versions/\.000002\..*/manifest\.json",
        r"rename .*/versions/\.000002\..*",  # whole, not yet in its place
        r"open .*/\.current\.json\..*",  # in its place, not yet current
        r"rename .*/\.current\.json\..*",
    )
    done = subprocess.run(
        [sys.executable, killed_save.__file__, str(tmp_path), *moments],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ends = json.loads((tmp_path / "ends.json").read_text())
    assert ends[:-1] == [[-signal.SIGKILL, 1, 2]] * len(moments)
    # The two that died with a whole version in place left its number taken.
    assert ends[-1] == [0, 4, 3]
    assert not [path for path in (tmp_path / "catalogue").rglob(".*") if path.name != ".lock"]


def test_what_is_not_there_or_damaged_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no catalogue: current.json is missing"):
        open_catalogue(tmp_path)
    save_catalogue(tmp_path, small(), based_on=None)
    for call in (lambda: open_catalogue(tmp_path, version=7), lambda: roll_back(tmp_path, version=7)):
        with pytest.raises(ArtifactError, match="has no version 7") as caught:
            call()
        assert "[1]" in caught.value.fix
    arrays = tmp_path / "versions" / "000001" / "arrays.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="arrays.safetensors has .* truncated"):
        open_catalogue(tmp_path)
    (tmp_path / "current.json").write_text('{"version":')
    with pytest.raises(ArtifactError, match="current.json cannot be read"):
        open_catalogue(tmp_path)
