"""data.toml: what is written is what is read, and nothing is ignored."""

from pathlib import Path

import pytest

from sememe.core.errors import DataError
from sememe.data.data_toml import DataToml, read_data_toml, render_data_toml


def test_rendered_settings_read_back_equal(tmp_path: Path):
    settings = DataToml(
        events=("a.csv", "b.csv"),
        items=("items.parquet",),
        columns={"user_id": 'the "user"', "item_id": "ding\\nr"},
        time_unit="ms",
        time_format="%d.%m.%Y\t%H",
        history_separator="/",
    )
    (tmp_path / "data.toml").write_text(render_data_toml(settings), encoding="utf-8")
    assert read_data_toml(tmp_path) == settings


def test_no_file_says_nothing(tmp_path: Path):
    assert read_data_toml(tmp_path) == DataToml()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colums = {}", "unknown key 'colums'.*\n.*did you mean 'columns'"),
        ("events = 3", "events is 3"),
        ("time_unit = 1", "time_unit is 1"),
        ("[columns]\nuser_id = 1", "columns is {'user_id': 1}"),
        ("events = ", "not valid TOML"),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str, message: str):
    (tmp_path / "data.toml").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_data_toml(tmp_path)
