"""What is made from simulated data says so, and what is not says nothing."""

import json

from sememe.data.feedback_files import write_feedback
from sememe.data.feedback_simulator import TINY_FEEDBACK
from sememe.pipeline.evaluate import protocol_line
from sememe.pipeline.opened import open_run
from sememe.pipeline.run import run_recipe
from sememe.pipeline.run_report import gather_report
from sememe.recipes import popularity


def test_a_run_on_simulated_data_says_so_everywhere(tmp_path):
    write_feedback(TINY_FEEDBACK, tmp_path / "data", seed=0)
    lines = []
    out = run_recipe(popularity(), data=tmp_path / "data", out=tmp_path / "run", say=lines.append)
    told, metrics = (json.loads((out / name).read_text()) for name in ("run.json", "metrics.json"))
    assert told["simulated"] is True
    assert metrics["protocol"]["simulated"] is True
    assert protocol_line(metrics).startswith("SIMULATED data; ")
    assert any("SIMULATED" in line for line in lines)
    assert gather_report(open_run(out)).about["data"] == "data (SIMULATED)"


def test_a_run_on_other_data_does_not(tmp_path):
    write_feedback(TINY_FEEDBACK, tmp_path / "data", seed=0)
    (tmp_path / "data" / "data.toml").unlink()
    out = run_recipe(popularity(), data=tmp_path / "data", out=tmp_path / "run", say=lambda line: None)
    for name in ("run.json", "metrics.json"):
        assert "simulated" not in (out / name).read_text().lower()
