"""Ask pip-audit for known vulnerabilities of locked packages, and tell an answer from no answer.

    python .ci/audit.py PIP_AUDIT FILE...

FILE is a requirements file.  Ends with 1 where a vulnerability is known, else with 0: also where nothing could be
asked, which is said aloud.  pip-audit itself calls packages that it could not look up free of vulnerabilities.
"""

import json
import os
import shlex
import subprocess
import sys
from typing import Any

SECONDS = 300


def ask(program: str, file: str) -> tuple[list[dict[str, Any]], str]:
    """The packages of `file` as pip-audit tells of them, or none and why."""
    with open(file, encoding="utf-8") as lines:
        hashed = ["--require-hashes"] if "--hash=" in lines.read() else ["--no-deps"]
    words = [program, "--disable-pip", *hashed, "--requirement", file, "--format", "json", "--progress-spinner", "off"]
    words += shlex.split(os.environ.get("AUDITFLAGS", ""))
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=SECONDS)
        return json.loads(done.stdout)["dependencies"], ""
    except (OSError, subprocess.TimeoutExpired) as error:
        return [], str(error)
    except (ValueError, KeyError):
        return [], (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]


def judge(packages: list[dict[str, Any]], trouble: list[str]) -> tuple[str, int]:
    """What to say, and the exit code."""
    known = [
        f"  {one['name']} {one['version']}: {fault['id']}, fixed in {', '.join(fault['fix_versions']) or 'no version'}"
        for one in packages
        for fault in one.get("vulns", ())
    ]
    if known:
        advice = '  make lock LOCKFLAGS="--upgrade-package NAME", or AUDITFLAGS="--ignore-vuln ID" make audit'
        return "\n".join(["audit: known vulnerabilities", *known, advice]), 1
    unasked = [one for one in packages if "skip_reason" in one]
    asked = len(packages) - len(unasked)
    reasons = trouble + [one["skip_reason"] for one in unasked[:1]]
    if not asked:
        return f"audit SKIPPED: no package could be looked up ({'; '.join(reasons) or 'none was named'})", 0
    told = f"audit: no known vulnerabilities in {asked} packages"
    left_out = f"; NOT looked up: {', '.join([one['name'] for one in unasked] + trouble)}" if unasked or trouble else ""
    return told + left_out, 0


def main(program: str, files: list[str]) -> int:
    """Audit `files`; the exit code."""
    packages: list[dict[str, Any]] = []
    trouble: list[str] = []
    for file in files:
        found, why = ask(program, file)
        packages += found
        trouble += [f"{file}: {why}"] if why else []
    told, code = judge(packages, trouble)
    sys.stdout.write(f"{told}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
