"""The health report of a run's semantic IDs: found, measured, written down.

RUN/codes/health.json   every number, with why the missing ones are missing
RUN/codes/*.png         the pictures, where matplotlib is installed
RUN/codes/refits/       codes of a fit with another seed, kept since a fit takes longest

The recipe's own model has its report there; a baseline, and codes that were named by their stage, get a folder of their
own in RUN/codes.  A stage of codes knows its tokenizer and what it was fitted on, so a run that stopped before it was
finished, at a limit for instance, can be looked at too.
"""

import importlib
import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from sememe.core.artifact import MANIFEST, Manifest, is_artifact, only_writer, read_artifact, write_file
from sememe.core.config import from_tree
from sememe.core.errors import ArtifactError, ConfigError, SememeError, did_you_mean
from sememe.core.schema import Codes
from sememe.pipeline.opened import read_json
from sememe.pipeline.prepare import ItemSpace, World, fit_tokenizer, open_items, open_world, read_report
from sememe.pipeline.recipe import ContextTokenizer
from sememe.pipeline.stages import Say, StageStore, Workbench
from sememe.sid.collisions import KeepTied
from sememe.sid.encode import VectorRule, settle_catalog
from sememe.sid.health import Absent, CodesHealth, SecondFit, codes_health
from sememe.sid.vocab import load_codes

HEALTH = "health.json"
REFIT_FILE = "semantic.npy"


@dataclass(frozen=True, eq=False)
class JudgedCodes:
    """A health report and what it is about."""

    name: str
    """Of the model that uses the codes; of the stage where the run is unfinished or the stage was asked for."""
    seed: int
    stage: Path
    tokenizer: str
    """Class of the tokenizer."""
    folder: Path
    """Where the report lies."""
    codes: Codes
    health: CodesHealth


@dataclass(frozen=True)
class _Found:
    """Codes of a run, and where their report belongs."""

    name: str
    manifest: Manifest
    run: Path
    folder: Path
    siblings: tuple[Path, ...] = ()
    """Stages of codes of the same model at other seeds."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Of the stage: tokenizer, collisions, seed."""
        settings: Mapping[str, Any] = self.manifest.meta["settings"]
        return settings


def judge_run_codes(
    path: Path, *, model: str | None = None, modules: Sequence[str] = (), refit: bool = True, say: Say = print
) -> JudgedCodes:
    """Measure the semantic IDs of a run and write `health.json`.

    Args:
        path: a run directory, or a stage of codes in it.
        model: a baseline of a finished run; its own model where None.
        modules: modules with parts of your own that the run uses; they are imported first.
        refit: whether to fit the tokenizer again to see what a seed changes, where the run has no other seed.
        say: where lines of progress go.

    Raises:
        ArtifactError: there are no codes, or a stage is missing or damaged.
        ConfigError: no such model, or one without codes.
    """
    for name in modules:
        importlib.import_module(name)
    found = _find(path, model=model, say=say)
    inputs = _inputs(found)
    items = open_items(inputs["vectors"], found.manifest)
    assert items.vectors is not None and items.codes is not None, "a stage of codes was made from vectors"
    world = open_world(inputs["data"], inputs["split"])
    with only_writer(found.run / "codes"):
        second = _second_fit(found, items, world, refit=refit, say=say)
        health = codes_health(
            items.codes,
            items.vectors,
            report=read_report(found.manifest),
            fitted=_open_tokenizer(found),
            catalog=world.catalog,
            train=world.split.train(),
            second=second,
        )
        judged = JudgedCodes(
            name=found.name,
            seed=found.settings["seed"],
            stage=found.manifest.path,
            tokenizer=type(from_tree(found.settings["tokenizer"])).__name__,
            folder=found.folder,
            codes=items.codes,
            health=health,
        )
        found.folder.mkdir(parents=True, exist_ok=True)
        write_file(found.folder / HEALTH, json.dumps(_content(judged, found), indent=2) + "\n")
    return judged


def _content(judged: JudgedCodes, found: _Found) -> dict[str, Any]:
    about = {"name": judged.name, "stage": judged.stage.name, **found.settings}
    return {**about, **judged.health.to_json()}


def _find(path: Path, *, model: str | None, say: Say) -> _Found:
    if is_artifact(path):
        if model is not None:
            raise ConfigError(f"{path} is a stage, and --model names a model of a run", fix="leave --model out")
        run = path.resolve().parent.parent
        return _Found(path.name, read_artifact(path, kind="codes"), run, run / "codes" / path.name)
    if (path / "run.json").is_file():
        return _of_model(path, read_json(path / "run.json"), model=model)
    if model is not None:
        raise ArtifactError(
            f"{path} holds no finished run, so its models have no names yet", fix="finish it, or leave --model out"
        )
    made = [manifest.parent for manifest in (path / "stages").glob(f"codes-*/{MANIFEST}")]
    if not made:
        raise ArtifactError(
            f"{path} holds no semantic IDs", fix=f"start a recipe that makes some: sememe run RECIPE --out {path}"
        )
    newest = max(made, key=lambda stage: (stage / MANIFEST).stat().st_mtime)
    say(f"the run is not finished; its newest codes are {newest.name}")
    return _Found(newest.name, read_artifact(newest, kind="codes"), path, path / "codes")


def _of_model(path: Path, description: Mapping[str, Any], *, model: str | None) -> _Found:
    own = description["recipe"]["name"]
    wanted = own if model is None else model
    entries = [entry for entry in description["models"] if wanted in (entry["name"], *entry["views"])]
    if not entries:
        known = {entry["name"] for entry in description["models"]}
        raise ConfigError(f"this run has no model {wanted!r}", fix=did_you_mean(wanted, known))
    if "codes" not in entries[0]["stages"]:
        others = sorted({entry["name"] for entry in description["models"] if "codes" in entry["stages"]})
        raise ConfigError(
            f"the model {wanted!r} has no semantic IDs",
            fix=f"give --model {' or '.join(others)}" if others else "run a recipe that makes some, such as tiger",
        )
    name = entries[0]["name"]
    first, *siblings = (path / "stages" / entry["stages"]["codes"] for entry in entries)
    folder = path / "codes" if name == own else path / "codes" / name
    return _Found(name, read_artifact(first, kind="codes"), path, folder, tuple(siblings))


def _inputs(found: _Found) -> dict[str, Manifest]:
    """The stages that the codes come from, by the content hashes that they keep."""
    stages = found.manifest.path.parent
    vectors = _stage_of(stages, "vectors", found.manifest.meta["inputs"]["vectors"])
    others = {name: _stage_of(stages, name, vectors.meta["inputs"][name]) for name in ("data", "split")}
    return {"vectors": vectors, **others}


def _stage_of(stages: Path, kind: str, content_hash: str) -> Manifest:
    for file in sorted(stages.glob(f"{kind}-*/{MANIFEST}")):
        manifest = read_artifact(file.parent, kind=kind)
        if manifest.content_hash == content_hash:
            return manifest
    raise ArtifactError(
        f"{stages} no longer holds the {kind} that the codes were made from", fix="run the same recipe again"
    )


def _open_tokenizer(found: _Found) -> Any:
    """The fitted tokenizer of a stage; None where its part does not say which class its `fit` gives."""
    part = from_tree(found.settings["tokenizer"])
    try:
        verb = type(part).fit_in if isinstance(part, ContextTokenizer) else type(part).fit
        fitted = typing.get_type_hints(verb).get("return")
    except NameError:
        return None
    load = getattr(fitted, "from_state", None)
    return None if load is None else load(load_file(found.manifest.path / "tokenizer.safetensors"))


def _second_fit(found: _Found, items: ItemSpace, world: World, *, refit: bool, say: Say) -> SecondFit | Absent:
    for stage in found.siblings:
        other = read_artifact(stage, kind="codes")
        # Seeds share their vectors, but a sibling of an older run might not.
        if other.meta["inputs"] == found.manifest.meta["inputs"]:
            codes = load_codes(other.path)
            depth = codes.num_semantic_levels
            return SecondFit(other.meta["settings"]["seed"], codes.matrix[:, :depth], codes.codebook_sizes[:depth])
    if not refit:
        return Absent("there is no fit with another seed to compare with, and none was asked for")
    try:
        return _refit(found, items, world, say=say)
    except SememeError as error:
        # Of any kind: that a loss grows without bound is told as a setting that cannot work.
        return Absent(f"a fit with another seed came to nothing: {error.problem}")


def _refit(found: _Found, items: ItemSpace, world: World, *, say: Say) -> SecondFit:
    """Semantic codes of the same tokenizer and collision rule with the next seed, made or reused."""
    seed, vectors = int(found.settings["seed"]) + 1, items.vectors
    assert vectors is not None, "codes were made from vectors"
    tokenizer, rule = from_tree(found.settings["tokenizer"]), from_tree(found.settings["collisions"])

    def make(bench: Workbench) -> dict[str, Any]:
        took = found.manifest.meta["seconds"]
        say(f"  the tokenizer is fitted again with seed {seed}, to compare; making the codes took {took:.0f} s")
        fitted = fit_tokenizer(tokenizer, items, world, seed=seed)
        # A rule that only numbers colliding items changes no semantic code, and its overflow is of no interest here.
        settled = settle_catalog(
            rule if isinstance(rule, VectorRule) else KeepTied(), tokenizer=fitted, vectors=vectors, seed=seed
        ).codes
        depth = settled.num_semantic_levels
        np.save(bench.target / REFIT_FILE, settled.matrix[:, :depth], allow_pickle=False)
        return {"codebook_sizes": list(settled.codebook_sizes[:depth])}

    store = StageStore(root=found.run / "codes" / "refits", say=say, recipe_hash=found.manifest.meta["recipe_hash"])
    manifest = store.get(
        "refit",
        settings={"tokenizer": tokenizer, "collisions": rule, "seed": seed},
        inputs=found.manifest.meta["inputs"],
        make=make,
    )
    matrix = np.load(manifest.path / REFIT_FILE, allow_pickle=False)
    return SecondFit(seed, matrix, tuple(manifest.meta["result"]["codebook_sizes"]))
