"""Do our ranking metrics agree with ranx, query by query?

ranx (Bassani, "ranx: A Blazing-Fast Python Library for Ranking Evaluation and Comparison", ECIR 2022) runs in an
environment of its own, made here and thrown away.  It knows no tied groups, so no two scores of a list are equal.

    python benchmarks/oracles/ranx_agreement.py             writes ranx_agreement.json beside this file
    python benchmarks/oracles/ranx_agreement.py --python P  uses the interpreter P, which has ranx already
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import venv
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from sememe.core.schema import PAD, Int32Array, Ranked
from sememe.core.seeding import generator
from sememe.metrics.ranking import rank_metrics

HERE = Path(__file__).resolve().parent
REQUIREMENT = "ranx==0.3.21"
TOLERANCE = 1e-9
KS = (1, 5, 10, 20)
RANX_NAMES = {"recall": "recall", "hit": "hit_rate", "ndcg": "ndcg", "mrr": "mrr"}


def generate(*, rows: int = 2000, depth: int = 30, items: int = 60, most_targets: int = 5) -> tuple[Ranked, Int32Array]:
    """Random lists with distinct scores, some shorter than the rest, and 1 to `most_targets` targets each."""
    random = generator(0, "ranx-agreement")
    order = random.permuted(np.tile(np.arange(items, dtype=np.int32), (rows, 1)), axis=1)[:, :depth]
    lengths = np.where(random.random(rows) < 0.2, random.integers(1, depth, rows), depth)
    listed = np.arange(depth) < lengths[:, None]
    # Steps of at least 0.5 keep neighbours distinct in float32.
    scores = -np.cumsum(0.5 + random.random((rows, depth)), axis=1).astype(np.float32)
    targets = random.permuted(np.tile(np.arange(items, dtype=np.int32), (rows, 1)), axis=1)[:, :most_targets]
    wanted = random.integers(1, most_targets + 1, rows)
    ranked = Ranked(np.where(listed, order, PAD), np.where(listed, scores, -np.inf).astype(np.float32), "generated")
    return ranked, np.where(np.arange(most_targets) < wanted[:, None], targets, PAD)


def ask_ranx(python: Path, ranked: Ranked, targets: Int32Array) -> dict[str, Any]:
    """ranx's per-query values and its versions."""
    task = {
        "scores": [
            {str(item): float(score) for item, score in zip(items, scores, strict=True) if item != PAD}
            for items, scores in zip(ranked.items.tolist(), ranked.scores.tolist(), strict=True)
        ],
        "relevant": [[str(item) for item in row if item != PAD] for row in targets.tolist()],
        "metrics": [f"{theirs}@{k}" for theirs in RANX_NAMES.values() for k in KS],
    }
    answer = subprocess.run(
        [str(python), str(HERE / "ranx_metrics.py")],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        raise SystemExit(f"ranx failed:\n{answer.stderr}")
    result: dict[str, Any] = json.loads(answer.stdout)
    return result


def compare(python: Path) -> dict[str, Any]:
    """The record that is written: largest difference per metric, and where it was made."""
    ranked, targets = generate()
    answer = ask_ranx(python, ranked, targets)
    ours = rank_metrics(ranked, targets, ks=KS)
    differences, means = {}, {}
    for name, theirs in RANX_NAMES.items():
        for k in KS:
            values = ours[f"{name}@{k}"]
            differences[f"{name}@{k}"] = float(np.abs(values - np.array(answer["values"][f"{theirs}@{k}"])).max())
            means[f"{name}@{k}"] = round(float(values.mean()), 6)
    return {
        "agrees": max(differences.values()) <= TOLERANCE,
        "tolerance": TOLERANCE,
        "queries": len(targets),
        "largest_difference_of_any_query": differences,
        "mean_of_ours": means,
        "oracle_versions": answer["versions"],
        "versions": {"python": platform.python_version(), "numpy": version("numpy")},
        "machine": {"system": f"{platform.system()} {platform.machine()}", "cores": os.cpu_count()},
        "commit": _commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def _commit() -> str:
    """The commit that was checked out, for the record."""
    command = ["git", "-C", str(HERE), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> int:
    """Make the environment, compare, write the record; 1 where they disagree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, help="an interpreter that has ranx")
    parser.add_argument("--out", type=Path, default=HERE / "ranx_agreement.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        python = arguments.python
        if python is None:
            venv.create(folder, with_pip=True)
            python = Path(folder) / "bin" / "python"
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", REQUIREMENT], check=True)
        record = compare(python)
    arguments.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2))
    return 0 if record["agrees"] else 1


if __name__ == "__main__":
    sys.exit(main())
