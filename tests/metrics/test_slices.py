"""Slices of rows against cases worked by hand, and the whole mean against its parts."""

import numpy as np
import pytest

from sememe.metrics.significance import bootstrap_mean
from sememe.metrics.slices import by_history, by_popularity, slice_means

VALUES = {"recall@10": np.array([1.0, 0.0, 1.0, 1.0, 0.0, 0.0]), "ndcg@10": np.array([0.5, 0.0, 1.0, 0.25, 0.0, 0.0])}


def test_rows_by_popularity_of_their_target():
    slicing = by_popularity(np.array([0, 1, 4, 5, 9, 10, 29, 30, 700]), begins=(5, 10, 30))
    assert slicing.by == "popularity"
    assert slicing.names == ("cold", "1-4", "5-9", "10-29", "30+")
    assert slicing.member.tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_rows_by_known_history():
    slicing = by_history(np.array([1, 4, 5, 9, 10, 19, 20, 21]), begins=(5, 10, 20))
    assert slicing.by == "history"
    assert slicing.names == ("1-4", "5-9", "10-19", "20+")
    assert slicing.member.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    with pytest.raises(AssertionError, match="at least one event"):
        by_history(np.array([0]), begins=(5,))


def test_slices_may_begin_anywhere():
    assert by_history(np.array([1, 2, 3]), begins=(2, 3)).names == ("1", "2", "3+")
    whole = by_popularity(np.array([0, 3]), begins=())
    assert (whole.names, whole.member.tolist()) == (("cold", "1+"), [0, 1])


def test_means_of_slices_by_hand():
    slicing = by_popularity(np.array([0, 0, 3, 40, 2, 1]), begins=(5, 10, 30))
    found = slice_means(VALUES, slicing, seed=1, resamples=200)
    # Nothing lies in 5-9 and 10-29.
    assert [(part.name, part.rows) for part in found] == [("cold", 2), ("1-4", 3), ("30+", 1)]
    assert [part.metrics["recall@10"].mean for part in found] == pytest.approx([1 / 2, 1 / 3, 1])
    assert [part.metrics["ndcg@10"].mean for part in found] == pytest.approx([1 / 4, 1 / 3, 1 / 4])
    assert found[0].metrics["recall@10"] == bootstrap_mean([1.0, 0.0], seed=1, resamples=200)
    # Two rows of 1 and 0: a quarter of the resamples is all 0, a quarter all 1.
    assert (found[0].metrics["recall@10"].low, found[0].metrics["recall@10"].high) == (0, 1)
    # One row says nothing about others like it.
    alone = found[2].metrics["ndcg@10"]
    assert (alone.low, alone.high) == (0.25, 0.25)


@pytest.mark.parametrize("cut", [by_popularity, by_history])
def test_slices_together_are_all_rows(cut):
    random = np.random.default_rng(0)
    values = {"recall@10": random.random(500)}
    found = slice_means(values, cut(random.integers(1, 60, 500), begins=(5, 10, 30)), seed=0, resamples=10)
    assert sum(part.rows for part in found) == 500
    whole = sum(part.rows * part.metrics["recall@10"].mean for part in found) / 500
    assert whole == pytest.approx(values["recall@10"].mean())
