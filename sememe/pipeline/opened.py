"""A finished run, opened from its directory: recommend, and read what was measured."""

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from sememe.core.artifact import Manifest, read_artifact
from sememe.core.config import from_tree
from sememe.core.errors import ArtifactError, ConfigError, DataError, did_you_mean
from sememe.core.schema import Int32Array
from sememe.data.event_inputs import user_event_inputs
from sememe.pipeline.judging import readings
from sememe.pipeline.lookup import UNKNOWN_ID, Lookup
from sememe.pipeline.prepare import ItemSpace, World, open_items, open_world
from sememe.pipeline.recipe import Recipe
from sememe.pipeline.recommend import Recommender
from sememe.pipeline.trained import open_model, with_rerank

UserId = int | str
ItemId = int | str


@dataclass(frozen=True, eq=False)
class Run:
    """What `sememe run` made: the data, the models and the numbers."""

    path: Path
    recipe: Recipe
    world: World
    items: ItemSpace
    """Vectors and codes of the model that recommends, as far as it has them."""
    recommender: Recommender
    metrics: Mapping[str, Any]

    def recommend(
        self,
        *,
        user: UserId | None = None,
        history: Sequence[ItemId] | None = None,
        k: int = 10,
        repeat_seen: bool = False,
    ) -> pl.DataFrame:
        """The k best items for a known user, or for any list of items, oldest first.

        Args:
            user: an id of the data; the whole history of this user is read.
            history: item ids, for somebody whom the model does not know.  Give this or `user`.  What was done with
                them, and when, is unknown to a model that reads it.
            k: how many items.
            repeat_seen: whether items of the history may come back.

        Returns:
            Columns rank, item, title, score, source; fewer than k lines where the catalogue has no more to give.

        Raises:
            DataError: the user or an item is not in the data.
            ConfigError: both or neither of `user` and `history`, or k < 1.
        """
        if (user is None) == (history is None):
            given = "neither" if user is None else "both"
            raise ConfigError(f"recommend got {given} of user and history", fix="give exactly one of the two")
        if k < 1:
            raise ConfigError(f"k is {k}, and at least 1 item must be asked for", fix="give k >= 1")
        users, events = None, None
        if user is not None:
            index = self._index(self._user_lookup, user, what="user")
            items = np.asarray(self.world.interactions.history(index))
            users = np.array([index], np.int32)
            known = user_event_inputs(self.world.interactions, self.recommender.events, user=index)
            events = {name: [values] for name, values in known.items()}
        else:
            items = self._items(history or [])
        if len(items) == 0:
            raise DataError("the history is empty, and the model needs at least one item", fix="give a history")
        leave_out = None if repeat_seen else [items]
        ranked = self.recommender.recommend([items], users=users, k=k, leave_out=leave_out, events=events)
        frame = ranked.to_frame(pl.Series([""]), self.world.interactions.item_ids)
        titles = [self.world.catalog.title(int(item)) for item in ranked.items[0] if item >= 0]
        return frame.select("rank", "item", pl.Series("title", titles, dtype=pl.String), "score", "source")

    def history(self, user: UserId) -> pl.DataFrame:
        """What a user did, oldest first: columns item, title."""
        index = self._index(self._user_lookup, user, what="user")
        items = self.world.interactions.history(index)
        return pl.DataFrame(
            {
                "item": self.world.interactions.item_ids.gather(items.tolist()),
                "title": [self.world.catalog.title(int(item)) for item in items],
            }
        )

    def _items(self, ids: Sequence[ItemId]) -> Int32Array:
        return np.array([self._index(self._item_lookup, item, what="item") for item in ids], dtype=np.int32)

    @cached_property
    def _item_lookup(self) -> Lookup:
        return Lookup(self.world.interactions.item_ids)

    @cached_property
    def _user_lookup(self) -> Lookup:
        return Lookup(self.world.interactions.user_ids)

    def _index(self, lookup: Lookup, wanted: UserId, *, what: str) -> int:
        if isinstance(wanted, bool) or not isinstance(wanted, int | str):
            raise DataError(f"{what} {wanted!r} is a {type(wanted).__name__}", fix=f"give the {what} id as text or int")
        (place,) = lookup.find([wanted]).tolist()
        if place == UNKNOWN_ID:
            raise DataError(
                f"there is no {what} {wanted!r} in this run",
                fix=f"{what} ids of this data look like {lookup.ids[:3].to_list()}",
            )
        return int(place)


def open_run(path: Path, *, model: str | None = None, seed: int | None = None, modules: Sequence[str] = ()) -> Run:
    """Open the run directory `path`.

    Args:
        path: what was given to `sememe run --out`.
        model: the name of another row of the run, to recommend with it instead of the recipe's own: a baseline, or a
            view as RECIPE:VIEW.
        seed: which seed's model; the recipe's first one where None.
        modules: modules with parts of your own that the recipe uses; they are imported first.

    Raises:
        ArtifactError: no finished run, or a stage is damaged.
        ConfigError: no such model or seed.
    """
    for name in modules:
        importlib.import_module(name)
    description = read_json(path / "run.json")
    recipe: Recipe = from_tree(description["recipe"])
    row = model or recipe.name
    chosen = _choose(description["models"], row=row, seed=recipe.seeds[0] if seed is None else seed)
    member = _member(recipe, chosen["name"])
    base = chosen["name"].partition(":")[0]
    stages = path / "stages"
    data, split = (_stage(stages, description["stages"][name], name) for name in ("data", "split"))
    world = open_world(data, split)
    parts: dict[str, Manifest | None] = {
        name: _stage(stages, chosen["stages"][name], name) if name in chosen["stages"] else None
        for name in ("vectors", "codes")
    }
    items = open_items(parts["vectors"], parts["codes"])
    manifest = _stage(stages, chosen["stages"]["model"], _kind(chosen["stages"]["model"], base))
    made_of = {"data": data, "split": split, **{name: part for name, part in parts.items() if part is not None}}
    _refuse_strangers(manifest, made_of)
    trained = open_model(member, manifest, world, items, seed=chosen["seed"])
    if "rerank" in chosen["stages"]:
        rerank = _stage(stages, chosen["stages"]["rerank"], f"rerank-{base}")
        _refuse_strangers(rerank, {**made_of, "model": manifest})
        trained = with_rerank(trained, rerank, world)
    recommenders = {reading.name: reading.recommender for reading in readings(trained)}
    return Run(
        path=path,
        recipe=recipe,
        world=world,
        items=items,
        recommender=recommenders[row],
        metrics=read_json(path / "metrics.json"),
    )


def _member(recipe: Recipe, name: str) -> Recipe:
    """The recipe of a model, or of the row that stands beside an aligned one, as "NAME:before"."""
    base, _, row = name.partition(":")
    member = {member.name: member for member in (recipe, *recipe.baselines)}[base]
    return replace(member, name=name, views=()) if row else member


def _kind(stage: str, base: str) -> str:
    """What a model's directory holds: weights as they were trained, or after alignment."""
    return f"aligned-{base}" if stage.startswith("aligned-") else f"model-{base}"


def read_metrics(path: Path) -> dict[str, Any]:
    """metrics.json of the run directory `path`."""
    return read_json(path / "metrics.json")


def _stage(root: Path, name: str, kind: str) -> Manifest:
    return read_artifact(root / name, kind=kind)


def _refuse_strangers(stage: Manifest, others: Mapping[str, Manifest]) -> None:
    """Raise ArtifactError where `stage` was made from others than those that it is to be used with."""
    for name, wanted in stage.meta["inputs"].items():
        if name in others and others[name].content_hash != wanted:
            raise ArtifactError(
                f"{stage.path.name} was made from {name} {wanted[:12]}, and {others[name].path.name} holds "
                f"{name} {others[name].content_hash[:12]}",
                fix="put the right directory back, or run the recipe again: stages that do not fit are made anew",
            )


def _choose(models: Sequence[Mapping[str, Any]], *, row: str, seed: int) -> Mapping[str, Any]:
    """The entry of run.json whose model gives the rows called `row`."""
    rows = [(entry, {entry["name"], *entry["views"]}) for entry in models]
    named = [entry for entry, names in rows if row in names]
    if not named:
        known = {name for _, names in rows for name in names}
        raise ConfigError(f"this run has no model {row!r}", fix=did_you_mean(row, known))
    # Counting models have one seed only, which stands for all.
    fitting = [entry for entry in named if entry["seed"] == seed] or (named if len(named) == 1 else [])
    if not fitting:
        seeds = [entry["seed"] for entry in named]
        raise ConfigError(f"model {row!r} has no seed {seed}", fix=f"choose one of {seeds}")
    return fitting[0]


def read_json(file: Path) -> dict[str, Any]:
    """A JSON file of a run directory.  Raises ArtifactError where it is not there."""
    if not file.is_file():
        raise ArtifactError(
            f"{file.parent} holds no finished run: {file.name} is missing",
            fix=f"start or finish it: sememe run RECIPE --data DATA --out {file.parent}",
        )
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content
