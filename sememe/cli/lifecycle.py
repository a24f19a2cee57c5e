"""The verbs `models` and `refresh`."""

from pathlib import Path
from typing import Annotated

import cyclopts
from rich.console import Console

from sememe.cli.set_option import read_settings

console = Console(highlight=False)

REFUSED, NOTHING_NEW = 1, 3

Settings = Annotated[tuple[str, ...], cyclopts.Parameter(name="--set", negative="", help="path=value, e.g. hours=6")]
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


def refresh(
    folder: Path,
    /,
    *,
    store: str | None = None,
    model: str | None = None,
    settings: Settings = (),
    dry_run: Annotated[bool, Flag] = False,
) -> None:
    """Train the active model on by the events collected since, and make the new one active if it is better.

    Exits with 0 where it took over, 1 where it was refused, 3 where too little is new, 2 on errors.

    Parameters
    ----------
    folder
        A run that is served, or a folder of runs.
    store
        Where its server keeps events; SQLite in FOLDER/serve if not given.
    model
        The row that the server answers with.
    dry_run
        Train and judge, and leave the active model as it is.
    """
    from sememe.cli.serve import default_store, require_packages

    require_packages()
    from sememe.core.config import apply_settings
    from sememe.pipeline.refresh import NothingNewError, RefreshPlan
    from sememe.serve.models import ModelFolder
    from sememe.serve.refreshing import refresh_models
    from sememe.serve.stores.open import open_store

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    plan = apply_settings(RefreshPlan(), read_settings(settings, example="hours=6"))
    models = ModelFolder(folder)
    models.pointer()
    opened = open_store(store or default_store(folder))
    try:
        done = refresh_models(models, opened, plan=plan, row=model, dry_run=dry_run, say=say)
    except NothingNewError as error:
        say(f"{error.problem}; {error.fix}")
        raise SystemExit(NOTHING_NEW) from error
    finally:
        opened.close()
    say(done.gate.describe())
    say(f"{done.name} is active" if done.activated else f"the active model stays; {done.name} is beside it")
    raise SystemExit(0 if done.gate.passed else REFUSED)
