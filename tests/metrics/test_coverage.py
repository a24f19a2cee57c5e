"""Coverage, evenness and popularity against numbers worked by hand and plain definitions."""

import numpy as np
import pytest

from sememe.core.schema import PAD, Ranked
from sememe.metrics.coverage import (
    catalogue_coverage,
    coverage_report,
    entropy,
    gini,
    popularity_bias,
    popularity_percentiles,
    recommendation_counts,
)

# Item 0 stands in three places, items 1 and 2 in one; the -inf entry (item 3) and PAD are not recommended.
LISTS = Ranked(
    np.array([[0, 1], [0, 3], [0, 2], [PAD, PAD]], np.int32),
    np.array([[2.0, 1.0], [2.0, -np.inf], [2.0, 1.0], [-np.inf, -np.inf]], np.float32),
    "test",
)
TRAIN_COUNTS = np.array([9, 4, 4, 0, 1])


def test_counts_skip_what_is_not_recommended():
    assert recommendation_counts(LISTS, num_items=5).tolist() == [3, 1, 1, 0, 0]
    assert recommendation_counts(LISTS, num_items=5, k=1).tolist() == [3, 0, 0, 0, 0]


def test_coverage_is_a_share_of_the_whole_catalogue():
    assert catalogue_coverage(LISTS, num_items=5) == pytest.approx(3 / 5)
    assert catalogue_coverage(LISTS, num_items=5, k=1) == pytest.approx(1 / 5)


def test_percentiles_split_ties_and_average_one_half():
    percentiles = popularity_percentiles(TRAIN_COUNTS)
    assert percentiles.tolist() == pytest.approx([0.9, 0.6, 0.6, 0.1, 0.3])
    assert percentiles.mean() == pytest.approx(0.5)


def test_popularity_bias_weighs_places():
    assert popularity_bias(LISTS, train_counts=TRAIN_COUNTS) == pytest.approx((3 * 0.9 + 2 * 0.6) / 5)
    assert popularity_bias(LISTS, train_counts=TRAIN_COUNTS, k=1) == pytest.approx(0.9)


def test_gini_is_half_the_relative_mean_difference():
    counts = np.array([3, 1, 1, 0, 0])
    plain = np.abs(counts[:, None] - counts[None, :]).mean() / (2 * counts.mean())
    assert gini(counts) == pytest.approx(plain) == pytest.approx(0.56)
    assert gini(np.full(7, 4)) == pytest.approx(0)


def test_entropy_in_bits():
    assert entropy(np.array([2, 1, 1, 0])) == pytest.approx(1.5)
    assert entropy(np.array([5, 0])) == 0
    assert entropy(np.full(8, 3)) == pytest.approx(3)


def test_report_gathers_all_and_compares_with_what_was_taken():
    report = coverage_report(LISTS, train_counts=TRAIN_COUNTS, targets=np.array([[3], [4], [PAD], [1]]))
    assert (report.k, report.coverage, report.gini) == (2, pytest.approx(0.6), pytest.approx(0.56))
    assert report.popularity == pytest.approx(0.78)
    assert report.target_popularity == pytest.approx((0.1 + 0.3 + 0.6) / 3)
    assert coverage_report(LISTS, train_counts=TRAIN_COUNTS, k=1).target_popularity is None


def test_lists_without_anything_have_numbers_too():
    empty = Ranked(np.full((3, 2), PAD, np.int32), np.full((3, 2), -np.inf, np.float32), "test")
    report = coverage_report(empty, train_counts=TRAIN_COUNTS, targets=np.array([[3], [4], [1]]))
    assert (report.coverage, report.gini, report.entropy, report.popularity) == (0, 0, 0, 0.5)
    assert report.target_popularity == pytest.approx((0.1 + 0.3 + 0.6) / 3)
    assert popularity_bias(empty, train_counts=TRAIN_COUNTS) == popularity_percentiles(TRAIN_COUNTS).mean() == 0.5
