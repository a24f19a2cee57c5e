"""A process that saves a catalogue again and again, each time in a child that is killed at another moment.

Called by test_catalogue_store.py as `python killed_save.py FOLDER MOMENT...`.  A moment is a regular expression; the
child dies right before the first change of a file in FOLDER that it describes.  FOLDER/ends.json says how each child
ended, and which version was current afterwards, with how many items.
"""

import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from planted_line import LINE, on_line

from sememe.sid.catalogue import LiveCatalogue
from sememe.sid.catalogue_store import open_catalogue, save_catalogue
from sememe.sid.collisions import CollisionToken
from sememe.sid.encode import settle_catalog


def die_before(moment: str, folder: Path) -> None:
    """From now on, the first change of a file in `folder` that `moment` describes is not made: the process is gone."""
    wanted = re.compile(moment)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("os.rename", "os.mkdir", "open") or (event == "open" and "w" not in str(arguments[1])):
            return
        path = str(arguments[0])
        if path.startswith(str(folder)) and wanted.fullmatch(f"{event.removeprefix('os.')} {path}"):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def save_more(folder: Path, moment: str) -> None:
    """Open the current version, add an item, save, and die at the moment."""
    saved = open_catalogue(folder)
    newer = saved.catalogue.add([f"new {len(saved.catalogue.live)}"], vectors=on_line(0))
    die_before(moment, folder)
    save_catalogue(folder, newer, based_on=saved.version)


def save_first(folder: Path) -> None:
    """Two items."""
    vectors = on_line(0, 100)
    codes = settle_catalog(CollisionToken(size=16), tokenizer=LINE, vectors=vectors, seed=0).codes
    first = LiveCatalogue.start(codes, item_ids=["a", "b"], tokenizer=LINE, vectors=vectors)
    save_catalogue(folder, first, based_on=None)


def look(folder: Path, answer: Path) -> None:
    """Write down what is current."""
    saved = open_catalogue(folder)
    answer.write_text(json.dumps([saved.version, saved.catalogue.num_live]))


def in_child(task: Callable[..., None], *arguments: object) -> int:
    """Run `task` in a process of its own, which starts at once since it inherits the imports; how it ended.

    The parent never touches polars itself: its threads would not survive the fork.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            task(*arguments)
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(root: str, *moments: str) -> None:
    """Save a first version, then try a second one at each moment, then once undisturbed."""
    folder, answer = Path(root) / "catalogue", Path(root) / "answer.json"
    assert in_child(save_first, folder) == 0
    ends = []
    for moment in (*moments, "never"):
        end = in_child(save_more, folder, moment)
        assert in_child(look, folder, answer) == 0
        ends.append([end, *json.loads(answer.read_text())])
    (Path(root) / "ends.json").write_text(json.dumps(ends))


if __name__ == "__main__":
    main(*sys.argv[1:])
