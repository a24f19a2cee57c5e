"""The report of a run as one HTML file that needs nothing else: no script, no font, no picture from anywhere.

Numbers stand in <data value="..."> unrounded, and are printed rounded.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from sememe.pipeline.code_health import JudgedCodes
from sememe.pipeline.evaluate import SplitName
from sememe.pipeline.report_plots import calibrations, depths, report_pictures, tested_means
from sememe.pipeline.run_report import ExampleItem, RunReport
from sememe.pipeline.slices import WHAT_IS_COUNTED

STYLE = "report.css"
FIRST = ("recall", "ndcg")
"""Metrics that stand in the first table, at every list length."""
PICTURES = {
    "use": "How often each code of a level is used.",
    "groups": "How many items share all their codes.",
    "neighbours": "How many of the nearest items by vector share the first codes.",
    "cooccurrence": "How much more often items that share codes are used by the same users.",
}

Cell = str
"""HTML of one cell."""


def report_html(report: RunReport, judged: JudgedCodes | None, *, machine: Mapping[str, str]) -> str:
    """The whole file.

    Args:
        report: of the run.
        judged: its semantic IDs, for their pictures; None where it has none.
        machine: name -> value, of the machine that writes the report.

    Raises MissingExtraError without matplotlib.
    """
    metric = f"ndcg@{max(depths([name for name in report.metrics['rows'][0] if name.startswith('ndcg@')]))}"
    pictures = report_pictures(report, judged, metric=metric)
    about = report.about
    title = f"{about['recipe']} on {about['data']}"
    sections = (
        _section("summary", "Summary", _summary(report) + _figure(pictures["models"], f"{metric} of every model.")),
        _section("metrics", "Metrics", _metrics(report)),
        _section("comparisons", "Paired comparisons", _comparisons(report, metric=metric)),
        _section("slices", "Slices of the users", _slices(report)),
        _section("calibration", "Calibration", _calibration(report, pictures)),
        _section("codes", "Semantic IDs", _codes(report, pictures)),
        _section("training", "Learning curves", _training(report, pictures)),
        _section("examples", "Example lists", _examples(report)),
        _section("protocol", "Protocol", _protocol(report)),
        _section("machine", "Machine and stages", _machine(report, machine)),
        _section("settings", "Settings", f"<pre>{escape(chr(10).join(report.settings))}</pre>"),
    )
    style = files("sememe.pipeline").joinpath(STYLE).read_text(encoding="utf-8")
    head = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)} - Sememe report</title>\n<style>\n{style}</style>\n</head>\n"
    )
    links = "".join(f'<a href="#{name}">{escape(text)}</a>' for name, text, _ in sections)
    body = "".join(
        f'<section id="{name}"><h2>{escape(text)}</h2>\n{content}</section>\n' for name, text, content in sections
    )
    top = f"<header><h1>{escape(title)}</h1>\n{_about(about)}<nav>{links}</nav></header>\n"
    return f"{head}<body>\n{top}{body}</body>\n</html>\n"


def _section(name: str, title: str, content: str) -> tuple[str, str, str]:
    return name, title, content


def _about(about: Mapping[str, Any]) -> str:
    facts = (
        f"{about['users']:,} users, {about['items']:,} items, {about['events']:,} events",
        f"finished {about['created'].replace('T', ' ').removesuffix('+00:00')} UTC",
        f"recipe {about['asked'] or about['recipe']}, hash {about['recipe_hash'][:12]}",
        f"seeds {', '.join(map(str, about['seeds']))}",
    )
    return f"<p>{'; '.join(map(escape, facts))}</p>\n"


def _summary(report: RunReport) -> str:
    lines = "".join(f"<li>{escape(line)}</li>" for line in report.to_json()["comparison_lines"])
    told = "" if lines else "<p>The run has one model, so there is nothing to compare it with.</p>"
    return f"<p>{escape(report.to_json()['protocol_line'])}</p>\n{told}<ul>{lines}</ul>\n"


def _metrics(report: RunReport) -> str:
    tables = []
    for mask_seen in (True, False):
        rows = [row for row in report.metrics["rows"] if row["split"] == "test" and row["mask_seen"] is mask_seen]
        if rows:
            tables.append(_metric_table(report, rows, mask_seen=mask_seen))
    every = [_all_metrics(report, split=split) for split in ("test", "valid")]
    return "".join(tables) + "<h3>Every number</h3>\n" + "".join(every)


def _treatment(*, mask_seen: bool) -> str:
    return "seen items left out" if mask_seen else "seen items left in"


def _metric_table(report: RunReport, rows: Sequence[Mapping[str, Any]], *, mask_seen: bool) -> str:
    ks = depths([name for name in rows[0] if name.startswith("recall@")])
    names = [f"{metric}@{k}" for metric in FIRST for k in ks]
    names += [name for name in rows[0] if name.startswith(("coverage@", "popularity@", "entropy@"))]
    lines = [[escape(str(row["model"])), str(row["seed"]), *(_metric(row, name) for name in names)] for row in rows]
    means = [row for row in tested_means(report, mask_seen=mask_seen) if row.get("seeds", 1) > 1]
    lines += [[escape(row["model"]), "mean", *(_metric(row, name) for name in names)] for row in means]
    caption = (
        f"Test part, {rows[0]['users']:,} users, full catalogue, {_treatment(mask_seen=mask_seen)}; 95 % intervals"
    )
    return _table(caption, ["model", "seed", *names], lines)


def _all_metrics(report: RunReport, *, split: SplitName) -> str:
    rows = [row for row in report.metrics["rows"] if row["split"] == split]
    if not rows:
        return ""
    labels = ("model", "seed", "split", "mask_seen")
    names = [name for name in rows[0] if name not in labels and not name.endswith(("_low", "_high"))]
    lines = [
        [
            escape(str(row["model"])),
            str(row["seed"]),
            "out" if row["mask_seen"] else "in",
            *(_plain(row, name) for name in names),
        ]
        for row in rows
    ]
    return _table(f"{split} part, without intervals", ["model", "seed", "seen", *names], lines)


def _comparisons(report: RunReport, *, metric: str) -> str:
    lines = []
    for entry in report.metrics["comparisons"]:
        if entry["metric"] == metric:
            clear = not entry["low"] <= 0 <= entry["high"]
            verdict = ("better" if entry["difference"] > 0 else "worse") if clear else "no clear difference"
            lines.append(
                [
                    escape(entry["model"]),
                    escape(entry["against"]),
                    "out" if entry["mask_seen"] else "in",
                    f"{_number(entry['difference'], sign=True)} "
                    f"<small>[{_number(entry['low'], sign=True)}, {_number(entry['high'], sign=True)}]</small>",
                    _number(entry["p_value"]),
                    f'<span class="{verdict.split()[0]}">{verdict}</span>',
                ]
            )
    if not lines:
        return "<p>The run has one model.</p>\n"
    caption = f"{metric}, test part, paired by user; other metrics stand in metrics.json"
    return _table(caption, ["model", "against", "seen", "difference", "p-value", ""], lines)


def _slices(report: RunReport) -> str:
    rows = [row for row in report.metrics.get("slices", []) if row["split"] == "test" and row["mask_seen"]]
    tables = []
    for by in dict.fromkeys(row["by"] for row in rows):
        chosen = [row for row in rows if row["by"] == by]
        k = max(depths([name for name in chosen[0] if name.startswith("recall@")]))
        names = [f"{metric}@{k}" for metric in FIRST]
        lines = [
            [
                escape(row["slice"]),
                escape(row["model"]),
                str(row["seed"]),
                f"{row['users']:,}",
                *(_metric(row, name) for name in names),
            ]
            for row in sorted(
                chosen, key=lambda row: list(dict.fromkeys(one["slice"] for one in chosen)).index(row["slice"])
            )
        ]
        caption = f"By {WHAT_IS_COUNTED[by]}; test part, seen items left out"
        tables.append(_table(caption, ["events", "model", "seed", "users", *names], lines))
    return "".join(tables) or "<p>The run has no slices.</p>\n"


def _calibration(report: RunReport, pictures: Mapping[str, str]) -> str:
    lines = calibrations(report)
    if not lines:
        return "<p>No row of the run lists items with probabilities, or it was judged before they were kept.</p>\n"
    told = (
        "<p>How often an item of a list came next, beside the probability that the generator gave it; test part, seen "
        "items left in. The error is the mean distance of the two, over bins with equally many listed items; in 19 of "
        "20 draws by the probabilities themselves it stays below the number beside it.</p>\n"
    )
    rows = [
        [
            escape(str(line["model"])),
            *(_number(line[name]) for name in ("seed", "users", "pairs")),
            *(_probability(line[name]) for name in ("predicted", "observed", "error", "error_by_chance")),
        ]
        for line in lines
    ]
    head = ["model", "seed", "users", "listed items", "predicted", "came true", "error", "by chance"]
    drawn = [
        _figure(pictures[f"calibration-{place}"], f"{line['model']}, seed {line['seed']}, with 95 % intervals.")
        + _bins(line)
        for place, line in enumerate(lines)
    ]
    return f"{told}{_table('Probabilities of all listed items', head, rows)}{''.join(drawn)}"


def _bins(line: Mapping[str, Any]) -> str:
    rows = [
        [
            f"{_probability(one['least'])} to {_probability(one['most'])}",
            _number(one["pairs"]),
            _probability(one["predicted"]),
            f"{_probability(one['observed'])} <small>[{_probability(one['low'])}, {_probability(one['high'])}]</small>",
        ]
        for one in line["bins"]
    ]
    caption = f"Bins of {line['model']}, seed {line['seed']}"
    return _table(caption, ["probability", "listed items", "predicted", "came true"], rows)


def _codes(report: RunReport, pictures: Mapping[str, str]) -> str:
    codes = report.codes
    if codes is None:
        return "<p>The model has no semantic IDs.</p>\n"
    words = (
        f"<p>{_number(codes['distinct_tuples'])} different tuples for {_number(codes['items'])} items "
        f"({_number(codes['unique_share'], percent=True)}); {_number(codes['colliding_items'])} items share theirs, "
        f"at most {_number(codes['largest_group'])} the same one.</p>\n"
    )
    lines = [
        [str(level), *(_number(use[name]) for name in ("size", "used", "perplexity", "entropy", "distinct_prefixes"))]
        for level, use in enumerate(codes["levels"], start=1)
    ]
    table = _table("Use of the codes", ["level", "codes", "used", "perplexity", "entropy (bits)", "prefixes"], lines)
    warnings = "".join(f'<li class="worse">{escape(text)}</li>' for text in codes["warnings"])
    notes = "".join(f"<li>{escape(text)}</li>" for text in codes.get("notes", ()))
    drawn = "".join(_figure(pictures[name], text) for name, text in PICTURES.items() if name in pictures)
    return f'{words}{table}<ul>{warnings}{notes}</ul>\n<div class="figures">{drawn}</div>\n'


def _training(report: RunReport, pictures: Mapping[str, str]) -> str:
    if not report.curves:
        return "<p>Nothing was trained by steps: the models count.</p>\n"
    drawn = [
        _figure(pictures[f"curve-{place}"], f"{curve.model}, seed {curve.seed}: best step {curve.best_step:,}.")
        for place, curve in enumerate(report.curves)
    ]
    return f'<div class="figures">{"".join(drawn)}</div>\n'


def _examples(report: RunReport) -> str:
    if not report.examples:
        return "<p>The test part has no rows.</p>\n"
    told = "<p>Users of the test part, drawn by a fixed seed; what came next is marked where it was listed.</p>\n"
    found = []
    for one in report.examples:
        found.append(
            f"<article><h3>User {escape(one.user_id)}</h3>\n"
            f"<h4>The latest of {one.known:,} events</h4>\n{_list(one.history, ordered=False)}"
            f"<h4>Came next</h4>\n{_list(one.wanted, ordered=False)}"
            f"<h4>Recommended</h4>\n{_list(one.listed, ordered=True)}</article>\n"
        )
    return f'{told}<div class="examples">{"".join(found)}</div>\n'


def _list(items: Sequence[ExampleItem], *, ordered: bool) -> str:
    tag = "ol" if ordered else "ul"
    lines = [
        f"<li><mark>{escape(item.title)}</mark></li>" if ordered and item.wanted else f"<li>{escape(item.title)}</li>"
        for item in items
    ]
    return f"<{tag}>{''.join(lines)}</{tag}>\n"


def _protocol(report: RunReport) -> str:
    protocol = report.metrics["protocol"]
    pairs = [
        (name, ", ".join(f"{key}: {one}" for key, one in value.items()) if isinstance(value, Mapping) else str(value))
        for name, value in protocol.items()
        if name not in ("counts", "notes", "decode") and value
    ]
    counts = [(name.replace("_", " "), f"{value:,}") for name, value in protocol["counts"].items()]
    notes = "".join(f"<li>{escape(note)}</li>" for note in protocol.get("notes", ()))
    lists = _facts("How each row's lists come about", protocol["decode"].items())
    return _facts("Rules", pairs) + _facts("Counts", counts) + lists + f"<ul>{notes}</ul>\n"


def _machine(report: RunReport, machine: Mapping[str, str]) -> str:
    lines = [[escape(stage.name), escape(stage.created), _number(stage.seconds)] for stage in report.stages]
    return (
        _facts("The machine that wrote this report", machine.items())
        + _facts("Packages of the run", report.about["packages"].items())
        + _table("Stages", ["stage", "made", "seconds"], lines)
    )


def _facts(caption: str, pairs: Iterable[tuple[str, str]]) -> str:
    lines = [[escape(str(name)), escape(str(value))] for name, value in pairs]
    return _table(caption, ["", ""], lines)


def _table(caption: str, head: Sequence[str], lines: Sequence[Sequence[Cell]]) -> str:
    """A table that scrolls by itself where the page is narrow."""
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    first = f"<thead><tr>{top}</tr></thead>" if any(head) else ""
    rows = "".join(
        f'<tr><th scope="row">{line[0]}</th>{"".join(f"<td>{cell}</td>" for cell in line[1:])}</tr>\n' for line in lines
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption>{first}<tbody>\n{rows}</tbody></table></div>\n"
    )


def _figure(picture: str, caption: str) -> str:
    return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>\n"


def _metric(row: Mapping[str, Any], name: str) -> Cell:
    """A metric and its interval, where it has one."""
    if f"{name}_low" not in row:
        return _plain(row, name)
    return f"{_number(row[name])} <small>[{_number(row[f'{name}_low'])}, {_number(row[f'{name}_high'])}]</small>"


def _plain(row: Mapping[str, Any], name: str) -> Cell:
    return _number(row[name]) if name in row else "-"


def _probability(value: float) -> Cell:
    """In percent, small ones with as many digits as they need."""
    return f'<data value="{value!r}">{100 * value:.3g} %</data>'


def _number(value: float, *, sign: bool = False, percent: bool = False) -> Cell:
    """A number as metrics.json has it, printed short."""
    if percent:
        shown = f"{100 * value:.1f} %"
    elif isinstance(value, int):
        shown = f"{int(value):,}"
    elif abs(value) < 1:
        shown = f"{value:+.4f}" if sign else f"{value:.4f}"
    else:
        shown = f"{value:,.2f}"
    return f'<data value="{value!r}">{shown}</data>'
