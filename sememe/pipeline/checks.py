"""What of a recipe can be refused before any data is read: fields that are missing or do not fit together."""

import json
from dataclasses import replace

from sememe.core.errors import ConfigError, did_you_mean
from sememe.pipeline.align_plan import BEFORE, LOOKED_AT, REFUSED
from sememe.pipeline.recipe import Recipe
from sememe.pipeline.trained import is_neural


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
    recipe.limits.check()
    if recipe.tokenizer is None and recipe.limits.demanded():
        raise ConfigError(
            f"recipe {recipe.name!r} limits {recipe.limits.demanded()[0]} of semantic IDs, and it makes none",
            fix="leave the limits out, or give the recipe a tokenizer",
        )
    _check_events(recipe)
    _check_views(recipe)
    _check_align(recipe)
    if recipe.rerank is not None:
        # One part where an embedder does not say that it joins several.
        recipe.rerank.check(parts=0 if recipe.embed is None else getattr(recipe.embed, "num_parts", 1))
    for baseline in recipe.baselines:
        check_recipe(replace(baseline, evaluation=recipe.evaluation))


def _check_events(recipe: Recipe) -> None:
    read, held = (
        set(part) for part in (getattr(recipe.model, "reads_events", ()), getattr(recipe.batches, "events", ()))
    )
    if read - held:
        raise ConfigError(
            f"recipe {recipe.name!r}: the model reads {_quoted(read - held)} of events, which its batches do not hold",
            fix=f"set {_events_path(recipe.batches)}={json.dumps(sorted(read))}",
        )
    if held - read:
        raise ConfigError(
            f"recipe {recipe.name!r}: the batches hold {_quoted(held - read)} of events, which its model does not read",
            fix=f"set {_events_path(recipe.batches)}={json.dumps(sorted(read))}, or use a model that reads it "
            "(ItemWise: actions, gaps)",
        )


def _events_path(batches: object) -> str:
    """Where the setting lies: batches may wrap others, which hold it."""
    path = "batches"
    while "events" not in getattr(batches, "__dataclass_fields__", {"events"}):
        batches, path = getattr(batches, "batches", None), f"{path}.batches"
    return f"{path}.events"


def _check_align(recipe: Recipe) -> None:
    if recipe.align is None:
        return
    recipe.align.check()
    if recipe.tokenizer is None or not is_neural(recipe):
        raise ConfigError(
            f"recipe {recipe.name!r} is to be aligned, and only networks that write semantic IDs can be",
            fix="leave align out, or use a generator with a tokenizer",
        )
    if recipe.align.asked_of == "steering" and recipe.rerank is not None:
        raise ConfigError(
            f"recipe {recipe.name!r} asks held-out users in its alignment, on whom its last word is fitted too: there "
            "it would trust the model too much",
            fix="set align.asked_of=training, or leave rerank out",
        )
    rows = _rows_of(recipe.batches)
    if rows is not None:
        recipe.align.sample_every(recipe.align.prompts.batch_size, rows)
    taken = sorted({BEFORE, REFUSED} & {view.name for view in recipe.views})
    if taken:
        raise ConfigError(
            f"recipe {recipe.name!r} has a view {taken[0]!r}, which names a row of every alignment", fix="rename it"
        )
    watched = recipe.align.train.monitor
    if watched not in LOOKED_AT:
        raise ConfigError(f"align.train.monitor is {watched!r}", fix=did_you_mean(watched, LOOKED_AT))


def _rows_of(batches: object) -> int | None:
    """Rows of a batch, where a setting tells them; batches may wrap others, which tell it."""
    while batches is not None and not hasattr(batches, "batch_size"):
        batches = getattr(batches, "batches", None)
    rows: int | None = getattr(batches, "batch_size", None)
    return None if getattr(batches, "targets_per_batch", None) else rows


def _quoted(names: set[str]) -> str:
    return " and ".join(json.dumps(name) for name in sorted(names))


def _check_views(recipe: Recipe) -> None:
    names = [view.name for view in recipe.views]
    if len(set(names)) < len(names) or not all(name.isidentifier() for name in names):
        raise ConfigError(
            f"the views of recipe {recipe.name!r} are named {names}",
            fix="give each its own name of letters, digits and underscores",
        )
    if recipe.rerank is not None and not is_neural(recipe):
        raise ConfigError(
            f"recipe {recipe.name!r} reranks a model that is not trained", fix="leave rerank out, or use a network"
        )
