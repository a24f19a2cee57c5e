"""All that a run has to say of itself, gathered: what the report page and the report file show.

Numbers are those of metrics.json, unrounded; nothing is measured again but a few example lists, which come about as
those of the evaluation do.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sememe.core.artifact import MANIFEST
from sememe.core.config import render
from sememe.core.schema import PAD, Int32Array
from sememe.core.seeding import generator
from sememe.data.batches import request_batches
from sememe.data.splits import Examples
from sememe.pipeline.code_health import HEALTH
from sememe.pipeline.evaluate import comparison_lines, protocol_line
from sememe.pipeline.opened import Run, read_json

MOST_POINTS = 400
"""Of a learning curve; more cannot be told apart on a screen."""
EXAMPLES, LISTED, REMEMBERED = 6, 10, 8
"""Example users, items of each list, latest items of each history."""


@dataclass(frozen=True)
class Curve:
    """How a training went."""

    model: str
    seed: int
    monitor: str
    """The validation number that picked the best step."""
    best_step: int
    train: tuple[tuple[int, float], ...]
    """(step, loss)"""
    validation: tuple[tuple[int, float], ...]
    """(step, value of `monitor`)"""


@dataclass(frozen=True)
class StageTook:
    """One stage of the run, and how long it took when it was made."""

    name: str
    created: str
    seconds: float


@dataclass(frozen=True)
class ExampleItem:
    """An item of an example."""

    item_id: str
    title: str
    wanted: bool
    """Whether it is one of those that came next."""


@dataclass(frozen=True)
class Example:
    """What one user of the test part did, did next, and was recommended."""

    user_id: str
    known: int
    """Events before."""
    history: tuple[ExampleItem, ...]
    """The latest of them, oldest first."""
    wanted: tuple[ExampleItem, ...]
    listed: tuple[ExampleItem, ...]


@dataclass(frozen=True)
class RunReport:
    """The report of a run; `to_json` is what goes over the wire."""

    about: Mapping[str, Any]
    """recipe, hash, data, command, row, created, packages, counts."""
    metrics: Mapping[str, Any]
    """metrics.json."""
    codes: Mapping[str, Any] | None
    """The health of the semantic IDs: health.json where `sememe codes` wrote it for these codes, else the short report
    of their stage; None for a model without codes."""
    curves: tuple[Curve, ...]
    stages: tuple[StageTook, ...]
    settings: tuple[str, ...]
    """path = value, every setting of the recipe."""
    examples: tuple[Example, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "about": dict(self.about),
            "protocol": self.metrics["protocol"],
            "protocol_line": protocol_line(self.metrics),
            "rows": self.metrics["rows"],
            "means": self.metrics.get("means", []),
            "slices": self.metrics.get("slices", []),
            "calibration": self.metrics.get("calibration", []),
            "comparisons": self.metrics["comparisons"],
            "comparison_lines": comparison_lines(self.metrics),
            "codes": self.codes,
            "curves": [asdict(curve) for curve in self.curves],
            "stages": [asdict(stage) for stage in self.stages],
            "settings": list(self.settings),
            "examples": [asdict(example) for example in self.examples],
        }


def gather_report(run: Run, *, row: str | None = None) -> RunReport:
    """Read what the stages of `run` hold, and make the example lists.

    row: of whose lists the examples are; the recipe's own where None.
    """
    description = read_json(run.path / "run.json")
    manifests = _manifests(run.path, description)
    return RunReport(
        about=_about(run, description, manifests, row=row or run.recipe.name),
        metrics=run.metrics,
        codes=_codes(run),
        curves=_curves(run.path, description, manifests),
        stages=tuple(
            StageTook(name, manifest["created"], float(manifest["meta"].get("seconds", 0.0)))
            for name, manifest in manifests.items()
        ),
        settings=tuple(render(run.recipe).splitlines()),
        examples=_examples(run),
    )


def _manifests(path: Path, description: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Stage directory -> its manifest, of the stages that belong to the run, in the order in which they were made."""
    names = list(description["stages"].values())
    for entry in description["models"]:
        names += [*entry["stages"].values(), *entry["views"].values()]
    found = {name: read_json(path / "stages" / name / MANIFEST) for name in dict.fromkeys(names)}
    return dict(sorted(found.items(), key=lambda pair: str(pair[1]["created"])))


def _about(
    run: Run, description: Mapping[str, Any], manifests: Mapping[str, Mapping[str, Any]], *, row: str
) -> dict[str, Any]:
    interactions = run.world.interactions
    newest = list(manifests.values())[-1]
    spec = description["spec"]
    settings = " ".join(f"--set {setting}" for setting in spec.get("set", ()))
    return {
        "recipe": run.recipe.name,
        "recipe_hash": description["recipe_hash"],
        "asked": " ".join(part for part in (str(spec.get("recipe", "")), settings) if part),
        "row": row,
        "seeds": list(run.recipe.seeds),
        # A path tells more of a machine than of the data.
        "data": Path(description["data"]).name + (" (SIMULATED)" if run.world.simulated else ""),
        "created": newest["created"],
        "packages": newest["packages"],
        "users": interactions.num_users,
        "items": interactions.num_items,
        "events": interactions.num_events,
    }


def _codes(run: Run) -> dict[str, Any] | None:
    stage = run.items.stages.get("codes")
    if stage is None:
        return None
    for file in (run.path / "codes" / HEALTH, *sorted((run.path / "codes").glob(f"*/{HEALTH}"))):
        if file.is_file():
            content: dict[str, Any] = read_json(file)
            if content.get("stage") == stage.path.name:
                return content
    return {"stage": stage.path.name, **stage.meta["settings"], **read_json(stage.path / "report.json")}


def _curves(
    path: Path, description: Mapping[str, Any], manifests: Mapping[str, Mapping[str, Any]]
) -> tuple[Curve, ...]:
    found = []
    for entry in description["models"]:
        stage = entry["stages"]["model"]
        journal = path / "stages" / stage / "logs" / "train.jsonl"
        if journal.is_file():
            meta = manifests[stage]["meta"]
            monitor = str(meta["settings"]["train"]["monitor"])
            lines = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
            found.append(
                Curve(
                    model=entry["name"],
                    seed=entry["seed"],
                    monitor=monitor,
                    best_step=int(meta["result"]["best_step"]),
                    train=_points(lines, kind="train", name="loss"),
                    validation=_points(lines, kind="validation", name=monitor),
                )
            )
    return tuple(found)


def _points(lines: Sequence[Mapping[str, Any]], *, kind: str, name: str) -> tuple[tuple[int, float], ...]:
    """(step, value) of the lines of a kind; what is no number is left out."""
    found = [(int(line["step"]), float(line[name])) for line in lines if line["kind"] == kind and name in line]
    return thinned([(step, value) for step, value in found if math.isfinite(value)])


def thinned(points: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """At most MOST_POINTS of `points`, evenly; the last one is among them."""
    stride = -(-len(points) // MOST_POINTS) or 1
    return tuple(points[::-1][::stride][::-1])


def _examples(run: Run) -> tuple[Example, ...]:
    """A few rows of the test part, drawn by one fixed seed, and the lists that the evaluation made for them."""
    test, recommender = run.world.split.test, run.recommender
    if len(test) == 0:
        return ()
    rows = np.sort(generator(0, "report", "examples").permutation(len(test))[:EXAMPLES])
    chosen = Examples(users=test.users[rows], starts=test.starts[rows], ends=test.ends[rows])
    requests = request_batches(
        run.world.split.interactions,
        chosen,
        max_history=recommender.max_history,
        batch_size=EXAMPLES,
        events=recommender.events,
    )
    lists: dict[int, Int32Array] = {}
    for request in requests:
        ranked = recommender.rank(request.batch, k=LISTED, seen=request.seen)
        lists |= dict(zip(request.rows.tolist(), ranked.items[:, :LISTED], strict=True))
    return tuple(_example(run, chosen, place, lists[place]) for place in range(len(chosen)))


def _example(run: Run, chosen: Examples, place: int, listed: Int32Array) -> Example:
    log, user = run.world.split.interactions, int(chosen.users[place])
    events = log.history(user)
    start, end = int(chosen.starts[place]), int(chosen.ends[place])
    wanted = events[start:end]
    return Example(
        user_id=str(log.user_ids[user]),
        known=start,
        history=_items(run, events[max(0, start - REMEMBERED) : start], wanted),
        wanted=_items(run, wanted, wanted),
        listed=_items(run, listed[listed != PAD], wanted),
    )


def _items(run: Run, items: Int32Array, wanted: Int32Array) -> tuple[ExampleItem, ...]:
    ids, catalog = run.world.interactions.item_ids, run.world.catalog
    targets = set(wanted.tolist())
    return tuple(ExampleItem(str(ids[item]), catalog.title(item), item in targets) for item in items.tolist())
