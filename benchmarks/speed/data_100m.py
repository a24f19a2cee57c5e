"""Time and memory of the data path on a large generated log: write, check, index, split, store, open again.

    python benchmarks/speed/data_100m.py                     100 M events, into benchmarks/speed/data_100m.json
    python benchmarks/speed/data_100m.py --events 1000000 --out small.json

The log is Parquet with users and items of skewed activity (`simulated_files.LargeLog`).  It is written by one process
and measured in another, so that making it does not count.  Peak memory is VmHWM, the kernel's own mark, set back before
every stage; two threads.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ["POLARS_MAX_THREADS"] = "2"

import polars as pl

from sememe.core.artifact import read_artifact, write_artifact
from sememe.data.check import check_tables
from sememe.data.index import build_interactions
from sememe.data.readers import open_tables
from sememe.data.simulated_files import LargeLog
from sememe.data.splits import LeaveOneOut
from sememe.data.store import load_interactions, save_catalog, save_interactions

SEED = 1
LIMIT_GIB = 8.0


def main() -> None:
    """Parse the command line, make the log, measure in a process of its own, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--workdir", type=Path, default=None, help="a directory with some 8 GB free")
    parser.add_argument("--measure", type=Path, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.measure)))
        return
    with tempfile.TemporaryDirectory(prefix="sememe-data-", dir=options.workdir) as scratch:
        conditions = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": commit(),
            "machine": machine(),
            "load_average": [round(os.getloadavg()[0], 1)],
        }
        log = large_log(options.events)
        start = time.perf_counter()
        files = log.write(Path(scratch) / "log", seed=SEED)
        written = {
            "seconds": round(time.perf_counter() - start, 1),
            "bytes": sum(file.stat().st_size for file in files),
        }
        command = [sys.executable, __file__, "--measure", scratch]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ)
    conditions["load_average"].append(round(os.getloadavg()[0], 1))  # before and after: others slow the wall clock
    result = {
        "what": "generated log: check, index, split (leave one out), store, open",
        **conditions,
        "log": {
            "events": log.num_events,
            "users_at_most": log.num_users,
            "items_at_most": log.num_items,
            "written": written,
        },
        **json.loads(done.stdout.splitlines()[-1]),
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    if result["peak_rss_gib"] > LIMIT_GIB:
        sys.exit(f"peak memory {result['peak_rss_gib']} GiB is above {LIMIT_GIB} GiB")


def large_log(events: int) -> LargeLog:
    """A log of `events` events, with as many users and items per event as at 100 M."""
    return LargeLog(num_events=events, num_users=max(events // 50, 10), num_items=max(events // 200, 10))


def measure(scratch: Path) -> dict[str, Any]:
    """Run all stages on the log in `scratch`; seconds and peak memory of each."""
    stages: list[dict[str, Any]] = []
    with stage("check", stages):
        report = check_tables(scratch / "log")
    assert report.ok, report.render()
    with stage("index", stages):
        (scratch / "index").mkdir()
        tables = open_tables(scratch / "log")
        indexed = build_interactions(tables, workdir=scratch / "index")
    log = indexed.interactions
    with stage("split", stages):
        split = LeaveOneOut().split(log)
    with stage("store", stages), write_artifact(scratch / "stored", kind="interactions", meta={}) as directory:
        save_interactions(directory, log)
        save_catalog(directory, indexed.catalog)
    with stage("verify and open", stages):
        read_artifact(scratch / "stored", kind="interactions")
        opened = load_interactions(scratch / "stored", memory_map=True)
    assert opened.num_events == log.num_events, "what was stored is what was indexed"
    return {
        "indexed": {
            "events": log.num_events,
            "users": log.num_users,
            "items": log.num_items,
            "test": len(split.test.users),
        },
        "check_warnings": {problem.rule: problem.count for problem in report.problems},
        "stages": stages,
        "seconds": round(sum(entry["seconds"] for entry in stages), 1),
        "peak_rss_gib": max(entry["peak_rss_gib"] for entry in stages),
    }


@contextmanager
def stage(name: str, stages: list[dict[str, Any]]) -> Iterator[None]:
    """Measure the block: wall seconds, CPU seconds, and the most resident memory while it ran."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # sets VmHWM back to what is resident now
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    stages.append(
        {
            "stage": name,
            "seconds": round(time.perf_counter() - wall, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "peak_rss_gib": round(peak_rss_bytes() / 2**30, 2),
        }
    )
    print(stages[-1], file=sys.stderr, flush=True)


def peak_rss_bytes() -> int:
    """VmHWM of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def machine() -> dict[str, Any]:
    """What the measurement ran on."""
    cpus = [line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if "model name" in line]
    return {
        "cpu": cpus[0].split(":", 1)[1].strip() if cpus else platform.processor(),
        "cores": os.cpu_count(),
        "polars_threads": pl.thread_pool_size(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "polars": pl.__version__,
    }


def commit() -> str:
    """The commit of the checkout, with "+" where files differ from it."""
    here = Path(__file__).parent
    head = subprocess.check_output(["git", "rev-parse", "--short=12", "HEAD"], cwd=here, text=True).strip()
    changed = subprocess.check_output(["git", "status", "--porcelain", "--", "../../sememe/data"], cwd=here, text=True)
    return head + ("+" if changed.strip() else "")


if __name__ == "__main__":
    main()
