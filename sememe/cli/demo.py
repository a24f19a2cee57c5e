"""`sememe demo`: real ratings to recommended films, every step of it the same as for data of one's own."""

import shlex
import shutil
import sys
import time
from pathlib import Path

from rich.console import Console

from sememe.cli.find_recipe import find_recipe
from sememe.cli.tables import frame_table
from sememe.pipeline.evaluate import comparison_lines, metrics_tables, protocol_line
from sememe.pipeline.opened import open_run
from sememe.pipeline.run import run_recipe

DATA = "ml-100k"
NAME = "sememe"


def run_demo(console: Console, *, out: Path, size: str) -> None:
    """Train the item-wise generator and its baselines on MovieLens-100K, compare, and recommend films to one user."""
    started = time.monotonic()
    spec = f"itemwise@{size}"

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    say(f"{spec} on {DATA}; run directory {out} (the same command goes on after an interruption)")
    run_recipe(find_recipe(spec), data=DATA, out=out, spec={"recipe": spec, "set": []}, say=say)
    opened = open_run(out)
    say(protocol_line(opened.metrics))
    for table in metrics_tables(opened.metrics):
        console.print(table)
    for line in comparison_lines(opened.metrics):
        say(line)
    user = opened.world.interactions.user_ids[0]
    console.print(frame_table(opened.history(user).tail(10), title=f"the last films of user {user}"))
    console.print(frame_table(opened.recommend(user=user, k=10), title="recommended, films not rated yet"))
    say(f"finished in {(time.monotonic() - started) / 60:.1f} minutes")
    say(next_steps(out, program=called_as()))


def called_as() -> str:
    """What to type for this program: its name where the PATH leads to it, else the path that it was called by."""
    own = Path(sys.argv[0])
    if own.name != NAME or not own.is_file():
        return NAME
    found = shutil.which(NAME)
    return NAME if found is not None and own.samefile(found) else shlex.quote(str(own))


def next_steps(out: Path, *, program: str) -> str:
    """Commands that go on from the run in `out`, the server last."""
    run = shlex.quote(str(out))
    steps = (
        (f"recommend {run} --user 42", "another user"),
        (f"recommend {run} --history 50,181,172", "anybody, from film ids"),
        (f"evaluate {run}", "the numbers again"),
        (f"report {run}", "all of them in one HTML file"),
        ("check YOUR_DATA", "are your own files usable?"),
        ("run itemwise --data YOUR_DATA --out runs/mine", "train on them"),
        (f"serve {run}", "an API, and a page at http://127.0.0.1:8000"),
    )
    width = max(len(words) for words, _ in steps)
    return "\n".join(["\nnext:", *(f"  {program} {words:{width}}   # {what}" for words, what in steps)])
