"""From a run's stages to a catalogue that lives."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sememe.core.errors import ArtifactError, ConfigError
from sememe.pipeline.live import start_catalogue
from sememe.pipeline.prepare import ItemSpace, World, prepare_items, prepare_world
from sememe.pipeline.recipe import Recipe
from sememe.pipeline.stages import StageStore
from sememe.sid.catalogue_store import open_catalogue, save_catalogue
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
