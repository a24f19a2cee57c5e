"""The lock holds what pyproject.toml asks for, each with its hash, and one version of torch is named everywhere."""

import re
import tomllib

from sources import ROOT, told

REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)(.*?)(?=^\S|\Z)", re.MULTILINE | re.DOTALL)


def locked(text: str) -> dict[str, bool]:
    """Name of each locked package -> whether every entry of it has a hash."""
    found: dict[str, bool] = {}
    for name, _, rest in REQUIREMENT.findall(text):
        found[name] = found.get(name, True) and "--hash=sha256:" in rest
    return found


def missing(needs: list[str], text: str) -> list[str]:
    """Needs that the lock lacks, and locked packages without a hash; torch is installed apart."""
    names = [re.split(r"[\[<>=!~ ;]", need)[0].lower() for need in needs]
    packages = locked(text)
    lacking = [f"{name} is not locked: make lock" for name in names if name not in packages and name != "torch"]
    return lacking + [f"{name} has no hash" for name, hashed in packages.items() if not hashed]


def test_the_lock_holds_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = re.search(r"^EXTRAS := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert extras is not None
    needs = [*project["dependencies"]]
    needs += [need for extra in extras[1].split() for need in project["optional-dependencies"][extra]]
    lock = (ROOT / "requirements" / "lock.txt").read_text()
    found = missing(needs, lock)
    assert not found, told(found)
    assert len(locked(lock)) > 50
    assert "torch" not in locked(lock)
    assert missing([*needs, "nowhere>=1"], lock)
    assert missing([], "a==1\nb==2 \\\n    --hash=sha256:00\n") == ["a has no hash"]


def entries(text: str) -> dict[str, str]:
    """Version and conditions of each locked package, as the file has them, -> its hashes."""
    return {f"{name}=={version}": rest for name, version, rest in REQUIREMENT.findall(text)}


def test_the_lock_of_the_image_is_a_part_of_the_lock() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = re.search(r"^SERVER_EXTRAS := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert extras is not None
    needs = [*project["dependencies"]]
    needs += [need for extra in extras[1].split() for need in project["optional-dependencies"][extra]]
    lock, part = ((ROOT / "requirements" / name).read_text() for name in ("lock.txt", "server.txt"))
    found = missing(needs, part)
    assert not found, told(found)
    assert set(entries(part)) <= set(entries(lock)), "make lock"
    assert 20 < len(locked(part)) < len(locked(lock)) and not {"pytest", "ruff", "playwright", "uv"} & set(locked(part))


def test_torch_has_one_version() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    (metadata,) = tool["uv"]["dependency-metadata"]
    assert (ROOT / "requirements" / "torch.txt").read_text().strip() == f"torch=={metadata['version']}"
