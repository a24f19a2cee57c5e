"""Every form of one log gives the same Interactions; columns, order and layout are told in words."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from event_files import WRITERS, frame_of, write_csv, write_hf_dataset, write_parquet
from hypothesis import given, settings
from hypothesis import strategies as st

from sememe.core.errors import DataError
from sememe.core.schema import Interactions
from sememe.data.check import check_tables
from sememe.data.describe import describe_tables, example_sequence
from sememe.data.index import build_interactions
from sememe.data.readers import open_tables

T0 = 1_600_000_000


def histories(log: Interactions) -> dict[object, list[object]]:
    """User id -> item ids in order."""
    ids = log.item_ids.to_list()
    return {user: [ids[item] for item in log.history(number)] for number, user in enumerate(log.user_ids.to_list())}


def same(first: Interactions, second: Interactions) -> bool:
    """Whether two logs agree in ids, order, times and ratings."""
    times = (first.timestamps, second.timestamps)
    return (
        first.user_ids.equals(second.user_ids)
        and first.item_ids.equals(second.item_ids)
        and first.user_ids.dtype == second.user_ids.dtype
        and np.array_equal(first.offsets, second.offsets)
        and np.array_equal(first.items, second.items)
        and all(t is not None for t in times)
        and np.array_equal(times[0], times[1])
        and np.array_equal(first.columns["rating"], second.columns["rating"], equal_nan=True)
    )


IDS = st.one_of(
    st.lists(st.integers(-3, 10**12), min_size=2, max_size=6, unique=True),
    st.lists(st.text("abcXYZ019_-é", min_size=1, max_size=5), min_size=2, max_size=6, unique=True),
)


@st.composite
def event_rows(draw):
    """Up to 20 events with tied times, integer or text ids, and some ratings missing."""
    users, items = draw(IDS), draw(IDS)
    row = st.fixed_dictionaries(
        {
            "user_id": st.sampled_from(users),
            "item_id": st.sampled_from(items),
            "timestamp": st.integers(T0, T0 + 3),
            "rating": st.sampled_from([1.0, 2.5, None]),
        }
    )
    rows = draw(st.lists(row, min_size=2, max_size=20))
    order = tuple(draw(st.permutations(("user_id", "item_id", "timestamp", "rating"))))
    return pl.DataFrame(rows, schema_overrides={"rating": pl.Float64}).select(order)


@settings(max_examples=5)
@given(frame=event_rows())
def test_every_format_gives_the_same_interactions(frame: pl.DataFrame):
    reference = build_interactions(open_tables(frame)).interactions
    for writer in WRITERS:
        with tempfile.TemporaryDirectory() as folder:
            tables = open_tables(writer(frame, Path(folder)))
            assert same(reference, build_interactions(tables).interactions), writer.__name__


@settings(max_examples=25)
@given(frame=event_rows())
def test_order_is_time_with_ties_in_file_order(frame: pl.DataFrame):
    rows = list(enumerate(frame.to_dicts()))
    expected: dict[str, list[str]] = {}
    for _, row in sorted(rows, key=lambda entry: (entry[1]["timestamp"], entry[0])):
        expected.setdefault(str(row["user_id"]), []).append(str(row["item_id"]))
    got = histories(build_interactions(open_tables(frame)).interactions)
    assert {str(user): [str(item) for item in items] for user, items in got.items()} == expected


ROWS = [
    {"user_id": "u2", "item_id": "b", "timestamp": T0 + 5, "rating": 1.0},
    {"user_id": "u1", "item_id": "a", "timestamp": T0 + 9, "rating": 2.0},
    {"user_id": "u1", "item_id": "c", "timestamp": T0 + 1, "rating": 3.0},
    {"user_id": "u1", "item_id": "b", "timestamp": T0 + 9, "rating": None},
]
EXPECTED = {"u1": ["c", "a", "b"], "u2": ["b"]}


@pytest.mark.parametrize("convert", [pl.DataFrame.lazy, pd.DataFrame, pa.table], ids=["lazy", "pandas", "arrow"])
def test_tables_in_memory(convert):
    frame = frame_of(ROWS)
    source = convert(frame) if convert is pl.DataFrame.lazy else convert(frame.to_dict(as_series=False))
    assert histories(build_interactions(open_tables(source)).interactions) == EXPECTED


def test_what_is_no_table_is_refused():
    with pytest.raises(DataError, match="a list is no table that can be read"):
        open_tables([1, 2])
    with pytest.raises(DataError, match=r"a mapping of tables has the keys \['logs'\]"):
        open_tables({"logs": frame_of(ROWS)})
    mixed = pd.DataFrame({"user_id": [1, "a", 2.5], "item_id": [1, 2, 3]})
    with pytest.raises(DataError, match="cannot be converted, often for mixed types"):
        open_tables(mixed)


def test_position_goes_before_time():
    frame = frame_of(ROWS).with_columns(position=pl.Series([0, 7, 8, 6]))
    tables = open_tables(frame)
    indexed = build_interactions(tables)
    assert histories(indexed.interactions) == {"u1": ["b", "a", "c"], "u2": ["b"]}
    assert indexed.order_rule == "events of a user are ordered by position, ties in the order of the file"


def test_without_time_the_file_gives_the_order():
    indexed = build_interactions(open_tables(frame_of(ROWS, columns=("item_id", "user_id"))))
    assert histories(indexed.interactions) == {"u1": ["a", "c", "b"], "u2": ["b"]}
    assert indexed.interactions.timestamps is None
    assert indexed.order_rule == "events of a user are in the order of the file"


def test_a_directory_by_conventional_names(tmp_path: Path):
    write_parquet(frame_of(ROWS), tmp_path)
    pl.DataFrame({"movieId": ["b", "a", "c"], "movie_title": ["B", "A", None]}).write_csv(tmp_path / "movies.csv")
    pl.DataFrame({"user_id": ["u1"]}).write_csv(tmp_path / "users.csv")
    (tmp_path / "README.md").write_text("about")
    tables = open_tables(tmp_path)
    indexed = build_interactions(tables)
    assert histories(indexed.interactions) == EXPECTED
    assert [indexed.catalog.title(item) for item in range(3)] == ["A", "B", "c"]
    assert tables.item_mapping == {"item_id": "movieId", "title": "movie_title"}
    assert [path.name for path in tables.files] == ["interactions.parquet", "movies.csv"]


def test_parts_of_one_table_are_read_in_order(tmp_path: Path):
    for number, row in enumerate(ROWS):
        frame_of([row], columns=("user_id", "item_id")).write_csv(tmp_path / f"clicks-{number:05d}-of-00004.csv")
    assert histories(build_interactions(open_tables(tmp_path)).interactions) == {"u1": ["a", "c", "b"], "u2": ["b"]}
    folder = tmp_path / "nested"
    (folder / "events").mkdir(parents=True)
    write_csv(frame_of(ROWS), folder / "events")
    assert histories(build_interactions(open_tables(folder)).interactions) == EXPECTED


def test_published_splits_are_joined_and_said(tmp_path: Path):
    for name, rows in (("train", ROWS[:2]), ("test", ROWS[3:]), ("valid", ROWS[2:3])):
        frame_of(rows).write_csv(tmp_path / f"{name}.csv")
    tables = open_tables(tmp_path)
    assert "to be split anew: train.csv, valid.csv, test.csv" in tables.notes[0]
    assert histories(build_interactions(tables).interactions) == EXPECTED


def test_a_dictionary_of_hugging_face_splits(tmp_path: Path):
    write_hf_dataset(frame_of(ROWS[:2]), tmp_path / "train")
    write_hf_dataset(frame_of(ROWS[2:]), tmp_path / "test")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["test", "train"]}')
    tables = open_tables(tmp_path)
    assert [path.parent.name for path in tables.files] == ["train", "train", "test", "test"]
    assert histories(build_interactions(tables).interactions) == EXPECTED


def test_names_are_given_once(tmp_path: Path):
    frame = frame_of(ROWS).rename({"user_id": "kunde", "item_id": "ding", "timestamp": "wann"})
    frame.write_csv(tmp_path / "verkauf.csv")
    pl.DataFrame({"ding": ["a", "b", "c"], "bezeichnung": ["A", "B", "C"]}).write_csv(tmp_path / "waren.csv")
    with pytest.raises(DataError, match=r"no file with events was found among: verkauf.csv, waren.csv"):
        open_tables(tmp_path)
    (tmp_path / "data.toml").write_text(
        'events = "verkauf.csv"\nitems = "waren.csv"\n[columns]\nuser_id = "kunde"\nitem_id = "ding"\n'
        'timestamp = "wann"\ntitle = "bezeichnung"\n'
    )
    indexed = build_interactions(open_tables(tmp_path))
    assert histories(indexed.interactions) == EXPECTED
    assert indexed.catalog.title(0) == "A"


def test_columns_given_in_the_call_and_their_faults(tmp_path: Path):
    path = write_csv(frame_of(ROWS).rename({"user_id": "kunde"}), tmp_path)
    with pytest.raises(
        DataError, match=r"interactions.csv: no column was recognised as user_id; it has kunde, item_id"
    ):
        open_tables(path)
    assert histories(build_interactions(open_tables(path, columns={"user_id": "kunde"})).interactions) == EXPECTED
    with pytest.raises(DataError, match=r"no table has a column of that name.*\n.*did you mean 'kunde'"):
        open_tables(path, columns={"user_id": "kunden"})


def test_the_written_data_toml_opens_the_same(tmp_path: Path):
    write_csv(frame_of(ROWS).rename({"user_id": "kunde"}), tmp_path)
    pl.DataFrame({"sku": ["a"], "name": ["A"]}).write_csv(tmp_path / "products.csv")
    first = open_tables(tmp_path, columns={"user_id": "kunde"})
    (tmp_path / "data.toml").write_text(first.data_toml())
    second = open_tables(tmp_path)
    assert second.mapping == first.mapping
    assert second.item_mapping == first.item_mapping


def test_the_id_column_of_the_events_is_the_id_of_the_items():
    items = pl.DataFrame({"item_id": [1, 2], "asin": ["a", "b"], "title": ["A", "B"]})
    events = pl.DataFrame({"user_id": [1, 1], "asin": ["b", "a"]})
    indexed = build_interactions(open_tables({"events": events, "items": items}))
    assert indexed.catalog.frame["title"].to_list() == ["A", "B"]
    assert indexed.catalog.frame["item_id_in_file"].to_list() == [1, 2]


def test_the_hash_follows_the_content(tmp_path: Path):
    path = write_csv(frame_of(ROWS), tmp_path)
    before = open_tables(path).content_hash()
    assert before == open_tables(path).content_hash()
    write_csv(frame_of(ROWS[:3]), tmp_path)
    assert open_tables(path).content_hash() != before
    assert open_tables(frame_of(ROWS)).content_hash() == open_tables(frame_of(ROWS)).content_hash()
    assert open_tables(frame_of(ROWS)).content_hash() != open_tables(frame_of(ROWS[:3])).content_hash()


def test_the_hash_follows_how_the_files_are_read(tmp_path: Path):
    frame = frame_of(ROWS).with_columns(pl.col("timestamp").alias("seen"), pl.lit("x").alias("sku"))
    write_csv(frame, tmp_path)
    frame.write_csv(tmp_path / "other.csv")
    pl.DataFrame({"item_id": ["a"], "title": ["A"], "label": ["B"]}).write_csv(tmp_path / "items.csv")
    toml = tmp_path / "data.toml"
    plain = open_tables(tmp_path).content_hash()
    assert open_tables(tmp_path, columns={"item_id": "item_id"}).content_hash() == plain, "a mapping that is in force"
    hashes = [plain, *[open_tables(tmp_path, columns=given).content_hash() for given in MAPPINGS]]
    for text in SETTINGS:
        toml.write_text(text)
        hashes.append(open_tables(tmp_path).content_hash())
        assert open_tables(tmp_path).content_hash() == hashes[-1]
    assert len(set(hashes)) == len(hashes) == 1 + len(MAPPINGS) + len(SETTINGS)
    toml.write_text("# a remark alone\n")
    assert open_tables(tmp_path).content_hash() == plain


MAPPINGS = ({"item_id": "sku"}, {"timestamp": "seen"}, {"title": "label"})
SETTINGS = (
    '[columns]\nrating = "seen"\n',
    'time_unit = "ms"\n',
    'time_format = "%Y"\n',
    'history_separator = "/"\n',
    'events = "other.csv"\n',
    'events = "interactions.csv"\nitems = "other.csv"\n',
    'events = ["interactions.csv", "other.csv"]\n',
    'events = ["other.csv", "interactions.csv"]\n',
)


def test_the_hash_counts_tables_in_memory_beside_files_and_not_where_files_lie(tmp_path: Path):
    paths = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        paths.append(write_csv(frame_of(ROWS), tmp_path / name))
    assert open_tables(paths[0]).content_hash() == open_tables(paths[1]).content_hash()
    hashes = {
        open_tables({"events": paths[0], "items": pl.DataFrame({"item_id": ["a"], "title": [title]})}).content_hash()
        for title in ("A", "B")
    }
    assert len(hashes) == 2


def test_the_description_says_columns_times_order_and_an_example(tmp_path: Path):
    write_csv(frame_of(ROWS[1:]).rename({"user_id": "uid"}), tmp_path)
    pl.DataFrame({"item_id": ["a"], "title": ["Alien"]}).write_csv(tmp_path / "items.csv")
    text = describe_tables(open_tables(tmp_path))
    assert "user_id <- uid" in text
    assert "times: seconds since 1970 UTC" in text
    assert "order: events of a user are ordered by timestamp, ties in the order of the file" in text
    assert "example: user u1: c -> a 'Alien' -> b" in text
    assert example_sequence(open_tables(pl.DataFrame({"user_id": [], "item_id": []}))) == ""


HISTORIES = {"u1": ["c", "a", "b"], "u2": ["b"]}


@pytest.mark.parametrize(
    "frame",
    [
        pl.DataFrame({"user_id": ["u1", "u2"], "item_ids": [["c", "a", "b"], ["b"]]}),
        pl.DataFrame({"uid": ["u1", "u2"], "item_id": [["c", "a", "b"], ["b"]]}),
        pl.DataFrame({"user": ["u1", "u2"], "history": ["c;a;b", "b"]}),
        pl.DataFrame({"user": ["u1", "u2"], "sequence": ["['c', 'a', 'b']", "['b']"]}),
        pl.DataFrame({"user_id": ["u1", "u2"], "history": [["c", "a"], []], "item_id": ["b", "b"]}),
        pl.DataFrame(
            {"user_id": ["u1", "u2"], "items": [["a", "b", "c"], ["b"]], "timestamps": [[T0 + 1, T0 + 2, T0], [T0]]}
        ),
    ],
    ids=["lists", "lists-of-item_id", "separated", "printed-list", "target-beside", "times-beside"],
)
def test_one_row_per_user(frame: pl.DataFrame):
    assert histories(build_interactions(open_tables(frame)).interactions) == HISTORIES
    assert check_tables(frame).counts["events"] == 4


def test_lines_of_user_and_items(tmp_path: Path):
    path = tmp_path / "Beauty.txt"
    path.write_text("u1 c a b\n\nu2 b \n")
    assert histories(build_interactions(open_tables(path)).interactions) == HISTORIES
    assert check_tables(path).ok


def test_histories_without_users_and_with_their_own_separator(tmp_path: Path):
    (tmp_path / "interactions.csv").write_text("history\nc/a/b\nb\n")
    with pytest.raises(DataError, match="no separator that is known"):
        open_tables(tmp_path)
    (tmp_path / "data.toml").write_text('history_separator = "/"\n')
    tables = open_tables(tmp_path)
    assert histories(build_interactions(tables).interactions) == {0: ["c", "a", "b"], 1: ["b"]}
    assert "each row is a user" in tables.notes[0]


def test_sessions_are_users_where_there_are_none():
    tables = open_tables(pl.DataFrame({"session_id": ["s1", "s1", "s0"], "item_id": [3, 1, 2]}))
    log = build_interactions(tables).interactions
    assert histories(log) == {"s0": [2], "s1": [3, 1]}
    assert log.columns["session"].tolist() == [0, 1, 1]
    assert "each session is a user" in tables.notes[0]


def test_recbole_items_with_quotes(tmp_path: Path):
    (tmp_path / "m.inter").write_text("user_id:token\titem_id:token\tclass:token\nu1\ta\tx\nu1\tb\ty\n")
    (tmp_path / "m.item").write_text('item_id:token\tmovie_title:token_seq\tclass:token_seq\na\tThe "Best\tDrama War\n')
    tables = open_tables(tmp_path)
    frame = build_interactions(tables).catalog.frame
    assert frame.to_dicts()[0] == {"item_id": "a", "title": 'The "Best', "categories": "Drama War"}


def test_an_unreadable_file_names_itself_and_the_check(tmp_path: Path):
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"a.parquet cannot be read.*\n.*sememe check"):
        open_tables(tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text("user_id,item_id\n1,2,3\n")
    with pytest.raises(DataError, match=r"b.csv.* cannot be read.*\n.*sememe check"):
        build_interactions(open_tables(tmp_path / "b.csv"))
    with pytest.raises(DataError, match="does not exist"):
        open_tables(tmp_path / "c.csv")
    (tmp_path / "d.xlsx").write_bytes(b"x")
    with pytest.raises(DataError, match="the format is not known"):
        open_tables(tmp_path / "d.xlsx")
