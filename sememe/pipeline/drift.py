"""drift.json of an alignment: what the looks at the steering users showed while it trained.

A list of records, the model before first.  The first names the judge whose reward all of them hold: a judge that is
changed later asks the gate again, and trains nothing again.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from sememe.core.artifact import LOGS, Manifest
from sememe.core.config import to_tree
from sememe.pipeline.align_plan import AlignPlan
from sememe.pipeline.gate import KL, REWARD
from sememe.pipeline.learned_rewards import ReadyReward
from sememe.pipeline.stages import Workbench

FILE_NAME = "drift.json"
JUDGE = "judge"


def describe_judge(plan: AlignPlan, judge: ReadyReward) -> dict[str, Any]:
    """Who judges, as JSON has it: its settings, what a learned one reads, and the hashes of its stages."""
    described = {"reward": to_tree(plan.gate.judge), "reads": plan.gate.reads, "stages": dict(judge.hashes)}
    found: dict[str, Any] = json.loads(json.dumps(described))
    return found


def keep_logs(bench: Workbench, drift: Sequence[Mapping[str, Any]], *, judge: Mapping[str, Any], rounds: int) -> None:
    """Write the logs of an alignment beside its weights."""
    logs = bench.target / LOGS
    logs.mkdir()
    records = [{**drift[0], JUDGE: judge}, *drift[1:]]
    (logs / FILE_NAME).write_text(json.dumps(records, indent=1), encoding="utf-8")
    for number in range(rounds):
        shutil.copy(bench.scratch / f"round-{number:02d}" / "train.jsonl", logs / f"round-{number:02d}.jsonl")


def judged_by_another(aligned: Manifest, judge: Mapping[str, Any]) -> bool:
    """Whether the kept drift.json holds the reward of another judge; where it names none, nobody knows."""
    records = json.loads((aligned.path / LOGS / FILE_NAME).read_text(encoding="utf-8"))
    return bool(records[0].get(JUDGE, judge) != judge)


def told(record: Mapping[str, Any]) -> str:
    """A record in a line."""
    names = (REWARD, "training_reward", "ndcg@10", "recall@50", KL, "legality")
    return "  ".join(f"{name} {record[name]:.4f}" for name in names if name in record)
