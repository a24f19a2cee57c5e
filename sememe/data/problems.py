"""What a check reports: problems with their place, rule and way out, and a summary, as text or JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

EXAMPLES = 5
"""Places that are shown of one problem."""


@dataclass(frozen=True)
class Example:
    """One place where a rule is broken."""

    row: int
    """Row of the table, or line of a text file (its header is line 1); both count from 1."""
    value: str


@dataclass(frozen=True)
class Problem:
    """One rule that is broken in one column of one file, however often."""

    file: str
    rule: str
    """Its short name, e.g. "negative time"."""
    message: str
    fix: str
    severity: Literal["error", "warning"] = "error"
    count: int = 1
    column: str | None = None
    """The column's own name in the file."""
    examples: tuple[Example, ...] = ()
    place: Literal["row", "line"] = "row"

    @property
    def row(self) -> int | None:
        """The first place, None where the problem is not of a row."""
        return self.examples[0].row if self.examples else None

    def render(self) -> str:
        """The problem in three or four lines."""
        where = self.file if self.row is None else f"{self.file}, {self.place} {self.row}"
        if self.column is not None:
            where += f", column {self.column}"
        lines = [f"{self.severity}: {where}: {self.rule} ({self.count:,})", f"    {self.message}"]
        if self.examples:
            shown = "; ".join(f"{self.place} {example.row}: {example.value}" for example in self.examples)
            lines.append(f"    {shown}{' ...' if self.count > len(self.examples) else ''}")
        return "\n".join([*lines, f"    what to do: {self.fix}"])


@dataclass(frozen=True)
class CheckReport:
    """All problems of a source, errors first, and what the source holds."""

    problems: tuple[Problem, ...]
    counts: Mapping[str, int] = field(default_factory=dict)
    """events, users, items, catalogue_items: as far as they could be counted."""
    description: str = ""
    """Files, columns, order rule and one example sequence, as text."""

    @property
    def ok(self) -> bool:
        """Whether no rule is broken that a run needs; there may be warnings."""
        return all(problem.severity != "error" for problem in self.problems)

    def render(self) -> str:
        """The report as text."""
        errors = sum(problem.severity == "error" for problem in self.problems)
        counts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in self.counts.items())
        verdict = "usable" if self.ok else "not usable yet"
        summary = f"{verdict}: {errors} kinds of error, {len(self.problems) - errors} kinds of warning"
        blocks = [self.description, counts, *[problem.render() for problem in self.problems], summary]
        return "\n".join(block for block in blocks if block) + "\n"

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {
            "ok": self.ok,
            "counts": dict(self.counts),
            "problems": [{**asdict(problem), "row": problem.row} for problem in self.problems],
        }
