"""The `sememe` command: few verbs, and no flag per setting (use `--set path=value`).

Everything heavy is imported inside the verb that needs it, so that `sememe --help` answers at once.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Annotated

import cyclopts
from rich.console import Console

from sememe import __version__
from sememe.cli import lifecycle
from sememe.core.errors import ConfigError, SememeError

app = cyclopts.App(
    name="sememe",
    help="Generative recommendation: from your logs to recommended items.",
    version=__version__,
)
console = Console(highlight=False)

Settings = Annotated[
    tuple[str, ...], cyclopts.Parameter(name="--set", negative="", help="path=value; see `sememe show RECIPE`")
]
Columns = Annotated[
    tuple[str, ...],
    cyclopts.Parameter(name="--column", negative="", help="canonical=yours, e.g. user_id=customer; may be repeated"),
]
AsJson = Annotated[bool, cyclopts.Parameter(name="--json", negative="")]
Modules = Annotated[
    tuple[str, ...], cyclopts.Parameter(name="--import", negative="", help="module with parts of your own")
]


@app.command
def demo(*, out: Path = Path("runs/demo"), size: str = "demo") -> None:
    """Real data, end to end, in minutes on two cores; then what to do next.

    Parameters
    ----------
    out
        Run directory; the same one goes on after an interruption.
    size
        Size of the recipe to train.
    """
    from sememe.cli.demo import run_demo

    run_demo(console, out=out, size=size)


@app.command
def recipes() -> None:
    """List the recipes and how faithful each one is."""
    from rich.table import Table

    from sememe.cli.find_recipe import recipe_header, recipe_names

    table = Table("recipe", "what it is", "status")
    for name in recipe_names():
        header = recipe_header(name)
        table.add_row(name, header.summary, header.status)
    console.print(table)


@app.command
def show(recipe: str, /, *, settings: Settings = ()) -> None:
    """Print a recipe's header and every setting of it.

    Parameters
    ----------
    recipe
        NAME, NAME@SIZE or my_module:my_recipe.
    """
    from sememe.cli.find_recipe import find_recipe, recipe_header
    from sememe.core.config import render, tree_hash

    found = find_recipe(recipe, settings=settings)
    if ":" not in recipe:
        console.print(recipe_header(recipe.partition("@")[0]).text, markup=False)
        console.print()
    console.print(render(found), markup=False, soft_wrap=True)
    console.print(f"\nhash {tree_hash(found)[:12]}", markup=False)


@app.command
def diff(left: str, right: str, /) -> None:
    """Print exactly what differs between two recipes.

    Parameters
    ----------
    left
        NAME, NAME@SIZE or my_module:my_recipe.
    right
        The other one.
    """
    from rich.table import Table

    from sememe.cli.find_recipe import find_recipe
    from sememe.core.config import diff as differences

    table = Table("setting", left, right)
    for difference in differences(find_recipe(left), find_recipe(right)):
        table.add_row(difference.path, difference.left or "(not there)", difference.right or "(not there)")
    console.print(table)


@app.command
def check(data: str, /, *, columns: Columns = ()) -> None:
    """List every problem of your files with file, row, column, rule and way out.

    Parameters
    ----------
    data
        A file, a directory, or the name of a known data set.
    """
    from sememe.data.check import check_tables
    from sememe.data.datasets import resolve_dataset

    report = check_tables(resolve_dataset(data).path, columns=parse_columns(columns) or None)
    console.print(report.render(), markup=False, soft_wrap=True)
    if not report.ok:
        raise SystemExit(1)


@app.command
def run(recipe: str, /, *, data: str, out: Path, settings: Settings = (), columns: Columns = ()) -> None:
    """Run a recipe on data; the same command goes on after an interruption.

    Parameters
    ----------
    recipe
        NAME, NAME@SIZE or my_module:my_recipe.
    data
        A file, a directory, or the name of a known data set.
    out
        Run directory.
    """
    from sememe.cli.find_recipe import find_recipe
    from sememe.pipeline.run import run_recipe

    found = find_recipe(recipe, settings=settings)
    spec = {"recipe": recipe, "set": list(settings)}
    run_recipe(found, data=data, out=out, columns=parse_columns(columns), spec=spec, say=say)
    evaluate(out)
    say(f"\nnext: sememe recommend {out} --user USER")


@app.command
def evaluate(run_directory: Path, /, *, as_json: AsJson = False) -> None:
    """Print what a run measured: every model, with intervals, slices of the users, and the paired comparison.

    Parameters
    ----------
    run_directory
        What was given to `sememe run --out`.
    as_json
        Print metrics.json instead of tables.
    """
    from sememe.pipeline.evaluate import comparison_lines, metrics_tables, protocol_line
    from sememe.pipeline.gate import Verdict
    from sememe.pipeline.opened import read_metrics
    from sememe.pipeline.slices import slice_tables

    metrics = read_metrics(run_directory)
    if as_json:
        print(json.dumps(metrics, indent=2))
        return
    say(protocol_line(metrics))
    for table in (*metrics_tables(metrics), *slice_tables(metrics)):
        console.print(table)
    for entry in metrics.get("alignment", []):
        say(f"{entry['model']}, seed {entry['seed']}, before and after alignment, {entry['users']:,} held-out users:")
        console.print("\n".join(Verdict.from_json(entry).lines()), markup=False, soft_wrap=True)
    for line in comparison_lines(metrics):
        console.print(line, markup=False)


@app.command
def codes(
    run_directory: Path,
    /,
    *,
    model: str | None = None,
    refit: bool = True,
    as_json: AsJson = False,
    modules: Modules = (),
) -> None:
    """Say how good a run's semantic IDs are: use, collisions, and what items with equal first codes have in common.

    Writes RUN/codes/health.json and pictures beside it.

    Parameters
    ----------
    run_directory
        What was given to `sememe run --out`, finished or not; or one stage of codes in it.
    model
        A baseline of the run, instead of its own model.
    refit
        Fit the tokenizer again to see what a seed changes, where the run has no other seed.
    as_json
        Print health.json instead of tables.
    """
    from sememe.cli.codes import report_codes

    report_codes(console, run_directory, model=model, modules=modules, refit=refit, as_json=as_json)


@app.command
def report(run_directory: Path, /, *, out: Path | None = None, modules: Modules = ()) -> None:
    """Write a run as one HTML file: metrics with intervals, slices, semantic IDs, learning curves, example lists.

    Parameters
    ----------
    run_directory
        What was given to `sememe run --out`.
    out
        The file; RUN/report.html if not given.
    """
    from sememe.cli.report import write_report

    write_report(console, run_directory, out=out, modules=modules)


@app.command
def recommend(
    run_directory: Path,
    /,
    *,
    user: str | None = None,
    history: str | None = None,
    k: int = 10,
    model: str | None = None,
    modules: Modules = (),
) -> None:
    """Recommend items to a user of the data, or to anybody with a history.

    Parameters
    ----------
    run_directory
        What was given to `sememe run --out`.
    user
        User id.
    history
        Item ids, oldest first, separated by commas; instead of a user.
    k
        How many items.
    model
        A baseline of the run, to compare with.
    """
    from sememe.cli.tables import frame_table
    from sememe.pipeline.opened import open_run

    opened = open_run(run_directory, model=model, modules=modules)
    items = None if history is None else [item.strip() for item in history.split(",") if item.strip()]
    found = opened.recommend(user=user, history=items, k=k)
    if user is not None:
        console.print(frame_table(opened.history(user).tail(10), title=f"the last items of user {user}"))
    console.print(frame_table(found, title=f"recommended by {model or opened.recipe.name}"))
    if found.height < k:
        say(f"only {found.height} of the {k} items asked for: the catalogue has no more that this user has not seen")


@app.command
def serve(
    models: Path,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    store: str | None = None,
    keys: Path | None = None,
    rules: Path | None = None,
    model: str | None = None,
    settings: Settings = (),
) -> None:
    """Answer over HTTP: recommendations, similar items, events, stock; GET /openapi.json describes it.

    Parameters
    ----------
    models
        What was given to `sememe run --out`, or a folder of several of them.
    host
        Address to listen on; without keys, only this machine is answered whatever it is.
    port
        0 takes a free one.
    store
        Where events are kept: sqlite:///FILE, valkey://HOST, postgresql://HOST/NAME; SQLite in MODELS/serve if none is.
    keys
        File of API keys, made by `sememe new-key`.
    rules
        JSON file of rules that requests may name.
    model
        The row of the run that answers.
    settings
        path=value, e.g. batching.budget_ms=100; sememe/serve/settings.py has them all.
    """
    from sememe.cli.serve import parse_settings, run_server

    run_server(
        console,
        models,
        address=(host, port),
        store=store,
        keys=keys,
        rules=rules,
        model=model,
        settings=parse_settings(settings),
    )


@app.command
def new_key(
    file: Path,
    /,
    *,
    name: str = "key",
    scopes: Annotated[tuple[str, ...], cyclopts.Parameter(name="--scope", negative="")] = ("read",),
    per_second: float | None = None,
) -> None:
    """Make an API key for `sememe serve --keys FILE`, and print it; the file holds a hash of it only.

    Parameters
    ----------
    file
        JSON file of keys, made where there is none; a running server takes the change in.
    name
        Whose key it is.
    scopes
        read, write or admin; may be repeated.
    per_second
        How often it may call in the long run; as often as it wants if not given.
    """
    from sememe.cli.serve import add_key

    add_key(console, file, name=name, scopes=scopes, per_second=per_second)


app.command(lifecycle.models)
app.command(lifecycle.refresh)


@app.command
def doctor(*, as_json: AsJson = False) -> None:
    """Say what this machine can do, and how to get what is missing.

    Parameters
    ----------
    as_json
        Print JSON instead of a table.
    """
    from sememe.cli.doctor import examine, findings_table

    findings = examine()
    if as_json:
        print(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        console.print(findings_table(findings))


def say(text: str) -> None:
    """Print a line of progress."""
    console.print(text, markup=False, soft_wrap=True)


def parse_columns(columns: tuple[str, ...]) -> dict[str, str]:
    """("user_id=customer",) -> {"user_id": "customer"}."""
    pairs = [text.partition("=") for text in columns]
    for text, (canonical, equals, name) in zip(columns, pairs, strict=True):
        if not (canonical and equals and name):
            raise ConfigError(f"--column {text} is not canonical=yours", fix="write e.g. --column user_id=customer")
    return {canonical: name for canonical, _, name in pairs}


def main() -> None:
    """Entry point: user errors end with a message and status 2, never with a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("sememe").setLevel(logging.INFO)
    try:
        app(sys.argv[1:])
    except SememeError as error:
        Console(stderr=True, highlight=False).print(f"error: {error}", markup=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped; the same command goes on where it was")
        sys.exit(130)
