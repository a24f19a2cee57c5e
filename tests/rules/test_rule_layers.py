"""Who may import whom: the contracts of pyproject.toml, and proof that each of them can fail."""

import shutil
import subprocess
import sys
from pathlib import Path

from sources import ROOT

LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"

# One planted fault for each contract, and two for the layers.
PLANTED = {
    "sememe/__init__.py": "",
    "sememe/core/__init__.py": "",
    "sememe/core/up.py": "import sememe.pipeline.run",
    "sememe/pipeline/__init__.py": "",
    "sememe/pipeline/run.py": "",
    "sememe/models/__init__.py": "",
    "sememe/models/encdec.py": "",
    "sememe/models/hf.py": "import transformers",
    "sememe/decode/__init__.py": "",
    "sememe/decode/sideways.py": "import sememe.models.encdec\nimport fastapi\nimport transformers",
    "sememe/data/__init__.py": "",
    "sememe/data/heavy.py": "import torch",
    "sememe/metrics/__init__.py": "",
}


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", LINT], cwd=folder, capture_output=True, text=True, check=False)


def test_imports_keep_to_the_layers() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_contract_finds_its_planted_fault(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name, text in PLANTED.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert " 0 kept, 4 broken" in done.stdout, done.stdout
    for fault in (
        "sememe.core.up -> sememe.pipeline.run",
        "sememe.decode.sideways -> sememe.models.encdec",
        "sememe.data.heavy -> torch",
        "sememe.decode.sideways -> transformers",
        "sememe.decode.sideways -> fastapi",
    ):
        assert fault in done.stdout, fault
    assert "sememe.models.hf -> transformers" not in done.stdout


def test_a_package_outside_the_layers_is_found(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for folder in ("", "core", "data", "metrics", "extras"):
        (tmp_path / "sememe" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "sememe" / folder / "__init__.py").touch()
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    assert "extras" in done.stdout
