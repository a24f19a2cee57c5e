"""Times of every kind become the same milliseconds."""

from datetime import UTC, date, datetime

import polars as pl
import pytest

from sememe.core.errors import DataError
from sememe.data.time_columns import detect_time, milliseconds

# 2020-02-03 04:05:06 UTC, by hand: 18295 days * 86400 s + 14706 s.
SECONDS = 18295 * 86400 + 14706
MS = SECONDS * 1000


def read(values: pl.Series, **said: str) -> list[int | None]:
    rule = detect_time(values, **said)
    frame = pl.DataFrame({"timestamp": values})
    return frame.select(milliseconds(rule, dtype=values.dtype))["timestamp"].to_list()


@pytest.mark.parametrize(
    "value",
    [
        SECONDS, MS, MS * 1000, MS * 1_000_000,
        float(SECONDS), float(MS),
        str(SECONDS), str(MS), str(MS * 1000), str(MS * 1_000_000), f"{SECONDS}.0", f" {SECONDS} ",
        "2020-02-03T04:05:06", "2020-02-03T04:05:06Z", "2020-02-03 04:05:06", "2020-02-03 04:05:06.000",
        "2020-02-03T05:05:06+01:00", "2020-02-03 04:05:06.000000+00:00", "2020-02-03 04:05:06 UTC",
        "2020/02/03 04:05:06",
        datetime(2020, 2, 3, 4, 5, 6), datetime(2020, 2, 3, 4, 5, 6, tzinfo=UTC),
    ],
)  # fmt: skip
def test_one_moment_in_all_its_forms(value):
    assert read(pl.Series([value, None])) == [MS, None]


def test_days_and_minutes():
    assert read(pl.Series(["2020-02-03", "2020-02-03 00:01"])) == [18295 * 86_400_000, 18295 * 86_400_000 + 60_000]
    assert read(pl.Series([date(2020, 2, 3)])) == [18295 * 86_400_000]


def test_fractions_and_nanoseconds_keep_their_milliseconds():
    assert read(pl.Series([SECONDS + 0.25])) == [MS + 250]
    assert read(pl.Series([f"{SECONDS}.125"])) == [MS + 125]
    # 2^60 and its neighbour differ by 1 ns, which a float would lose; both fall into one millisecond here.
    assert read(pl.Series([str(MS * 1_000_000 + 999_999), str(MS * 1_000_000 + 1_000_000)])) == [MS, MS + 1]


def test_unreadable_values_are_null_and_not_guessed():
    assert read(pl.Series([str(SECONDS), "soon", "2020-13-45", ""])) == [MS, None, None, None]
    assert read(pl.Series(["2020-02-03", "tomorrow"])) == [18295 * 86_400_000, None]
    assert read(pl.Series(["tomorrow", "soon"])) == [None, None]
    assert read(pl.Series([float("nan"), float("inf"), float(SECONDS)])) == [None, None, MS]


def test_what_is_said_wins_over_what_is_seen():
    assert read(pl.Series([5000, 6000]), unit="ms") == [5000, 6000]
    assert read(pl.Series([5000, 6000])) == [5_000_000, 6_000_000]
    assert read(pl.Series(["03.02.2020 04:05:06"]), time_format="%d.%m.%Y %H:%M:%S") == [MS]
    with pytest.raises(DataError, match="time_unit is 'minutes'"):
        detect_time(pl.Series([1]), unit="minutes")


def test_one_odd_value_does_not_decide_the_unit():
    assert read(pl.Series([-1, 0, SECONDS, SECONDS, MS * 1000])) == [-1000, 0, MS, MS, MS * 1_000_000]


def test_the_rule_is_told_in_words():
    assert detect_time(pl.Series([MS])).text == "milliseconds since 1970 UTC"
    assert detect_time(pl.Series(["2020-02-03"])).text == "text such as %Y-%m-%d, UTC where no zone is given"
    assert "dates or date-times" in detect_time(pl.Series([date(2020, 1, 1)])).text
