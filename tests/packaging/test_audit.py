"""The audit fails on a known vulnerability, passes without one, and says aloud where nothing could be asked."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CLEAN = {"name": "one", "version": "1.0", "vulns": []}
FAULTY = {"name": "two", "version": "2.0", "vulns": [{"id": "CVE-1", "fix_versions": ["2.1"]}]}
UNFIXED = {"name": "two", "version": "2.0", "vulns": [{"id": "CVE-2", "fix_versions": []}]}
UNKNOWN = {"name": "three", "skip_reason": "not found: three (3.0)"}


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """Where `make audit` looks for pip-audit: a Python, and whatever a test puts beside it."""
    folder = tmp_path / "venv" / "bin"
    folder.mkdir(parents=True)
    (folder / "python").symlink_to(sys.executable)
    return folder.parent


def audit(environment: Path, script: str, *, python: str = "false") -> tuple[int, str]:
    """What `make audit` does where pip-audit is this shell script."""
    if script:
        program = environment / "bin" / "pip-audit"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    words = ["make", "--no-print-directory", "audit", f"AUDIT_VENV={environment}", f"PYTHON={python}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def telling(*packages: dict[str, Any]) -> str:
    """A pip-audit that tells of these packages; it ends with 1 where one is vulnerable, as the real one does."""
    code = int(any(package.get("vulns") for package in packages))
    return f"cat <<'X'\n{json.dumps({'dependencies': packages, 'fixes': []})}\nX\nexit {code}"


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        (telling(CLEAN), 0, "audit: no known vulnerabilities in 2 packages\n"),
        (telling(CLEAN, FAULTY), 2, "two 2.0: CVE-1, fixed in 2.1\n"),
        (telling(UNFIXED, UNKNOWN), 2, "two 2.0: CVE-2, fixed in no version\n"),
        (telling(UNKNOWN), 0, "audit SKIPPED: no package could be looked up (not found: three (3.0))\n"),
        (telling(CLEAN, UNKNOWN), 0, "in 2 packages; NOT looked up: three, three\n"),
        ("echo 'Failed to resolve' >&2; exit 1", 0, "audit SKIPPED: no package could be looked up (requirements/lock"),
        ("echo '{}'", 0, "audit SKIPPED"),
    ],
)
def test_answers_are_told_from_none(environment: Path, script: str, code: int, said: str) -> None:
    ended, told = audit(environment, script)
    assert ended == code and said in told


def test_both_locks_are_asked_about_by_their_kind(environment: Path, tmp_path: Path) -> None:
    audit(environment, f'echo "$@" >>{tmp_path}/asked; {telling(CLEAN)}')
    first, second = (tmp_path / "asked").read_text().splitlines()
    assert "--require-hashes --requirement requirements/lock.txt" in first
    assert "--no-deps --requirement requirements/torch.txt" in second


def test_where_it_cannot_be_installed_that_is_said(environment: Path) -> None:
    assert audit(environment, "") == (0, "audit SKIPPED: pip-audit could not be installed\n")


def test_a_vulnerability_fails_ci_after_the_tests() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    lines = script.splitlines()
    assert lines[-3:] == ["make --no-print-directory audit || audited=$?", "make test", 'exit "$audited"']
