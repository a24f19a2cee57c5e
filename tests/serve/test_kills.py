"""A server that is killed under load has lost nothing that it acknowledged, and one whole model is active."""

import sys
from pathlib import Path

from benchmarks.serve.kills import kill_often


def test_killed_under_load_it_has_lost_nothing(served_run: Path, second_run: Path) -> None:
    told = kill_often((served_run, second_run), kills=4, seed=0)
    sys.stdout.write(f"{told}\n")
    assert told["faults"] == [] and told["events_lost"] == 0
    assert told["kills"] == 4 and told["events_acknowledged"] > 20 and told["lists_answered"] > 5
