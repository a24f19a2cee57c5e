"""The verbs `models` and `refresh`."""

from pathlib import Path
from typing import Annotated

import cyclopts
from rich.console import Console

console = Console(highlight=False)

Flag = cyclopts.Parameter(negative="")


def models(folder: Path, /, *, activate: str | None = None, roll_back: Annotated[bool, Flag] = False) -> None:
    """List the models of a folder, make one of them active, or go back to the one before.

    Servers of the folder take it over within seconds; where it is damaged, they refuse it and go on.

    Parameters
    ----------
    folder
        A folder of runs, or one run.
    activate
        Name of the model that is to answer.
    roll_back
        Make the model active again that was before.
    """
    from sememe.cli.serve import require_packages

    require_packages()
    from sememe.serve.activation import make_active, previous_of
    from sememe.serve.models import ModelFolder

    opened = ModelFolder(folder)
    name = previous_of(opened) if roll_back else activate
    if name is not None:
        make_active(opened, name)
    pointer = opened.pointer()
    for one in opened.names():
        mark = "active" if one == pointer.active else "previous" if one == pointer.previous else ""
        console.print(f"{mark:9}{one}  {opened.describe(one)['models'][-1]['name']}", markup=False, soft_wrap=True)
