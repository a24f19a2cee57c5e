"""A recipe and data to a run directory: every stage cached, every model of the recipe trained and judged.

RUN/run.json        what was run on what, and which stage directories belong to it
RUN/metrics.json    protocol, one row per model, seed, split and masking rule, the same on slices of the users; whether
                    probabilities come true
RUN/stages/         the artifacts
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from sememe.core.artifact import Manifest, only_writer, write_file
from sememe.core.config import to_tree, tree_hash
from sememe.pipeline.align import Aligned, align_model
from sememe.pipeline.checks import check_recipe
from sememe.pipeline.evaluate import compare_models, seed_means
from sememe.pipeline.judging import CALIBRATION, evaluate_reading, readings
from sememe.pipeline.learned_rewards import lacks_feedback
from sememe.pipeline.prepare import World, prepare_items, prepare_world
from sememe.pipeline.recipe import EvaluationPlan, Recipe, in_a_line
from sememe.pipeline.stages import Say, StageStore
from sememe.pipeline.trained import TrainedModel, check_model, is_neural, train_model


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
        # Items first: what is wrong with them shows before hours of training.
        prepared = [
            (member, seed, prepare_items(stages, member, world, seed=seed)) for member, seed in _members(recipe)
        ]
        # Then the models: a setting of the last one must not wait until those before it are trained.
        for member, seed, items in prepared:
            check_model(member, world, items, seed=seed)
            lacks_feedback(member, world, say=lambda _: None)
        found = Findings()
        for member, seed, items in prepared:
            trained = train_model(stages, member, world, items, seed=seed)
            models = [trained]
            if member.align is not None and not lacks_feedback(member, world, say=say):
                aligned = align_model(stages, trained, world)
                found.take_verdict(aligned)
                models = [aligned.other, aligned.deployed]
            for model in models:
                found.take(model, judge_readings(stages, model, world, recipe.evaluation))
        source = str(data) if isinstance(data, str | Path) else "a table in memory"
        write_findings(out, recipe, world, found, facts={"spec": dict(spec or {}), "data": source})
    return out


def write_findings(out: Path, recipe: Recipe, world: World, found: "Findings", *, facts: Mapping[str, Any]) -> None:
    """Write metrics.json, and run.json last: with it, the run is whole.

    facts: what else run.json says, for the reader.
    """
    protocol = {"catalogue": "full", "level": "item", "ties": "averaged", "decode": found.decode()}
    # Said only where it is so.
    label = {"simulated": True} if world.simulated else {}
    metrics = {"protocol": {**world.split.protocol, **protocol, **label}, **found.metrics(recipe)}
    write_file(out / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    description = {
        "recipe": to_tree(recipe),
        "recipe_hash": tree_hash(recipe),
        **facts,
        **label,
        "stages": {"data": world.data.path.name, "split": world.split_manifest.path.name},
        "models": found.models,
    }
    write_file(out / "run.json", json.dumps(description, indent=2) + "\n")


@dataclass
class Findings:
    """What the models of a run came to, in the order in which they were judged."""

    models: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    slices: list[dict[str, Any]] = field(default_factory=list)
    calibration: list[dict[str, Any]] = field(default_factory=list)
    per_row: list[pl.DataFrame] = field(default_factory=list)
    ways: dict[str, list[str]] = field(default_factory=dict)
    """Row name -> how its lists come about, more than one line where seeds differ in that."""
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    """What the gate said of each aligned model."""
    gates: dict[tuple[str, int], str] = field(default_factory=dict)
    """Model and seed -> the stage of its verdict."""

    def take(self, trained: TrainedModel, judged: Mapping[str, Manifest]) -> None:
        """Add one model's evaluations."""
        for evaluation in judged.values():
            self.rows += json.loads((evaluation.path / "rows.json").read_text(encoding="utf-8"))
            self.slices += json.loads((evaluation.path / "slices.json").read_text(encoding="utf-8"))
            told = evaluation.path / CALIBRATION
            self.calibration += json.loads(told.read_text(encoding="utf-8")) if told.is_file() else []
            self.per_row.append(pl.read_parquet(evaluation.path / "per_row.parquet"))
        entry = _entry(trained, judged)
        gate = self.gates.get((trained.recipe.name, trained.seed))
        entry["stages"] |= {} if gate is None else {"gate": gate}
        self.models.append(entry)
        for name, how in _ways(trained).items():
            known = self.ways.setdefault(name, [])
            known += [how] if how not in known else []

    def take_verdict(self, aligned: Aligned) -> None:
        """Add what the gate said of one model; its evaluations come by `take`."""
        model = aligned.deployed
        label = {"model": model.recipe.name, "seed": model.seed}
        self.verdicts.append({**label, **aligned.verdict.to_json()})
        self.gates[model.recipe.name, model.seed] = aligned.gate.path.name

    def decode(self) -> dict[str, str]:
        """Row name -> how its lists come about."""
        return {name: " / ".join(ways) for name, ways in self.ways.items()}

    def metrics(self, recipe: Recipe) -> dict[str, Any]:
        """Rows, their means over seeds, slices and paired comparisons, as metrics.json has them."""
        per_row, resamples = pl.concat(self.per_row), recipe.evaluation.resamples
        aligned = {"alignment": self.verdicts} if self.verdicts else {}
        return aligned | {
            "rows": self.rows,
            "means": seed_means(per_row, resamples=resamples),
            "slices": self.slices,
            "calibration": self.calibration,
            "comparisons": compare_models(per_row, main=recipe.name, resamples=resamples),
        }


def _members(recipe: Recipe) -> Sequence[tuple[Recipe, int]]:
    """Every model to train: the baselines, then the recipe itself, each at each seed, all judged by one plan.

    Counting models have no random part, so one seed stands for all.
    """
    members = []
    for member in (*recipe.baselines, recipe):
        seeds = recipe.seeds if is_neural(member) else recipe.seeds[:1]
        members += [(replace(member, seeds=seeds, evaluation=recipe.evaluation), seed) for seed in seeds]
    return members


def judge_readings(
    stages: StageStore, trained: TrainedModel, world: World, plan: EvaluationPlan
) -> dict[str, Manifest]:
    """Row name -> evaluation, for each way to read the model."""
    return {
        reading.name: evaluate_reading(stages, reading, trained=trained, world=world, plan=plan)
        for reading in readings(trained)
    }


def _ways(trained: TrainedModel) -> dict[str, str]:
    """Row name -> how its lists come about, for each of a recipe's rows."""
    member = trained.recipe
    views = {f"{member.name}:{view.name}": in_a_line(view.decode) for view in member.views}
    reranked = f"{in_a_line(trained.recommender.rerank)}, fitted on validation requests"
    return {**views, member.name: in_a_line(member.decode) if member.rerank is None else reranked}


def _entry(trained: TrainedModel, judged: Mapping[str, Manifest]) -> dict[str, Any]:
    """What run.json says of one model."""
    name = trained.recipe.name
    stages = {
        "model": trained.manifest.path.name,
        "evaluation": judged[name].path.name,
        **{part: stage.path.name for part, stage in trained.items.stages.items()},
    }
    if trained.rerank is not None:
        stages["rerank"] = trained.rerank.path.name
    views = {row: evaluation.path.name for row, evaluation in judged.items() if row != name}
    return {"name": name, "seed": trained.seed, "stages": stages, "views": views}
