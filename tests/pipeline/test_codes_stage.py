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
from sememe.sid.fsq import FiniteScalar
from sememe.sid.product import ProductKMeans


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
