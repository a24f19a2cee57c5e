"""`sememe check`: are these files usable?  Every problem is listed, not the first one only.

Files are read as streams, several times: lines first, then rows, then what needs the whole (repeats, single events,
items without metadata).  Memory holds the distinct users and items, not the log.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import polars.exceptions as pl_errors

from sememe.core.errors import DataError
from sememe.data.describe import describe_tables
from sememe.data.file_formats import PLACE, RawTable
from sememe.data.item_checks import check_items
from sememe.data.lenient_scan import LenientScanner
from sememe.data.locate import Located, locate
from sememe.data.problems import CheckReport, Example, Problem
from sememe.data.readers import Fault, Tables, settle_columns
from sememe.data.repeats import repeated_events
from sememe.data.row_checks import Reporter, broken_rules, event_rules, lonely_users, odd_ids


def check_tables(source: Any, *, columns: Mapping[str, str] | None = None) -> CheckReport:
    """Check `source`, which is anything that `open_tables` takes, with the same `columns`."""
    scanner = LenientScanner()
    try:
        located = locate(source, scan=scanner.scan)
    except DataError as error:
        named = str(source) if isinstance(source, str | Path) else "source"
        return _report([*scanner.problems, _unusable(error, file=named)], {})
    located = _with_places(located)
    if not _names(located.events):
        return _report(scanner.problems, {})
    if located.items is not None and not _names(located.items):
        located = Located(located.events, None, located.settings, located.notes)
    try:
        settled = settle_columns(located, columns=columns)
    except DataError as error:
        return _report([*scanner.problems, _unusable(error, file=located.events.name)], {})
    problems = [*scanner.problems, *map(_fault_problem, settled.faults)]
    problems += _mixed_json(scanner, settled.tables)
    try:
        found, counts = _check_rows(settled.tables, Reporter(settled.tables, scanner.files))
        description = describe_tables(settled.tables)
    except pl_errors.PolarsError as error:
        found, counts, description = [_unreadable(error, file=located.events.name)], {}, ""
    return _report([*problems, *found], counts, description=description)


def _check_rows(tables: Tables, reporter: Reporter) -> tuple[list[Problem], dict[str, int]]:
    names = tables.raw_events.collect_schema().names()
    total = int(tables.raw_events.select(pl.len()).collect(engine="streaming").item())
    counts = {"events": total}
    if total == 0:
        return [reporter.no_rows()], counts
    problems = [*reporter.no_order(), *broken_rules(event_rules(tables), reporter)]
    if "user_id" in names:
        single = lonely_users(tables, reporter)
        problems += single.problems
        counts["users"] = single.users
    problems += odd_ids(tables, reporter)
    if {"user_id", "item_id"} <= set(names):
        problems += repeated_events(tables, reporter)
    if "item_id" in names:
        items = check_items(tables, reporter)
        problems += items.problems
        counts |= items.counts
    return problems, counts


def _with_places(located: Located) -> Located:
    """Give the rows of tables in memory their places; files have them from the scanner."""

    def placed(table: RawTable | None) -> RawTable | None:
        if table is None or table.files:
            return table
        frame = table.frame.with_row_index(PLACE, offset=1).with_columns(pl.col(PLACE).cast(pl.Int64))
        return RawTable(frame, name=table.name, format=table.format, typed=table.typed)

    events = placed(located.events)
    assert events is not None, "there is an events table"
    return Located(events, placed(located.items), located.settings, located.notes)


def _names(table: RawTable) -> list[str]:
    return [name for name in table.frame.collect_schema().names() if name != PLACE]


def _unusable(error: DataError, *, file: str) -> Problem:
    return Problem(file, "unusable source", error.problem, error.fix)


def _fault_problem(fault: Fault) -> Problem:
    return Problem(fault.file, fault.rule, fault.error.problem, fault.error.fix, column=fault.column)


def _unreadable(error: Exception, *, file: str) -> Problem:
    first = str(error).strip().splitlines()[0]
    return Problem(file, "unreadable file", f"reading stopped: {first}", "repair the file, or export it again")


def _mixed_json(scanner: LenientScanner, tables: Tables) -> list[Problem]:
    """JSON values of one column that have several types: 12 and "12" may be meant as one id or as two."""
    problems = []
    own_names = [*tables.mapping.values(), *tables.item_mapping.values()]
    for file, types in scanner.json_types.items():
        for own in dict.fromkeys(own_names):
            if len(types.get(own, {})) > 1:
                problems.append(_mixed_problem(file, own, types[own]))
    return problems


def _mixed_problem(file: str, column: str, types: Mapping[str, list[int]]) -> Problem:
    rare = min(types, key=lambda name: types[name][0])
    listed = ", ".join(f"{name} in {count:,} lines (first in line {line})" for name, (count, line) in types.items())
    return Problem(
        file,
        "mixed types",
        f"the values are of several types: {listed}",
        "write all values of the column as one type",
        count=types[rare][0],
        column=column,
        examples=(Example(types[rare][1], rare),),
        place="line",
    )


def _report(problems: list[Problem], counts: Mapping[str, int], *, description: str = "") -> CheckReport:
    ordered = sorted(problems, key=lambda problem: problem.severity != "error")
    return CheckReport(tuple(ordered), counts=counts, description=description)
