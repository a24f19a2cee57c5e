"""What the rules look at: the files of the working tree, parsed once, and how a finding is told."""

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """One Python file; `path` is relative to the repository, with forward slashes."""

    path: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return _parse(self.text)

    @property
    def lines(self) -> int:
        return len(self.text.splitlines())

    def finding(self, node: ast.AST | int, message: str) -> str:
        """`path:line: message`, the form that editors jump to."""
        line = node if isinstance(node, int) else getattr(node, "lineno", 1)
        return f"{self.path}:{line}: {message}"


@cache
def _parse(text: str) -> ast.Module:
    return ast.parse(text)


@cache
def python_sources(*folders: str) -> tuple[Source, ...]:
    """All Python files under the given folders of the repository."""
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return tuple(Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in paths)


@cache
def tracked_texts() -> tuple[tuple[str, str], ...]:
    """(path, text) of every text file that is in version control; binary files are left out."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    found = []
    for name in listing.stdout.decode().split("\0"):
        path = ROOT / name
        if not name or not path.is_file():
            continue
        try:
            found.append((name, path.read_text(encoding="utf-8")))
        except UnicodeDecodeError:
            continue
    return tuple(found)


def functions(tree: ast.AST) -> Iterator[FunctionNode]:
    """Every function and method, nested ones too."""
    for node in ast.walk(tree):
        if isinstance(node, FunctionNode):
            yield node


def classes(tree: ast.AST) -> Iterator[ast.ClassDef]:
    """Every class."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node


def own_parameters(node: FunctionNode) -> list[ast.arg]:
    """The positional parameters without `self` and `cls`."""
    positional = [*node.args.posonlyargs, *node.args.args]
    return [arg for arg in positional if arg.arg not in ("self", "cls")]


def is_protocol(node: ast.ClassDef) -> bool:
    """Whether a class only says what others must look like."""
    return any(ast.unparse(base).split("[")[0].endswith("Protocol") for base in node.bases)


def told(findings: list[str]) -> str:
    """The findings as the message of a failed assertion."""
    return "\n" + "\n".join(findings)
