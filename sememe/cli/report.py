"""The verb `report`: a run as one HTML file."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from sememe.core.artifact import write_file
from sememe.pipeline.code_health import JudgedCodes, judge_run_codes
from sememe.pipeline.opened import Run, open_run
from sememe.pipeline.report_html import report_html
from sememe.pipeline.run_report import gather_report
from sememe.train.device import describe_machine

REPORT = "report.html"


def write_report(console: Console, path: Path, *, out: Path | None, modules: Sequence[str]) -> Path:
    """Write the report of the run directory `path`, to RUN/report.html where `out` is None, and say where it is.

    Raises:
        ArtifactError: no finished run, or a stage is damaged.
        MissingExtraError: matplotlib is not installed.
    """

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    run = open_run(path, modules=modules)
    judged = _judged(run, path, modules=modules)
    # After the codes were judged, so that what was written of them is read.
    page = report_html(gather_report(run), judged, machine=describe_machine().rows())
    target = out or path / REPORT
    target.parent.mkdir(parents=True, exist_ok=True)
    write_file(target, page)
    say(f"written: {target} ({len(page.encode()) / 1024:,.0f} kB, opens in any browser)")
    return target


def _judged(run: Run, path: Path, *, modules: Sequence[str]) -> JudgedCodes | None:
    """The health of the run's semantic IDs; a second fit only where an earlier `sememe codes` kept one."""
    if run.items.codes is None:
        return None
    refitted = any((path / "codes" / "refits").glob("refit-*"))
    return judge_run_codes(path, modules=modules, refit=refitted, say=lambda _: None)
