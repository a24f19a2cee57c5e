"""The benchmark of alignment on a small finished run: what it writes, and that it goes on where it was."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.quality import align_itemwise
from sememe.pipeline.recipe import Recipe
from sememe.pipeline.run import run_recipe

WAYS = "grpo,weighted_likelihood,grpo_held_out_prompts"


def test_each_way_is_judged_once_and_kept(
    reranked: Recipe,
    world_files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    finished = run_recipe(reranked, data=world_files, out=tmp_path / "run", say=lambda _: None)
    before = sorted(path.name for path in (finished / "stages").iterdir())
    told = [str(finished), "--out", str(tmp_path / "work"), "--name", "align", "--into", str(tmp_path)]
    align_itemwise.main([*told, "--size", "debug", "--plans", WAYS, "--test-users", "60"])
    found: dict[str, Any] = json.loads((tmp_path / "align.json").read_text())
    assert list(found["results"]) == [
        "grpo, seed 0, deployed",
        "grpo, seed 0, generator",
        "weighted_likelihood, seed 0, deployed",
        "weighted_likelihood, seed 0, generator",
        "grpo_held_out_prompts, seed 0, generator",
    ]
    for result in found["results"].values():
        assert result["validation"]["users"] == 75 and result["test"]["users"] == 60
        assert result["drift"][0]["kl"] == 0.0 < result["drift"][-1]["kl"]
    assert found["results"]["grpo, seed 0, deployed"]["drift"] == found["results"]["grpo, seed 0, generator"]["drift"]
    assert {"machine", "commit", "date"} < set(found) and (tmp_path / "align.svg").is_file()
    assert sorted(path.name for path in (finished / "stages").iterdir()) == before
    assert "NOT PROMOTED" in capsys.readouterr().out or found["results"]["grpo, seed 0, generator"]["promoted"]
    monkeypatch.setattr(align_itemwise, "align", None)
    align_itemwise.main([*told, "--size", "debug", "--plans", WAYS, "--test-users", "60"])
    with pytest.raises(SystemExit, match="results of other settings"):
        align_itemwise.main([*told, "--size", "debug", "--plans", WAYS])
    assert json.loads((tmp_path / "align.json").read_text()) == found
