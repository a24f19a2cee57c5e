"""Generative recommendation: data, codes, generators, alignment, constrained decoding and serving in one package.

import sememe
run = sememe.run(sememe.recipes.tiger("small"), data="my_data/", out="runs/mine")
run.recommend(history=[50, 181, 172], k=10)
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sememe.pipeline.engine import Engine, Request
    from sememe.pipeline.opened import Run
    from sememe.pipeline.recipe import Recipe

__version__ = "0.1.0"
__all__ = ["Engine", "Request", "__version__", "open_run", "recipes", "run"]


def run(recipe: "Recipe", *, data: Any, out: str | Path, columns: Mapping[str, str] | None = None) -> "Run":
    """Run every stage of `recipe` on `data` that is not in `out` yet, and open the result.

    Args:
        recipe: e.g. `sememe.recipes.tiger("small")`, or your own.
        data: a file, a directory, the name of a known data set, or a polars, pandas or arrow table.
        out: the run directory; the same one again goes on after an interruption.
        columns: canonical column name -> name in the data, where they differ from what is recognised.
    """
    from sememe.pipeline.opened import open_run as open_finished
    from sememe.pipeline.run import run_recipe

    return open_finished(run_recipe(recipe, data=data, out=Path(out), columns=columns))


def open_run(path: str | Path) -> "Run":
    """Open the run directory that `run` or `sememe run` wrote."""
    from sememe.pipeline.opened import open_run as open_finished

    return open_finished(Path(path))


def __getattr__(name: str) -> Any:
    # These import torch; `import sememe` and `sememe --help` must not.
    if name == "recipes":
        return importlib.import_module("sememe.recipes")
    if name in ("Engine", "Request"):
        return getattr(importlib.import_module("sememe.pipeline.engine"), name)
    raise AttributeError(f"module 'sememe' has no attribute {name!r}")
