"""Requests made up from the API's own description get answers that it describes, and none of them is 5xx."""

import sys
from pathlib import Path

from benchmarks.serve.schema import check


def test_every_answer_is_one_that_is_described(served_run: Path, second_run: Path) -> None:
    told = check((served_run, second_run), examples=2, seed=0, with_keys=True, phases=("coverage", "fuzzing"))
    answers = told["answers_by_status"]
    sys.stdout.write(f"{told['cases']} cases over {told['operations']} routes, answers by status {answers}\n")
    assert told["failures"] == []
    assert told["cases"] > 800 and told["operations"] >= 18
    assert answers["200"] > 100 and not [status for status in answers if status.startswith("5")]
