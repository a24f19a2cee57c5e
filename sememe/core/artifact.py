"""Directories that Sememe writes: complete or absent, checked when read, never pickled.

An artifact is a directory with `manifest.json`.  It is filled under a temporary name, every file is fsynced, and the
directory is renamed into place, so a crash leaves the old artifact or none.  The manifest holds size and SHA-256 of
every file: a truncated or edited artifact is refused by the name of the file.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sememe.core.errors import ArtifactError, SememeError

MANIFEST = "manifest.json"
LOGS = "logs/"
FORMAT = 1
RECORDED_PACKAGES = ("sememe", "torch", "numpy", "polars", "safetensors")


@dataclass(frozen=True)
class Manifest:
    """What an artifact says of itself."""

    path: Path
    kind: str
    """What the directory holds, e.g. "interactions" or "codes"."""
    meta: Mapping[str, Any]
    """JSON that the writer chose: recipe hash, input hashes, seed, counts."""
    files: Mapping[str, Mapping[str, Any]]
    """Relative POSIX path -> {"bytes", "sha256"}."""

    @property
    def content_hash(self) -> str:
        """SHA-256 over the files' hashes: equal contents give equal hashes, whenever and wherever written.

        Files under `logs/` hold times and speeds, which differ between equal runs, and do not count.
        """
        counted = (name for name in sorted(self.files) if not name.startswith(LOGS))
        lines = [f"{name} {self.files[name]['sha256']}" for name in counted]
        return hashlib.sha256("\n".join([self.kind, *lines]).encode()).hexdigest()


@contextmanager
def write_artifact(path: Path, *, kind: str, meta: Mapping[str, Any]) -> Iterator[Path]:
    """Yield an empty directory to fill; on a clean exit it becomes the artifact `path`, replacing an older one.

    Where the block raises, the temporary directory is removed and an older artifact at `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    temporary.mkdir()
    try:
        yield temporary
        _write_manifest(temporary, kind=kind, meta=meta)
        _move_into_place(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_artifact(path: Path, *, kind: str) -> Manifest:
    """The manifest of the artifact at `path`, after every file of it was found whole.

    Raises:
        ArtifactError: it is missing, of another kind or format, or a file is missing, truncated or edited.
    """
    manifest = _parse_manifest(path)
    if manifest.kind != kind:
        raise ArtifactError(
            f"{path} holds {manifest.kind!r}, and {kind!r} was asked for", fix=f"name a directory that holds {kind}"
        )
    for name, entry in manifest.files.items():
        _check_file(path / name, size=entry["bytes"], sha256=entry["sha256"])
    return manifest


def is_artifact(path: Path) -> bool:
    """Whether `path` is a directory with a manifest; says nothing about whether it is whole."""
    return (path / MANIFEST).is_file()


def write_file(path: Path, content: str) -> None:
    """Write text so that a crash leaves either the old file or the new one."""
    _sweep(path)
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    temporary.write_text(content, encoding="utf-8")
    _fsync(temporary)
    temporary.replace(path)
    _fsync(path.parent)


@contextmanager
def only_writer(directory: Path) -> Iterator[None]:
    """Hold `directory` for this process.

    Raises:
        SememeError: another process is writing to it.
    """
    if directory.exists() and not directory.is_dir():
        raise SememeError(f"{directory} is a file, and a directory is needed", fix="give another path")
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SememeError(
                f"another process is writing to {directory}", fix="wait for it to end, or write to another directory"
            ) from error
        yield


def hash_files(paths: list[Path]) -> str:
    """SHA-256 over names and contents of `paths` (files), in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda file: file.name):
        digest.update(f"{path.name}:{_sha256(path)}\n".encode())
    return digest.hexdigest()


def _parse_manifest(path: Path) -> Manifest:
    file = path / MANIFEST
    remake = "make it again with `sememe run`; every stage that is whole is reused"
    if not file.is_file():
        raise ArtifactError(f"{path} has no {MANIFEST}: it is no artifact, or an unfinished one", fix=remake)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        manifest = Manifest(path=path, kind=content["kind"], meta=content["meta"], files=content["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{file} cannot be read: {error}", fix=remake) from error
    if content.get("format") != FORMAT:
        raise ArtifactError(
            f"{file} has format {content.get('format')!r}, and this version of Sememe reads format {FORMAT}",
            fix="read it with the version of Sememe that wrote it (manifest.json names it), or make it again",
        )
    return manifest


def _check_file(file: Path, *, size: int, sha256: str) -> None:
    remake = "restore it from a copy, or delete the artifact and run again"
    if not file.is_file():
        raise ArtifactError(f"{file} is missing, and the manifest lists it", fix=remake)
    actual = file.stat().st_size
    if actual != size:
        raise ArtifactError(f"{file} has {actual} bytes, and the manifest says {size}: it was truncated", fix=remake)
    if _sha256(file) != sha256:
        raise ArtifactError(f"{file} differs from what was written (SHA-256): it was edited or damaged", fix=remake)


def _write_manifest(directory: Path, *, kind: str, meta: Mapping[str, Any]) -> None:
    files = sorted(file for file in directory.rglob("*") if file.is_file())
    content = {
        "format": FORMAT,
        "kind": kind,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "packages": {name: _package_version(name) for name in RECORDED_PACKAGES},
        "meta": dict(meta),
        "files": {
            file.relative_to(directory).as_posix(): {"bytes": file.stat().st_size, "sha256": _sha256(file)}
            for file in files
        },
    }
    (directory / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for file in [*files, directory / MANIFEST]:
        _fsync(file)
    for folder in {file.parent for file in files} | {directory}:
        _fsync(folder)


def _move_into_place(temporary: Path, path: Path) -> None:
    # A directory cannot be replaced in one step: the old one steps aside first, and is removed last.
    aside = path.parent / f".{path.name}.{os.getpid()}.old"
    shutil.rmtree(aside, ignore_errors=True)
    if path.exists():
        path.rename(aside)
    temporary.rename(path)
    _fsync(path.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _sweep(path: Path) -> None:
    """Remove what killed processes left half-made beside `path`; a process that still runs keeps its own."""
    for leftover in path.parent.glob(f".{path.name}.*.*"):
        process = leftover.suffixes[-2].removeprefix(".") if len(leftover.suffixes) > 1 else ""
        if process.isdecimal() and (int(process) == os.getpid() or not _is_running(int(process))):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's process, so it runs
        return True
    return True


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _package_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
