"""The stage that gives items their codes: what the tokenizer promises about the catalogue holds for the codes saved."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sememe.pipeline.prepare import prepare_items, prepare_world
from sememe.pipeline.recipe import Recipe
from sememe.pipeline.stages import StageStore
from sememe.sid.balanced import BalancedKMeans
from sememe.sid.controls import RandomCodes, RandomPlanes
from sememe.sid.extra_level import ExtraLevel
from sememe.sid.fitted import load_tokenizer
from sememe.sid.fsq import FiniteScalar
from sememe.sid.product import ProductKMeans
from sememe.sid.reassign import ReassignLast
from sememe.sid.rqkmeans import ResidualKMeans


def codes_of(tokenizer: Any, tiny: Recipe, *, files: Path, root: Path) -> np.ndarray:
    stages = StageStore(root=root, say=lambda _: None, recipe_hash="")
    recipe = replace(tiny, tokenizer=tokenizer)
    items = prepare_items(stages, recipe, prepare_world(stages, recipe.data, source=files, columns={}), seed=0)
    assert items.codes is not None
    assert len(np.unique(items.codes.matrix, axis=0)) == len(items.codes.matrix)
    return items.codes.matrix


@pytest.mark.parametrize("form", ["sinkhorn", "greedy"])
def test_the_codes_of_a_balanced_tokenizer_are_balanced(
    form: Any, tiny: Recipe, world_files: Path, tmp_path: Path
) -> None:
    tokenizer = BalancedKMeans(levels=2, codebook_size=(9, 4), assignment=form)
    matrix = codes_of(tokenizer, tiny, files=world_files, root=tmp_path)
    assert np.bincount(matrix[:, 0]).tolist() == [len(matrix) // 9] * 9
    assert np.bincount(matrix[:, 1]).tolist() == [len(matrix) // 4] * 4


@pytest.mark.parametrize(
    ("rule", "sizes", "name"),
    [(ReassignLast(), (4, 16), "reassigned"), (ExtraLevel(size=12, token=8), (4, 16, 12), "extra")],
)
def test_rules_that_go_by_the_vectors_give_every_item_a_code_of_its_own(
    rule: Any, sizes: tuple[int, ...], name: str, tiny: Recipe, world_files: Path, tmp_path: Path
) -> None:
    tokenizer = ResidualKMeans(levels=2, codebook_size=(4, 16))
    recipe = replace(tiny, tokenizer=tokenizer, collisions=rule)
    stages = StageStore(root=tmp_path, say=lambda _: None, recipe_hash="")
    world = prepare_world(stages, recipe.data, source=world_files, columns={})
    items = prepare_items(stages, recipe, world, seed=0)
    assert items.codes is not None and items.vectors is not None
    assert (items.codes.codebook_sizes, items.codes.collisions) == (sizes, name)
    assert len(np.unique(items.codes.matrix, axis=0)) == items.codes.num_items
    stage = items.stages["codes"]
    extended = "extended.safetensors" in stage.files
    assert extended == (name == "extra")
    file = stage.path / ("extended.safetensors" if extended else "tokenizer.safetensors")
    fitted = load_tokenizer(file, kind=stage.meta["result"]["tokenizer"])
    assert fitted.codebook_sizes == sizes
    first = fitted.encode(items.vectors)[:, 0]
    np.testing.assert_array_equal(first, items.codes.matrix[:, 0])


@pytest.mark.parametrize(
    "tokenizer",
    [
        ProductKMeans(levels=2, codebook_size=8),
        FiniteScalar(levels=2, steps=(4, 2)),
        RandomPlanes(levels=2, bits=3),
        RandomCodes(levels=2, codebook_size=8),
    ],
)
def test_every_tokenizer_fits_into_the_stage(tokenizer: Any, tiny: Recipe, world_files: Path, tmp_path: Path) -> None:
    matrix = codes_of(tokenizer, tiny, files=world_files, root=tmp_path)
    assert matrix[:, :2].max() < 8 and len(np.unique(matrix[:, :2])) > 2
