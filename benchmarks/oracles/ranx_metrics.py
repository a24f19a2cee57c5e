"""Runs inside ranx's own environment: rankings as JSON on stdin, ranx's per-query metrics as JSON on stdout."""

import json
import sys
from importlib.metadata import version


def main() -> None:
    """Evaluate {"scores": [{doc: score}], "relevant": [[doc]], "metrics": [name]}; queries keep their order."""
    from ranx import Qrels, Run, evaluate

    task = json.load(sys.stdin)
    # ranx sorts queries by name, so the names sort like the numbers.
    names = [f"q{row:06d}" for row in range(len(task["scores"]))]
    run = Run(dict(zip(names, task["scores"], strict=True)))
    qrels = Qrels({name: dict.fromkeys(docs, 1) for name, docs in zip(names, task["relevant"], strict=True)})
    evaluate(qrels, run, task["metrics"], return_mean=False)
    values = {metric: [float(run.scores[metric][name]) for name in names] for metric in task["metrics"]}
    versions = {package: version(package) for package in ("ranx", "numba", "numpy")}
    json.dump({"values": values, "versions": versions}, sys.stdout)


if __name__ == "__main__":
    main()
