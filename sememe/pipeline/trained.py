"""One model of a run at one seed: trained or counted, reranked where the recipe says so, kept and opened again."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from sememe.core.artifact import LOGS, Manifest
from sememe.core.config import to_tree
from sememe.data.batches import with_codes
from sememe.data.event_inputs import check_events
from sememe.decode.trie import Trie
from sememe.pipeline.evaluate import validation_score
from sememe.pipeline.prepare import ItemSpace, World
from sememe.pipeline.recipe import BatchSource, Recipe
from sememe.pipeline.recommend import Recommender
from sememe.pipeline.reranking import open_rerank, prepare_rerank
from sememe.pipeline.stages import Say, StageStore, Workbench
from sememe.train.checkpoint import load_module, save_module
from sememe.train.device import resolve_device
from sememe.train.loop import fit

WEIGHTS = "model.safetensors"
UNLIMITED_HISTORY = 1_000_000
"""Counting models read the whole history."""
MACHINE_SETTINGS = ("checkpoint_every_seconds", "log_every", "threads", "device", "tensorboard")
"""Fields of a TrainPlan that change how fast a training is, or what it writes down, and not what it learns."""


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """One model of a run at one seed."""

    recipe: Recipe
    seed: int
    manifest: Manifest
    recommender: Recommender
    items: ItemSpace
    rerank: Manifest | None = None
    """The stage of the fitted reranker, where the recipe has one."""


@dataclass(frozen=True)
class Start:
    """What a network begins its training from, beside its seed."""

    made_of: Mapping[str, str]
    """Content hashes by name."""
    fill: Callable[[torch.nn.Module], None]
    """Changes the network in place."""


def is_neural(recipe: Recipe) -> bool:
    """Whether the model is trained by the loop, rather than fitted by counting."""
    return hasattr(recipe.model, "build")


def train_model(
    stages: StageStore, recipe: Recipe, world: World, items: ItemSpace, *, seed: int, start: Start | None = None
) -> TrainedModel:
    """The trained model of one recipe at one seed, and its reranker, made or reused.

    start: what a network begins from; counting models have no use for it.
    """
    settings: dict[str, object] = {"model": recipe.model, "seed": seed}
    if is_neural(recipe):
        settings |= {"batches": recipe.batches, "objective": recipe.objective, **_training_settings(recipe)}
    make = partial(_make_neural, start=start) if is_neural(recipe) else _make_counting
    manifest = stages.get(
        f"model-{recipe.name}",
        settings=settings,
        inputs={**stage_hashes(world, items), **(start.made_of if start is not None else {})},
        make=lambda bench: make(bench, recipe, world=world, items=items, seed=seed, say=stages.say),
    )
    trained = open_model(recipe, manifest, world, items, seed=seed)
    if recipe.rerank is None:
        return trained
    rerank = prepare_rerank(stages, recipe, trained.recommender, manifest, world=world, items=items, seed=seed)
    return with_rerank(trained, rerank, world)


def check_model(recipe: Recipe, world: World, items: ItemSpace, *, seed: int) -> None:
    """Build the network of `recipe` and let it go again, so that what its settings or the data lack shows early.

    Raises:
        ConfigError: a setting of the model that cannot be, or something that it asks for and that is not there.
        DataError: the batches are to hold something that the data does not know.
    """
    if is_neural(recipe):
        model = recipe.model.build(items.inputs(world), seed=seed)  # type: ignore[union-attr]
        if recipe.rerank is not None:
            recipe.rerank.check_model(model)
        check_events(world.interactions, getattr(recipe.batches, "events", ()))


def stage_hashes(world: World, items: ItemSpace) -> dict[str, str]:
    """Content hashes of all that a model is trained or judged on."""
    stages = {"data": world.data, "split": world.split_manifest, **items.stages}
    return {name: manifest.content_hash for name, manifest in stages.items()}


def _training_settings(recipe: Recipe) -> dict[str, object]:
    """What of the training steers its weights: the plan without what only steers the machine, and the validation that
    picks the best step."""
    assert recipe.train is not None, "checked by check_recipe"
    plan = {name: value for name, value in to_tree(recipe.train).items() if name not in MACHINE_SETTINGS}
    validation = {"users": recipe.evaluation.validation_users, "ks": list(recipe.evaluation.ks)}
    return {"train": plan, "validation": validation, "decode": recipe.decode}


def open_model(recipe: Recipe, manifest: Manifest, world: World, items: ItemSpace, *, seed: int) -> TrainedModel:
    """A finished model stage, ready to recommend."""
    if is_neural(recipe):
        model = recipe.model.build(items.inputs(world), seed=seed)  # type: ignore[union-attr]
        load_module(manifest.path / WEIGHTS, model)
    else:
        model = recipe.model.load(load_file(manifest.path / WEIGHTS))  # type: ignore[union-attr]
    recommender = make_recommender(recipe, model, items)
    return TrainedModel(recipe=recipe, seed=seed, manifest=manifest, recommender=recommender, items=items)


def with_rerank(trained: TrainedModel, rerank: Manifest, world: World) -> TrainedModel:
    """The same model with the reranker that a finished stage holds."""
    fitted = open_rerank(trained.recipe, rerank, world=world, items=trained.items)
    return replace(trained, recommender=replace(trained.recommender, rerank=fitted), rerank=rerank)


def make_recommender(recipe: Recipe, model: Any, items: ItemSpace) -> Recommender:
    """Put a model, its decoder and its trie on their device."""
    device = resolve_device(recipe.train.device if recipe.train is not None else "cpu")
    if isinstance(model, torch.nn.Module):
        model.to(device)
    return Recommender(
        model=model,
        decode=recipe.decode,
        trie=None if items.codes is None else Trie.build(items.codes).to(device),
        max_history=recipe.batches.max_history if recipe.batches is not None else UNLIMITED_HISTORY,
        device=device,
        events=getattr(recipe.batches, "events", ()),
    )


def training_batches(recipe: Recipe, world: World, items: ItemSpace, *, seed: int) -> BatchSource:
    """What a neural recipe is trained on, with the codes of the targets for models that read them."""
    assert recipe.batches is not None, "checked by check_recipe"
    source = recipe.batches.source(world.split.train(), seed=seed)
    if items.codes is None or not getattr(recipe.model, "reads_target_codes", False):
        return source
    return with_codes(source, items.codes)


def _make_neural(
    bench: Workbench,
    recipe: Recipe,
    *,
    world: World,
    items: ItemSpace,
    seed: int,
    say: Say,
    start: Start | None = None,
) -> dict[str, Any]:
    plan = recipe.train
    assert plan is not None, "checked by check_recipe"
    model = recipe.model.build(items.inputs(world), seed=seed)  # type: ignore[union-attr]
    if start is not None:
        start.fill(model)
    recommender = make_recommender(recipe, model, items)
    source = training_batches(recipe, world, items, seed=seed)
    say(f"  {recipe.name}: {source.steps_per_epoch:,} steps per epoch, {len(source(0)['history']):,} rows in the first")
    result = fit(
        model,
        source,
        recipe.objective,
        plan,
        out=bench.scratch,
        seed=seed,
        validate=lambda _: validation_score(
            recommender, world.split, recipe.evaluation, monitor=plan.monitor, seed=seed
        ),
    )
    save_module(bench.target / WEIGHTS, model)
    logs = bench.target / LOGS
    logs.mkdir()
    shutil.copy(bench.scratch / "train.jsonl", logs)
    if (bench.scratch / "tensorboard").is_dir():
        shutil.copytree(bench.scratch / "tensorboard", logs / "tensorboard")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    say(f"  {recipe.name}: {parameters:,} parameters, {result.steps:,} steps, best step {result.best_step:,}")
    return {"parameters": parameters, "steps": result.steps, "best_step": result.best_step}


def _make_counting(
    bench: Workbench, recipe: Recipe, *, world: World, items: ItemSpace, seed: int, say: Say
) -> dict[str, Any]:
    del items, seed  # a counting model knows nothing of codes and draws nothing
    train = world.split.train()
    fitted = recipe.model.fit(train)  # type: ignore[union-attr]
    save_file({name: np.ascontiguousarray(array) for name, array in fitted.state().items()}, bench.target / WEIGHTS)
    say(f"  {recipe.name}: counted {train.num_events:,} events")
    return {}
