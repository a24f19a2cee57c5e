"""Every public thing says what it is, and has types."""

import ast

from sources import FunctionNode, Source, is_protocol, python_sources, told

# Said once where the class is described, or by PyTorch.
TOLD_BY_THE_CLASS = {"forward", "step", "from_state", "state"}


def _public(node: ast.AST) -> bool:
    return not getattr(node, "name", "_").startswith("_")


def _needs_docstring(node: FunctionNode, *, method: bool) -> bool:
    """A method of one statement (after its assertions) describes itself; some others are described by their class."""
    if not method:
        return True
    statements = [item for item in node.body if not isinstance(item, ast.Assert)]
    return len(statements) > 1 and node.name not in TOLD_BY_THE_CLASS


def undocumented(source: Source) -> list[str]:
    found = [] if ast.get_docstring(source.tree) else [source.finding(1, "the file has no docstring")]
    for node in source.tree.body:
        if isinstance(node, ast.ClassDef) and _public(node):
            if not ast.get_docstring(node):
                found.append(source.finding(node, f"class {node.name} has no docstring"))
            methods = [] if is_protocol(node) else [item for item in node.body if isinstance(item, FunctionNode)]
            found += _without_docstring(source, methods, method=True)
        elif isinstance(node, FunctionNode):
            found += _without_docstring(source, [node], method=False)
    return found


def _without_docstring(source: Source, nodes: list[FunctionNode], *, method: bool) -> list[str]:
    return [
        source.finding(node, f"{node.name} has no docstring")
        for node in nodes
        if _public(node) and _needs_docstring(node, method=method) and not ast.get_docstring(node)
    ]


def untyped(source: Source) -> list[str]:
    """Functions whose parameters or result have no type; lambdas aside, there is no exception."""
    found = []
    for node in ast.walk(source.tree):
        if not isinstance(node, FunctionNode):
            continue
        args = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
        bare = [arg.arg for arg in args if arg and arg.annotation is None and arg.arg not in ("self", "cls")]
        if bare or node.returns is None:
            found.append(source.finding(node, f"{node.name} lacks types: {', '.join(bare) or 'its result'}"))
    return found


def test_public_things_have_docstrings() -> None:
    found = [line for source in python_sources("sememe") for line in undocumented(source)]
    assert not found, told(found)
    assert undocumented(Source("x.py", ""))
    assert undocumented(Source("x.py", '"""X."""\ndef f(): ...'))
    assert undocumented(Source("x.py", '"""X."""\nclass C: ...'))
    assert undocumented(
        Source("x.py", '"""X."""\nclass C:\n    """C."""\n    def f(self):\n        a = 1\n        return a')
    )
    assert not undocumented(Source("x.py", '"""X."""\nclass C:\n    """C."""\n    def f(self): return 1'))


def test_functions_have_types() -> None:
    found = [line for source in python_sources("sememe") for line in untyped(source)]
    assert not found, told(found)
    assert untyped(Source("x.py", "def f(a) -> int: ..."))
    assert untyped(Source("x.py", "def f(a: int): ..."))
    assert not untyped(Source("x.py", "class C:\n    def f(self, a: int, **b: int) -> int: ..."))
