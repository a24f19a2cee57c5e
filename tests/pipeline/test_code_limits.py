"""A run whose semantic IDs break a limit stops before anything is trained; limits change no stage."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from sememe.core.config import apply_settings, render
from sememe.core.errors import ConfigError, DataError, LimitError
from sememe.pipeline.recipe import Recipe
from sememe.pipeline.run import run_recipe
from sememe.recipes import popularity, tiger
from sememe.sid.balanced import BalancedKMeans
from sememe.sid.collisions import CollisionToken
from sememe.sid.controls import RandomCodes
from sememe.sid.limits import CodeLimits
from sememe.sid.rqkmeans import ResidualKMeans


def stages(out: Path) -> set[str]:
    return {folder.name for folder in (out / "stages").iterdir() if not folder.name.startswith(".")}


def kinds(out: Path) -> set[str]:
    return {name.rpartition("-")[0] for name in stages(out)}


def with_vectors(world_files: Path, folder: Path, *, kinds: int) -> Path:
    """The world with `kinds` different vectors for its 36 items."""
    folder.mkdir()
    for file in world_files.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    items = pl.read_parquet(folder / "items.parquet")
    drawn = np.random.default_rng(0).standard_normal((kinds, len(items["vector"][0]))).astype(np.float32)
    values = [drawn[row % kinds].tolist() for row in range(items.height)]
    items.with_columns(pl.Series("vector", values, dtype=pl.List(pl.Float32))).write_parquet(folder / "items.parquet")
    return folder


def test_collapsed_codes_stop_a_run_before_training(tiny: Recipe, world_files: Path, tmp_path: Path) -> None:
    limits = CodeLimits(distinct_share=0.9, unique_share=0.9, largest_group=4, perplexity_share=0.4)
    recipe = replace(tiny, limits=limits, collisions=CollisionToken(size=64))
    files = with_vectors(world_files, tmp_path / "two", kinds=2)
    said: list[str] = []
    with pytest.raises(LimitError) as caught:
        run_recipe(recipe, data=files, out=tmp_path / "run", say=said.append)
    message = str(caught.value)
    assert "the semantic IDs of 'tiny' (seed 0) break limits of the recipe; nothing was trained" in message
    for text in (
        "distinct_share: 2 different vectors for 36 items are a share of 0.05556, at least 0.9 demanded",
        "unique_share: 2 different tuples for 36 items are a share of 0.05556, at least 0.9 demanded",
        "largest_group: 18 items share all their codes, at most 4 demanded",
        "perplexity_share: level 1: the perplexity is 2.0 of 8 possible",
    ):
        assert f"limits.{text}" in message
    assert "what to do: look at them: sememe codes " in message
    assert "finer signal" in message
    assert kinds(tmp_path / "run") == {"data", "split", "vectors", "codes"}
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize("part", [ResidualKMeans(levels=2, codebook_size=8), BalancedKMeans(levels=2, codebook_size=8)])
def test_mostly_equal_vectors_are_told_aloud_without_any_limit(
    part: ResidualKMeans | BalancedKMeans, tiny: Recipe, world_files: Path, tmp_path: Path
) -> None:
    files = with_vectors(world_files, tmp_path / "few", kinds=6)
    recipe = replace(tiny, tokenizer=part, collisions=CollisionToken(size=4, most=65_536), baselines=())
    said: list[str] = []
    run_recipe(recipe, data=files, out=tmp_path / "run", say=said.append)
    assert "warning: the content signal is too coarse: 36 items have only 6 distinct vectors" in "\n".join(said)


def test_vectors_that_are_all_equal_stop_a_run_whatever_the_tokenizer(
    tiny: Recipe, world_files: Path, tmp_path: Path
) -> None:
    """Balanced codes and a collision level that grows would train on them to the end."""
    files = with_vectors(world_files, tmp_path / "flat", kinds=1)
    even = replace(tiny, tokenizer=BalancedKMeans(levels=2, codebook_size=8), collisions=CollisionToken(most=65_536))
    for recipe in (tiny, even):
        with pytest.raises(DataError, match="all 36 items have the same vector") as caught:
            run_recipe(recipe, data=files, out=tmp_path / "run", say=lambda _: None)
        assert "columns that differ" in caught.value.fix


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
