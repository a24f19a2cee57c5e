"""A process that runs a recipe again and again, each time in a child that is killed, until one is left to end.

Called by test_kill.py as `python killed_run.py DATA FOLDER MOMENT...`.  A child inherits the
imports, so a new start costs no seconds, and it is a process of its own that SIGKILL ends without a word.

A moment is a regular expression; the child dies right before the first change of a file under OUT that it describes,
e.g. "rename .*/\\.step-000000003.*" or "open .*/manifest\\.json".
"""

import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from sememe.core.config import from_tree
from sememe.pipeline.run import run_recipe

CHANGES = {"os.rename", "os.remove", "os.mkdir", "shutil.rmtree", "open"}
"""Audit events; the first argument names the file, for a rename by its old name."""


def die_before(moment: str, out: Path) -> None:
    """From now on, the first change of a file under `out` that `moment` describes is not made: the process is gone."""
    wanted = re.compile(moment)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES or (event == "open" and "w" not in str(arguments[1])):
            return
        path = str(arguments[0])
        if path.startswith(str(out)) and wanted.fullmatch(f"{event.removeprefix('os.')} {path}"):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def attempt(recipe: Any, data: Path, out: Path, *, moment: str | None) -> int:
    """Run in a child; the number of the signal that ended it, 0 where it ended well."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if moment is not None:
                die_before(moment, out)
            run_recipe(recipe, data=data, out=out, say=lambda _: None)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)


def main(data: str, folder: str, *moments: str) -> None:
    """Run FOLDER/recipe.json unbroken into FOLDER/whole; into FOLDER/broken, die at every moment, then run to the end.

    FOLDER/ends.json says how each attempt at the broken run ended.
    """
    root = Path(folder)
    recipe = from_tree(json.loads((root / "recipe.json").read_text()))
    torch.optim.AdamW([torch.zeros(1)])  # makes torch import what every child would import by itself
    assert attempt(recipe, Path(data), root / "whole", moment=None) == 0, "the unbroken run failed"
    ends = [attempt(recipe, Path(data), root / "broken", moment=moment) for moment in (*moments, None)]
    (root / "ends.json").write_text(json.dumps(ends))


if __name__ == "__main__":
    main(*sys.argv[1:])
