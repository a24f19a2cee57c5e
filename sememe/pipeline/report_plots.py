"""Pictures of a report as SVG that takes its colours from the page around it: light, dark and on paper alike."""

import importlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from sememe.core.errors import MissingExtraError
from sememe.pipeline.code_health import JudgedCodes
from sememe.pipeline.code_plots import BEST_COLOR, CHANCE_COLOR, CODES_COLOR, SIZE, code_drawings
from sememe.pipeline.run_report import Curve, RunReport

THEMED = {
    CODES_COLOR: "var(--series)",
    BEST_COLOR: "var(--series-light)",
    CHANCE_COLOR: "var(--muted)",
    "#555555": "var(--muted)",
    "#b4472e": "var(--second)",
    "#000000": "currentColor",
    "#cccccc": "var(--line)",
    "#ffffff": "var(--paper)",
}
"""Colour of a drawing -> that of the page."""
SECOND_COLOR = "#b4472e"


def report_pictures(report: RunReport, judged: JudgedCodes | None, *, metric: str) -> dict[str, str]:
    """Name -> inline SVG: "models", "curve-0", "calibration-0" and so on, and those of the codes as `code_drawings`
    names them.

    Args:
        report: of the run.
        judged: its semantic IDs; None where it has none.
        metric: which one compares the models, such as ndcg@10.

    Raises MissingExtraError without matplotlib.
    """
    pictures = {"models": _svg("models", lambda axis: _draw_models(axis, report, metric=metric), height=None)}
    for place, curve in enumerate(report.curves):
        name = f"curve-{place}"
        pictures[name] = _svg(name, partial(_draw_curve, curve=curve))
    for place, line in enumerate(calibrations(report)):
        name = f"calibration-{place}"
        pictures[name] = _svg(name, partial(_draw_calibration, bins=line["bins"]))
    if judged is not None:
        for file, draw in code_drawings(judged.codes, judged.health).items():
            pictures[file.removesuffix(".png")] = _svg(file.removesuffix(".png"), draw)
    return pictures


def tested_means(report: RunReport, *, mask_seen: bool) -> list[dict[str, Any]]:
    """The rows of the test part, one per model: the mean over seeds where the run has it."""
    rows = report.metrics.get("means") or report.metrics["rows"]
    return [row for row in rows if row["split"] == "test" and row["mask_seen"] is mask_seen]


def _draw_models(axis: Any, report: RunReport, *, metric: str) -> None:
    """A point and its interval per model, the best at the top."""
    rows = sorted(tested_means(report, mask_seen=True), key=lambda row: float(row[metric]))
    for place, row in enumerate(rows):
        own = row["model"] == report.about["recipe"]
        value, low, high = (100 * float(row[name]) for name in (metric, f"{metric}_low", f"{metric}_high"))
        axis.errorbar(
            value,
            place,
            xerr=[[value - low], [high - value]],
            color=CODES_COLOR if own else "#555555",
            marker="o",
            markersize=5,
            capsize=3,
        )
    axis.set(
        yticks=range(len(rows)),
        yticklabels=[row["model"] for row in rows],
        ylim=(-0.6, len(rows) - 0.4),
        xlabel=f"{metric} in %, test part, seen items left out, 95 % intervals",
    )
    axis.set_xlim(left=0)


def _draw_curve(axis: Any, *, curve: Curve) -> None:
    """Training loss and, on an axis of its own, the validation number; the best step is marked."""
    if curve.train:
        axis.plot(*zip(*curve.train, strict=True), color=CODES_COLOR, linewidth=1.2)
    axis.set(xlabel="step", title=f"{curve.model}, seed {curve.seed}")
    axis.set_ylabel("training loss", color=CODES_COLOR)
    if curve.validation:
        other = axis.twinx()
        other.plot(*zip(*curve.validation, strict=True), color=SECOND_COLOR, marker="o", markersize=3, linewidth=1.2)
        other.set_ylabel(f"validation {curve.monitor}", color=SECOND_COLOR)
        other.spines[["top"]].set_visible(False)
        axis.axvline(curve.best_step, color=CHANCE_COLOR, linestyle="--", linewidth=1)


def calibrations(report: RunReport) -> list[dict[str, Any]]:
    """One line per model and seed whose lists tell probabilities; runs that were judged by older versions have none."""
    found: list[dict[str, Any]] = list(report.metrics.get("calibration", ()))
    return found


def _draw_calibration(axis: Any, *, bins: Sequence[Mapping[str, float]]) -> None:
    """The share that came true over the probability that was told, both by their logarithms: most of them are small."""
    highest = max(max(one["high"], one["most"]) for one in bins)
    # Where nothing came true there is no logarithm; such a point lies on the lower edge, its interval above it.
    ends = [one[name] for one in bins for name in ("predicted", "observed", "low", "high")]
    least = min(value for value in ends if value > 0) / 1.2
    told, seen, low, high = (
        [100 * max(one[name], least) for one in bins] for name in ("predicted", "observed", "low", "high")
    )
    reach = [[value - end for value, end in zip(seen, low, strict=True)]]
    reach += [[end - value for value, end in zip(seen, high, strict=True)]]
    axis.plot(
        [100 * least, 100 * highest], [100 * least, 100 * highest], color=CHANCE_COLOR, linestyle="--", linewidth=1
    )
    axis.errorbar(told, seen, yerr=reach, color=CODES_COLOR, marker="o", markersize=4, capsize=3, linewidth=1)
    axis.set(xscale="log", yscale="log", xlabel="probability that was told, %", ylabel="share that came true, %")
    ticker = _matplotlib("matplotlib.ticker")
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        side.set_major_formatter(ticker.FormatStrFormatter("%g"))
        side.set_minor_locator(ticker.NullLocator())


def _svg(name: str, draw: Callable[[Any], None], *, height: float | None = SIZE[1]) -> str:
    matplotlib, figures = _matplotlib("matplotlib"), _matplotlib("matplotlib.figure")
    # Text stays text; ids of one picture must not be those of another on the same page.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9}):
        figure = figures.Figure(figsize=SIZE, layout="constrained")
        axis = figure.subplots()
        draw(axis)
        axis.spines[["top", "right"]].set_visible(False)
        if height is None:
            figure.set_figheight(max(1.6, 0.9 + 0.3 * len(axis.get_yticks())))
        written = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(written, format="svg", transparent=True, metadata=nothing)
    return _inline(written.getvalue(), name=name)


def _inline(text: str, *, name: str) -> str:
    """An SVG file as an element of an HTML page: no declarations, ids of its own, the page's colours."""
    body = text[text.index("<svg") :]
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r' font-family: [^;"]*;', "", body)
    # The page says how wide it is, and names it.
    body = re.sub(r'<svg\b[^>]*(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', body)
    for before, after in (
        ("xlink:href", "href"),
        (' id="', f' id="{name}-'),
        ('"#', f'"#{name}-'),
        ("url(#", f"url(#{name}-"),
    ):
        body = body.replace(before, after)
    for color, themed in THEMED.items():
        body = body.replace(color, themed)
    return body.strip()


def _matplotlib(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtraError("matplotlib", extra="report", purpose="writing a report") from error


def depths(names: Sequence[str]) -> list[int]:
    """List lengths of metrics: ["recall@5", "ndcg@10"] gives [5, 10]."""
    return sorted({int(name.rpartition("@")[2]) for name in names if name.rpartition("@")[2].isdigit()})
