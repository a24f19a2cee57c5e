"""Which rows of a run have a calibration, and that it is of the probabilities of items."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sememe.core.schema import PAD, Codes, Ranked
from sememe.pipeline.calibration import calibration_rows, item_probabilities
from sememe.pipeline.evaluate import Label, judge
from sememe.pipeline.opened import Run, open_run


@pytest.fixture(scope="module")
def run(finished: Path) -> Run:
    return open_run(finished)


def test_metrics_json_has_the_generator_and_not_what_counts(finished: Path, run: Run) -> None:
    (line,) = json.loads((finished / "metrics.json").read_text())["calibration"]
    assert (line["model"], line["seed"], line["users"]) == ("tiny", 0, len(run.world.split.test))
    assert line["k"] == max(run.recipe.evaluation.ks) and line["pairs"] == sum(one["pairs"] for one in line["bins"])
    # What came true of all listed items is what recall counts, where each user has one target.
    rows = json.loads((finished / "metrics.json").read_text())["rows"]
    (row,) = [row for row in rows if (row["model"], row["split"], row["mask_seen"]) == ("tiny", "test", False)]
    assert line["observed"] * line["pairs"] == pytest.approx(row[f"recall@{line['k']}"] * line["users"])


def test_probabilities_are_those_of_the_model(run: Run) -> None:
    """A beam as wide as the catalogue lists all items, and then the probabilities of a row make up less than 1."""
    assert run.items.codes is not None
    everything = run.recommender.recommend([np.array([3, 5], np.int32)], users=None, k=36)
    found = item_probabilities(everything, codes=run.items.codes)
    assert found.shape == (1, 36) and 0 < found.sum() <= 1 + 1e-5
    np.testing.assert_allclose(found, np.exp(everything.scores), rtol=1e-5)


def test_items_that_share_a_semantic_id_share_its_probability() -> None:
    codes = Codes(matrix=np.array([[0, 1], [0, 1], [1, 0]], np.int32), codebook_sizes=(2, 2), num_semantic_levels=2)
    scores = np.log(np.array([[0.4, 0.4, 0.2], [0.5, 1.0, 1.0]], np.float32))
    scores[1, 1:] = -np.inf
    ranked = Ranked(np.array([[0, 1, 2], [2, PAD, PAD]], np.int32), scores, source="beam:code_log_prob")
    found = item_probabilities(ranked, codes=codes)
    np.testing.assert_allclose(found, [[0.2, 0.2, 0.2], [0.5, 0.0, 0.0]], rtol=1e-6)


def test_only_probabilities_of_the_test_part_with_seen_items_are_judged(run: Run) -> None:
    split, plan = run.world.split, run.recipe.evaluation
    judged = judge(run.recommender, split, plan, examples=split.test, mask_seen=False)
    label = Label(model="tiny", seed=0, split="test", mask_seen=False)

    def lines(**changed: object) -> int:
        return len(calibration_rows(judged, replace(label, **changed), split=split, codes=run.items.codes))  # type: ignore[arg-type]

    assert judged.ranked.source == "beam:code_log_prob" and lines() == 1
    assert lines(mask_seen=True) == lines(split="valid") == 0
    dots = replace(judged, ranked=replace(judged.ranked, source="exact:dot"))
    assert calibration_rows(dots, label, split=split, codes=run.items.codes) == []
    assert calibration_rows(judged, label, split=split, codes=None) == []
