"""Rules for the tests themselves: each of them can fail, none depends on the machine it runs on."""

import ast
from collections import Counter

from sources import FunctionNode, Source, functions, python_sources, told

RAISING = ("raises", "warns", "assert_", "assert", "check_")


def _asserts(node: ast.AST, *, asserting: set[str]) -> bool:
    """Whether something in `node` can fail on purpose: assert, pytest.raises, numpy's and torch's assertions."""
    for part in ast.walk(node):
        if isinstance(part, ast.Assert):
            return True
        if isinstance(part, ast.Call):
            name = ast.unparse(part.func).split(".")[-1]
            if name.startswith(RAISING) or name in asserting:
                return True
    return False


def without_assertion(source: Source) -> list[str]:
    """Tests that assert nothing, neither themselves nor through functions of their file."""
    local = list(functions(source.tree))
    asserting: set[str] = set()
    while True:
        more = {node.name for node in local if _asserts(node, asserting=asserting)}
        if more == asserting:
            break
        asserting = more
    tests = [node for node in local if node.name.startswith("test_") and node.name not in asserting]
    return [source.finding(node, f"{node.name} asserts nothing") for node in tests]


def repeated_tests(source: Source) -> list[str]:
    """Tests that a later one of the same name hides."""
    found = []
    scopes = [source.tree, *(node for node in source.tree.body if isinstance(node, ast.ClassDef))]
    for scope in scopes:
        names = Counter(node.name for node in scope.body if isinstance(node, FunctionNode))
        found += [source.finding(1, f"{name} is there {count} times") for name, count in names.items() if count > 1]
    return found


def repeated_basenames(paths: list[str]) -> list[str]:
    """Files of one name in two folders; the second would hide the first."""
    names = Counter(path.rsplit("/", 1)[-1] for path in paths)
    # pytest itself keeps conftest.py files apart.
    return [path for path in paths if names[path.rsplit("/", 1)[-1]] > 1 and not path.endswith("/conftest.py")]


def test_every_test_can_fail() -> None:
    found = [line for source in python_sources("tests") for line in without_assertion(source)]
    assert not found, told(found)
    assert without_assertion(Source("x.py", "def test_a():\n    run()"))
    for body in (
        "assert run()",
        "np.testing.assert_allclose(a, b)",
        "helper()",
        "with pytest.raises(E):\n        run()",
    ):
        text = f"def test_a():\n    {body}\n\ndef helper():\n    assert run()\n"
        assert not without_assertion(Source("x.py", text)), text


def test_no_test_hides_another() -> None:
    sources = python_sources("tests")
    found = [line for source in sources for line in repeated_tests(source)]
    found += repeated_basenames([source.path for source in sources])
    assert not found, told(found)
    assert repeated_tests(Source("x.py", "def test_a(): ...\ndef test_a(): ..."))
    assert repeated_basenames(["tests/a/test_x.py", "tests/b/test_x.py"])
