"""A wheel is made with a compiler and without one; what is in it says which searches it can run."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KERNEL = "sememe/decode/native/_kernel"
SAYS = """
from sememe.decode.native import paths
assert paths.__file__.startswith({folder!r}), paths.__file__
status = paths.native_status()
print(status.path, "|", status.reason)
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The project without what was built in it."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    left_out = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd", "build")
    shutil.copytree(ROOT / "sememe", folder / "sememe", ignore=left_out)
    return folder


def build(source: Path, command: str, *, out: Path, compiler: str | None = None) -> Path:
    """The one file that a build of `source` leaves in `out`; compiler: what stands where the C++ compiler would."""
    environment = os.environ if compiler is None else os.environ | {"CC": compiler, "CXX": compiler}
    made = subprocess.run(
        [sys.executable, "setup.py", "-q", command, "--dist-dir", str(out)],
        cwd=source,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    (file,) = out.iterdir()
    return file


def installed_path(wheel: Path, folder: Path) -> tuple[str, str]:
    """Which compiled search the package of `wheel` runs, and why, told by a Python that reads it from `folder`."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    environment = {name: value for name, value in os.environ.items() if name != "SEMEME_NATIVE"}
    told = subprocess.run(
        [sys.executable, "-c", SAYS.format(folder=str(folder))],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    path, _, reason = told.stdout.partition(" | ")
    return path, reason.strip()


def names_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_a_wheel_with_a_compiler_holds_the_kernel_and_runs_it(source: Path, tmp_path: Path) -> None:
    if shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("this machine has no C++ compiler")
    wheel = build(source, "bdist_wheel", out=tmp_path / "dist")
    names = names_in(wheel)
    assert [name for name in names if name.startswith(KERNEL)], "the kernel is not in the wheel"
    assert not [name for name in names if name.endswith((".cpp", ".h"))], "sources are not for wheels"
    path, _ = installed_path(wheel, tmp_path / "installed")
    assert path in ("portable", "avx2", "avx512")


def test_a_wheel_without_a_compiler_is_made_all_the_same(source: Path, tmp_path: Path) -> None:
    wheel = build(source, "bdist_wheel", out=tmp_path / "dist", compiler="/no/such/compiler")
    names = names_in(wheel)
    assert not [name for name in names if name.startswith(KERNEL)]
    # The page of the server, and what reports are written with.
    page = {f"sememe/serve/page/{file.name}" for file in (source / "sememe/serve/page").iterdir()}
    assert page and page | {"sememe/pipeline/report.css"} <= set(names)
    path, reason = installed_path(wheel, tmp_path / "installed")
    assert path == "None" and "compile" in reason


def test_a_source_distribution_holds_what_the_kernel_is_made_of(source: Path, tmp_path: Path) -> None:
    archive = build(source, "sdist", out=tmp_path / "dist")
    with tarfile.open(archive) as opened:
        names = [name.partition("/")[2] for name in opened.getnames()]
    sources = {path.relative_to(source).as_posix() for path in (source / "sememe/decode/native").glob("*.cpp")}
    headers = {path.relative_to(source).as_posix() for path in (source / "sememe/decode/native").glob("*.h")}
    assert sources and headers and (sources | headers | {"setup.py"}) <= set(names)
