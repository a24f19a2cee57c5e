"""Thousands of made-up requests to every route, and whether each answer is one that the API's description allows.

    python -m benchmarks.serve.schema RUN OTHER_RUN --examples 120

schemathesis (property-based testing of an OpenAPI document) makes requests that fit the description, and others that do
not; calls follow each other too, with what one answered in the next.  Its checks, all of them: no answer of 5xx; only
statuses, types and bodies that are described; what does not fit is refused, what fits is not.  Once without API keys,
once with, by another seed.  Copies of the runs are served, so that models are activated and items put without leaving a
trace.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.header import header, write_output
from benchmarks.serve.process import COMMAND, ServerProcess, serving
from sememe.serve.models import ModelFolder

PHASES = ("coverage", "fuzzing", "stateful")
NAMES = ("monday", "tuesday")
ANSWERED = re.compile(r'sememe_requests_total\{route="[^"]*",status="(\d+)"\}')


def main() -> None:
    """Check, print and write the output; the exit code is 1 where something breaks the description."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--examples", type=int, default=120, help="of each route in the phase of chance")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    result: dict[str, Any] = {"what": __doc__.split("\n", 1)[0] if __doc__ else ""}
    result |= header("schemathesis", "fastapi", "pydantic") | {"examples": options.examples}
    result["checks"] = [
        check(options.runs, examples=options.examples, seed=options.seed + with_keys, with_keys=with_keys)
        for with_keys in (False, True)
    ]
    result["cases"] = sum(one["cases"] for one in result["checks"])
    result["failures"] = sum(len(one["failures"]) for one in result["checks"])
    write_output(options.out, result)
    print(json.dumps(result["checks"], indent=2))
    sys.exit(1 if result["failures"] else 0)


def check(
    runs: Sequence[Path], *, examples: int, seed: int, with_keys: bool, phases: Sequence[str] = PHASES
) -> dict[str, Any]:
    """What schemathesis finds at a server of copies of `runs`."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = models_of(runs, Path(scratch) / "models")
        words, headers = ["--set", "batching.budget_ms=60000"], []
        if with_keys:
            keys = Path(scratch) / "keys.json"
            words += ["--keys", str(keys)]
            headers = ["--header", f"Authorization: Bearer {new_key(keys)}"]
        with serving(folder, words, core=None) as server:
            told = ask(server, Path(scratch), "--max-examples", examples, "--seed", seed, *headers, phases=phases)
            answers = answered(server, headers[1:])
    return {
        "keys": with_keys,
        "seed": seed,
        "cases": told["test_cases"]["generated"],
        "operations": told["operations"]["tested"],
        "answers_by_status": dict(sorted(answers.items())),
        "failures": told["failures"] + told["errors"],
        "seconds": round(told["running_time"]),
    }


def models_of(runs: Sequence[Path], folder: Path) -> Path:
    """A folder of copies of `runs`, the first of which is active."""
    for name, run in zip(NAMES, runs, strict=False):
        shutil.copytree(run, folder / name, ignore=shutil.ignore_patterns("serve", "models"))
    ModelFolder(folder).point_to(NAMES[0])
    return folder


def new_key(file: Path) -> str:
    """An API key with all scopes."""
    scopes = [word for scope in ("read", "write", "admin") for word in ("--scope", scope)]
    made = subprocess.run(
        [*COMMAND, "new-key", str(file), "--name", "checker", *scopes], capture_output=True, text=True, check=True
    )
    return made.stdout.split()[-1]


def ask(server: ServerProcess, scratch: Path, *words: object, phases: Sequence[str]) -> dict[str, Any]:
    """The report of a run of schemathesis."""
    report = scratch / "report.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"),
            *("--phases", ",".join(phases), "--workers", "1", "--continue-on-failure", "--no-shrink"),
            *("--report", "json", "--report-json-path", str(report), *(str(word) for word in words)),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=scratch,
    )
    if not report.exists():
        raise RuntimeError(done.stdout + done.stderr)
    found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    if found["failures"] or found["errors"]:
        print(done.stdout, file=sys.stderr)
    return found


def answered(server: ServerProcess, headers: Sequence[str]) -> Counter[str]:
    """How many answers of each status the server counted."""
    told = dict(line.split(": ", 1) for line in headers)
    found: Counter[str] = Counter()
    for name, value in server.metrics(told).items():
        match = ANSWERED.fullmatch(name)
        if match is not None:
            found[match[1]] += int(value)
    return found


if __name__ == "__main__":
    main()
