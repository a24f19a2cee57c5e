"""A small world, a tiny generator trained on it, and servers of it that a test may change as it likes."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from serving import PATIENT, Flaky, Server
from starlette.testclient import TestClient

from sememe.data.batches import SequenceBatches
from sememe.data.negatives import SharedNegatives
from sememe.data.simulated_files import write_world
from sememe.data.simulator import PlantedWorld
from sememe.decode.beam import BeamSearch
from sememe.embed.fuse import ProvidedVectors
from sememe.models.depth import Depth
from sememe.models.itemwise import ItemWise
from sememe.nn.trunk import Trunk
from sememe.objectives.itemwise import ItemWiseLoss
from sememe.pipeline.engine import Engine
from sememe.pipeline.recipe import DataPlan, EvaluationPlan, Recipe, SplitRule
from sememe.pipeline.run import run_recipe
from sememe.recipes import popularity
from sememe.serve.app import create_app
from sememe.serve.keys import KeyRing
from sememe.serve.metrics import Metrics
from sememe.serve.models import ModelFolder
from sememe.serve.served import Served
from sememe.serve.service import ModelSource, Service
from sememe.serve.settings import ServeSettings
from sememe.serve.stores.open import open_store
from sememe.serve.stores.protocol import Store
from sememe.sid.collisions import CollisionToken
from sememe.sid.rqkmeans import ResidualKMeans
from sememe.train.plan import TrainPlan

Serve = Callable[..., Server]


@pytest.fixture(scope="session")
def served_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests must not change it."""
    folder = tmp_path_factory.mktemp("served")
    write_world(PlantedWorld(branching=(3, 3), items_per_leaf=4, num_users=80).generate(seed=0), folder / "data")
    return run_recipe(tiny_recipe(), data=folder / "data", out=folder / "run", say=lambda _: None)


@pytest.fixture(scope="session")
def second_run(served_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model of the same data."""
    folder = tmp_path_factory.mktemp("second") / "run"
    return run_recipe(
        replace(tiny_recipe(), seeds=(1,)), data=served_run.parent / "data", out=folder, say=lambda _: None
    )


def tiny_recipe() -> Recipe:
    return Recipe(
        name="tiny",
        data=DataPlan(split=SplitRule(rule="leave_one_out")),
        embed=ProvidedVectors(),
        tokenizer=ResidualKMeans(levels=2, codebook_size=8),
        collisions=CollisionToken(size=16),
        model=ItemWise(trunk=Trunk(layers=1, d_model=16, ff=32, max_history=6), depth=Depth(hidden=16)),
        batches=SharedNegatives(SequenceBatches(batch_size=32, max_history=6), negatives=12),
        objective=ItemWiseLoss(),
        train=TrainPlan(epochs=None, steps=12, validate_every=6, threads=1),
        decode=BeamSearch(width=16),
        evaluation=EvaluationPlan(validation_users=20, resamples=20, batch_size=64),
        baselines=(popularity(),),
    )


@pytest.fixture(scope="session")
def generator(served_run: Path) -> Served:
    """The generator of the run; tests take `fresh` ones of it, whose rules are their own."""
    return Served.load(served_run)


@pytest.fixture(scope="session")
def counting(served_run: Path) -> Served:
    """A row without tree and vectors."""
    return Served.load(served_run, model="popularity")


@pytest.fixture
def fresh(generator: Served) -> Served:
    return replace(generator, engine=Engine(generator.engine.serving))


@pytest.fixture
def serve(fresh: Served, tmp_path: Path) -> Iterator[Serve]:
    """Starts servers, and stops them after the test."""
    with ExitStack() as stack:

        def start(
            served: Served | None = None,
            *,
            settings: ServeSettings | None = None,
            keys: Path | None = None,
            store: Any = None,
            peer: str = "127.0.0.1",
            source: ModelSource | None = None,
        ) -> Server:
            flaky = store or Flaky(open_store(f"sqlite:///{tmp_path / 'store.sqlite'}"))
            service = Service(
                served or fresh,
                flaky,
                settings=settings or PATIENT,
                metrics=Metrics(),
                source=source,
            )
            app = create_app(service, KeyRing(keys))
            client = TestClient(app, base_url="http://localhost", client=(peer, 50000), raise_server_exceptions=False)
            return Server(app=app, http=stack.enter_context(client), service=service, store=flaky)

        yield start


@pytest.fixture
def server(serve: Serve) -> Server:
    return serve()


@pytest.fixture(scope="session")
def quiet_environment() -> dict[str, str]:
    """Of child processes: one thread each."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}


@pytest.fixture
def folder(served_run: Path, tmp_path: Path) -> ModelFolder:
    """A copy of the run, for a test to refresh."""
    # A server that another test starts on the run keeps its files in it.
    shutil.copytree(served_run, tmp_path / "run", ignore=shutil.ignore_patterns("serve", "models"))
    (tmp_path / "run" / "serve").mkdir()
    return ModelFolder(tmp_path / "run")


@pytest.fixture
def counting_run(served_run: Path, tmp_path: Path) -> ModelFolder:
    """A run of the same data that is refreshed in a second."""
    path = run_recipe(popularity(), data=served_run.parent / "data", out=tmp_path / "counting", say=lambda _: None)
    (path / "serve").mkdir()
    return ModelFolder(path)


@pytest.fixture
def store(folder: ModelFolder) -> Iterator[Store]:
    """Of the server of `folder`."""
    opened = open_store(f"sqlite:///{folder.path / 'serve' / 'store.sqlite'}")
    yield opened
    opened.close()
