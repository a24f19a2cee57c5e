"""`data.toml`: the small file beside the data that says once what names and layout cannot say.

events = "log.csv.gz"          # file, or list of files, beside this one
items = "produkte.parquet"
time_unit = "ms"               # s, ms, us, ns; or time_format = "%d.%m.%Y %H:%M"
[columns]
user_id = "kunde"              # Sememe's name = the file's name
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sememe.core.errors import DataError, did_you_mean

FILE_NAME = "data.toml"


@dataclass(frozen=True)
class DataToml:
    """What a person said about a data directory; empty where there is no file."""

    events: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    time_unit: str | None = None
    time_format: str | None = None
    history_separator: str | None = None
    simulated: bool = False
    """Whether the events never happened; whatever is made from such data says so."""


def read_data_toml(directory: Path) -> DataToml:
    """Read `directory`/data.toml; an unknown key or a value of the wrong type is an error, never ignored."""
    path = directory / FILE_NAME
    if not path.is_file():
        return DataToml()
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not valid TOML: {error}", fix="correct the file") from error
    known = tuple(DataToml.__dataclass_fields__)
    for key in content:
        if key not in known:
            raise DataError(f"{path}: unknown key {key!r}", fix=did_you_mean(key, known))
    return DataToml(
        events=_names(content.get("events", ()), key="events", path=path),
        items=_names(content.get("items", ()), key="items", path=path),
        columns=_columns(content.get("columns", {}), path=path),
        time_unit=_text(content.get("time_unit"), key="time_unit", path=path),
        time_format=_text(content.get("time_format"), key="time_format", path=path),
        history_separator=_text(content.get("history_separator"), key="history_separator", path=path),
        simulated=_truth(content.get("simulated", False), key="simulated", path=path),
    )


def render_data_toml(settings: DataToml) -> str:
    """The text of a data.toml that says `settings`."""
    lines = [f"{key} = {_quoted(getattr(settings, key))}" for key in ("events", "items") if getattr(settings, key)]
    for key in ("time_unit", "time_format", "history_separator"):
        if getattr(settings, key) is not None:
            lines.append(f"{key} = {_quote(getattr(settings, key))}")
    if settings.simulated:
        lines.append("simulated = true")
    lines.append("[columns]")
    lines += [f"{canonical} = {_quote(own)}" for canonical, own in settings.columns.items()]
    return "\n".join(lines) + "\n"


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t").replace("\n", "\\n")
    return f'"{escaped}"'


def _quoted(names: tuple[str, ...]) -> str:
    return _quote(names[0]) if len(names) == 1 else f"[{', '.join(map(_quote, names))}]"


def _text(value: object, *, key: str, path: Path) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise DataError(f"{path}: {key} is {value!r}", fix="give a text in quotes")


def _truth(value: object, *, key: str, path: Path) -> bool:
    if isinstance(value, bool):
        return value
    raise DataError(f"{path}: {key} is {value!r}", fix="write true or false, without quotes")


def _names(value: object, *, key: str, path: Path) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value):
        return tuple(value)
    raise DataError(f"{path}: {key} is {value!r}", fix="give a file name in quotes, or a list of file names")


def _columns(value: object, *, path: Path) -> dict[str, str]:
    if isinstance(value, dict) and all(isinstance(name, str) for name in value.values()):
        return dict(value)
    raise DataError(f"{path}: columns is {value!r}", fix='write a table: [columns] and lines such as user_id = "kunde"')
