"""A small world, a tiny recipe on it, and one finished run that the tests of this folder read."""

from dataclasses import replace
from pathlib import Path

import pytest

from sememe.data.batches import PrefixBatches, SequenceBatches
from sememe.data.negatives import SharedNegatives
from sememe.data.simulated_files import write_world
from sememe.data.simulator import PlantedWorld
from sememe.decode.beam import BeamSearch
from sememe.decode.exact import ExactItems
from sememe.decode.rescore import Rescored
from sememe.embed.collaborative import CooccurrenceSvd
from sememe.embed.fuse import Fuse, ProvidedVectors
from sememe.models.counting import ItemKnn
from sememe.models.depth import Depth
from sememe.models.encdec import EncDec
from sememe.models.itemwise import ItemWise
from sememe.nn.trunk import Trunk
from sememe.objectives.itemwise import ItemWiseLoss
from sememe.objectives.next_token import NextToken
from sememe.pipeline.recipe import DataPlan, EvaluationPlan, Recipe, SplitRule, View
from sememe.pipeline.run import run_recipe
from sememe.recipes import item_knn, popularity
from sememe.rerank.blend import Blend
from sememe.rerank.signals import CoOccurrence, Likeness
from sememe.sid.collisions import CollisionToken
from sememe.sid.rqkmeans import ResidualKMeans
from sememe.train.plan import TrainPlan


@pytest.fixture(scope="session")
def world_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(PlantedWorld(branching=(3, 3), items_per_leaf=4, num_users=150).generate(seed=0), folder)
    return folder


@pytest.fixture(scope="session")
def tiny() -> Recipe:
    return Recipe(
        name="tiny",
        data=DataPlan(split=SplitRule(rule="leave_one_out")),
        embed=ProvidedVectors(),
        tokenizer=ResidualKMeans(levels=2, codebook_size=8),
        collisions=CollisionToken(size=16),
        model=EncDec(layers=1, d_model=16, heads=2, head_dim=8, ff=32, user_buckets=8, dropout=0.0),
        batches=PrefixBatches(batch_size=64, max_history=6),
        objective=NextToken(),
        train=TrainPlan(epochs=None, steps=12, validate_every=6, threads=1),
        decode=BeamSearch(width=16),
        evaluation=EvaluationPlan(validation_users=40, resamples=50, batch_size=64),
        baselines=(popularity(), replace(item_knn(), seeds=(0,))),
    )


@pytest.fixture(scope="session")
def reranked(tiny: Recipe) -> Recipe:
    """An item-wise generator with two views and a learned last word."""
    return replace(
        tiny,
        embed=Fuse(parts=(ProvidedVectors(), CooccurrenceSvd(dim=4))),
        model=ItemWise(
            trunk=Trunk(layers=1, d_model=16, ff=32, dropout=0.1, max_history=6), depth=Depth(hidden=16, dropout=0.1)
        ),
        batches=SharedNegatives(SequenceBatches(batch_size=32, max_history=6), negatives=12),
        objective=ItemWiseLoss(),
        views=(View("rescored", Rescored(BeamSearch(width=12))), View("items", ExactItems())),
        rerank=Blend(signals=(CoOccurrence(ItemKnn()), Likeness(embedder=1)), candidates=20, hidden=4, epochs=2),
        baselines=(popularity(),),
    )


@pytest.fixture(scope="session")
def finished(world_files: Path, tiny: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory; tests must not change it."""
    return run_recipe(tiny, data=world_files, out=tmp_path_factory.mktemp("run"), say=lambda _: None)
