"""The command line: which verbs there are, and that asking for help costs nothing."""

import subprocess
import sys

from sources import ROOT

from sememe.cli.main import app

# Adding a verb is a decision, so it is written down here; settings are not flags, they go through `--set`.
VERBS = {
    "demo",
    "recipes",
    "show",
    "diff",
    "check",
    "run",
    "evaluate",
    "codes",
    "report",
    "recommend",
    "serve",
    "new-key",
    "models",
    "refresh",
    "doctor",
}
# Loaded only by the verb that needs them.
HEAVY = (
    "torch",
    "transformers",
    "sentence_transformers",
    "sklearn",
    "matplotlib",
    "tensorboard",
    "implicit",
    "fastapi",
    "uvicorn",
)

HELP = """
import sys
from sememe.cli.main import main
sys.argv = ["sememe", *{arguments!r}]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
print("loaded:", *sorted(set({heavy!r}) & set(sys.modules)))
"""


def verbs() -> set[str]:
    return {name for name in app if not name.startswith("-")}


def help_of(*arguments: str, before: str = "") -> tuple[str, set[str]]:
    """What a command prints, and which heavy packages it imports."""
    script = before + HELP.format(arguments=list(arguments), heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed, _, loaded = done.stdout.rpartition("loaded:")
    return printed, set(loaded.split())


def test_verbs_are_the_known_ones() -> None:
    assert verbs() == VERBS


def test_help_names_every_verb_and_imports_nothing_heavy() -> None:
    printed, loaded = help_of("--help")
    assert all(f" {verb} " in printed for verb in VERBS), printed
    assert loaded == set()


def test_a_heavy_import_is_found() -> None:
    # A stand-in for torch, which takes seconds to import.
    _, loaded = help_of("--help", before="import sys; sys.modules['torch'] = sys\n")
    assert loaded == {"torch"}
