"""A folder of runs of which one answers: which there are, which is active, which was before.

    MODELS/active.json                 {"active": "monday", "previous": "sunday", ...}, replaced by one rename
    MODELS/monday/, MODELS/sunday/     runs, each whole once its run.json is there

A run is such a folder too: it is called `original`, and what `sememe refresh RUN` makes of it lies in RUN/models.
Replicas that share the folder share the pointer, and look at it again and again.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sememe.core.artifact import only_writer, write_file
from sememe.core.errors import ArtifactError, ConfigError, SememeError, did_you_mean

POINTER = "active.json"
ORIGINAL = "original"
REFRESHED = "models"
RUN_FILE = "run.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)


class UnknownModelError(SememeError):
    """There is no model of this name."""


@dataclass(frozen=True)
class Pointer:
    """Which model is to answer."""

    active: str
    previous: str | None = None
    """What answered before: a roll-back goes there."""
    number: int = 0
    """One more with each change."""
    changed: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


@dataclass(frozen=True)
class ModelFolder:
    """A folder of runs, or one run."""

    path: Path

    @property
    def is_run(self) -> bool:
        return (self.path / RUN_FILE).is_file()

    @property
    def place(self) -> Path:
        """Where further models go."""
        return self.path / REFRESHED if self.is_run else self.path

    def names(self) -> list[str]:
        """The models that are whole, in order of the alphabet, `original` first."""
        found = sorted(file.parent.name for file in self.place.glob(f"*/{RUN_FILE}"))
        return [*([ORIGINAL] if self.is_run else []), *(name for name in found if NAME.fullmatch(name))]

    def path_of(self, name: str) -> Path:
        """The run directory of a model.  Raises UnknownModelError."""
        # Looked up and not joined: a name comes from outside.
        if name not in self.names():
            raise UnknownModelError(f"there is no model {name!r}", fix=did_you_mean(name, self.names()))
        return self.path if name == ORIGINAL and self.is_run else self.place / name

    def pointer(self) -> Pointer:
        """Which model is active: what was said last, or the only one there is.

        Raises:
            ArtifactError: there is no model, or what was written cannot be read.
            ConfigError: there are several, and nothing was said.
        """
        file, names = self.path / POINTER, self.names()
        if file.is_file():
            return _read(file, names)
        if not names:
            raise ArtifactError(f"{self.path} holds no finished run", fix="give what was given to `sememe run --out`")
        if len(names) > 1 and not self.is_run:
            raise ConfigError(
                f"{self.path} holds {len(names)} models, and none of them was made active",
                fix=f"say which: sememe models {self.path} --activate {names[-1]}",
            )
        return Pointer(active=names[0])

    def point_to(self, name: str) -> Pointer:
        """Make a model the active one, durably, and by one rename: a process that is killed leaves the old pointer or
        the new one.

        Raises:
            UnknownModelError: there is none of this name.
            SememeError: another process is at it.
        """
        self.path_of(name)
        with only_writer(self.path / "serve"):
            try:
                before: Pointer | None = self.pointer()
            except ConfigError:
                before = None
            if before is not None and before.active == name:
                return before
            newer = Pointer(
                active=name,
                previous=None if before is None else before.active,
                number=1 if before is None else before.number + 1,
            )
            write_file(self.path / POINTER, json.dumps(asdict(newer), indent=2) + "\n")
        return newer

    def describe(self, name: str) -> Mapping[str, Any]:
        """run.json of a model.  Raises ArtifactError where it cannot be read."""
        file = self.path_of(name) / RUN_FILE
        try:
            content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{file} cannot be read: {error}", fix="run the recipe again") from error
        return content


def _read(file: Path, names: list[str]) -> Pointer:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return Pointer(
            active=str(content["active"]),
            previous=None if content["previous"] is None else str(content["previous"]),
            number=int(content["number"]),
            changed=str(content["changed"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{file} cannot be read: {error}", fix=f"delete it, and make one of {names} active again"
        ) from error
