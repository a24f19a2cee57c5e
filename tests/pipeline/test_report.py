"""The report of a run: one file that needs nothing else, with the numbers of metrics.json."""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sememe.cli.main import main
from sememe.data.batches import SequenceBatches
from sememe.data.negatives import SharedNegatives
from sememe.data.simulated_files import write_world
from sememe.data.simulator import PlantedWorld
from sememe.decode.beam import BeamSearch
from sememe.embed.fuse import ProvidedVectors
from sememe.models.depth import Depth
from sememe.models.itemwise import ItemWise
from sememe.nn.trunk import Trunk
from sememe.objectives.itemwise import ItemWiseLoss
from sememe.pipeline.opened import open_run
from sememe.pipeline.recipe import DataPlan, EvaluationPlan, Recipe, SplitRule
from sememe.pipeline.run import run_recipe
from sememe.pipeline.run_report import MOST_POINTS, gather_report, thinned
from sememe.recipes import popularity
from sememe.sid.collisions import CollisionToken
from sememe.sid.rqkmeans import ResidualKMeans
from sememe.train.plan import TrainPlan

VOID = {"meta", "path", "rect", "use", "line", "circle", "br"}


class Page(HTMLParser):
    """What stands in a page: tags, addresses, numbers, text; and whether every tag is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.addresses: list[str] = []
        self.numbers: list[float] = []
        self.shown: list[str] = []
        self.faults: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        self.faults += self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        given = dict(attrs)
        self.addresses += [given[name] or "" for name in ("href", "src", "data", "action") if name in given]
        self.ids[given.get("id") or ""] += "id" in given
        if tag == "data":
            self.numbers.append(float(given["value"] or ""))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self._open or self._open.pop() != tag:
            self.faults.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        self.shown.append(data)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a tiny generator with two seeds; tests must not change it."""
    folder = tmp_path_factory.mktemp("reported")
    write_world(PlantedWorld(branching=(3, 3), items_per_leaf=4, num_users=80).generate(seed=0), folder / "data")
    recipe = Recipe(
        name="tiny",
        data=DataPlan(split=SplitRule(rule="leave_one_out")),
        embed=ProvidedVectors(),
        tokenizer=ResidualKMeans(levels=2, codebook_size=8),
        collisions=CollisionToken(size=16),
        model=ItemWise(trunk=Trunk(layers=1, d_model=16, ff=32, max_history=6), depth=Depth(hidden=16)),
        batches=SharedNegatives(SequenceBatches(batch_size=32, max_history=6), negatives=12),
        objective=ItemWiseLoss(),
        train=TrainPlan(epochs=None, steps=12, validate_every=6, threads=1),
        decode=BeamSearch(width=16),
        evaluation=EvaluationPlan(validation_users=20, resamples=20, batch_size=64),
        baselines=(popularity(),),
        seeds=(0, 1),
    )
    return run_recipe(recipe, data=folder / "data", out=folder / "run", say=lambda _: None)


@pytest.fixture(scope="module")
def text(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The report as the verb writes it."""
    pytest.importorskip("matplotlib", reason="reports are drawn by matplotlib (extra: report)")
    target = tmp_path_factory.mktemp("written") / "new" / "report.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sememe", "report", str(trained), "--out", str(target)])
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code
    yield target.read_text()


def test_the_file_is_whole_and_needs_nothing_else(text: str) -> None:
    page = Page(text)
    assert page.faults == [] and text.startswith("<!doctype html>") and text.endswith("</html>\n")
    assert page.tags["script"] == page.tags["link"] == page.tags["img"] == page.tags["iframe"] == 0
    assert all(address.startswith("#") for address in page.addresses)
    assert not re.search(r"https?:|url\((?!#)|@import", text)
    # Ids belong to one element, and links within the page lead to one.
    assert max(page.ids.values()) == 1
    assert {address[1:] for address in page.addresses} <= set(page.ids)
    assert set(re.findall(r"url\(#([\w.-]+)\)", text)) <= set(page.ids)
    # Light, dark and paper.
    assert "prefers-color-scheme: dark" in text and "@media print" in text and "var(--series)" in text
    assert not re.search(r"(?:fill|stroke): #(?:000000|ffffff)", text.partition("<body>")[2])


def test_its_numbers_are_those_of_the_run(text: str, trained: Path) -> None:
    metrics = json.loads((trained / "metrics.json").read_text())
    told = set(Page(text).numbers)
    labels = {"model", "seed", "split", "mask_seen", "seeds"}
    for row in metrics["rows"]:
        shown = {name: value for name, value in row.items() if name not in labels}
        if row["split"] == "valid":
            shown = {name: value for name, value in shown.items() if not name.endswith(("_low", "_high"))}
        intervals = {name for name in shown if name.endswith(("_low", "_high"))}
        left_out = {name for name in intervals if not name.startswith(("recall", "ndcg"))}
        assert {value for name, value in shown.items() if name not in left_out} <= told
    for mean in metrics["means"]:
        if mean["split"] == "test" and mean["seeds"] > 1:
            assert {mean["ndcg@10"], mean["ndcg@10_low"], mean["ndcg@10_high"]} <= told
    compared = [entry for entry in metrics["comparisons"] if entry["metric"] == "ndcg@10"]
    assert compared and all({entry["difference"], entry["low"], entry["high"]} <= told for entry in compared)
    for line in metrics["calibration"]:
        assert {line["error"], line["error_by_chance"], line["observed"]} <= told
        assert {value for one in line["bins"] for value in one.values()} <= told
    assert [(line["model"], line["seed"]) for line in metrics["calibration"]] == [("tiny", 0), ("tiny", 1)]
    sliced = [row for row in metrics["slices"] if row["split"] == "test" and row["mask_seen"]]
    assert sliced and all({row["recall@10"], row["recall@10_low"]} <= told for row in sliced)


def test_it_tells_all_that_a_report_should(text: str, trained: Path) -> None:
    page, words = Page(text), " ".join(Page(text).shown)
    for name in (
        "summary",
        "metrics",
        "comparisons",
        "slices",
        "calibration",
        "codes",
        "training",
        "examples",
        "protocol",
        "machine",
    ):
        assert page.ids[name] == 1, name
    assert "tiny, seed 0: best step" in words and "tiny, seed 1: best step" in words
    assert "model.trunk.d_model = 16" in words and "leave_one_out" in words and "model-tiny" in words
    # The models, curves and probabilities of the two seeds, and the pictures of the codes.
    health = json.loads((trained / "codes" / "health.json").read_text())
    drawn = 3 + 2 + 2 + sum("absent" not in health[name] for name in ("neighbours", "cooccurrence"))
    assert page.tags["svg"] == drawn


def test_what_people_wrote_is_text_only(trained: Path) -> None:
    report_html = pytest.importorskip("sememe.pipeline.report_html")
    pytest.importorskip("matplotlib", reason="reports are drawn by matplotlib (extra: report)")
    report = gather_report(open_run(trained))
    evil = "<script>alert(1)</script>"
    about = {**report.about, "data": evil, "asked": evil}
    item = type(report.examples[0].history[0])(item_id=evil, title=evil, wanted=True)
    example = type(report.examples[0])(user_id=evil, known=1, history=(item,), wanted=(item,), listed=(item,))
    changed = type(report)(**{**vars(report), "about": about, "examples": (example,), "settings": (evil,)})
    page = Page(report_html.report_html(changed, None, machine={evil: evil}))
    assert page.tags["script"] == 0 and page.faults == []


def test_example_lists_are_those_of_the_evaluation(trained: Path) -> None:
    run = open_run(trained)
    report = gather_report(run)
    test, log = run.world.split.test, run.world.split.interactions
    places = {str(log.user_ids[int(user)]): place for place, user in enumerate(test.users)}
    assert len(report.examples) == 6
    for one in report.examples:
        place = places[one.user_id]
        events = log.history(int(test.users[place]))
        start, end = int(test.starts[place]), int(test.ends[place])
        ids = [str(log.item_ids[item]) for item in events.tolist()]
        assert one.known == start and [item.item_id for item in one.wanted] == ids[start:end]
        assert [item.item_id for item in one.history] == ids[max(0, start - 8) : start]
        asked = run.recommend(history=[log.item_ids[item] for item in events[:start].tolist()], k=10)
        assert [item.item_id for item in one.listed] == asked["item"].cast(str).to_list()
        assert [item.wanted for item in one.listed] == [item.item_id in ids[start:end] for item in one.listed]


def test_long_curves_are_thinned_and_end_where_they_end() -> None:
    points = [(step, float(step)) for step in range(1, 4 * MOST_POINTS + 2)]
    kept = thinned(points)
    assert MOST_POINTS / 2 < len(kept) <= MOST_POINTS and kept[-1] == points[-1] and set(kept) <= set(points)
    assert thinned(points[:7]) == tuple(points[:7]) and thinned([]) == ()
