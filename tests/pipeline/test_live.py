"""From a run's stages to a catalogue that lives, and a model that takes in what comes."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from sememe.core.artifact import read_artifact
from sememe.core.errors import ArtifactError, ConfigError, NothingToEmbedError
from sememe.data.simulated_files import write_world
from sememe.data.simulator import PlantedWorld
from sememe.decode.beam import BeamSearch
from sememe.decode.exact import ExactItems
from sememe.embed.collaborative import CooccurrenceSvd
from sememe.embed.fuse import Fuse, ProvidedVectors
from sememe.pipeline.live import embed_new, follow, fresh_items, start_catalogue
from sememe.pipeline.opened import Run, open_run
from sememe.pipeline.prepare import ItemSpace, World, open_items, prepare_items, prepare_world
from sememe.pipeline.recipe import Recipe
from sememe.pipeline.recommend import Recommender
from sememe.pipeline.run import run_recipe
from sememe.pipeline.stages import StageStore
from sememe.sid.aligned import AlignedRqVae
from sememe.sid.catalogue import LiveCatalogue
from sememe.sid.catalogue_store import open_catalogue, save_catalogue
from sememe.sid.codebook_training import CodebookTraining
from sememe.sid.collisions import CollisionToken
from sememe.sid.drift import measure_drift, measure_fresh
from sememe.sid.extra_level import ExtraLevel


def prepared(recipe: Recipe, *, files: Path, root: Path) -> tuple[World, ItemSpace]:
    stages = StageStore(root=root, say=lambda _: None, recipe_hash="")
    world = prepare_world(stages, recipe.data, source=files, columns={})
    return world, prepare_items(stages, recipe, world, seed=0)


@pytest.mark.parametrize("rule", [CollisionToken(size=16), ExtraLevel(size=4, token=16)])
def test_new_items_join_those_of_a_run(rule: Any, tiny: Recipe, world_files: Path, tmp_path: Path) -> None:
    recipe = replace(tiny, collisions=rule)
    world, items = prepared(recipe, files=world_files, root=tmp_path / "stages")
    assert items.codes is not None and items.vectors is not None and recipe.tokenizer is not None
    fresh = measure_fresh(recipe.tokenizer, rule, items.vectors, seed=0, share=0.2)
    catalogue = start_catalogue(world, items, fresh=fresh)
    ids = world.interactions.item_ids
    assert catalogue.rows(ids[:3]).tolist() == [0, 1, 2]
    new = "one more"
    grown = catalogue.add([new], vectors=items.vectors[:1] + np.float32(0.01))
    np.testing.assert_array_equal(grown.codes.matrix[:-1], items.codes.matrix)
    assert len(np.unique(grown.codes.matrix, axis=0)) == len(ids) + 1
    save_catalogue(tmp_path / "catalogue", grown, based_on=None)
    read = open_catalogue(tmp_path / "catalogue").catalogue
    assert read.rows([new]).tolist() == [len(ids)] and read.fresh == fresh
    assert not measure_drift(read).refit


def test_items_without_codes_and_codes_of_unknown_origin_are_refused(
    tiny: Recipe, world_files: Path, tmp_path: Path
) -> None:
    world, items = prepared(tiny, files=world_files, root=tmp_path)
    with pytest.raises(ConfigError, match="no semantic IDs"):
        start_catalogue(world, replace(items, codes=None))
    stage = items.stages["codes"]
    older = replace(stage, meta={**stage.meta, "result": {"codebook_sizes": [8, 8, 16]}})
    with pytest.raises(ArtifactError, match="does not say which tokenizer made it"):
        start_catalogue(world, replace(items, stages={**items.stages, "codes": older}))


@dataclass(frozen=True)
class Later:
    """A run on a catalogue that lacked some items, and the items."""

    path: Path
    new: pl.DataFrame


@pytest.fixture(scope="module")
def later(reranked: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Later:
    """Items of the planted world are alike within a leaf, so what is new has known neighbours."""
    files, fewer = tmp_path_factory.mktemp("all"), tmp_path_factory.mktemp("fewer")
    world = PlantedWorld(branching=(3, 3), items_per_leaf=4, num_users=150).generate(seed=0)
    write_world(world, files)
    items = pl.read_parquet(files / "items.parquet")
    new = items.filter(pl.col("item_id").is_in([items["item_id"][3], items["item_id"][20]]))
    for name in ("items", "interactions"):
        pl.read_parquet(files / f"{name}.parquet").filter(
            ~pl.col("item_id").is_in(new["item_id"].to_list())
        ).write_parquet(fewer / f"{name}.parquet")
    recipe = replace(reranked, rerank=None, views=(), train=replace(reranked.train, steps=40, validate_every=40))
    path = run_recipe(recipe, data=fewer, out=tmp_path_factory.mktemp("run"), say=lambda _: None)
    return Later(path, new)


def opened(later: Later) -> tuple[Run, ItemSpace, LiveCatalogue]:
    run = open_run(later.path)
    stages = {name: next((later.path / "stages").glob(f"{name}-*")) for name in ("vectors", "codes")}
    items = open_items(*(read_artifact(stage, kind=name) for name, stage in stages.items()))
    return run, items, start_catalogue(run.world, items)


def test_what_comes_is_recommended_and_nobody_else_moves(later: Later) -> None:
    run, items, catalogue = opened(later)
    assert items.vectors is not None and items.codes is not None
    known = len(items.vectors)
    vectors = embed_new(run.recipe, run.world, items, later.new)
    newer = catalogue.add(later.new["item_id"], vectors=vectors)
    np.testing.assert_array_equal(newer.codes.matrix[:known], items.codes.matrix)
    assert len(np.unique(newer.codes.matrix, axis=0)) == known + 2
    np.testing.assert_array_equal(newer.vectors(items.vectors), np.concatenate([items.vectors, vectors]))
    recommender = follow(run.recommender, catalogue, newer, vectors=newer.vectors(items.vectors))
    history = [np.array([0, 1, 2], np.int32)]
    before, after = (one.recommend(history, k=known + 2) for one in (run.recommender, recommender))
    assert sorted(after.items[0]) == [*range(known + 2)] and before.items.max() == known - 1
    # Whoever read a new item is served too.
    assert (recommender.recommend([np.array([known, known + 1], np.int32)], k=5).items >= 0).all()
    gone = newer.remove([later.new["item_id"][0]])
    listed = follow(recommender, newer, gone, vectors=gone.vectors(items.vectors)).recommend(history, k=99)
    assert known not in listed.items and known + 1 in listed.items


def test_the_item_head_says_the_same_of_known_items_and_the_generator_shares_out(later: Later) -> None:
    run, items, catalogue = opened(later)
    assert items.vectors is not None
    known = len(items.vectors)
    newer = catalogue.add(later.new["item_id"], vectors=embed_new(run.recipe, run.world, items, later.new))
    after = follow(run.recommender, catalogue, newer, vectors=newer.vectors(items.vectors))

    def scores(recommender: Recommender, decode: Any) -> np.ndarray:
        ranked = replace(recommender, decode=decode).recommend([np.array([0, 1, 2], np.int32)], k=known + 2)
        found = np.full(known + 2, np.nan)
        found[ranked.items[0][ranked.items[0] >= 0]] = ranked.scores[0][ranked.items[0] >= 0]
        return found[:known]

    np.testing.assert_allclose(scores(after, ExactItems()), scores(run.recommender, ExactItems()), rtol=1e-5, atol=1e-6)
    less = scores(after, BeamSearch(width=64)) - scores(run.recommender, BeamSearch(width=64))
    assert less.max() < 1e-5 and less.min() < -1e-3


def test_what_is_usual_of_new_items_is_found_out_as_they_are_embedded(later: Later) -> None:
    run, items, _ = opened(later)
    recipe = run.recipe
    assert items.vectors is not None and recipe.tokenizer is not None and recipe.collisions is not None
    blind = measure_fresh(recipe.tokenizer, recipe.collisions, items.vectors, seed=0, share=0.3)
    told = fresh_items(recipe, run.world, items, share=0.3)
    assert np.isfinite(told.error_ratio) and told.error_ratio != blind.error_ratio
    # A tokenizer that reads the log gets what is left of it.
    quick = CodebookTraining(epochs=1, warmup_epochs=1, batch_size=16)
    aligned = AlignedRqVae(levels=2, codebook_size=8, hidden=(8,), latent=4, training=quick)
    assert len(fresh_items(replace(recipe, tokenizer=aligned), run.world, items).divergences) == 2
    with pytest.raises(ConfigError, match="makes no semantic IDs"):
        fresh_items(replace(recipe, tokenizer=None), run.world, items)


def test_a_catalogue_opened_elsewhere_is_followed_as_where_it_grew(later: Later, tmp_path: Path) -> None:
    run, items, catalogue = opened(later)
    assert items.vectors is not None
    newer = catalogue.add(later.new["item_id"], vectors=embed_new(run.recipe, run.world, items, later.new))
    newer = newer.update([newer.item_ids[0]], vectors=items.vectors[5:6]).remove([newer.item_ids[2]])
    save_catalogue(tmp_path / "catalogue", newer, based_on=None)
    # All that another process has: the directories of the run and of the catalogue.
    other, known, started = opened(later)
    saved = open_catalogue(tmp_path / "catalogue").catalogue
    assert known.vectors is not None
    every = saved.vectors(known.vectors)
    np.testing.assert_array_equal(every[0], items.vectors[5])
    histories = [np.array([0, 1, 4], np.int32), np.array([len(every) - 1, len(every) - 2], np.int32)]
    here = follow(run.recommender, catalogue, newer, vectors=newer.vectors(items.vectors)).recommend(histories, k=9)
    there = follow(other.recommender, started, saved, vectors=every).recommend(histories, k=9)
    np.testing.assert_array_equal(there.items, here.items)
    np.testing.assert_array_equal(there.scores, here.scores)


def test_new_items_stand_beside_those_that_are_like_them(later: Later) -> None:
    run, items, _ = opened(later)
    assert items.vectors is not None
    vectors = embed_new(run.recipe, run.world, items, later.new)
    leaf = [*run.world.catalog.frame["categories"].to_list()]
    nearest = (vectors @ items.vectors.T).argmax(axis=1)
    assert [leaf[item] for item in nearest] == later.new["categories"].to_list()


def test_what_cannot_take_in_new_items_says_so(later: Later) -> None:
    run, items, catalogue = opened(later)
    assert items.vectors is not None
    more = catalogue.add(["x"], vectors=items.vectors[:1])
    with pytest.raises(ConfigError, match="fitted last word"):
        follow(replace(run.recommender, rerank=Any), catalogue, more, vectors=items.vectors)
    counting = open_run(later.path, model="popularity").recommender
    with pytest.raises(ConfigError, match="knows items by their numbers"):
        follow(counting, catalogue, more, vectors=items.vectors)
    with pytest.raises(ConfigError, match="embeds no items"):
        embed_new(replace(run.recipe, embed=None), run.world, items, later.new)
    with pytest.raises(NothingToEmbedError, match="reads the log"):
        embed_new(replace(run.recipe, embed=CooccurrenceSvd()), run.world, items, later.new)
    with pytest.raises(NothingToEmbedError, match="reads the log"):
        blind = Fuse(parts=(CooccurrenceSvd(), CooccurrenceSvd()))
        embed_new(replace(run.recipe, embed=blind), run.world, items, later.new)
    whitening = Fuse(parts=(CooccurrenceSvd(), ProvidedVectors()), whiten=3)
    stage = items.stages["vectors"]
    mixed = replace(stage, meta={**stage.meta, "result": {**stage.meta["result"], "widths": [3]}})
    with pytest.raises(ConfigError, match="whiten.* keeps no directions.*\n.*embed.whiten=0"):
        embed_new(
            replace(run.recipe, embed=whitening),
            run.world,
            replace(items, stages={**items.stages, "vectors": mixed}),
            later.new,
        )
