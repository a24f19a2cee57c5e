"""A run that ends with alignment: what the gate lets pass, what it refuses, which rows stand, and what is reused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted_rewards import Popularity
from safetensors.numpy import load_file

from sememe.align.pairs import BestAndWorst
from sememe.align.prompts import Prompts
from sememe.align.rewards import Mix, RankReward, RuleReward
from sememe.align.rollouts import BeamGroups, DistinctGroups
from sememe.core.config import set_path
from sememe.core.errors import ConfigError
from sememe.objectives.dpo import DPO
from sememe.objectives.ecpo import ECPO
from sememe.objectives.grpo import GRPO
from sememe.objectives.reward_weighted import RewardWeighted
from sememe.pipeline.align_plan import STEP, AlignPlan, GatePlan
from sememe.pipeline.checks import check_recipe
from sememe.pipeline.evaluate import comparison_lines
from sememe.pipeline.gate import Limits
from sememe.pipeline.opened import open_run
from sememe.pipeline.recipe import Recipe, View
from sememe.pipeline.run import run_recipe
from sememe.pipeline.run_report import gather_report
from sememe.recipes import onerec, sasrec
from sememe.train.optim import AdamW
from sememe.train.plan import TrainPlan

ANYTHING = Limits(*[10.0] * 9)
"""Only the gain decides."""
STEPS = TrainPlan(
    epochs=None,
    steps=6,
    optimizer=AdamW(lr=1e-3),
    precision="fp32",
    validate_every=3,
    monitor=STEP,
    threads=1,
    checkpoint_every_seconds=0.0,
)
QUICK = AlignPlan(
    prompts=Prompts(batch_size=16), sampler=BeamGroups(size=8), train=STEPS, look_users=20, gate=GatePlan(samples=4)
)
HACK = replace(
    QUICK,
    reward=Popularity(),
    sampler=DistinctGroups(size=16),
    train=replace(STEPS, steps=50, validate_every=25, optimizer=AdamW(lr=5e-3)),
)


def run(recipe: Recipe, plan: AlignPlan, data: Path, out: Path) -> list[str]:
    lines: list[str] = []
    run_recipe(replace(recipe, align=plan, baselines=()), data=data, out=out, say=lines.append)
    return lines


def read(out: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / name).read_text())
    return found


def stage(out: Path, kind: str) -> Path:
    (found,) = (out / "stages").glob(f"{kind}-*")
    return found


@pytest.fixture(scope="module")
def hacked(tiny: Recipe, world_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose training reward is an item's popularity, judged by what users took; tests must not change it."""
    out = tmp_path_factory.mktemp("hacked")
    run(tiny, HACK, world_files, out)
    return out


def weights(out: Path, kind: str) -> dict[str, Any]:
    found: dict[str, Any] = load_file(stage(out, kind) / "model.safetensors")
    return found


def deployed(out: Path, row: str) -> dict[str, Any]:
    return {name: value.numpy() for name, value in open_run(out, model=row).recommender.model.state_dict().items()}


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert all(np.array_equal(found[name], array) for name, array in wanted.items())


def test_a_reward_that_popular_items_fool_is_found_out(hacked: Path) -> None:
    """The hack is planted, and works: the training reward rises.  The gate refuses the model."""
    drift = json.loads((stage(hacked, "aligned") / "logs" / "drift.json").read_text())
    assert [record["step"] for record in drift] == [0, 25, 50]
    assert drift[0]["kl"] == 0.0 < drift[1]["kl"]
    assert "DiscountedHit" in json.dumps(drift[0]["judge"]) and "judge" not in drift[1]
    assert drift[-1]["training_reward"] > drift[0]["training_reward"] + 0.05
    metrics = read(hacked, "metrics.json")
    (verdict,) = metrics["alignment"]
    broken = {row["metric"] for row in verdict["rows"] if not row["kept"]}
    assert not verdict["promoted"] and {"reward", "entropy@10"} <= broken
    assert {row["model"] for row in metrics["rows"]} == {"tiny:refused", "tiny"}
    assert_same(deployed(hacked, "tiny"), weights(hacked, "model"))
    assert_same(deployed(hacked, "tiny:refused"), weights(hacked, "aligned"))
    popular = {row["model"]: row["popularity@10"] for row in metrics["rows"] if row["split"] == "test"}
    assert popular["tiny:refused"] > popular["tiny"]
    assert any(
        line.startswith("alignment of tiny, seed 0: NOT PROMOTED, deployed is the model before; the held-out reward")
        for line in comparison_lines(metrics)
    )


def test_a_model_that_gains_by_its_judge_is_deployed(
    hacked: Path, tiny: Recipe, world_files: Path, tmp_path: Path
) -> None:
    """The same weights before a judge who wants popular items too, by the events of other users, and limits nothing."""
    out = tmp_path / "run"
    shutil.copytree(hacked, out)
    gate = GatePlan(samples=4, judge=Popularity(), limits=ANYTHING)
    lines = run(tiny, replace(HACK, gate=gate), world_files, out)
    assert "aligned-tiny: unchanged, reused" in lines and "judge-tiny: running" in lines
    assert any("drift.json, which is another judge's" in line for line in lines)
    assert "promoted: the held-out reward rose" in "\n".join(lines)
    metrics = read(out, "metrics.json")
    (verdict,) = metrics["alignment"]
    assert (verdict["promoted"], verdict["model"], verdict["users"]) == (True, "tiny", 75)
    assert verdict["rows"][0]["low"] > 0
    assert {row["model"] for row in metrics["rows"]} == {"tiny:before", "tiny"}
    assert_same(deployed(out, "tiny"), weights(out, "aligned"))
    assert_same(deployed(out, "tiny:before"), weights(out, "model"))
    assert own_stages(out)["model"].startswith("aligned-tiny-") and own_stages(out)["gate"].startswith("gate-tiny-")
    report = gather_report(open_run(out))
    assert any("promoted" in line for line in report.to_json()["comparison_lines"])


@pytest.mark.parametrize("unsure", [Popularity(correlation=-0.1), Popularity(correlation=0.3, correlation_low=-0.1)])
def test_a_judge_that_predicts_nothing_deploys_nothing(
    unsure: Popularity, hacked: Path, tiny: Recipe, world_files: Path, tmp_path: Path
) -> None:
    """As before, but the judge says of itself that it is wrong, or may be."""
    out = tmp_path / "run"
    shutil.copytree(hacked, out)
    gate = GatePlan(samples=4, judge=unsure, limits=ANYTHING)
    run(tiny, replace(HACK, gate=gate), world_files, out)
    (verdict,) = read(out, "metrics.json")["alignment"]
    assert not verdict["promoted"] and verdict["rows"][0]["low"] > 0
    assert verdict["reason"].startswith("the judge is not shown to predict anything: its correlation")
    assert_same(deployed(out, "tiny"), weights(out, "model"))


def own_stages(out: Path) -> dict[str, str]:
    found: dict[str, str] = read(out, "run.json")["models"][-1]["stages"]
    return found


def test_a_second_run_reuses_everything_and_limits_alone_are_judged_anew(
    tiny: Recipe, world_files: Path, tmp_path: Path
) -> None:
    run(tiny, QUICK, world_files, tmp_path / "run")
    metrics = (tmp_path / "run" / "metrics.json").read_bytes()
    again = run(tiny, QUICK, world_files, tmp_path / "run")
    assert "aligned-tiny: unchanged, reused" in again and "gate-tiny: unchanged, reused" in again
    assert (tmp_path / "run" / "metrics.json").read_bytes() == metrics
    assert not any("another judge's" in line for line in again)
    looser = replace(QUICK, gate=replace(QUICK.gate, limits=ANYTHING))
    lines = run(tiny, looser, world_files, tmp_path / "run")
    assert "aligned-tiny: unchanged, reused" in lines and "gate-tiny: done" in "\n".join(lines)
    assert any(line.startswith("gate-tiny: running again, since gate.limits.") for line in lines)


def test_who_steers_decides_what_is_reused_where_they_are_asked(
    tiny: Recipe, world_files: Path, tmp_path: Path
) -> None:
    """The gate draws its users and those who steer: fewer of them are other prompts."""
    asked = replace(QUICK, asked_of="steering", look_users=10)
    fewer = replace(asked, gate=replace(asked.gate, users=60))
    run(tiny, asked, world_files, tmp_path / "run")
    lines = run(tiny, fewer, world_files, tmp_path / "run")
    assert any(line.startswith("aligned-tiny: running again, since gate_users 10000 -> 60") for line in lines)


def test_samples_are_the_share_of_the_rows_that_was_asked_for() -> None:
    """Never fewer in silence: what a step's prompts cannot fill is refused, with what they can."""
    plan = replace(QUICK, imitate=True, share=0.25)
    assert [plan.sample_every(asked, 128) for asked in (32, 64, 320)] == [1, 2, 10]
    with pytest.raises(ConfigError, match="are 0.125 of them at most") as refused:
        plan.sample_every(16, 128)
    assert refused.value.fix == "set align.prompts.batch_size=32, or align.share=0.125"
    assert replace(plan, share=0.125).sample_every(16, 128) == 1 == replace(plan, share=None).sample_every(1, 128)
    small = onerec("small").align
    assert small is not None and small.share == 0.125


PLANS = {
    "dpo by rounds": replace(
        QUICK,
        objective=DPO(),
        scores=BestAndWorst(),
        policy="round",
        reference="round",
        rounds=2,
        imitate=True,
        share=0.1,
    ),
    "ecpo off-policy": replace(QUICK, objective=ECPO(), policy="round", reference="none", rounds=2),
    "likelihood of the best": replace(QUICK, objective=RewardWeighted(), reference="none", leave_out_seen=True),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
def test_every_objective_runs_by_the_one_loop(
    plan: AlignPlan, reranked: Recipe, world_files: Path, tmp_path: Path
) -> None:
    lines = run(reranked, plan, world_files, tmp_path / "run")
    metrics = read(tmp_path / "run", "metrics.json")
    assert len(metrics["alignment"][0]["rows"]) == 10
    drift = json.loads((stage(tmp_path / "run", "aligned") / "logs" / "drift.json").read_text())
    assert [(record["round"], record["step"]) for record in drift[1:]] == [
        (number, step) for number in range(plan.rounds) for step in (3, 6)
    ]
    assert drift[-1]["kl"] > 0 and drift[-1]["legality"] == 1.0
    journals = sorted(path.name for path in (stage(tmp_path / "run", "aligned") / "logs").glob("round-*"))
    assert journals == [f"round-{number:02d}.jsonl" for number in range(plan.rounds)]
    assert any(line.startswith(f"  round {plan.rounds} of {plan.rounds}: reward") for line in lines)
    assert {"tiny:rescored", "tiny:items"} < {row["model"] for row in metrics["rows"]}


def test_only_named_parts_are_trained(reranked: Recipe, world_files: Path, tmp_path: Path) -> None:
    plan = replace(QUICK, trained=("writer.query",), gate=replace(QUICK.gate, lists="generator"))
    run(reranked, plan, world_files, tmp_path / "run")
    aligned, before = (load_file(stage(tmp_path / "run", kind) / "model.safetensors") for kind in ("aligned", "model"))
    moved = {name for name in before if not np.array_equal(aligned[name], before[name])}
    assert moved and all(name.startswith("writer.query") for name in moved)


def test_what_cannot_be_aligned_is_refused_before_anything_runs(tiny: Recipe, reranked: Recipe) -> None:
    with pytest.raises(ConfigError, match="only networks that write semantic IDs"):
        check_recipe(replace(sasrec("debug"), align=QUICK))
    wrong = {
        "align.rounds is 0": replace(QUICK, rounds=0),
        "nothing is": replace(QUICK, share=0.01),
        "align.train.monitor is 'reward'": replace(QUICK, train=replace(STEPS, monitor="reward")),
        "16 prompts beside 64 imitated rows": replace(QUICK, imitate=True, share=0.9),
        "align.train.monitor is 'ndcg@7'": replace(QUICK, train=replace(STEPS, monitor="ndcg@7")),
        "align.gate.samples is 1": replace(QUICK, gate=GatePlan(samples=1)),
        "align.gate.reads is 'random'": replace(QUICK, gate=GatePlan(reads="random")),  # type: ignore[arg-type]
        "align.gate.lists is 'best'": replace(QUICK, gate=GatePlan(lists="best")),  # type: ignore[arg-type]
        "takes the first sample of a group": replace(QUICK, objective=DPO()),
        "DPO measures drift": replace(QUICK, objective=DPO(), scores=BestAndWorst(), reference="none"),
        "GRPO measures drift": replace(QUICK, objective=GRPO(kl_weight=0.1), reference="none"),
        "limits.kl is -1": replace(QUICK, gate=GatePlan(limits=Limits(kl=-1.0))),
        "align.policy is 'other'": set_path(QUICK, "objective.clip", "0.3") and replace(QUICK, policy="other"),  # type: ignore[arg-type]
    }
    for message, plan in wrong.items():
        with pytest.raises(ConfigError, match=message):
            check_recipe(replace(tiny, align=plan))
    with pytest.raises(ConfigError, match="a view 'before'"):
        check_recipe(replace(reranked, views=(View("before", reranked.decode),), align=QUICK))
    check_recipe(replace(tiny, align=replace(QUICK, reward=Mix((RuleReward(), RankReward())))))
