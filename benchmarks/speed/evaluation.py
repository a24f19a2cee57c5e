"""How long the full test part takes: every user, full catalogue, constrained beam search, metrics.

    sememe run itemwise --data amazon2014_beauty --out runs/itemwise_beauty
    python -m benchmarks.speed.evaluation runs/itemwise_beauty --width 20

Wall clock and processor seconds on one thread, for seen items left in and left out.  Writes evaluation.json beside this
file.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.header import header, run_command, write_output
from sememe.decode.beam import BeamSearch
from sememe.pipeline.evaluate import judge
from sememe.pipeline.opened import open_run, read_json
from sememe.pipeline.recipe import EvaluationPlan

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Measure the run named on the command line and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--width", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = open_run(arguments.run)
    recommender = replace(run.recommender, decode=BeamSearch(width=arguments.width), rerank=None)
    test, rows = run.world.split.test, []
    for mask_seen in (False, True):
        wall, processor = time.perf_counter(), time.process_time()
        judged = judge(recommender, run.world.split, EvaluationPlan(), examples=test, mask_seen=mask_seen)
        row = {
            "mask_seen": mask_seen,
            "users": len(test),
            "seconds": round(time.perf_counter() - wall, 2),
            "cpu_seconds": round(time.process_time() - processor, 2),
            "recall@10": float(judged.per_row["recall@10"].mean()),
            "ndcg@10": float(judged.per_row["ndcg@10"].mean()),
        }
        print(row, flush=True)
        rows.append(row)
    content = {
        **header("torch", "numpy"),
        "command": f"python -m benchmarks.speed.evaluation RUN --width {arguments.width}",
        "run": run_command(read_json(arguments.run / "run.json")),
        "threads": 1,
        "rows": rows,
    }
    write_output(HERE / "evaluation.json", content)


if __name__ == "__main__":
    main()
