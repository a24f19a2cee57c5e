"""Limits on semantic IDs: what breaks them, what keeps to them, and what is no limit at all."""

from dataclasses import fields, replace

import numpy as np
import pytest

from sememe.core.errors import ConfigError
from sememe.sid.balanced import BalancedKMeans
from sememe.sid.collisions import KeepTied
from sememe.sid.limits import WAYS_OUT, CodeLimits
from sememe.sid.report import SidReport, sid_report

# Two directions of six items; the first level tells them apart, the second one counts to two within them.
VECTORS = np.array([[1, 0]] * 6 + [[0, 1]] * 6, np.float32) * np.arange(1, 13, dtype=np.float32)[:, None]


def report_of(rows: list[list[int]], sizes: tuple[int, ...], *, error: float = 0.0) -> SidReport:
    mean = VECTORS.mean(axis=0)
    rebuilt = VECTORS + np.float32(np.sqrt(error)) * (mean - VECTORS)
    return sid_report(KeepTied().resolve(np.array(rows, np.int32), sizes), VECTORS, reconstruction=rebuilt)


GOOD = report_of([[item // 6, item % 6] for item in range(12)], (2, 6))


def test_codes_that_keep_to_all_limits_break_none() -> None:
    limits = CodeLimits(
        distinct_share=1.0,
        unique_share=1.0,
        largest_group=1,
        used_share=1.0,
        perplexity_share=0.99,
        reconstruction_error=0.01,
        neighbour_lift=1.09,
    )
    limits.check()
    assert limits.demanded() == [field.name for field in fields(CodeLimits)]
    assert limits.broken(GOOD) == []
    assert CodeLimits().broken(report_of([[0, 0]] * 12, (2, 6), error=1.0)) == []


@pytest.mark.parametrize(
    ("limits", "report", "texts"),
    [
        (
            CodeLimits(unique_share=0.5),
            report_of([[0, 0]] * 10 + [[1, 0], [1, 1]], (2, 2)),
            ["3 different tuples for 12 items are a share of 0.25, at least 0.5 demanded"],
        ),
        (
            CodeLimits(largest_group=9),
            report_of([[0, 0]] * 10 + [[1, 0], [1, 1]], (2, 2)),
            ["10 items share all their codes, at most 9 demanded"],
        ),
        (
            CodeLimits(used_share=0.6),
            report_of([[item % 2, item % 4] for item in range(12)], (2, 8)),
            ["level 2: 4 of 8 possible codes are used, a share of 0.5, at least 0.6 demanded"],
        ),
        (
            # More codes than items: 12 are the most that could be used.
            CodeLimits(used_share=0.6),
            report_of([[item % 6] for item in range(12)], (256,)),
            ["level 1: 6 of 12 possible codes are used, a share of 0.5, at least 0.6 demanded"],
        ),
        (
            CodeLimits(perplexity_share=0.7),
            report_of([[0, item % 2] for item in range(12)], (2, 3)),
            [
                "level 1: the perplexity is 1.0 of 2 possible, a share of 0.5, at least 0.7 demanded",
                "level 2: the perplexity is 2.0 of 3 possible, a share of 0.6667, at least 0.7 demanded",
            ],
        ),
        (
            CodeLimits(reconstruction_error=0.2),
            report_of([[item] for item in range(12)], (12,), error=0.25),
            ["0.25 of the variance is lost, at most 0.2 demanded"],
        ),
        (
            # Codes that cut across both directions.
            CodeLimits(neighbour_lift=1.05),
            report_of([[item % 2] for item in range(12)], (2,)),
            ["at least 1.05 demanded"],
        ),
    ],
)
def test_a_broken_limit_says_level_value_and_demand(limits: CodeLimits, report: SidReport, texts: list[str]) -> None:
    broken = limits.broken(report)
    assert [limit.name for limit in broken] == limits.demanded() * len(texts)
    assert len(broken) == len(texts)
    for limit, text in zip(broken, texts, strict=True):
        assert text in limit.text
        assert limit.way_out


def test_even_codes_of_equal_vectors_break_the_limit_on_vectors_alone() -> None:
    """Dealt out evenly, they are as well used as can be: no other limit on use sees that there is nothing to say."""
    vectors = np.ones((64, 4), np.float32)
    fitted = BalancedKMeans(levels=2, codebook_size=8).fit(vectors, seed=0)
    codes = KeepTied().resolve(fitted.assign(vectors), fitted.codebook_sizes)
    report = sid_report(codes, vectors, reconstruction=fitted.reconstruct(codes.matrix))
    use = CodeLimits(used_share=1.0, perplexity_share=0.99, reconstruction_error=0.01)
    assert use.broken(report) == []
    (broken,) = replace(use, distinct_share=0.9).broken(report)
    assert broken.name == "distinct_share"
    assert broken.text == "1 different vectors for 64 items are a share of 0.01562, at least 0.9 demanded"
    assert "finer signal" in broken.way_out
    # Who is sent to other tokenizers by the numbers of use is told to look at the vectors before.
    assert all("limits.distinct_share" in WAYS_OUT[name] for name in ("used_share", "perplexity_share"))


def test_what_cannot_be_measured_keeps_to_no_limit() -> None:
    codes = KeepTied().resolve(np.zeros((3, 1), np.int32), (2,))
    report = sid_report(codes, np.zeros((3, 2), np.float32))
    broken = CodeLimits(reconstruction_error=1.0, neighbour_lift=1.0).broken(report)
    assert [limit.name for limit in broken] == ["reconstruction_error", "neighbour_lift"]
    assert "no two items with content" in broken[1].text


def test_codes_of_one_item_each_tell_nothing_of_neighbours() -> None:
    report = report_of([[item] for item in range(12)], (12,))
    assert [limit.name for limit in CodeLimits(neighbour_lift=1.5).broken(report)] == ["neighbour_lift"]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (CodeLimits(unique_share=1.5), r"limits.unique_share is 1.5\n.*give a share above 0, at most 1"),
        (CodeLimits(used_share=0.0), "limits.used_share is 0.0"),
        (CodeLimits(perplexity_share=float("nan")), "limits.perplexity_share is nan"),
        (CodeLimits(largest_group=0), "limits.largest_group is 0\n.*give more than 0"),
        (CodeLimits(reconstruction_error=-1.0), "limits.reconstruction_error is -1.0"),
        (CodeLimits(neighbour_lift=0.0), "limits.neighbour_lift is 0.0"),
    ],
)
def test_limits_that_mean_nothing_are_refused(limits: CodeLimits, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        limits.check()


def test_every_limit_has_a_way_out() -> None:
    assert set(WAYS_OUT) == {field.name for field in fields(CodeLimits)}
