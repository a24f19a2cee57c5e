"""One planted fault at a time, and all of them at once: each is found with its file, place, column and way out."""

import gzip
import json
from pathlib import Path

import pandas as pd
import polars as pl
import pytest

from sememe.data.check import check_tables
from sememe.data.problems import CheckReport, Problem

HEADER = "user_id,item_id,timestamp\n"
GOOD = "u1,a,1600000000\nu1,b,1600000001\nu2,a,1600000002\nu2,b,1600000003\n"


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def only(report: CheckReport) -> Problem:
    """The single problem of a report."""
    assert len(report.problems) == 1, report.render()
    return report.problems[0]


def check_csv(tmp_path: Path, extra: str | bytes) -> Problem:
    extra = extra if isinstance(extra, bytes) else extra.encode()
    return only(check_tables(write(tmp_path / "interactions.csv", (HEADER + GOOD).encode() + extra)))


def places(problem: Problem) -> list[int]:
    return [example.row for example in problem.examples]


def test_sound_files_have_no_problem(tmp_path: Path):
    report = check_tables(write(tmp_path / "interactions.csv", HEADER + GOOD))
    assert report.problems == ()
    assert report.ok
    assert report.counts == {"events": 4, "users": 2, "items": 2}
    assert "user_id <- user_id" in report.description
    assert "example: user u1: a -> b" in report.description
    assert report.render().endswith("usable: 0 kinds of error, 0 kinds of warning\n")


def test_missing_columns_are_all_named(tmp_path: Path):
    path = write(tmp_path / "interactions.csv", "kunde,artikel,timestamp\nu1,a,-5\n")
    report = check_tables(path)
    missing = [problem for problem in report.problems if problem.rule == "missing column"]
    assert [problem.column for problem in missing] == ["user_id", "item_id"]
    assert "no column was recognised as user_id; it has kunde, artikel, timestamp" in missing[0].message
    assert '[columns] user_id = "YOUR COLUMN" in data.toml' in missing[0].fix
    assert [problem.rule for problem in report.problems if problem.column == "timestamp"] == ["negative time"]
    assert check_tables(path, columns={"user_id": "kunde", "item_id": "artikel"}).counts["users"] == 1


def test_a_wrong_given_name(tmp_path: Path):
    path = write(tmp_path / "interactions.csv", HEADER + GOOD)
    problem = only(check_tables(path, columns={"rating": "sterne"}))
    assert (problem.rule, problem.column) == ("unknown column", "rating")
    assert "rating is said to be 'sterne', and no table has a column of that name" in problem.message


def test_unparseable_time(tmp_path: Path):
    problem = check_csv(tmp_path, "u1,c,soon\nu1,d,yesterday\n")
    assert (problem.rule, problem.column, problem.count, problem.severity) == (
        "unparseable time",
        "timestamp",
        2,
        "error",
    )
    assert places(problem) == [6, 7]
    assert problem.examples[0].value == "soon"
    assert problem.message == "times are read as seconds since 1970 UTC, and these are not"
    assert "time_format" in problem.fix


def test_negative_time(tmp_path: Path):
    problem = check_csv(tmp_path, "u1,c,-1\n")
    assert (problem.rule, problem.row, problem.message) == ("negative time", 6, "these times are before 1970")


def test_missing_time(tmp_path: Path):
    problem = check_csv(tmp_path, "u1,c,\n")
    assert (problem.rule, problem.row, problem.message) == ("missing time", 6, "these rows have no time")


def test_a_time_in_another_unit(tmp_path: Path):
    problem = check_csv(tmp_path, "u1,c,1600000000000\n")
    assert (problem.rule, problem.row, problem.severity) == ("improbable time", 6, "warning")
    assert "after the year 2100: the column may mix units" in problem.message


def test_null_ids(tmp_path: Path):
    report = check_tables(write(tmp_path / "interactions.csv", HEADER + GOOD + ",a,1600000009\nu1, ,1600000010\n"))
    found = {problem.column: problem for problem in report.problems}
    assert found["user_id"].rule == found["item_id"].rule == "null id"
    assert (found["user_id"].row, found["item_id"].row) == (6, 7)
    assert "these rows have no usable user_id" in found["user_id"].message
    assert not report.ok


def test_blank_lines_are_no_rows(tmp_path: Path):
    report = check_tables(write(tmp_path / "interactions.csv", HEADER + "\n" + GOOD + "\nu1,c,soon\n\n"))
    assert (only(report).rule, only(report).row) == ("unparseable time", 8)
    assert report.counts["events"] == 5


def test_an_id_that_is_no_id():
    report = check_tables(pl.DataFrame({"user_id": [1.0, 1.0, 2.5], "item_id": [1, 2, 3], "position": [0, 1, 2]}))
    assert (only(report).rule, only(report).row, only(report).examples[0].value) == ("null id", 3, "2.5")


def test_duplicate_events(tmp_path: Path):
    problem = check_csv(tmp_path, "u1,a,1600000000\nu2,b,1600000003\nu2,b,1600000003\n")
    assert (problem.rule, problem.count, places(problem)) == ("duplicate event", 3, [6, 7, 8])
    assert problem.severity == "warning"
    assert "repeat an earlier one in user_id, item_id, timestamp" in problem.message
    assert "or --set data.filters.dedupe=exact" in problem.fix


def test_events_that_only_differ_in_kind_are_no_duplicates():
    frame = pl.DataFrame({"user_id": [1, 1], "item_id": [1, 1], "timestamp": [5, 5], "event_type": ["view", "buy"]})
    assert check_tables(frame).problems == ()
    assert only(check_tables(frame.drop("event_type"))).rule == "duplicate event"
    assert only(check_tables(frame.select("user_id", "item_id"))).rule == "no time and no position"


def test_neither_time_nor_position(tmp_path: Path):
    path = write(tmp_path / "interactions.csv", (HEADER + GOOD).replace("timestamp", "when"))
    report = check_tables(path)
    problem = only(report)
    assert (problem.rule, problem.severity, problem.file) == ("no time and no position", "warning", "interactions.csv")
    assert problem.message.startswith("the order of the file is taken as the order of events")
    assert 'timestamp = "NAME" under [columns] in data.toml, or --column timestamp=NAME' in problem.fix
    assert "columns that are not used: when" in problem.fix
    assert report.ok
    assert report.render().endswith("usable: 0 kinds of error, 1 kinds of warning\n")
    assert "\n    not used: when\n" in report.description
    assert check_tables(path, columns={"timestamp": "when"}).problems == ()
    assert "not used" not in check_tables(path, columns={"timestamp": "when"}).description


def test_a_position_or_a_history_is_an_order():
    frame = pl.DataFrame({"user_id": [1, 1], "item_id": [1, 2], "position": [0, 1], "note": ["x", "y"]})
    report = check_tables(frame)
    assert report.problems == ()
    assert "\n    not used: note\n" in report.description
    for column in ("history", "item_id"):
        report = check_tables(pl.DataFrame({"user_id": [1, 2], column: [["a", "b"], ["b", "a"]]}))
        assert report.problems == ()
        assert "order: events of a user are in the order of the histories" in report.description


def test_items_against_events(tmp_path: Path):
    write(tmp_path / "interactions.csv", HEADER + GOOD)
    write(tmp_path / "items.csv", "item_id,title\nb,B\nz,Z\nb,again\n,nothing\n")
    report = check_tables(tmp_path)
    found = {problem.rule: problem for problem in report.problems}
    assert set(found) == {"null id", "duplicate item", "item without metadata", "metadata without events"}
    for rule, row in (("null id", 5), ("duplicate item", 4), ("metadata without events", 3)):
        assert (found[rule].file, found[rule].row) == ("items.csv", row)
    lacking = found["item without metadata"]
    assert (lacking.file, lacking.row, lacking.examples[0].value) == ("interactions.csv", 2, "a")
    assert lacking.message == "these items have events and no row in the items table"
    assert found["metadata without events"].message == "these items have no event; a run leaves them out"
    assert report.counts == {"events": 4, "users": 2, "items": 2, "catalogue_items": 2}


def test_an_items_table_without_ids(tmp_path: Path):
    write(tmp_path / "interactions.csv", HEADER + GOOD)
    write(tmp_path / "items.csv", "titel\nA\n")
    problem = only(check_tables(tmp_path))
    assert (problem.file, problem.rule, problem.column) == ("items.csv", "missing column", "item_id")


def test_a_user_with_one_event(tmp_path: Path):
    problem = check_csv(tmp_path, "u3,b,1600000009\n")
    assert (problem.rule, problem.row, problem.count, problem.severity) == ("user with one event", 6, 1, "warning")
    assert "one event has nothing before or after it" in problem.message


def test_invalid_utf8(tmp_path: Path):
    problem = check_csv(tmp_path, "u1,caf\xe9,1600000009\n".encode("latin1"))
    assert (problem.rule, problem.row, problem.place, problem.severity) == ("invalid UTF-8", 6, "line", "error")
    assert "bytes that are not UTF-8" in problem.message
    assert "iconv" in problem.fix


@pytest.mark.parametrize("name", ["interactions.csv", "interactions.csv.gz", "log.inter", "interactions.tsv"])
def test_a_wrong_number_of_fields(tmp_path: Path, name: str):
    separator = "," if ".csv" in name else "\t"
    text = (HEADER + GOOD + "u1,c\nu1,d,1600000007,9\n").replace(",", separator)
    path = write(tmp_path / name, gzip.compress(text.encode()) if name.endswith(".gz") else text)
    problem, consequence = check_tables(path).problems
    assert (consequence.rule, consequence.row) == ("missing time", 6)
    assert (problem.rule, problem.count, places(problem)) == ("wrong number of fields", 2, [6, 7])
    assert "the header has 3 fields" in problem.message


def test_quoted_fields_may_hold_separators_and_line_breaks(tmp_path: Path):
    write(tmp_path / "interactions.csv", HEADER + GOOD)
    write(tmp_path / "items.csv", 'item_id,title\na,"x, y"\nb,"two\nlines, ""quoted"""\n')
    assert check_tables(tmp_path).problems == ()
    write(tmp_path / "items.csv", 'item_id,title\na,"never closed\nb,x\n')
    rules = {problem.rule: problem for problem in check_tables(tmp_path).problems}
    assert rules["quote never closed"].row == 2


def test_unparseable_json_lines(tmp_path: Path):
    rows = [{"user_id": "u1", "item_id": item, "timestamp": 1600000000 + n} for n, item in enumerate("ab")]
    lines = [json.dumps(rows[0]), "{broken", "[1]", "", json.dumps(rows[1])]
    problem = only(check_tables(write(tmp_path / "interactions.jsonl", "\n".join(lines) + "\n")))
    assert (problem.rule, problem.count, places(problem)) == ("unparseable line", 2, [2, 3])
    assert problem.message == "these lines are not one JSON object each"


def test_mixed_types_in_json(tmp_path: Path):
    rows = [{"user_id": user, "item_id": item, "position": item} for user, item in ((1, 5), (1, 6), ("1", 7))]
    path = write(tmp_path / "interactions.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    problem = only(check_tables(path))
    assert (problem.rule, problem.column, problem.row, problem.count) == ("mixed types", "user_id", 3, 1)
    assert "number in 2 lines (first in line 1), text in 1 lines (first in line 3)" in problem.message


def test_mixed_types_in_text_files(tmp_path: Path):
    rows = "".join(f"{number % 3},{number},{1600000000 + number},{number % 5}\n" for number in range(30))
    odd = "1,N/A,1600000100,5\n2,5,1600000101,five\n"
    path = write(tmp_path / "interactions.csv", "user_id,item_id,timestamp,rating\n" + rows + odd)
    found = {problem.column: problem for problem in check_tables(path).problems}
    assert set(found) == {"item_id", "rating"}
    assert {problem.rule for problem in found.values()} == {"mixed types"}
    assert (found["item_id"].row, found["item_id"].examples[0].value) == (32, "N/A")
    assert (found["rating"].row, found["rating"].examples[0].value) == (33, "five")


def test_mixed_types_in_a_pandas_column():
    frame = pd.DataFrame({"user_id": [1, "a", 2.5], "item_id": [1, 2, 3]})
    problem = only(check_tables(frame))
    assert problem.rule == "unusable source"
    assert "mixed types" in problem.message


def test_kinds_of_id_that_are_both_common_are_no_fault(tmp_path: Path):
    rows = "".join(f"u,{'B00' if number % 2 else '15'}{number},{1600000000 + number}\n" for number in range(20))
    assert check_tables(write(tmp_path / "interactions.csv", HEADER + rows)).problems == ()


def test_empty_files(tmp_path: Path):
    problem = only(check_tables(write(tmp_path / "interactions.csv", "")))
    assert (problem.rule, problem.severity, problem.file) == ("empty file", "error", "interactions.csv")
    assert "is empty (0 bytes)" in problem.message
    problem = only(check_tables(write(tmp_path / "interactions.csv", HEADER)))
    assert (problem.rule, problem.message) == ("empty file", "there is a header and no row")
    write(tmp_path / "interactions.csv", HEADER + GOOD)
    problem = only(check_tables(write(tmp_path / "items.csv", "").parent))
    assert (problem.rule, problem.file) == ("empty file", "items.csv")


def test_unreadable_and_absent_files(tmp_path: Path):
    problem = only(check_tables(write(tmp_path / "interactions.parquet", b"not parquet")))
    assert problem.rule == "unreadable file"
    assert "interactions.parquet cannot be read" in problem.message
    assert "does not exist" in only(check_tables(tmp_path / "nowhere")).message


def test_an_unusable_position_is_an_error():
    frame = pl.DataFrame({"user_id": [1, 1], "item_id": [1, 2], "position": ["0", "last"]})
    problem = only(check_tables(frame))
    assert (problem.rule, problem.row, problem.severity) == ("unusable position", 2, "error")


def test_rows_of_several_files_are_told_apart(tmp_path: Path):
    write(tmp_path / "events-0.csv", HEADER + GOOD)
    write(tmp_path / "events-1.csv", HEADER + "u1,c,1600000009\nu1,d,soon\n")
    problem = only(check_tables(tmp_path))
    assert (problem.rule, problem.file, problem.row) == ("unparseable time", "events-1.csv", 3)


def test_parquet_rows_count_from_one(tmp_path: Path):
    frame = pl.DataFrame({"user_id": ["a", None, "a"], "item_id": [1, 2, 3], "position": [0, 1, 2]})
    frame.write_parquet(tmp_path / "interactions.parquet")
    problem = only(check_tables(tmp_path / "interactions.parquet"))
    assert (problem.rule, problem.place, problem.row) == ("null id", "row", 2)


def test_all_faults_at_once(tmp_path: Path):
    faults = b",a,1600000009\nu1,b\nu1,\xff,1600000010\nu1,c,never\nu1,c,-7\nu1,a,1600000000\nu9,a,1600000020\n"
    write(tmp_path / "interactions.csv", (HEADER + GOOD).encode() + faults)
    write(tmp_path / "items.csv", "item_id,title\na,A\nzz,Z\n")
    report = check_tables(tmp_path)
    assert {problem.rule for problem in report.problems} == {
        "invalid UTF-8", "wrong number of fields", "null id", "missing time", "unparseable time", "negative time",
        "duplicate event", "user with one event", "item without metadata", "metadata without events",
    }  # fmt: skip
    assert not report.ok
    severities = [problem.severity for problem in report.problems]
    assert severities == sorted(severities), "errors come first"
    text = report.render()
    assert "error: interactions.csv, line 9, column timestamp: unparseable time (1)" in text
    assert text.endswith("not usable yet: 6 kinds of error, 4 kinds of warning\n")
    stored = json.loads(json.dumps(report.to_json()))
    assert stored["ok"] is False
    assert all(
        {"file", "row", "column", "rule", "message", "fix", "severity", "count"} <= set(p) for p in stored["problems"]
    )


def test_many_faults_show_the_first_few(tmp_path: Path):
    problem = check_csv(tmp_path, "".join(f"u1,x{number},bad\n" for number in range(30)) + "")
    assert (problem.count, places(problem)) == (30, [6, 7, 8, 9, 10])
    assert problem.render().count("line ") == 6
    assert " ..." in problem.render()
