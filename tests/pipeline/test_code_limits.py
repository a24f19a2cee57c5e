"""A run whose semantic IDs break a limit stops before anything is trained; limits change no stage."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from sememe.core.config import apply_settings, render
from sememe.core.errors import ConfigError, LimitError
from sememe.pipeline.recipe import Recipe
from sememe.pipeline.run import run_recipe
from sememe.recipes import popularity, tiger
from sememe.sid.collisions import CollisionToken
from sememe.sid.controls import RandomCodes
from sememe.sid.limits import CodeLimits
from sememe.sid.rqkmeans import ResidualKMeans


def stages(out: Path) -> set[str]:
    return {folder.name for folder in (out / "stages").iterdir() if not folder.name.startswith(".")}


def kinds(out: Path) -> set[str]:
    return {name.rpartition("-")[0] for name in stages(out)}


@pytest.fixture
def flat_files(world_files: Path, tmp_path: Path) -> Path:
    """The world with one and the same vector for all items."""
    folder = tmp_path / "flat"
    folder.mkdir()
    for file in world_files.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    items = pl.read_parquet(folder / "items.parquet")
    same = pl.Series("vector", [[0.3] * len(items["vector"][0])] * items.height, dtype=pl.List(pl.Float32))
    items.with_columns(same).write_parquet(folder / "items.parquet")
    assert len(np.unique(np.array(same.to_list()), axis=0)) == 1
    return folder


def test_collapsed_codes_stop_a_run_before_training(tiny: Recipe, flat_files: Path, tmp_path: Path) -> None:
    limits = CodeLimits(unique_share=0.9, largest_group=4, perplexity_share=0.4)
    recipe = replace(tiny, limits=limits, collisions=CollisionToken(size=64))
    with pytest.raises(LimitError) as caught:
        run_recipe(recipe, data=flat_files, out=tmp_path / "run", say=lambda _: None)
    message = str(caught.value)
    assert "the semantic IDs of 'tiny' (seed 0) break limits of the recipe; nothing was trained" in message
    assert (
        "limits.unique_share: 1 different tuples for 36 items are a share of 0.02778, at least 0.9 demanded" in message
    )
    assert "limits.largest_group: 36 items share all their codes, at most 4 demanded" in message
    assert "limits.perplexity_share: level 1: the perplexity is 1.0 of 8 possible" in message
    assert "limits.perplexity_share: level 2: the perplexity is 1.0 of 8 possible" in message
    assert "what to do: look at them: sememe codes " in message
    assert "finer signal" in message
    assert kinds(tmp_path / "run") == {"data", "split", "vectors", "codes"}
    assert not (tmp_path / "run" / "run.json").exists()


def test_codes_that_see_nothing_stop_a_run_too(tiny: Recipe, world_files: Path, tmp_path: Path) -> None:
    blind = replace(tiny, tokenizer=RandomCodes(levels=2, codebook_size=4), limits=CodeLimits(neighbour_lift=2.0))
    with pytest.raises(LimitError, match="limits.neighbour_lift: level 1: .* at least 2.0 demanded"):
        run_recipe(blind, data=world_files, out=tmp_path, say=lambda _: None)
    seeing = replace(blind, tokenizer=ResidualKMeans(levels=2, codebook_size=4), baselines=())
    assert (run_recipe(seeing, data=world_files, out=tmp_path, say=lambda _: None) / "metrics.json").is_file()


def test_codes_of_an_earlier_run_are_held_to_new_limits(tiny: Recipe, world_files: Path, tmp_path: Path) -> None:
    run_recipe(tiny, data=world_files, out=tmp_path, say=lambda _: None)
    before = stages(tmp_path)
    said: list[str] = []
    strict = replace(tiny, limits=CodeLimits(reconstruction_error=1e-6))
    with pytest.raises(LimitError, match="limits.reconstruction_error: .* at most 1e-06 demanded"):
        run_recipe(strict, data=world_files, out=tmp_path, say=said.append)
    assert "codes: unchanged, reused" in said
    # A limit that is kept to changes nothing that was made: no stage knows of it.
    said.clear()
    kept = replace(tiny, limits=CodeLimits(reconstruction_error=0.99, largest_group=36))
    run_recipe(kept, data=world_files, out=tmp_path, say=said.append)
    assert stages(tmp_path) == before
    assert not any(line.endswith("running") or "running again" in line for line in said)


def test_the_limits_of_a_baseline_hold_for_the_baseline(tiny: Recipe, world_files: Path, tmp_path: Path) -> None:
    other = replace(tiny, name="other", baselines=(), limits=CodeLimits(reconstruction_error=1e-6))
    with pytest.raises(LimitError, match="the semantic IDs of 'other'"):
        run_recipe(replace(tiny, baselines=(other,)), data=world_files, out=tmp_path, say=lambda _: None)


def test_limits_are_set_like_every_other_setting() -> None:
    recipe = apply_settings(tiger("debug"), {"limits.unique_share": "0.9", "limits.largest_group": "5"})
    assert recipe.limits == CodeLimits(unique_share=0.9, largest_group=5)
    assert apply_settings(recipe, {"limits.unique_share": "null"}).limits == CodeLimits(largest_group=5)
    assert "limits.unique_share = 0.9" in render(recipe)
    with pytest.raises(ConfigError, match="did you mean 'unique_share'"):
        apply_settings(recipe, {"limits.unique_shares": "0.9"})
    with pytest.raises(ConfigError, match="limits.largest_group=2.5"):
        apply_settings(recipe, {"limits.largest_group": "2.5"})


def test_limits_that_cannot_be_are_refused_before_anything_is_read(tiny: Recipe, tmp_path: Path) -> None:
    for recipe, message in (
        (replace(tiny, limits=CodeLimits(unique_share=2.0)), "limits.unique_share is 2.0"),
        (
            replace(popularity(), limits=CodeLimits(unique_share=0.5)),
            "limits unique_share of semantic IDs, and it makes",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            run_recipe(recipe, data=tmp_path / "nowhere", out=tmp_path / "run", say=lambda _: None)
