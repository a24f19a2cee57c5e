"""Draw what docs/semantic-ids.md shows: what tokenizers make of the same plane, and what they were worth on real data.

    python -m benchmarks.quality.draw_codes tokenizers_beauty tokenizers_sports

writes tokenizers_plane.png, codes_health.png and, where names of JSON files beside this one are given, which
`record_codes` wrote, tokenizers_recall.png into docs/images.
"""

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from sememe.core.schema import FloatArray, Int32Array
from sememe.core.seeding import generator
from sememe.data.simulator import PlantedWorld
from sememe.pipeline.code_plots import CHANCE_COLOR, CODES_COLOR, code_drawings
from sememe.pipeline.opened import read_json
from sememe.pipeline.recipe import Tokenizer
from sememe.sid.balanced import BalancedKMeans
from sememe.sid.collisions import KeepTied
from sememe.sid.controls import RandomCodes, RandomPlanes
from sememe.sid.fsq import FiniteScalar
from sememe.sid.health import Absent, codes_health
from sememe.sid.product import ProductKMeans
from sememe.sid.report import sid_report
from sememe.sid.rqkmeans import ResidualKMeans

HERE = Path(__file__).resolve().parent
IMAGES = HERE.parents[1] / "docs" / "images"
CENTRES = np.array([[-2.2, 0.6], [0.4, 1.7], [1.9, -0.4], [-0.4, -1.6]])
SPREADS = np.array([0.30, 0.45, 0.35, 0.40])
ITEMS = (900, 200, 60, 40)
"""Of the four kinds: most items are of one, as in shops."""
HUES = ("#1f5f99", "#d98032", "#4f8f4a", "#a3487f")
SHADES = (1.0, 0.72, 0.48, 0.28)
METRIC = "recall@10"
PICTURES = ("use.png", "neighbours.png", "cooccurrence.png")
"""Of those that `sememe codes` makes."""


def main() -> None:
    """Draw and say where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="of recorded tables")
    arguments = parser.parse_args()
    mpl.use("Agg")
    draw_plane(IMAGES / "tokenizers_plane.png")
    draw_health(IMAGES / "codes_health.png")
    if arguments.names:
        draw_recall({name: read_json(HERE / f"{name}.json") for name in arguments.names}, IMAGES)


def draw_plane(path: Path) -> None:
    """Two codes of each item in a plane: the colour is the first one, its strength the second."""
    points = plane()
    sides: dict[str, Tokenizer] = {
        "residual k-means": ResidualKMeans(levels=2, codebook_size=4),
        "balanced residual k-means": BalancedKMeans(levels=2, codebook_size=4),
        "product codes": ProductKMeans(levels=2, codebook_size=4),
        "finite scalar": FiniteScalar(levels=2, steps=(4,)),
        "random planes (LSH)": RandomPlanes(levels=2, bits=2),
        "random codes": RandomCodes(levels=2, codebook_size=4),
    }
    figure, axes = plt.subplots(2, 3, figsize=(10, 6.4), layout="constrained", sharex=True, sharey=True)
    for axis, (name, tokenizer) in zip(axes.flat, sides.items(), strict=True):
        matrix = tokenizer.fit(points, seed=0).encode(points)
        axis.scatter(*points.T, s=7, c=colours(matrix), linewidths=0)
        groups = np.unique(matrix, axis=0, return_counts=True)[1]
        axis.set_title(name, fontsize=11)
        axis.set_xlabel(f"{len(groups)} of 16 pairs of codes, {groups.max()} items in the largest", fontsize=9)
        axis.set(xticks=[], yticks=[], aspect="equal")
        axis.spines[["top", "right", "left", "bottom"]].set_color(CHANCE_COLOR)
    save(figure, path)


def plane() -> FloatArray:
    """(1200, 2) float32: four kinds of items, one with three quarters of them."""
    random = generator(0, "pictures", "plane")
    parts = [
        centre + spread * random.standard_normal((items, 2))
        for centre, spread, items in zip(CENTRES, SPREADS, ITEMS, strict=True)
    ]
    return np.concatenate(parts).astype(np.float32)


def colours(matrix: Int32Array) -> list[tuple[float, float, float, float]]:
    """One colour per item of two codes below 4."""
    return [mpl.colors.to_rgba(HUES[first], SHADES[second]) for first, second in matrix.tolist()]


def draw_health(path: Path) -> None:
    """What `sememe codes` draws of codes that tell something, and of codes that are only even."""
    world = PlantedWorld(branching=(8, 8, 8), items_per_leaf=8, dim=32, num_users=4_000).generate(seed=0)
    vectors = world.catalog.vectors
    assert vectors is not None, "planted items have vectors"
    sides: dict[str, Tokenizer] = {
        "residual k-means": ResidualKMeans(codebook_size=8),
        "random codes": RandomCodes(codebook_size=8),
    }
    figure, axes = plt.subplots(2, 3, figsize=(13, 7.6), layout="constrained", sharey="col")
    for row, (name, tokenizer) in zip(axes, sides.items(), strict=True):
        fitted = tokenizer.fit(vectors, seed=0)
        codes = KeepTied().resolve(fitted.encode(vectors), fitted.codebook_sizes)
        health = codes_health(
            codes,
            vectors,
            report=sid_report(codes, vectors),
            fitted=fitted,
            catalog=world.catalog,
            train=world.interactions,
            second=Absent("not drawn"),
        )
        drawings = code_drawings(codes, health)
        for axis, file in zip(row, PICTURES, strict=True):
            drawings[file](axis)
            axis.set_title(f"{name}\n{axis.get_title()}", fontsize=10)
            axis.spines[["top", "right"]].set_visible(False)
    axes[0, 2].set_ylim(0.6, 15)
    save(figure, path)


def draw_recall(tables: dict[str, dict[str, Any]], folder: Path) -> None:
    """Recall of the generator per tokenizer, best first, with its interval; a panel per data set."""
    figure, axes = plt.subplots(
        1, len(tables), figsize=(5 * len(tables), 3.6), layout="constrained", squeeze=False, sharey=False
    )
    for axis, (name, table) in zip(axes.flat, tables.items(), strict=True):
        rows = sorted(table["rows"], key=lambda row: row["test"]["left out"][METRIC])
        found = [row["test"]["left out"] for row in rows]
        values = np.array([row[METRIC] for row in found])
        ends = np.array([[row[f"{METRIC}_{end}"] for row in found] for end in ("low", "high")])
        axis.errorbar(
            values,
            np.arange(len(rows)),
            xerr=np.abs(ends - values),
            fmt="o",
            color=CODES_COLOR,
            markersize=5,
            capsize=3,
        )
        axis.set_yticks(np.arange(len(rows)), [row["tokenizer"].replace("_", " ") for row in rows])
        axis.set(xlim=(0, None), xlabel="Recall@10, seen items left out", title=name.partition("_")[2].capitalize())
        axis.grid(axis="x", color="#dddddd")
        axis.spines[["top", "right"]].set_visible(False)
    save(figure, folder / "tokenizers_recall.png")


def save(figure: Any, path: Path) -> None:
    """Write and tell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(path)


if __name__ == "__main__":
    main()
