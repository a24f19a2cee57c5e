"""A process that refreshes a run again and again, each time in a child that is killed.

Called by test_killed_refresh.py as `python killed_refresh.py FOLDER SETTING MOMENT...`; moments are as in
killed_run.py, empty for a child that is left to end.  Prints a JSON list of how each ended.
"""

import contextlib
import io
import json
import os
import sys
from pathlib import Path

from killed_run import die_before

# Imported here, where it takes its seconds once, and not in every child.
import sememe.serve.refreshing
import sememe.serve.stores.sqlite  # noqa: F401
from sememe.cli.main import app


def attempt(folder: Path, setting: str, *, moment: str) -> int:
    """The signal that ended the child, or its exit code, negative."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            if moment:
                die_before(moment, folder)
            with contextlib.redirect_stdout(io.StringIO()):
                app(["refresh", str(folder), "--set", setting])
        except SystemExit as stopped:
            status = int(stopped.code or 0)
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)


def main(folder: str, setting: str, *moments: str) -> None:
    """Refresh once for every moment."""
    ends = [attempt(Path(folder), setting, moment=moment) for moment in moments]
    sys.stdout.write(json.dumps(ends))


if __name__ == "__main__":
    main(*sys.argv[1:])
