"""A recipe and data to a run directory: every stage cached, every model of the recipe trained and judged.

RUN/run.json        what was run on what, and which stage directories belong to it
RUN/metrics.json    protocol, one row per model, seed, split and masking rule, the same on slices of the users
RUN/stages/         the artifacts
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.numpy import load_file, save_file

from sememe.core.artifact import LOGS, Manifest, write_file
from sememe.core.config import to_tree, tree_hash
from sememe.core.errors import ConfigError
from sememe.data.batches import with_codes
from sememe.decode.trie import Trie
from sememe.pipeline.evaluate import Label, SplitName, compare_models, judge, metrics_row, validation_score
from sememe.pipeline.prepare import ItemSpace, World, prepare_items, prepare_world
from sememe.pipeline.recipe import Recipe
from sememe.pipeline.recommend import Recommender
from sememe.pipeline.slices import slice_rows
from sememe.pipeline.stages import Say, StageStore, Workbench, only_writer
from sememe.train.checkpoint import load_module, save_module
from sememe.train.device import resolve_device
from sememe.train.loop import fit

WEIGHTS = "model.safetensors"
UNLIMITED_HISTORY = 1_000_000
"""Counting models read the whole history."""
MACHINE_SETTINGS = ("checkpoint_every_seconds", "log_every", "threads", "device")
"""Fields of a TrainPlan that change how fast a training is and not what it learns."""


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """One model of a run at one seed."""

    recipe: Recipe
    seed: int
    manifest: Manifest
    recommender: Recommender
    items: ItemSpace


def run_recipe(
    recipe: Recipe,
    *,
    data: Any,
    out: Path,
    columns: Mapping[str, str] | None = None,
    spec: Mapping[str, Any] | None = None,
    say: Say = print,
) -> Path:
    """Run every stage of `recipe` that is not there yet, and write `metrics.json`.

    Args:
        recipe: what to do.
        data: a file, a directory, the name of a known data set, or a polars, pandas or arrow table.
        out: the run directory; give the same one again to go on after an interruption.
        columns: canonical column name -> name in the data, where they differ from what is recognised.
        spec: how the recipe was asked for (name, arguments, settings), kept in run.json for the reader.
        say: where lines of progress go.

    Returns:
        `out`.
    """
    check_recipe(recipe)
    with only_writer(out):
        stages = StageStore(root=out / "stages", say=say, recipe_hash=tree_hash(recipe))
        world = prepare_world(stages, recipe.data, source=data, columns=columns or {})
        models: list[dict[str, Any]] = []
        rows: list[dict[str, Any]] = []
        slices: list[dict[str, Any]] = []
        per_row: list[pl.DataFrame] = []
        # Items first: what is wrong with them shows before hours of training.
        prepared = [
            (member, seed, prepare_items(stages, member, world, seed=seed)) for member, seed in _members(recipe)
        ]
        for member, seed, items in prepared:
            trained = train_model(stages, member, world, items, seed=seed)
            evaluation = _evaluate(stages, trained, world, recipe)
            rows += json.loads((evaluation.path / "rows.json").read_text(encoding="utf-8"))
            slices += json.loads((evaluation.path / "slices.json").read_text(encoding="utf-8"))
            per_row.append(pl.read_parquet(evaluation.path / "per_row.parquet"))
            models.append(_entry(trained, evaluation))
        comparisons = compare_models(pl.concat(per_row), main=recipe.name, resamples=recipe.evaluation.resamples)
        protocol = dict(world.split.protocol) | {
            "catalogue": "full",
            "level": "item",
            "ties": "averaged",
            "decode": {member.name: repr(member.decode) for member, _, _ in prepared},
        }
        metrics = {"protocol": protocol, "rows": rows, "slices": slices, "comparisons": comparisons}
        write_file(out / "metrics.json", json.dumps(metrics, indent=2) + "\n")
        description = {
            "recipe": to_tree(recipe),
            "recipe_hash": tree_hash(recipe),
            "spec": dict(spec or {}),
            "data": str(data) if isinstance(data, str | Path) else "a table in memory",
            "stages": {"data": world.data.path.name, "split": world.split_manifest.path.name},
            "models": models,
        }
        write_file(out / "run.json", json.dumps(description, indent=2) + "\n")
    return out


def check_recipe(recipe: Recipe) -> None:
    """Refuse a recipe whose fields do not fit together, before anything is read.

    Raises:
        ConfigError: says which field is missing or empty.
    """
    if not isinstance(recipe, Recipe):
        raise ConfigError(f"{recipe!r} is no recipe", fix='call the recipe function: sememe.recipes.tiger("small")')
    if not recipe.seeds or len(set(recipe.seeds)) < len(recipe.seeds):
        raise ConfigError(
            f"recipe {recipe.name!r} has the seeds {list(recipe.seeds)}",
            fix="give one or more different: --set seeds=[0]",
        )
    recipe.evaluation.check(monitor=recipe.train.monitor if recipe.train is not None else None)
    names = [recipe.name, *(baseline.name for baseline in recipe.baselines)]
    if len(set(names)) < len(names):
        raise ConfigError(f"two models of recipe {recipe.name!r} share a name: {names}", fix="rename one of them")
    if is_neural(recipe):
        missing = [name for name in ("batches", "objective", "train") if getattr(recipe, name) is None]
        if missing:
            raise ConfigError(
                f"recipe {recipe.name!r} trains a network and has no {missing[0]}", fix=f"fill the field {missing[0]}"
            )
    if recipe.tokenizer is not None and (recipe.embed is None or recipe.collisions is None):
        raise ConfigError(
            f"recipe {recipe.name!r} has a tokenizer without vectors or without a collision rule",
            fix="fill the fields embed and collisions",
        )
    for baseline in recipe.baselines:
        check_recipe(replace(baseline, evaluation=recipe.evaluation))


def is_neural(recipe: Recipe) -> bool:
    """Whether the model is trained by the loop, rather than fitted by counting."""
    return hasattr(recipe.model, "build")


def train_model(stages: StageStore, recipe: Recipe, world: World, items: ItemSpace, *, seed: int) -> TrainedModel:
    """The trained model of one recipe at one seed, made or reused."""
    settings: dict[str, object] = {"model": recipe.model, "seed": seed}
    if is_neural(recipe):
        settings |= {"batches": recipe.batches, "objective": recipe.objective, **_training_settings(recipe)}
    make = _make_neural if is_neural(recipe) else _make_counting
    manifest = stages.get(
        f"model-{recipe.name}",
        settings=settings,
        inputs=_inputs(world, items),
        make=lambda bench: make(bench, recipe, world=world, items=items, seed=seed, say=stages.say),
    )
    return open_model(recipe, manifest, world, items, seed=seed)


def _inputs(world: World, items: ItemSpace) -> dict[str, str]:
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
        model = recipe.model.build(items.inputs(world.interactions), seed=seed)  # type: ignore[union-attr]
        load_module(manifest.path / WEIGHTS, model)
    else:
        model = recipe.model.load(load_file(manifest.path / WEIGHTS))  # type: ignore[union-attr]
    recommender = make_recommender(recipe, model, items)
    return TrainedModel(recipe=recipe, seed=seed, manifest=manifest, recommender=recommender, items=items)


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
    )


def _members(recipe: Recipe) -> Sequence[tuple[Recipe, int]]:
    """Every model to train: the baselines, then the recipe itself, each at each seed, all judged by one plan.

    Counting models have no random part, so one seed stands for all.
    """
    members = []
    for member in (*recipe.baselines, recipe):
        seeds = recipe.seeds if is_neural(member) else recipe.seeds[:1]
        members += [(replace(member, seeds=seeds, evaluation=recipe.evaluation), seed) for seed in seeds]
    return members


def _make_neural(
    bench: Workbench, recipe: Recipe, *, world: World, items: ItemSpace, seed: int, say: Say
) -> dict[str, Any]:
    assert recipe.batches is not None and recipe.train is not None, "checked by check_recipe"
    model = recipe.model.build(items.inputs(world.interactions), seed=seed)  # type: ignore[union-attr]
    recommender = make_recommender(recipe, model, items)
    source = recipe.batches.source(world.split.train(), seed=seed)
    if items.codes is not None:
        source = with_codes(source, items.codes)
    result = fit(
        model,
        source,
        recipe.objective,
        recipe.train,
        out=bench.scratch,
        seed=seed,
        validate=lambda _: validation_score(recommender, world.split, recipe.evaluation, seed=seed),
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


def _evaluate(stages: StageStore, trained: TrainedModel, world: World, recipe: Recipe) -> Manifest:
    """Judge one model on both splits, with seen items left in and left out."""
    return stages.get(
        f"evaluation-{trained.recipe.name}",
        settings={"decode": trained.recipe.decode, "evaluation": recipe.evaluation, "seed": trained.seed},
        inputs={"model": trained.manifest.content_hash, **_inputs(world, trained.items)},
        make=lambda bench: _make_evaluation(bench, trained, world, recipe),
    )


def _make_evaluation(bench: Workbench, trained: TrainedModel, world: World, recipe: Recipe) -> dict[str, Any]:
    rows, slices, frames = [], [], []
    counts = world.train_counts()
    splits: tuple[SplitName, ...] = ("valid", "test")
    for name in splits:
        examples = world.split.valid if name == "valid" else world.split.test
        for mask_seen in (False, True):
            judged = judge(trained.recommender, world.split, recipe.evaluation, examples=examples, mask_seen=mask_seen)
            label = Label(model=trained.recipe.name, seed=trained.seed, split=name, mask_seen=mask_seen)
            rows.append(metrics_row(judged, label, recipe.evaluation, train_counts=counts))
            slices += slice_rows(judged, label, recipe.evaluation, split=world.split, train_counts=counts)
            frames.append(judged.to_frame(label, users=examples.users))
    (bench.target / "rows.json").write_text(json.dumps(rows, indent=2), encoding="utf-8")
    (bench.target / "slices.json").write_text(json.dumps(slices, indent=2), encoding="utf-8")
    pl.concat(frames).write_parquet(bench.target / "per_row.parquet", compression="zstd")
    return {}


def _entry(trained: TrainedModel, evaluation: Manifest) -> dict[str, Any]:
    """What run.json says of one model."""
    return {
        "name": trained.recipe.name,
        "seed": trained.seed,
        "stages": {
            "model": trained.manifest.path.name,
            "evaluation": evaluation.path.name,
            **{name: stage.path.name for name, stage in trained.items.stages.items()},
        },
    }
