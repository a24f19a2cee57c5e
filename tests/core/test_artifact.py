import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sememe.core.artifact import MANIFEST, read_artifact, write_artifact, write_file
from sememe.core.errors import ArtifactError


def make(path: Path, *, content: str = "abc", meta: dict[str, int] | None = None) -> None:
    with write_artifact(path, kind="letters", meta=meta or {}) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "letters.txt").write_text(content)


def test_what_was_written_is_read_with_its_meta(tmp_path: Path) -> None:
    make(tmp_path / "a", meta={"seed": 3})
    manifest = read_artifact(tmp_path / "a", kind="letters")
    assert manifest.meta == {"seed": 3}
    assert manifest.files["deep/letters.txt"]["bytes"] == 3


def test_the_content_hash_is_that_of_the_content_alone(tmp_path: Path) -> None:
    make(tmp_path / "a", meta={"seed": 1})
    make(tmp_path / "b", meta={"seed": 2})
    make(tmp_path / "c", content="abd")
    hashes = [read_artifact(tmp_path / name, kind="letters").content_hash for name in "abc"]
    assert hashes[0] == hashes[1] != hashes[2]


def damage_truncate(path: Path) -> None:
    (path / "deep" / "letters.txt").write_text("ab")


def damage_edit(path: Path) -> None:
    (path / "deep" / "letters.txt").write_text("abX")


def damage_remove(path: Path) -> None:
    (path / "deep" / "letters.txt").unlink()


def damage_manifest(path: Path) -> None:
    (path / MANIFEST).write_text("{")


def damage_format(path: Path) -> None:
    content = json.loads((path / MANIFEST).read_text()) | {"format": 99}
    (path / MANIFEST).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_truncate, "letters.txt has 2 bytes, and the manifest says 3"),
        (damage_edit, "letters.txt differs from what was written"),
        (damage_remove, "letters.txt is missing"),
        (damage_manifest, "manifest.json cannot be read"),
        (damage_format, "has format 99"),
    ],
)
def test_a_damaged_artifact_is_refused_by_name(tmp_path: Path, damage: object, message: str) -> None:
    make(tmp_path / "a")
    damage(tmp_path / "a")  # type: ignore[operator]
    with pytest.raises(ArtifactError, match=message):
        read_artifact(tmp_path / "a", kind="letters")


def test_another_kind_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "a")
    with pytest.raises(ArtifactError, match="holds 'letters', and 'codes' was asked for"):
        read_artifact(tmp_path / "a", kind="codes")


def test_an_error_while_writing_leaves_the_old_artifact_and_nothing_else(tmp_path: Path) -> None:
    make(tmp_path / "a")
    with pytest.raises(RuntimeError), write_artifact(tmp_path / "a", kind="letters", meta={}) as folder:
        (folder / "half").write_text("x")
        raise RuntimeError
    assert read_artifact(tmp_path / "a", kind="letters").files.keys() == {"deep/letters.txt"}
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_a_new_artifact_replaces_the_old_one_whole(tmp_path: Path) -> None:
    make(tmp_path / "a")
    with write_artifact(tmp_path / "a", kind="letters", meta={}) as folder:
        (folder / "other.txt").write_text("x")
    assert read_artifact(tmp_path / "a", kind="letters").files.keys() == {"other.txt"}
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_what_a_killed_writer_left_is_swept_away_by_the_next(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, signal\n"
        "from sememe.core.artifact import write_artifact\n"
        f"with write_artifact(pathlib.Path({str(tmp_path)!r}) / 'a', kind='letters', meta={{}}) as folder:\n"
        "    (folder / 'half').write_text('x')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": os.getcwd()}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "a").exists()
    assert len(list(tmp_path.iterdir())) == 1
    make(tmp_path / "a")
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    write_file(tmp_path / "x.json", "1")
    write_file(tmp_path / "x.json", "22")
    assert (tmp_path / "x.json").read_text() == "22"
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]
