"""How the code is put together: names of modules, inheritance, packages that export nothing, recipes, no stubs."""

import ast
import re

from sources import Source, classes, functions, is_protocol, python_sources, told

BANNED_MODULES = {"utils", "util", "helpers", "helper", "common", "misc", "base"}
# Packages whose names are what people import; all others are imported from module by module.
EXPORTING = {"sememe/__init__.py", "sememe/recipes/__init__.py"}
RECIPE_LABELS = ("Paper:", "Kept:", "Deviations:", "Published numbers", "Status:")
STATUS = re.compile(r"^Status: (verified|faithful|partial\b.*\w)", re.MULTILINE)

ClassName = tuple[str, str]
"""(module path, class name)"""


def banned_names(paths: list[str]) -> list[str]:
    parts = [(path, part) for path in paths for part in path.removesuffix(".py").split("/")]
    return [f"{path}: say what {part!r} does" for path, part in parts if part.strip("_") in BANNED_MODULES]


def _imported_classes(source: Source) -> dict[str, ClassName]:
    """Name in this file -> the class of ours that it may stand for."""
    known = {node.name: (source.path, node.name) for node in classes(source.tree)}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sememe"):
            path = (node.module or "").replace(".", "/") + ".py"
            known |= {alias.asname or alias.name: (path, alias.name) for alias in node.names}
    return known


def deep_inheritance(sources: tuple[Source, ...]) -> list[str]:
    """Classes of ours whose own parent has a parent of ours; protocols are not counted."""
    bases: dict[ClassName, list[ClassName]] = {}
    lines: dict[ClassName, str] = {}
    for source in sources:
        known = _imported_classes(source)
        for node in classes(source.tree):
            names = [ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases]
            key = (source.path, node.name)
            bases[key] = [] if is_protocol(node) else [known[name] for name in names if name in known]
            lines[key] = source.finding(node, f"{node.name} inherits twice from classes of ours")
    return [lines[key] for key, parents in bases.items() if any(bases.get(parent) for parent in parents)]


def full_packages(source: Source) -> list[str]:
    """`__init__.py` files that hold more than their docstring."""
    if not source.path.endswith("__init__.py") or source.path in EXPORTING:
        return []
    body = source.tree.body
    is_docstring = len(body) == 1 and ast.get_docstring(source.tree) is not None
    return [] if is_docstring else [source.finding(1, "a package holds one docstring; import from its modules")]


def stubs(source: Source) -> list[str]:
    """Functions that do nothing yet, outside protocols."""
    promised = {id(item) for node in classes(source.tree) if is_protocol(node) for item in node.body}
    found = []
    for node in functions(source.tree):
        body = [item for item in node.body if not (isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant))]
        empty = all(isinstance(item, ast.Pass) for item in body)
        if empty and id(node) not in promised and not any("overload" in ast.unparse(d) for d in node.decorator_list):
            found.append(source.finding(node, f"{node.name} does nothing"))
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Raise) and node.exc is not None and "NotImplemented" in ast.unparse(node.exc):
            found.append(source.finding(node, "not written yet"))
    return found


def recipe_faults(source: Source) -> list[str]:
    """A recipe is a header and one public function named like its file; no classes, no loops, public names only."""
    name = source.path.rsplit("/", 1)[-1].removesuffix(".py")
    header = ast.get_docstring(source.tree) or ""
    found = [source.finding(1, f"the header lacks {label!r}") for label in RECIPE_LABELS if label not in header]
    if not STATUS.search(header):
        found.append(source.finding(1, "Status: is verified, faithful, or partial and what is missing"))
    public = [node.name for node in source.tree.body if isinstance(node, ast.FunctionDef) and node.name[0] != "_"]
    if public != [name]:
        found.append(source.finding(1, f"one public function, named {name}; found {public}"))
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ClassDef | ast.For | ast.While | ast.AsyncFor):
            found.append(source.finding(node, "no classes and no loops in a recipe"))
        if isinstance(node, ast.ImportFrom):
            private = [alias.name for alias in node.names if alias.name.startswith("_")]
            found += [source.finding(node, f"{name} is private; a user could not write this file") for name in private]
    return found


def test_modules_say_what_they_do() -> None:
    found = banned_names([source.path for source in python_sources("sememe")])
    assert not found, told(found)
    assert banned_names(["sememe/data/utils.py"])
    assert banned_names(["sememe/common/x.py"])
    assert not banned_names(["sememe/data/baselines.py"])


def test_inheritance_is_one_level_deep() -> None:
    found = deep_inheritance(python_sources("sememe"))
    assert not found, told(found)
    first = Source("sememe/a.py", "class A: ...\nclass B(A): ...")
    assert not deep_inheritance((first,))
    assert deep_inheritance((first, Source("sememe/b.py", "from sememe.a import B as Q\nclass C(Q[int]): ...")))


def test_packages_export_nothing() -> None:
    found = [line for source in python_sources("sememe") for line in full_packages(source)]
    assert not found, told(found)
    assert full_packages(Source("sememe/data/__init__.py", '"""Doc."""\nfrom x import y'))
    assert full_packages(Source("sememe/data/__init__.py", ""))


def test_nothing_is_a_stub() -> None:
    found = [line for source in python_sources("sememe") for line in stubs(source)]
    assert not found, told(found)
    assert stubs(Source("x.py", "def f():\n    raise NotImplementedError"))
    assert stubs(Source("x.py", "def f():\n    '''Later.'''"))
    assert stubs(Source("x.py", "class C:\n    def f(self): ..."))
    assert not stubs(Source("x.py", "class C(Protocol[T]):\n    def f(self): ..."))


def test_recipes_are_short_compositions() -> None:
    recipes = [source for source in python_sources("sememe/recipes") if not source.path.endswith("__init__.py")]
    found = [line for source in recipes for line in recipe_faults(source)]
    assert not found, told(found)
    header = '"""X.\n\nPaper: p\nKept: k\nDeviations: d\nPublished numbers: n\nStatus: faithful\n"""\n'
    good = header + "def mine(): return 1\n"
    assert not recipe_faults(Source("sememe/recipes/mine.py", good))
    for fault in (
        good.replace("faithful", "fine"),
        good.replace("faithful", "partial"),
        good.replace("Paper:", ""),
        good.replace("mine", "yours"),
        good + "class A: ...",
        good + "for _ in (): ...",
        good + "from sememe.x import _y",
    ):
        assert recipe_faults(Source("sememe/recipes/mine.py", fault)), fault
