"""`sememe demo`: real ratings to recommended films, every step of it the same as for data of one's own."""

import time
from pathlib import Path

from rich.console import Console

from sememe.cli.find_recipe import find_recipe
from sememe.cli.tables import frame_table
from sememe.pipeline.evaluate import comparison_lines, metrics_tables, protocol_line
from sememe.pipeline.opened import open_run
from sememe.pipeline.run import run_recipe

DATA = "ml-100k"


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
    say(
        "\nnext:\n"
        f"  sememe recommend {out} --user 42              another user\n"
        f"  sememe recommend {out} --history 50,181,172   anybody, from film ids\n"
        f"  sememe evaluate {out}                         the numbers again\n"
        "  sememe check YOUR_DATA                        are your own files usable?\n"
        "  sememe run itemwise --data YOUR_DATA --out runs/mine"
    )
