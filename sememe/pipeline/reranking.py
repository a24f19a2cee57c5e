"""The stage after training: fit what has the last word on validation requests, and open it again."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from sememe.core.artifact import Manifest
from sememe.core.config import to_tree
from sememe.core.seeding import generator
from sememe.data.batches import request_batches
from sememe.data.splits import Examples
from sememe.embed.fuse import Fuse
from sememe.pipeline.prepare import ItemSpace, World
from sememe.pipeline.recipe import FittedReranker, Recipe
from sememe.pipeline.recommend import Recommender
from sememe.pipeline.stages import StageStore, Workbench
from sememe.rerank.signals import Evidence

STATE = "rerank.safetensors"


def prepare_rerank(
    stages: StageStore,
    recipe: Recipe,
    recommender: Recommender,
    model: Manifest,
    *,
    world: World,
    items: ItemSpace,
    seed: int,
) -> Manifest:
    """The fitted reranker of one trained model, made or reused."""
    assert recipe.rerank is not None, "asked for only where there is one"
    inputs = {"model": model, "data": world.data, "split": world.split_manifest, **items.stages}
    manifest = stages.get(
        f"rerank-{recipe.name}",
        settings={"rerank": to_tree(recipe.rerank), "batch_size": recipe.evaluation.batch_size, "seed": seed},
        inputs={name: stage.content_hash for name, stage in inputs.items()},
        make=lambda bench: _make_rerank(bench, recipe, recommender, world=world, items=items, seed=seed),
    )
    estimate = manifest.meta["result"]["estimate"]
    numbers = "  ".join(f"{name} {value:.4f}" for name, value in sorted(estimate.items())) or "too few to tell"
    stages.say(f"  fitted on one half of the validation requests, judged on the other: {numbers}")
    return manifest


def open_rerank(recipe: Recipe, manifest: Manifest, *, world: World, items: ItemSpace) -> FittedReranker:
    """The reranker that a finished stage holds."""
    assert recipe.rerank is not None, "a stage of it exists"
    return recipe.rerank.load(load_file(manifest.path / STATE), evidence=gather_evidence(recipe, world, items))


def gather_evidence(recipe: Recipe, world: World, items: ItemSpace) -> Evidence:
    """What the signals of a reranker may be made from."""
    # An embedder may say what its vectors would be, had the log held no event of some items.
    embed = recipe.embed
    if embed is not None and getattr(embed, "reads_log", False):
        embed = Fuse(parts=(embed,))
    without_log = getattr(embed, "without_log", None)
    if without_log is not None:
        without_log = partial(without_log, items.vectors, items.vector_widths)
    return Evidence(
        train=world.split.train(), vectors=items.vectors, vector_widths=items.vector_widths, without_log=without_log
    )


def _make_rerank(
    bench: Workbench, recipe: Recipe, recommender: Recommender, *, world: World, items: ItemSpace, seed: int
) -> dict[str, Any]:
    assert recipe.rerank is not None, "asked for only where there is one"
    examples = _sample(world.split.valid, most=recipe.rerank.max_requests, seed=seed)
    fitted = fit_rerank(
        recipe, recommender, examples=examples, world=world, items=items, seed=seed, scratch=bench.scratch
    )
    save_file({name: np.ascontiguousarray(array) for name, array in fitted.state().items()}, bench.target / STATE)
    return {"estimate": dict(fitted.estimate), "requests": len(examples)}


def fit_rerank(
    recipe: Recipe,
    recommender: Recommender,
    *,
    examples: Examples,
    world: World,
    items: ItemSpace,
    seed: int,
    scratch: Path,
) -> FittedReranker:
    """The reranker of `recipe`, fitted on the requests of `examples`."""
    assert recipe.rerank is not None, "asked for only where there is one"
    requests = request_batches(
        world.split,
        examples,
        max_history=recommender.max_history,
        batch_size=recipe.evaluation.batch_size,
        events=recommender.events,
    )
    if isinstance(recommender.model, torch.nn.Module):
        recommender.model.eval()
    return recipe.rerank.fit(
        recommender.model,
        requests,
        evidence=gather_evidence(recipe, world, items),
        device=recommender.device,
        seed=seed,
        scratch=scratch,
    )


def _sample(examples: Examples, *, most: int, seed: int) -> Examples:
    if len(examples) <= most:
        return examples
    rows = np.sort(generator(seed, "rerank-requests").choice(len(examples), most, replace=False))
    return Examples(users=examples.users[rows], starts=examples.starts[rows], ends=examples.ends[rows])
