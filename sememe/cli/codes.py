"""The verb `codes`: the health report of a run's semantic IDs as tables."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sememe.core.errors import MissingExtraError
from sememe.pipeline.code_health import HEALTH, JudgedCodes, judge_run_codes
from sememe.pipeline.code_plots import plot_codes
from sememe.sid.health import Absent, CodesHealth

NOTHING = "-"


def report_codes(
    console: Console, path: Path, *, model: str | None, modules: Sequence[str], refit: bool, as_json: bool
) -> None:
    """Measure the codes of the run `path`, write report and pictures, and print it.

    as_json: print the written JSON, and nothing else.
    """

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    quiet: Callable[[str], None] = lambda _: None  # noqa: E731 - the name says what it is for
    judged = judge_run_codes(path, model=model, modules=modules, refit=refit, say=quiet if as_json else say)
    written = [judged.folder / HEALTH]
    missing = None
    try:
        title = f"{judged.name}, seed {judged.seed}: {judged.tokenizer}, {judged.codes.num_items:,} items"
        written += plot_codes(judged.codes, judged.health, judged.folder, title=title)
    except MissingExtraError as error:
        missing = error
    if as_json:
        print(written[0].read_text(encoding="utf-8"))
        return
    for line in headline(judged):
        say(line)
    for table in codes_tables(judged.health):
        console.print(table)
    for line in remarks(judged.health):
        say(line)
    say(f"written: {', '.join(str(file) for file in written)}")
    if missing is not None:
        say(f"no pictures: {missing}")


def headline(judged: JudgedCodes) -> Iterator[str]:
    """What the codes are, and what stands before any level: how many items have codes of their own."""
    summary = judged.health.summary
    yield (
        f"semantic IDs of {judged.name}, seed {judged.seed}: {judged.tokenizer}, {summary.items:,} items "
        f"({summary.distinct_contents:,} distinct vectors, {summary.items_without_content:,} without content)"
    )
    yield (
        f"  {summary.distinct_tuples:,} different tuples ({summary.unique_share:.1%} of items); "
        f"{summary.colliding_items:,} items ({summary.colliding_items / summary.items:.1%}) share theirs, at most "
        f"{summary.largest_group:,} the same one"
    )


def codes_tables(health: CodesHealth) -> list[Table]:
    """Two tables: how each level uses its codes, and what items have in common that share a prefix."""
    return [_level_table(health), _prefix_table(health)]


def _level_table(health: CodesHealth) -> Table:
    table = Table(title="use of the codes", title_justify="left")
    for name in ("level", "codes", "used", "share", "perplexity", "share", "entropy (bits)", "prefixes"):
        table.add_column(name, justify="right")
    for level, use in enumerate(health.to_json()["levels"], start=1):
        table.add_row(
            str(level),
            f"{use['size']:,}",
            f"{use['used']:,}",
            f"{use['used_share']:.1%}",
            f"{use['perplexity']:.1f}",
            f"{use['perplexity_share']:.1%}",
            f"{use['entropy']:.2f}",
            f"{use['distinct_prefixes']:,}",
        )
    return table


def _prefix_table(health: CodesHealth) -> Table:
    table = Table(
        title="items whose first codes are equal (in brackets: by chance)",
        title_justify="left",
        caption="lost: of the variance; neighbours: share of the nearest; category: items of their group's largest; "
        "together: times as often as without a shared code (from popularity alone); refit: pairs kept by another seed",
        caption_justify="left",
    )
    columns = _prefix_columns(health)
    table.add_column("codes", justify="right")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for depth in range(1, len(health.summary.levels) + 1):
        table.add_row(str(depth), *(cells.get(depth, NOTHING) for cells in columns.values()))
    return table


def _prefix_columns(health: CodesHealth) -> dict[str, dict[int, str]]:
    """Heading -> prefix length -> cell, for each measure that is there."""
    columns: dict[str, dict[int, str]] = {}
    if health.reconstruction:
        columns["lost"] = {row.depth: _share(row.error) for row in health.reconstruction}
    if not isinstance(health.neighbours, Absent):
        columns["neighbours"] = {row.depth: _beside(row.share, row.by_chance) for row in health.neighbours.rows}
    if not isinstance(health.categories, Absent):
        columns["category"] = {row.depth: _beside(row.purity, row.by_chance) for row in health.categories.rows}
    if not isinstance(health.cooccurrence, Absent):
        rows = health.cooccurrence.rows
        columns["together"] = {row.depth: _beside(row.lift, row.by_popularity, show=_times) for row in rows}
    if not isinstance(health.stability, Absent):
        columns["refit"] = {row.depth: _beside(row.kept, row.by_chance) for row in health.stability.rows}
    return columns


def remarks(health: CodesHealth) -> Iterator[str]:
    """What stands beside the tables: whole-catalogue numbers, what is absent and why, samples and warnings."""
    for name, measure in (
        ("neighbours", health.neighbours),
        ("category", health.categories),
        ("together", health.cooccurrence),
        ("refit", health.stability),
    ):
        if isinstance(measure, Absent):
            yield f"{name} is not measured: {measure.absent}"
    if not isinstance(health.categories, Absent):
        found = health.categories
        yield (
            f"{found.items:,} items have one of {found.different:,} categories; the largest holds {_share(found.whole)}"
        )
    if not isinstance(health.stability, Absent):
        rows = health.stability.rows
        yield (
            f"a fit with seed {health.stability.seed} agrees on the first code with an adjusted Rand index of "
            f"{rows[0].agreement:.2f}" + ": the seed changes nothing" * all(row.agreement == 1 for row in rows)
        )
    yield from (f"note: {note}" for note in health.notes)
    yield from (f"warning: {warning}" for warning in health.summary.warnings)


def _beside(value: float | None, chance: float | None, *, show: Any = None) -> str:
    show = show or _share
    return NOTHING if value is None else f"{show(value)} ({NOTHING if chance is None else show(chance)})"


def _share(value: float) -> str:
    """Two digits that say something: 62%, 0.34%; tiny ones are called so."""
    if 0 < value < 1e-4:
        return "<0.01%"
    return f"{100 * value:.2g}%" if value < 0.1 else f"{100 * value:.0f}%"


def _times(value: float) -> str:
    return f"{value:.1f}x" if value < 100 else f"{value:.0f}x"
