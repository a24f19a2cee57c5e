"""What every benchmark output starts with: the machine, the commit and the date that its numbers belong to."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def header(*packages: str) -> dict[str, Any]:
    """Machine, commit, date, and the versions of Python and of `packages`; no path and no host name."""
    return {
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "system": platform.system(),
            "architecture": platform.machine(),
            "load_average_at_start": round(os.getloadavg()[0], 1),
        },
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_source_changes": bool(_git("status", "--porcelain", "--", "sememe")),
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
    }


def run_command(description: Mapping[str, Any]) -> str:
    """The command that makes a run like the one that `description` (run.json) tells of; its recipe may be one's own."""
    spec = description["spec"]
    recipe = spec.get("recipe", description["recipe"]["name"])
    settings = "".join(f" --set {setting}" for setting in spec.get("set", []))
    return f"sememe run {recipe} --data {Path(description['data']).name} --out RUN{settings}"


def write_output(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` as readable JSON."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def earlier_results(path: Path, *, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The "results" of an output that is there already, so that a measurement that was stopped goes on.

    Raises:
        SystemExit: they were measured with other settings, and would stand beside those that follow as if with these.
    """
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.get("settings") != settings:
        raise SystemExit(
            f"{path.name} holds results of other settings ({content.get('settings')}, not {settings}): "
            "give another --name, or move the file away"
        )
    results: dict[str, Any] = content["results"]
    return results


def _processor() -> str:
    """Model name and the vector instructions that decide how fast matrix products are."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    flags = [flag for flag in wanted if flag in facts.get("flags", "").split()]
    return f"{facts.get('model name', platform.processor())} ({', '.join(flags)})"


def _git(*arguments: str) -> str:
    answer = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return answer.stdout.strip()
