"""Every way in which a trained model gives items, judged: the recipe's own and its views."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from sememe.core.artifact import Manifest
from sememe.core.config import to_tree
from sememe.pipeline.calibration import calibration_rows
from sememe.pipeline.evaluate import Label, SplitName, judge, metrics_row
from sememe.pipeline.prepare import World
from sememe.pipeline.recipe import Decoder, EvaluationPlan
from sememe.pipeline.recommend import Recommender
from sememe.pipeline.slices import slice_rows
from sememe.pipeline.stages import StageStore, Workbench
from sememe.pipeline.trained import TrainedModel, stage_hashes

CALIBRATION = "calibration.json"
"""Of an evaluation; those that older versions made have none."""


@dataclass(frozen=True, eq=False)
class Reading:
    """One way to get items out of a trained model, and the name of its rows."""

    name: str
    recommender: Recommender
    decode: Decoder
    stages: dict[str, str]
    """Content hashes of what it reads beyond the data and the items."""

    @property
    def splits(self) -> tuple[SplitName, ...]:
        """Validation requests are no test of what was fitted on them."""
        return ("valid", "test") if self.recommender.rerank is None else ("test",)


def readings(trained: TrainedModel) -> Sequence[Reading]:
    """The views of a recipe, without reranker, then the recipe's own way."""
    recipe, model = trained.recipe, {"model": trained.manifest.content_hash}
    views = [
        Reading(
            name=f"{recipe.name}:{view.name}",
            recommender=replace(trained.recommender, decode=view.decode, rerank=None),
            decode=view.decode,
            stages=model,
        )
        for view in recipe.views
    ]
    rerank = {} if trained.rerank is None else {"rerank": trained.rerank.content_hash}
    own = Reading(name=recipe.name, recommender=trained.recommender, decode=recipe.decode, stages=model | rerank)
    return [*views, own]


def evaluate_reading(
    stages: StageStore, reading: Reading, *, trained: TrainedModel, world: World, plan: EvaluationPlan
) -> Manifest:
    """Judge one reading on its splits, with seen items left in and left out."""
    # Who is watched in training steers the weights, and nothing here.
    judged_by = {name: value for name, value in to_tree(plan).items() if name != "validation_users"}
    return stages.get(
        f"evaluation-{reading.name.replace(':', '-')}",
        settings={"decode": reading.decode, "evaluation": judged_by, "seed": trained.seed},
        inputs={**reading.stages, **stage_hashes(world, trained.items)},
        make=lambda bench: _make_evaluation(bench, reading, world, plan, trained=trained),
    )


def _make_evaluation(
    bench: Workbench, reading: Reading, world: World, plan: EvaluationPlan, *, trained: TrainedModel
) -> dict[str, Any]:
    rows, slices, frames, calibration = [], [], [], []
    counts = world.train_counts()
    for name in reading.splits:
        examples = world.split.valid if name == "valid" else world.split.test
        for mask_seen in (False, True):
            judged = judge(reading.recommender, world.split, plan, examples=examples, mask_seen=mask_seen)
            label = Label(model=reading.name, seed=trained.seed, split=name, mask_seen=mask_seen)
            rows.append(metrics_row(judged, label, plan, train_counts=counts))
            slices += slice_rows(judged, label, plan, split=world.split, train_counts=counts)
            calibration += calibration_rows(judged, label, split=world.split, codes=trained.items.codes)
            frames.append(judged.to_frame(label, users=examples.users))
    (bench.target / "rows.json").write_text(json.dumps(rows, indent=2), encoding="utf-8")
    (bench.target / "slices.json").write_text(json.dumps(slices, indent=2), encoding="utf-8")
    (bench.target / CALIBRATION).write_text(json.dumps(calibration, indent=2), encoding="utf-8")
    pl.concat(frames).write_parquet(bench.target / "per_row.parquet", compression="zstd")
    return {}
