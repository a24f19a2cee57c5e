"""House numbers: sizes of files and functions, parameters, complexity."""

import ast
import statistics
import subprocess
import sys

from sources import ROOT, Source, functions, own_parameters, python_sources, told

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_MEDIAN_FUNCTION_LINES = 14
MAX_PARAMETERS = 8
MAX_POSITIONAL = 4
# Called by place as PyTorch calls them: tensors, some of which may be absent.
CALLED_BY_PLACE = {"forward", "step", "__call__"}

# Files with a tighter limit than the others, and why: a second training loop would start by growing this one.
TIGHT_FILES = {"sememe/train/loop.py": 150}


def long_files(source: Source) -> list[str]:
    limit = TIGHT_FILES.get(source.path, 150 if source.path.startswith("sememe/recipes/") else MAX_FILE_LINES)
    return [source.finding(1, f"{source.lines} lines, at most {limit}")] if source.lines > limit else []


def function_lines(node: ast.AST) -> int:
    return (node.end_lineno or 0) - node.lineno + 1


def long_functions(source: Source) -> list[str]:
    return [
        source.finding(node, f"{node.name} has {function_lines(node)} lines, at most {MAX_FUNCTION_LINES}")
        for node in functions(source.tree)
        if function_lines(node) > MAX_FUNCTION_LINES
    ]


def many_parameters(source: Source) -> list[str]:
    found = []
    for node in functions(source.tree):
        positional = own_parameters(node)
        total = len(positional) + len(node.args.kwonlyargs)
        if total > MAX_PARAMETERS:
            found.append(source.finding(node, f"{node.name} has {total} parameters, at most {MAX_PARAMETERS}"))
        if len(positional) > MAX_POSITIONAL and node.name not in CALLED_BY_PLACE:
            found.append(
                source.finding(node, f"{node.name} takes {len(positional)} by place, at most {MAX_POSITIONAL}")
            )
    return found


def optional_by_place(source: Source) -> list[str]:
    """Parameters with a default that are neither the first one nor keyword-only."""
    found = []
    for node in functions(source.tree):
        positional = [*node.args.posonlyargs, *node.args.args]
        optional = positional[len(positional) - len(node.args.defaults) :]
        late = [arg.arg for arg in optional if arg in own_parameters(node)[1:]]
        if late and node.name not in CALLED_BY_PLACE:
            found.append(source.finding(node, f"{node.name}: make {', '.join(late)} keyword-only"))
    return found


def test_files_are_short() -> None:
    found = [line for source in python_sources("sememe", "tests", "benchmarks") for line in long_files(source)]
    assert not found, told(found)
    assert long_files(Source("sememe/data/x.py", "\n" * 401))
    assert long_files(Source("sememe/train/loop.py", "\n" * 151))
    assert long_files(Source("sememe/recipes/x.py", "\n" * 151))
    assert not long_files(Source("sememe/data/x.py", "\n" * 400))


def test_functions_are_short() -> None:
    sources = python_sources("sememe", "tests", "benchmarks")
    found = [line for source in sources for line in long_functions(source)]
    assert not found, told(found)
    assert long_functions(Source("x.py", "def f():\n" + "    1\n" * 60))
    assert not long_functions(Source("x.py", "def f():\n" + "    1\n" * 59))


def test_the_median_function_is_short() -> None:
    lengths = [function_lines(node) for source in python_sources("sememe") for node in functions(source.tree)]
    assert statistics.median(lengths) <= MAX_MEDIAN_FUNCTION_LINES


def test_functions_take_few_parameters() -> None:
    found = [line for source in python_sources("sememe") for line in many_parameters(source)]
    assert not found, told(found)
    assert many_parameters(Source("x.py", "def f(a, *, b, c, d, e, f, g, h, i): ..."))
    assert many_parameters(Source("x.py", "def f(a, b, c, d, e): ..."))
    assert not many_parameters(Source("x.py", "class C:\n    def f(self, a, b, c, d, *, e, f, g, h): ..."))


def test_optional_parameters_are_given_by_name() -> None:
    found = [line for source in python_sources("sememe") for line in optional_by_place(source)]
    assert not found, told(found)
    assert optional_by_place(Source("x.py", "def f(a, b=1): ..."))
    assert not optional_by_place(Source("x.py", "class C:\n    def f(self, a=1, *, b=2): ..."))


def test_the_linter_holds_complexity_booleans_and_prints() -> None:
    planted = (
        "def f(a):\n" + "    if a: a = 1\n" * 10 + "    return a\n\n\ndef g(a: int, b: bool) -> None:\n    print(a)\n"
    )
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--output-format=concise",
        "--stdin-filename=sememe/data/x.py",
        "-",
    ]
    done = subprocess.run(command, input=planted, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    for rule in ("C901", "FBT001", "T201"):
        assert rule in done.stdout, done.stdout
