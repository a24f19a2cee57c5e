"""The next day's model: the run's own, trained on by what was collected since, and held against it on the newest hours.

    older, plan = open_run("RUN"), RefreshPlan()
    made = refresh_run(older, collected, out=Path("NEXT"), plan=plan, say=print)
    if compare_refreshed(older, made, plan).passed: ...

Codes stay: the run's tokenizer codes what came, as a server does, so that a generator's weights go on meaning what they
meant.  A network starts from the run's weights; what counts is counted anew.

Shape legend: N rows (one per user that is asked about), T items of a history.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.numpy import save_file
from torch import nn

from sememe.core.artifact import Manifest, only_writer
from sememe.core.config import tree_hash
from sememe.core.errors import ConfigError, SememeError
from sememe.core.schema import FloatArray, Interactions
from sememe.core.seeding import generator
from sememe.data.newest import NewestPeriod
from sememe.data.store import load_vocabularies, save_catalog, save_interactions, save_vocabularies
from sememe.models.encdec import EncDecModel
from sememe.models.generator import ListGenerator
from sememe.models.growth import grown
from sememe.models.itemwise import ItemWiseModel
from sememe.pipeline.live import embed_new, start_catalogue
from sememe.pipeline.opened import Run
from sememe.pipeline.prepare import EXTENDED_FILE, TOKENIZER_FILE, ItemSpace, World, make_split, open_items, open_world
from sememe.pipeline.recipe import BatchPlan, BatchSource, Recipe
from sememe.pipeline.refresh_log import Bookmark, Collected, GrownLog, grow_log, save_place
from sememe.pipeline.run import Findings, judge_readings, write_findings
from sememe.pipeline.stages import Say, StageStore, Workbench
from sememe.pipeline.trained import Start, TrainedModel, is_neural, train_model
from sememe.sid.report import sid_report
from sememe.sid.vocab import save_codes
from sememe.train.optim import Constant


class NothingNewError(SememeError):
    """Too little was collected to learn from, or to judge by."""


@dataclass(frozen=True)
class RefreshPlan:
    """How a run is trained on, and when the new one takes over."""

    hours: float = 24.0
    """The newest events, which both models are asked about; as many before them pick the best weights."""
    epochs: int = 3
    """Passes over the users who did something new."""
    lr: float = 0.3
    """Of the recipe's learning rate: the weights are good already."""
    replay: float = 1.0
    """Users of whom nothing new is known, as a share of the others: without them, what they like is forgotten."""
    metric: str = "ndcg@10"
    """Seen items left out, as lists are made."""
    tolerance: float = 0.1
    """The interval of the difference may reach so far below 0, as a share of the running model's number."""
    least_users: int = 50
    """Below so many users, nothing is decided."""


@dataclass(frozen=True, eq=False)
class OfRecentUsers:
    """The batches of `batches` on users who did something since a moment, and on some others."""

    batches: Any
    since_ms: int
    replay: float

    @property
    def max_history(self) -> int:
        """As of `batches`."""
        found: int = self.batches.max_history
        return found

    @property
    def events(self) -> tuple[str, ...]:
        """As of `batches`."""
        return tuple(getattr(self.batches, "events", ()))

    def source(self, train: Interactions, *, seed: int) -> BatchSource:
        """Raises NothingNewError where there are no such users."""
        chosen = recent_users(train, since_ms=self.since_ms, replay=self.replay, seed=seed)
        ends = np.where(chosen, train.lengths(), 0)
        inner: BatchPlan = self.batches
        return inner.source(train.prefix(ends), seed=seed)


@dataclass(frozen=True, eq=False)
class Refreshed:
    """A new run, and what it was made of."""

    path: Path
    world: World
    trained: TrainedModel
    counts: Mapping[str, int]
    """What was taken of what was collected, and what was not."""


def refresh_run(older: Run, collected: Collected, *, out: Path, plan: RefreshPlan, say: Say) -> Refreshed:
    """Make the run `out` of `older` and what was collected; the same call goes on after an interruption.

    Raises:
        NothingNewError: no user did anything new before the newest hours.
        ConfigError: the run's data has no times.
        DataError: the newest hours hold nothing to ask about.
    """
    recipe = older.recipe
    with only_writer(out):
        stages = StageStore(root=out / "stages", say=say, recipe_hash=tree_hash(recipe))
        embeds = recipe.embed is not None
        log = grow_log(older.world, collected, unknown_items=not embeds)
        for what, count in log.counts.items():
            say(f"  {what}: {count:,}")
        world = _world(stages, older, log, plan, collected=collected)
        _refuse_nothing(older, world, plan)
        items = _items(stages, older, log, world=world, collected=collected)
        seed = recipe.seeds[0]
        trained = train_model(stages, _trained_on(older, plan), world, items, seed=seed, start=_start(older, items))
        kept = replace(recipe, baselines=(), seeds=(seed,), data=_data_plan(recipe, plan))
        trained = replace(trained, recipe=kept)
        found = Findings()
        found.take(trained, judge_readings(stages, trained, world, recipe.evaluation))
        facts = {"spec": {"refreshed": str(older.path.resolve()), "plan": asdict(plan)}, "data": "what was collected"}
        write_findings(out, kept, world, found, facts=facts)
    return Refreshed(path=out, world=world, trained=trained, counts=log.counts)


def recent_users(train: Interactions, *, since_ms: int, replay: float, seed: int) -> np.ndarray[Any, Any]:
    """(U,) bool: users with an event after a moment, and some others.  Raises NothingNewError where there are none."""
    assert train.timestamps is not None, "asked for by the split"
    late = np.zeros(train.num_users, np.bool_)
    late[train.users()[np.asarray(train.timestamps) > since_ms]] = True
    if not late.any():
        raise NothingNewError(
            "nobody did anything new before the newest hours, so that there is nothing to learn from",
            fix="wait for more events, or judge by fewer hours: --set hours=6",
        )
    others = np.flatnonzero(~late & (train.lengths() > 0))
    count = min(len(others), round(replay * int(late.sum())))
    late[generator(seed, "replay").permutation(others)[:count]] = True
    return late


def _refuse_nothing(older: Run, world: World, plan: RefreshPlan) -> None:
    """Before hours of training: raise NothingNewError where nothing could be learned or judged."""
    users = len(world.split.test)
    if users < plan.least_users:
        raise NothingNewError(
            f"only {users} known users did something in the newest {plan.hours:g} hours, and {plan.least_users} are "
            "needed to judge",
            fix="wait for more events, or judge by more hours: --set hours=72",
        )
    recent_users(world.split.train(), since_ms=_newest(older), replay=0.0, seed=0)


def _newest(older: Run) -> int:
    times = older.world.interactions.timestamps
    assert times is not None, "refused before"
    return int(np.max(times))


def _data_plan(recipe: Recipe, plan: RefreshPlan) -> Any:
    return replace(recipe.data, split=NewestPeriod(hours=plan.hours))  # type: ignore[arg-type]


def _trained_on(older: Run, plan: RefreshPlan) -> Recipe:
    """The recipe as it is trained on: fewer steps, smaller ones, on users of whom something is new."""
    recipe = older.recipe
    if not is_neural(recipe):
        return recipe
    assert recipe.train is not None and recipe.batches is not None, "a network is trained"
    slower = replace(recipe.train.optimizer, lr=plan.lr * recipe.train.optimizer.lr)
    train = replace(
        recipe.train,
        epochs=plan.epochs,
        steps=None,
        least_steps=0,
        optimizer=slower,
        schedule=Constant(),
        validate_every=0,
    )
    return replace(recipe, train=train, batches=OfRecentUsers(recipe.batches, _newest(older), plan.replay))


def _world(stages: StageStore, older: Run, log: GrownLog, plan: RefreshPlan, *, collected: Collected) -> World:
    def make(bench: Workbench) -> dict[str, Any]:
        save_interactions(bench.target, log.interactions)
        save_catalog(bench.target, log.catalog)
        save_vocabularies(bench.target, load_vocabularies(older.world.data.path))
        return {
            "dataset": None,
            "users": log.interactions.num_users,
            "items": log.interactions.num_items,
            "events": log.interactions.num_events,
            "order": older.world.data.meta["result"].get("order", ""),
            "dropped": [],
            "notes": [f"{what}: {count:,}" for what, count in log.counts.items()],
            "mapping": older.world.data.meta["result"].get("mapping", {}),
            **({"simulated": True} if older.world.simulated else {}),
            # In the artifact that holds the events: there is no moment at which one is there without the other.
            **save_place(bench.target, collected.bookmark, log.waiting),
        }

    data = stages.get(
        "data",
        settings={"refresh": "grown"},
        inputs={"older": older.world.data.content_hash, "collected": _hash(log, collected.bookmark)},
        make=make,
    )
    recipe = older.recipe
    split = stages.get(
        "split",
        settings={"split": NewestPeriod(hours=plan.hours)},
        inputs={"data": data.content_hash},
        make=lambda bench: make_split(bench, log.interactions, _data_plan(recipe, plan), benchmark=False),
    )
    return open_world(data, split)


def _hash(log: GrownLog, bookmark: Bookmark) -> str:
    """Of all that was taken, of what waits, and of how far the store was read."""
    digest = hashlib.sha256(f"{bookmark} {log.waiting.write_json()}".encode())
    for values in (log.interactions.offsets, log.interactions.items, log.interactions.timestamps):
        digest.update(np.ascontiguousarray(values).tobytes())
    for ids in (log.interactions.user_ids, log.interactions.item_ids):
        digest.update("\n".join(str(one) for one in ids.to_list()).encode())
    digest.update(log.catalog.frame.write_json().encode())
    return digest.hexdigest()


def _items(stages: StageStore, older: Run, log: GrownLog, *, world: World, collected: Collected) -> ItemSpace:
    """Vectors and codes: those of the run, and behind them those of what came."""
    recipe, known = older.recipe, older.items
    if recipe.embed is None or known.vectors is None:
        return ItemSpace(vectors=None, codes=None, stages={})
    ids = log.interactions.item_ids[older.world.interactions.num_items :]
    order = pl.DataFrame({"item_id": ids.cast(pl.String)})
    text = pl.col("item_id").cast(pl.String)
    rows = order.join(collected.items.with_columns(text), on="item_id", how="left", maintain_order="left")
    new = embed_new(recipe, older.world, known, rows) if rows.height else np.empty((0, known.vectors.shape[1]))
    vectors: FloatArray = np.concatenate([known.vectors, new]).astype(np.float32)
    made = stages.get(
        "vectors",
        settings={"refresh": "grown"},
        inputs={"data": world.data.content_hash, "split": world.split_manifest.content_hash},
        make=lambda bench: _make_vectors(bench, vectors, known),
    )
    if known.codes is None:
        return open_items(made, None)
    codes = stages.get(
        "codes",
        settings={"refresh": "grown"},
        inputs={"vectors": made.content_hash, "older": known.stages["codes"].content_hash},
        make=lambda bench: _make_codes(bench, older, ids, vectors),
    )
    return open_items(made, codes)


def _make_vectors(bench: Workbench, vectors: FloatArray, known: ItemSpace) -> dict[str, Any]:
    save_file({"vectors": np.ascontiguousarray(vectors)}, bench.target / "vectors.safetensors")
    empty = int(np.sum(~vectors.any(axis=1)))
    return {"shape": list(vectors.shape), "widths": list(known.vector_widths), "items_without_content": empty}


def _make_codes(bench: Workbench, older: Run, ids: pl.Series, vectors: FloatArray) -> dict[str, Any]:
    stage: Manifest = older.items.stages["codes"]
    catalogue = start_catalogue(older.world, older.items)
    if len(ids):
        catalogue = catalogue.add(ids, vectors=vectors[len(catalogue.item_ids) :])
    codes = catalogue.codes
    save_codes(bench.target, codes)
    for name in (TOKENIZER_FILE, EXTENDED_FILE):
        if name in stage.files:
            shutil.copy(stage.path / name, bench.target / name)
    depth = len(catalogue.tokenizer.codebook_sizes)
    report = sid_report(codes, vectors, reconstruction=catalogue.tokenizer.reconstruct(codes.matrix[:, :depth]))
    (bench.target / "report.json").write_text(json.dumps(report.to_json(), indent=2), encoding="utf-8")
    (bench.target / "report.txt").write_text(report.render() + "\n", encoding="utf-8")
    return {"codebook_sizes": list(codes.codebook_sizes), "tokenizer": stage.meta["result"]["tokenizer"]}


def _start(older: Run, items: ItemSpace) -> Start | None:
    """The run's weights, where there are any."""
    model = older.recommender.model
    if not isinstance(model, nn.Module):
        return None
    stage = older.items.stages.get("codes")
    made_of = {"older": hashlib.sha256((older.path / "run.json").read_bytes()).hexdigest()}
    if stage is not None:
        made_of["older codes"] = stage.content_hash
    return Start(made_of=made_of, fill=lambda newer: warm_start(newer, model, items=items))


@torch.no_grad()
def warm_start(newer: nn.Module, older: nn.Module, *, items: ItemSpace) -> None:
    """Give `newer`, which was built for more items or users, what `older` has learned.

    A generator's prefixes keep what was learned of them.  Of any other network, tensors of one shape are copied, and
    rows of a longer table up to where the old one ends.

    Raises ConfigError where nothing fits.
    """
    if isinstance(older, EncDecModel | ItemWiseModel | ListGenerator) and items.codes is not None:
        newer.load_state_dict(grown(older, items.codes, item_vectors=items.vectors).state_dict())
        return
    before, after, taken = older.state_dict(), newer.state_dict(), 0
    for name, value in after.items():
        old = before.get(name)
        if old is None or old.dim() != value.dim() or any(a > b for a, b in zip(old.shape, value.shape, strict=True)):
            continue
        value[tuple(slice(0, size) for size in old.shape)] = old
        taken += 1
    if not taken:
        raise ConfigError("none of the run's weights fits the new model", fix="run the recipe again on all data")
