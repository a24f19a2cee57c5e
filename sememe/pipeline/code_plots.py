"""Pictures of a health report: how codes are used, who collides, and what a shared prefix tells."""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sememe.core.errors import MissingExtraError
from sememe.core.schema import Codes
from sememe.metrics.sid_quality import PrefixCooccurrence
from sememe.sid.health import Absent, CodesHealth, Neighbours

CODES_COLOR, CHANCE_COLOR, BEST_COLOR = "#1f5f99", "#999999", "#8fb8de"
SIZE = (5.6, 3.6)
"""Inches, all pictures."""
MOST_LABELS = 6
"""Levels with an entry in the legend, prefix lengths with numbers at their points."""
LEAST_SLOTS = 4
"""Room for so many bars, so that a single one does not fill the picture."""


def plot_codes(codes: Codes, health: CodesHealth, folder: Path, *, title: str) -> list[Path]:
    """Draw the report into PNG files and give their paths; a measure that is absent has no picture.

    Raises MissingExtraError without matplotlib.
    """
    # No window, whatever the machine has: the pictures are files.
    _matplotlib("matplotlib").use("Agg")
    pyplot = _matplotlib("matplotlib.pyplot")
    written = []
    for name, draw in code_drawings(codes, health).items():
        figure, axis = pyplot.subplots(figsize=SIZE, layout="constrained")
        draw(axis)
        axis.spines[["top", "right"]].set_visible(False)
        figure.suptitle(title, fontsize=9, color="#555555")
        figure.savefig(folder / name, dpi=144)
        pyplot.close(figure)
        written.append(folder / name)
    return written


def code_drawings(codes: Codes, health: CodesHealth) -> dict[str, Callable[[Any], None]]:
    """File name -> what to draw on an axis of matplotlib; a measure that is absent has no picture."""
    drawings: dict[str, Callable[[Any], None]] = {
        "use.png": lambda axis: _draw_use(axis, codes),
        "groups.png": lambda axis: _draw_groups(axis, health),
    }
    if not isinstance(health.neighbours, Absent):
        near = health.neighbours
        drawings["neighbours.png"] = lambda axis: _draw_neighbours(axis, near)
    if not isinstance(health.cooccurrence, Absent):
        rows = [row for row in health.cooccurrence.rows[1:] if row.lift is not None]
        if rows:
            drawings["cooccurrence.png"] = lambda axis: _draw_cooccurrence(axis, rows)
    return drawings


def _matplotlib(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtraError("matplotlib", extra="report", purpose="drawing semantic IDs") from error


def _draw_use(axis: Any, codes: Codes) -> None:
    """Items of each code, the codes of a level by rank; a flat line uses all codes alike, a short one leaves many."""
    depth = codes.num_semantic_levels
    sizes = codes.codebook_sizes[:depth]
    named = set(np.linspace(0, depth - 1, min(depth, MOST_LABELS)).round().astype(int).tolist())
    # From dark to light: coarse to fine.
    for level, shade in enumerate(np.linspace(1, 0.35, depth)):
        counts = np.sort(np.bincount(codes.matrix[:, level], minlength=sizes[level]))[::-1]
        used = counts[counts > 0]
        axis.plot(
            np.arange(1, len(used) + 1),
            used,
            color=CODES_COLOR,
            alpha=shade,
            marker="." if len(used) < 40 else None,
            label=f"level {level + 1}: {len(used):,} of {sizes[level]:,}" if level in named else None,
        )
    if len(set(sizes)) == 1:
        axis.axhline(
            codes.num_items / sizes[0], color=CHANCE_COLOR, linestyle="--", linewidth=1, label="even use", zorder=0
        )
    axis.set(
        xlim=(0, max(sizes) + 1),
        xlabel="codes of a level, the most frequent first",
        ylabel="items that have the code",
        title="are all codes used?",
    )
    _plain_log_scale(axis, "{x:,.4g}")
    axis.legend(frameon=False, fontsize=8)


def _draw_groups(axis: Any, health: CodesHealth) -> None:
    """Share of the items by how many items have the same codes."""
    sizes, groups = (np.array(column) for column in zip(*health.group_sizes, strict=True))
    bins = np.ceil(np.log2(sizes)).astype(int)
    shares = 100 * np.bincount(bins, weights=sizes * groups) / health.summary.items
    names = [_bin_name(place) for place in range(len(shares))]
    bars = axis.bar(names, shares, color=[CODES_COLOR, *[BEST_COLOR] * (len(shares) - 1)])
    axis.bar_label(bars, labels=[_percent(share / 100) for share in shares], fontsize=8, padding=2)
    axis.set(
        xlim=(-0.7, max(len(names), LEAST_SLOTS) - 0.3),
        ylim=(0, 1.12 * shares.max()),
        xlabel="items with the same codes, the item itself included",
        ylabel="% of the items",
        title="do items have codes of their own?",
    )
    crowded = len(names) > LEAST_SLOTS + 2
    axis.tick_params(axis="x", labelsize=8, rotation=40 if crowded else 0)


def _bin_name(place: int) -> str:
    """0: "1", 1: "2", 2: "3-4", 3: "5-8"."""
    low, high = 2 ** (place - 1) + 1, 2**place
    return str(high) if place < 2 else f"{low:,}-{high:,}"


def _draw_neighbours(axis: Any, near: Neighbours) -> None:
    """How many of the true neighbours share a prefix, beside chance and the most that the groups have room for."""
    depths = [row.depth for row in near.rows]
    for label, color, values in (
        ("at best, with groups of these sizes", BEST_COLOR, [row.ceiling for row in near.rows]),
        ("with these codes", CODES_COLOR, [row.share for row in near.rows]),
        ("two random items", CHANCE_COLOR, [row.by_chance for row in near.rows]),
    ):
        # A logarithmic axis has no place for 0; such points are left out.
        shown = [100 * value if value > 0 else np.nan for value in values]
        axis.plot(depths, shown, color=color, marker="o", markersize=4, label=label)
        if color != BEST_COLOR and len(depths) <= MOST_LABELS:
            for depth, value in zip(depths, values, strict=True):
                if value > 0:
                    axis.annotate(
                        _percent(value), (depth, 100 * value), (0, -12), textcoords="offset points", ha="center",
                        fontsize=8, color=color,
                    )  # fmt: skip
    axis.set(
        xlim=(0.6, max(depths[-1], 2) + 0.4),
        xticks=depths,
        xlabel="first codes that are equal",
        ylabel=f"% of the {near.nearest} nearest neighbours",
        title="do similar items share codes?",
    )
    axis.margins(y=0.15)
    _plain_log_scale(axis, "{x:,.12g}")
    axis.legend(frameon=False, fontsize=8)


def _draw_cooccurrence(axis: Any, rows: Sequence[PrefixCooccurrence]) -> None:
    """How much more often pairs that share a prefix are used together than pairs that share none."""
    places = np.arange(len(rows))
    above_zero = [1.0]
    for shift, color, label, values in (
        (-0.2, CODES_COLOR, "in training", [row.lift or 0.0 for row in rows]),
        (0.2, CHANCE_COLOR, "from popularity alone", [row.by_popularity or 0.0 for row in rows]),
    ):
        above_zero += [value for value in values if value > 0]
        # On a logarithmic axis 0 has no place: its bar starts and ends at 1.
        heights = [(value or 1.0) - 1 for value in values]
        bars = axis.bar(places + shift, heights, width=0.4, bottom=1, color=color, label=label)
        if len(rows) <= MOST_LABELS:
            labels = [f"{value:.3g}x" if value else "never" for value in values]
            axis.bar_label(bars, labels=labels, fontsize=8, padding=2)
    axis.axhline(1, color="#555555", linewidth=0.8)
    axis.set(
        xlim=(-0.7, max(len(rows), LEAST_SLOTS - 1) - 0.3),
        xticks=places,
        xticklabels=[str(row.depth) for row in rows],
        xlabel="first codes that are equal",
        ylabel="times as often as without a shared code",
        title="are items that share codes used together?",
    )
    _plain_log_scale(axis, "{x:,.4g}")
    axis.set_ylim(min(above_zero) / 1.5, 3 * max(above_zero))
    axis.legend(frameon=False, fontsize=8, loc="upper left")


def _plain_log_scale(axis: Any, form: str) -> None:
    """A logarithmic axis with numbers as people write them: 20, not 2 x 10^1."""
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    # Over a few decades the powers of ten are enough; below two of them also 2 and 5, so that any number is there.
    steps = (1.0,) if high / low > 1000 else (1.0, 2.0, 5.0)
    ticker = _matplotlib("matplotlib.ticker")
    axis.yaxis.set_major_locator(ticker.LogLocator(base=10, subs=steps, numticks=12))
    axis.yaxis.set_major_formatter(ticker.StrMethodFormatter(form))
    axis.yaxis.set_minor_formatter(ticker.NullFormatter())


def _percent(share: float) -> str:
    """Two digits that say something."""
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"
