"""Tokenizers that read more than the joined vectors: what they are given, and when their codes are made anew."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sememe.core.artifact import Manifest
from sememe.core.config import from_tree, to_tree
from sememe.core.schema import FloatArray
from sememe.embed.collaborative import CooccurrenceSvd
from sememe.embed.fuse import Fuse, ProvidedVectors
from sememe.pipeline.code_health import judge_run_codes
from sememe.pipeline.prepare import ItemSpace, World, prepare_items, prepare_world
from sememe.pipeline.recipe import Recipe
from sememe.pipeline.stages import StageStore
from sememe.sid.aligned import AlignedRqVae
from sememe.sid.codebook_training import CodebookTraining
from sememe.sid.context import CodeContext
from sememe.sid.dual import DualRqVae
from sememe.sid.fitted import load_tokenizer
from sememe.sid.rqkmeans import FittedResidualKMeans, ResidualKMeans
from sememe.sid.two_sided import TwoSidedRqVae

GIVEN: list[CodeContext] = []


@dataclass(frozen=True)
class Curious:
    """Clusters the vectors and keeps what it was shown."""

    size: int = 8

    def fit_in(self, vectors: FloatArray, *, context: CodeContext, seed: int) -> FittedResidualKMeans:
        GIVEN.append(context)
        return ResidualKMeans(levels=2, codebook_size=self.size).fit(vectors, seed=seed)


def prepared(recipe: Recipe, files: Path, root: Path) -> tuple[World, ItemSpace]:
    stages = StageStore(root=root, say=lambda _: None, recipe_hash="")
    world = prepare_world(stages, recipe.data, source=files, columns={})
    return world, prepare_items(stages, recipe, world, seed=0)


def codes_stage(recipe: Recipe, files: Path, root: Path) -> Manifest:
    return prepared(recipe, files, root)[1].stages["codes"]


@pytest.fixture
def curious(tiny: Recipe) -> Recipe:
    GIVEN.clear()
    return replace(tiny, tokenizer=Curious(), embed=Fuse(parts=(ProvidedVectors(), CooccurrenceSvd(dim=4))))


def test_it_sees_the_widths_and_the_training_part_alone(curious: Recipe, world_files: Path, tmp_path: Path) -> None:
    world, items = prepared(curious, world_files, tmp_path)
    (context,) = GIVEN
    assert items.vectors is not None and context.widths == (items.vectors.shape[1] - 4, 4)
    train = world.split.train()
    np.testing.assert_array_equal(context.train.offsets, train.offsets)
    np.testing.assert_array_equal(context.train.items, train.items)
    assert context.train.num_events < world.interactions.num_events


def test_the_split_is_an_input_where_the_log_is_read_and_only_there(
    curious: Recipe, tiny: Recipe, world_files: Path, tmp_path: Path
) -> None:
    last_session = replace(tiny.data, split=replace(tiny.data.split, rule="last_session"))
    read = [codes_stage(replace(curious, data=data), world_files, tmp_path) for data in (tiny.data, last_session)]
    assert set(read[0].meta["inputs"]) == {"vectors", "data", "split"}
    assert read[0].path != read[1].path and len(GIVEN) == 2
    plain = [codes_stage(replace(tiny, data=data), world_files, tmp_path) for data in (tiny.data, last_session)]
    assert set(plain[0].meta["inputs"]) == {"vectors"}
    # The vectors that came with the items are the same under both splits, and so are their codes.
    assert plain[0].path == plain[1].path


def test_its_codes_are_judged_with_a_second_fit(curious: Recipe, world_files: Path, tmp_path: Path) -> None:
    stage = codes_stage(curious, world_files, tmp_path / "stages")
    judged: Any = judge_run_codes(stage.path, say=lambda _: None)
    assert judged.tokenizer == "Curious" and len(GIVEN) == 2
    np.testing.assert_array_equal(GIVEN[0].train.items, GIVEN[1].train.items)
    assert GIVEN[0].widths == GIVEN[1].widths
    assert judged.health.stability is not None


QUICK = CodebookTraining(epochs=2, warmup_epochs=1, batch_size=64)


@pytest.mark.parametrize(
    ("tokenizer", "sizes"),
    [
        (AlignedRqVae(levels=2, codebook_size=12, hidden=(8,), latent=4, training=QUICK), (12, 6)),
        (DualRqVae((6,), (6,), (4,), hidden=(8,), latent=4, training=QUICK), (6, 6, 4)),
        (TwoSidedRqVae(levels=2, codebook_size=8, hidden=(8,), latent=4, training=QUICK), (8, 8)),
    ],
    ids=["aligned", "dual", "two_sided"],
)
def test_a_recipe_with_each_of_them_gets_codes_that_can_be_judged(
    tokenizer: Any, sizes: tuple[int, ...], curious: Recipe, world_files: Path, tmp_path: Path
) -> None:
    recipe = from_tree(to_tree(replace(curious, tokenizer=tokenizer)))
    assert recipe.tokenizer == tokenizer
    _, items = prepared(recipe, world_files, tmp_path / "stages")
    assert items.codes is not None and items.vectors is not None
    assert items.codes.codebook_sizes[:-1] == sizes
    stage = items.stages["codes"]
    fitted = load_tokenizer(stage.path / "tokenizer.safetensors", kind=stage.meta["result"]["tokenizer"])
    np.testing.assert_array_equal(fitted.encode(items.vectors), items.codes.matrix[:, : len(sizes)])
    judged = judge_run_codes(stage.path, refit=False, say=lambda _: None)
    assert judged.tokenizer == type(tokenizer).__name__
