"""README and docs: code that compiles, verbs that exist, links and paths that lead somewhere."""

import ast
import re
from dataclasses import dataclass

from sources import ROOT, told
from test_rule_commands import VERBS

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^ {4}[^\n]*\n?)+", re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
VERB = re.compile(r"(?<![\w./-])(?:\.venv/bin/)?sememe +([a-z][\w-]*)")
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")
PATH = re.compile(r"`((?:sememe|tests|docs|benchmarks|examples|requirements|deploy)/[\w./-]*\w)`")


@dataclass(frozen=True)
class Document:
    """A Markdown file; `path` is relative to the repository."""

    path: str
    text: str

    def python_blocks(self) -> list[str]:
        """The fenced blocks marked as Python."""
        return [code for language, code in FENCE.findall(self.text) if language in ("python", "py")]

    def commands(self) -> str:
        """All that stands in code and is not Python: other fenced blocks, indented blocks, inline code."""
        fenced = [code for language, code in FENCE.findall(self.text) if language not in ("python", "py")]
        rest = FENCE.sub("", self.text)
        return "\n".join([*fenced, *INDENTED.findall(rest), *INLINE.findall(INDENTED.sub("", rest))])


def documents() -> list[Document]:
    paths = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md")]
    return [Document(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in sorted(paths)]


def code_faults(document: Document) -> list[str]:
    found = []
    for code in document.python_blocks():
        try:
            ast.parse(code)
        except SyntaxError as error:
            found.append(f"{document.path}: {error.msg} in\n{code}")
    return found


def unknown_verbs(document: Document) -> list[str]:
    named = {verb for verb in VERB.findall(document.commands()) if verb not in VERBS}
    return [f"{document.path}: there is no `sememe {verb}`" for verb in sorted(named)]


def dead_paths(document: Document) -> list[str]:
    folder = (ROOT / document.path).parent
    links = [link for link in LINK.findall(document.text) if not (folder / link).exists()]
    paths = [path for path in PATH.findall(document.text) if not (ROOT / path).exists()]
    return [f"{document.path}: {path} is not there" for path in [*links, *paths]]


def test_python_blocks_compile() -> None:
    found = [line for document in documents() for line in code_faults(document)]
    assert not found, told(found)
    assert code_faults(Document("x.md", "```python\nrun = = 1\n```\n"))
    assert not code_faults(Document("x.md", "```python\nrun = 1\n```\n\n```sh\nrun = = 1\n```\n"))


def test_verbs_in_documents_exist() -> None:
    found = [line for document in documents() for line in unknown_verbs(document)]
    assert not found, told(found)
    for text in ("`sememe fly`", "    sememe fly now\n", "```sh\n$ .venv/bin/sememe fly\n```\n"):
        assert unknown_verbs(Document("x.md", text)), text
    for text in ("`sememe run R`", "sememe flies", "```python\nimport sememe as s\n```\n", "`pip install sememe`"):
        assert not unknown_verbs(Document("x.md", text)), text


def test_links_and_paths_lead_somewhere() -> None:
    found = [line for document in documents() for line in dead_paths(document)]
    assert not found, told(found)
    assert dead_paths(Document("x.md", "[a](docs/nowhere.md)"))
    assert dead_paths(Document("x.md", "see `sememe/data/nowhere.py`"))
    assert not dead_paths(Document("README.md", "[a](LICENSE#top) and `sememe/core/schema.py`"))
