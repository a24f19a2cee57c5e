"""Alignment on SIMULATED data, where the true value of every list is known: each way against the model before and the
plain baseline, over several seeds of world and model; and what the format reward does for legality.

    python -m benchmarks.quality.align_simulated --out runs/align_simulated --seeds 0,1,2

Every way shares the trained model of its seed; stages are cached under --out, and what is measured is kept in NAME.json
beside this file after each way, so that a run that was stopped goes on.  NAME.svg draws both rewards against drift.
"more_training" imitates the log for as many steps more and is steered by no reward; "likelihood" is reward-weighted
likelihood, one step of the cross-entropy method at a time: the baseline that the others have to beat.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib import pyplot

from benchmarks.header import earlier_results, header, write_output
from sememe.align.list_samples import DrawnLists
from sememe.align.rollouts import IndependentGroups
from sememe.align.scores import GroupScores
from sememe.core.artifact import LOGS
from sememe.data.feedback_files import read_truth, write_feedback
from sememe.data.feedback_simulator import TINY_FEEDBACK, FeedbackSimulator
from sememe.metrics.significance import bootstrap_mean, paired_difference
from sememe.objectives.ecpo import ECPO
from sememe.objectives.grpo import GRPO
from sememe.objectives.reward_weighted import RewardWeighted
from sememe.pipeline.opened import open_run
from sememe.pipeline.recipe import Recipe
from sememe.pipeline.run import run_recipe
from sememe.pipeline.true_value import true_values
from sememe.recipes import onerec, onerec_v2

HERE = Path(__file__).resolve().parent
BASELINE = "likelihood"
Results = dict[str, Any]


def ways(size: str) -> dict[str, Recipe]:
    """Name -> recipe; of one kind of model, all but the last two."""
    lists = replace(onerec(size), baselines=(), views=())  # type: ignore[arg-type]
    dpo = lists.align
    assert dpo is not None, "the recipe is aligned"
    # As many samples and steps for all: only how they are used differs.
    dpo = replace(dpo, share=None)
    drawn = replace(dpo, sampler=DrawnLists(size=dpo.sampler.size), scores=GroupScores())
    plans = {
        BASELINE: replace(drawn, objective=RewardWeighted(), reference="none"),
        "more_training": replace(drawn, objective=RewardWeighted(), reference="none", weight=1e-9),
        "dpo": dpo,
        "ecpo": replace(drawn, objective=ECPO(), reference="none"),
        "grpo": replace(drawn, objective=GRPO(kl_weight=0.02), reference="start"),
    }
    single = replace(onerec_v2(size), baselines=(), views=())  # type: ignore[arg-type]
    assert single.align is not None, "the recipe is aligned"
    free = replace(
        single.align,
        objective=ECPO(),
        sampler=replace(single.align.sampler, under_trie=False),
        imitate=False,
    )
    assert isinstance(free.sampler, IndependentGroups), "only these are drawn without the trie"
    formats = {"format_reward": GroupScores(format_choices=5), "no_format_reward": GroupScores()}
    return {
        **{name: replace(lists, align=plan) for name, plan in plans.items()},
        **{name: replace(single, align=replace(free, scores=scores)) for name, scores in formats.items()},
    }


def measure(recipe: Recipe, data: Path, out: Path, *, seed: int, k: int) -> Results:
    """One way at one seed: the verdict, the drift, and the true values of both models."""
    run_recipe(replace(recipe, seeds=(seed,)), data=str(data), out=out)
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    described = json.loads((out / "run.json").read_text(encoding="utf-8"))
    verdict: Mapping[str, Any] = metrics["alignment"][0]
    other = f"{recipe.name}:{'before' if verdict['promoted'] else 'refused'}"
    rows = {"before": other, "after": recipe.name} if verdict["promoted"] else {"before": recipe.name, "after": other}
    world = read_truth(data).world
    found = {when: true_values(open_run(out, model=row, seed=seed), world, k=k) for when, row in rows.items()}
    aligned = {entry["name"]: entry["stages"]["model"] for entry in described["models"]}[rows["after"]]
    drift = json.loads((out / "stages" / aligned / LOGS / "drift.json").read_text(encoding="utf-8"))
    return {
        "seed": seed,
        "verdict": verdict,
        "drift": drift,
        "values": {when: one.values.tolist() for when, one in found.items()},
        "best": found["after"].best.tolist(),
    }


def summary(results: Mapping[str, Results]) -> dict[str, dict[str, Any]]:
    """Per way, over the seeds: true values, their share of the best, gains over the model before and the baseline."""
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(key.partition(",")[0] for key in results):
        runs = [result for key, result in results.items() if key.partition(",")[0] == name]
        after, before = ([value for run in runs for value in run["values"][when]] for when in ("after", "before"))
        best = [value for run in runs for value in run["best"]]
        beside = [results.get(f"{BASELINE}, seed {run['seed']}") for run in runs]
        plain = [value for run in beside if run is not None for value in run["values"]["after"]]
        found[name] = {
            "seeds": [run["seed"] for run in runs],
            "promoted": [run["verdict"]["promoted"] for run in runs],
            "value": vars(bootstrap_mean(after, seed=0)),
            "before": vars(bootstrap_mean(before, seed=0)),
            "share_of_best": sum(after) / sum(best),
            "gain": vars(paired_difference(after, before, seed=0)),
            "gain_by_seed": [fmean(run["values"]["after"]) - fmean(run["values"]["before"]) for run in runs],
            "over_baseline": vars(paired_difference(after, plain, seed=0)) if len(plain) == len(after) else None,
            "legality": [
                [row["before"], row["after"]]
                for run in runs
                for row in run["verdict"]["rows"]
                if row["metric"] == "legality"
            ],
        }
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", default="align_simulated")
    parser.add_argument("--size", default="small")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--ways", default="", help="names, separated by commas; all where empty")
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="a world of 80 users, for tests")
    parser.add_argument("--into", type=Path, default=HERE)
    options = parser.parse_args(arguments)
    every = ways(options.size)
    options.into.mkdir(parents=True, exist_ok=True)
    file = options.into / f"{options.name}.json"
    settings = {"size": options.size, "k": options.k, "tiny": options.tiny}
    results: dict[str, Results] = earlier_results(file, settings=settings)
    for seed in map(int, options.seeds.split(",")):
        data = options.out / f"world-{seed}"
        if not data.is_dir():
            write_feedback(TINY_FEEDBACK if options.tiny else FeedbackSimulator(), data, seed=seed)
        for name in options.ways.split(",") if options.ways else every:
            key = f"{name}, seed {seed}"
            if key in results:
                continue
            print(f"== {key}")
            run = options.out / f"run-{every[name].name}-{seed}"
            results[key] = {"commit": header()["commit"], **measure(every[name], data, run, seed=seed, k=options.k)}
            told = summary(results)
            write_output(
                file,
                {
                    **header("torch", "numpy"),
                    "data": "SIMULATED",
                    "settings": settings,
                    "summary": told,
                    "results": results,
                },
            )
            draw(results, options.into / f"{options.name}.svg")
            print(json.dumps(told[name], indent=1))


def draw(results: Mapping[str, Results], file: Path) -> None:
    """The two rewards against drift, a line for each way and seed."""
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    names = list(dict.fromkeys(key.partition(",")[0] for key in results))
    for axis, reward, title in zip(
        axes, ("training_reward", "reward"), ("reward that trains", "held-out reward of the judge"), strict=True
    ):
        for key, result in results.items():
            name = key.partition(",")[0]
            xs, ys = ([record[column] for record in result["drift"]] for column in ("kl", reward))
            axis.plot(xs, ys, ".-", color=f"C{names.index(name)}", label=name if result["seed"] == 0 else None)
        axis.set(xlabel="drift: KL to the model before, nats", title=f"{title} (SIMULATED)")
    axes[1].legend(fontsize=7)
    figure.savefig(file)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
