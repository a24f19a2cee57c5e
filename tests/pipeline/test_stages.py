"""What the manifest of a stage says of how it was made."""

from pathlib import Path
from typing import Any

import pytest

from sememe.pipeline.stages import StageStore, Workbench


def test_a_stage_that_went_on_after_a_crash_says_so_and_one_made_at_once_does_not(tmp_path: Path) -> None:
    store = StageStore(root=tmp_path, say=lambda _: None, recipe_hash="r")
    kept: list[str] = []

    def make(bench: Workbench) -> dict[str, Any]:
        kept.extend(sorted(path.name for path in bench.scratch.iterdir()))
        if not kept:
            (bench.scratch / "half").touch()
            raise InterruptedError
        (bench.target / "whole").touch()
        return {}

    def at_once_made(bench: Workbench) -> dict[str, Any]:
        (bench.target / "whole").touch()
        return {}

    with pytest.raises(InterruptedError):
        store.get("work", settings={}, inputs={}, make=make)
    resumed = store.get("work", settings={}, inputs={}, make=make)
    at_once = store.get("other", settings={}, inputs={}, make=at_once_made)
    assert kept == ["half"]
    assert (resumed.meta["resumed"], at_once.meta["resumed"]) == (True, False)
    assert resumed.meta["peak_memory_mib"] > 10
