"""Alignment of a finished run of the flagship, several ways, before and after, on held-out users.

    sememe run itemwise --data amazon2014_beauty --out runs/itemwise_beauty
    python -m benchmarks.quality.align_itemwise runs/itemwise_beauty --out runs/align_beauty --name align_beauty

    sememe run itemwise --data ml-1m --out runs/itemwise_ml1m
    python -m benchmarks.quality.align_itemwise runs/itemwise_ml1m --out runs/align_ml1m --name align_ml1m --gain rating

Every way and seed is a stage under --out, so that a run that was stopped goes on; the model, its vectors and its codes
are those of the finished run.  Writes NAME.json beside this file after each one, and NAME.svg: the training reward and
the held-out reward against the drift from the model before.  --gain: the column that says what a hit is worth (3 of 5
stars: nothing).  "promoted" is by the half of the validation users that nothing else reads; "test" is for the reader.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib import pyplot

from benchmarks.header import earlier_results, header, write_output
from sememe.align.rewards import DiscountedHit, Gain, Mix, RankReward, RuleReward
from sememe.align.rollouts import IndependentGroups
from sememe.core.artifact import LOGS, read_artifact
from sememe.core.seeding import derive_seed
from sememe.data.splits import Examples
from sememe.objectives.grpo import GRPO
from sememe.objectives.reward_weighted import RewardWeighted
from sememe.pipeline.align import align_model
from sememe.pipeline.align_plan import AlignPlan
from sememe.pipeline.gate import Verdict, judge
from sememe.pipeline.measuring import Panel, without_last_word
from sememe.pipeline.opened import open_run
from sememe.pipeline.stages import StageStore
from sememe.pipeline.trained import TrainedModel
from sememe.recipes import itemwise_aligned
from sememe.train.optim import AdamW

HERE = Path(__file__).resolve().parent
Results = dict[str, Any]


def plans(size: str, gain: Gain | None) -> dict[str, AlignPlan]:
    """Name -> how it is aligned; the first is the recipe's own."""
    own = itemwise_aligned(size).align  # type: ignore[arg-type]
    assert own is not None, "the recipe is aligned"
    own = replace(
        own,
        reward=Mix((RuleReward(gain=gain), RankReward(gain=gain))),
        gate=replace(own.gate, judge=DiscountedHit(gain=gain)),
    )
    slow, fast = (replace(own.train, optimizer=AdamW(lr=lr, weight_decay=0.0)) for lr in (2e-5, 5e-4))
    return {
        "grpo": own,
        "grpo_slow": replace(own, train=slow),
        "grpo_fast": replace(own, train=fast),
        "grpo_whole_model": replace(own, trained=()),
        "grpo_imitate": replace(own, trained=(), imitate=True, weight=0.3),
        "grpo_drawn": replace(own, sampler=IndependentGroups(size=16), objective=GRPO(kl_weight=0.0)),
        "weighted_likelihood": replace(
            own, objective=RewardWeighted(elite_share=1 / 16, skip_equal=True), reference="none"
        ),
        "grpo_held_out_prompts": replace(own, asked_of="steering"),
        "grpo_held_out_prompts_whole_model": replace(own, asked_of="steering", trained=()),
    }


def shortened(plan: AlignPlan, *, steps: int, users: int) -> AlignPlan:
    """The plan with other numbers of steps and of validation users, where they are not 0."""
    if steps:
        plan = replace(plan, train=replace(plan.train, steps=steps, validate_every=max(1, steps // 4)))
    return replace(plan, gate=replace(plan.gate, users=users)) if users else plan


def trained_model(folder: Path, *, seed: int, last_word: bool) -> tuple[TrainedModel, Any]:
    """The model of a finished run, as a run in progress has it, and its world."""
    run = open_run(folder, seed=seed)
    description = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    (entry,) = [one for one in description["models"] if one["name"] == run.recipe.name and one["seed"] == seed]
    stages = {
        kind: read_artifact(folder / "stages" / entry["stages"][kind], kind=f"{kind}-{run.recipe.name}")
        for kind in ("model", "rerank")
        if kind in entry["stages"]
    }
    recipe = run.recipe if last_word else replace(run.recipe, rerank=None)
    recommender = run.recommender if last_word else without_last_word(run.recommender)
    trained = TrainedModel(recipe, seed, stages["model"], recommender, run.items, stages.get("rerank"))
    return trained, run.world


def test_panel(trained: TrainedModel, world: Any, plan: AlignPlan, *, users: int) -> Panel:
    """Test users, whom nothing else reads."""
    known, prompts = trained.recommender, replace(plan.prompts, columns=columns_of(plan))
    rows, examples = slice(0, users or None), world.split.test
    return Panel(
        split=world.split,
        examples=Examples(users=examples.users[rows], starts=examples.starts[rows], ends=examples.ends[rows]),
        asker=prompts.source(
            world.split.train(), seed=trained.seed, max_history=known.max_history, events=known.events
        ),
        judge=plan.gate.judge,
        list_items=plan.gate.list_items,
        samples=plan.gate.samples,
        batch_size=trained.recipe.evaluation.batch_size,
        seed=derive_seed(trained.seed, "test panel"),
    )


def columns_of(plan: AlignPlan) -> tuple[str, ...]:
    """Columns of the log that the judge reads of a target."""
    return tuple(name.removeprefix("target_") for name in plan.gate.judge.names if name.startswith("target_"))


def align(folder: Path, out: Path, *, plan: AlignPlan, seed: int, lists: str, users: int) -> Results:
    """One way, one seed: the verdict on validation users, the same table for test users, and the drift."""
    trained, world = trained_model(folder, seed=seed, last_word=lists == "deployed")
    plan = replace(plan, gate=replace(plan.gate, lists=lists))
    stages = StageStore(root=out / "stages", say=print, recipe_hash="benchmark")
    found = align_model(stages, trained, world, aligned_as=plan)
    panel = test_panel(trained, world, plan, users=users)
    before, after = (trained, found.deployed) if found.verdict.promoted else (trained, found.other)
    measured = [
        panel.measure(without_last_word(model.recommender), before=drift_from, lists=model.recommender)
        for model, drift_from in ((before, None), (after, before.recommender.model))
    ]
    test = judge(measured[0], measured[1], plan.gate.limits, resamples=trained.recipe.evaluation.resamples)
    logs = after.manifest.path / LOGS
    return {
        "seed": seed,
        "lists": lists,
        "validation": found.verdict.to_json(),
        "test": test.to_json(),
        "drift": json.loads((logs / "drift.json").read_text(encoding="utf-8")),
        "seconds": after.manifest.meta["seconds"],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--gain", default=None)
    parser.add_argument("--size", default="full")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--plans", default="", help="names, separated by commas; all where empty")
    parser.add_argument("--lists", default="deployed,generator")
    parser.add_argument("--test-users", type=int, default=0, help="0: all")
    parser.add_argument("--steps", type=int, default=0, help="of each alignment; 0: the recipe's own")
    parser.add_argument("--gate-users", type=int, default=0, help="validation users, halved; 0: the recipe's own")
    parser.add_argument("--into", type=Path, default=HERE)
    options = parser.parse_args(arguments)
    ways = {
        name: shortened(plan, steps=options.steps, users=options.gate_users)
        for name, plan in plans(options.size, Gain(options.gain) if options.gain else None).items()
    }
    wanted = options.plans.split(",") if options.plans else list(ways)
    file = options.into / f"{options.name}.json"
    settings = {name: getattr(options, name) for name in ("size", "gain", "steps", "gate_users", "test_users")}
    results: dict[str, Results] = earlier_results(file, settings=settings)
    for seed in map(int, options.seeds.split(",")):
        for name in wanted:
            for lists in options.lists.split(","):
                key = f"{name}, seed {seed}, {lists}"
                # What is asked of held-out users must not be ordered by a last word that was fitted on them.
                if key in results or (lists == "deployed" and ways[name].asked_of == "steering"):
                    continue
                print(f"== {key}")
                results[key] = align(
                    options.run, options.out, plan=ways[name], seed=seed, lists=lists, users=options.test_users
                )
                print("\n".join(["  test users:", *Verdict.from_json(results[key]["test"]).lines()]))
                results[key]["commit"] = header()["commit"]
                write_output(file, {**header("torch", "numpy"), "settings": settings, "results": results})
                draw(results, options.into / f"{options.name}.svg")


def draw(results: Mapping[str, Results], file: Path) -> None:
    """The two rewards against drift, a line for each way and seed."""
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, name, title in zip(
        axes, ("training_reward", "reward"), ("reward that trains", "held-out reward of the judge"), strict=True
    ):
        # Both kinds of lists are of the same weights: the drift is drawn once.
        for key, result in {key.rpartition(",")[0]: one for key, one in results.items()}.items():
            axis.plot([one["kl"] for one in result["drift"]], [one[name] for one in result["drift"]], ".-", label=key)
        axis.set(xlabel="drift: KL to the model before, nats", title=title)
    axes[1].legend(fontsize=7)
    figure.savefig(file)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
