"""The log of what was shown: whole parts, nothing lost on the way, users who can be removed."""

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from sememe.core.errors import ArtifactError, ConfigError, DataError
from sememe.serve.stores.exposures import SCHEMA, Exposure, ExposureLog, read_exposures
from sememe.serve.stores.protocol import StoreDownError


def row(number: int, *, user: str | None = "ann", items: int = 3) -> Exposure:
    return Exposure(
        request_id=f"r{number}",
        user_id=user,
        timestamp=number,
        model="tiger 3",
        item_ids=tuple(f"b{place}" for place in range(items)),
        positions=tuple(range(items)),
        scores=tuple(-0.5 * place for place in range(items)),
        propensities=None if number % 2 else tuple(1 / (place + 1) for place in range(items)),
        source="engine",
    )


def requests(folder: Path) -> list[str]:
    return read_exposures(folder)["request_id"].to_list()


def parts(folder: Path) -> list[int]:
    """Rows of each part."""
    return [pl.read_parquet(part, glob=False).height for part in sorted(folder.glob("*.parquet"))]


def wait_for(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 20
    while sum(parts(folder)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    odd = replace(row(2, user=None, items=0), model="käse '🧀'", source="fallback:popularity", scores=[], positions=[])
    with ExposureLog(tmp_path / "log") as log:
        log.write([row(3), odd])
        log.write([row(0)])
        log.write([])
    frame = read_exposures(tmp_path / "log")
    assert frame.schema == SCHEMA
    assert frame["request_id"].to_list() == ["r0", "r2", "r3"]
    assert frame.row(0, named=True) == {
        "request_id": "r0",
        "user_id": "ann",
        "timestamp": 0,
        "model": "tiger 3",
        "item_ids": ["b0", "b1", "b2"],
        "positions": [0, 1, 2],
        "scores": [0.0, -0.5, -1.0],
        "propensities": [1.0, 0.5, 1 / 3],
        "source": "engine",
    }
    assert frame.row(2, named=True)["propensities"] is None
    assert frame.row(1, named=True)["item_ids"] == [] and frame.row(1, named=True)["user_id"] is None
    assert frame.explode("item_ids", "positions", "scores").filter(pl.col("request_id") == "r3").height == 3


def test_a_folder_without_parts_is_an_empty_table(tmp_path: Path) -> None:
    assert read_exposures(tmp_path / "nowhere").schema == SCHEMA
    ExposureLog(tmp_path).close()
    assert read_exposures(tmp_path).is_empty() and list(tmp_path.iterdir()) == []


def test_a_part_is_written_when_enough_rows_have_gathered(tmp_path: Path) -> None:
    log = ExposureLog(tmp_path, max_rows=10, max_age=1000)
    log.write([row(number) for number in range(9)])
    time.sleep(0.1)
    assert parts(tmp_path) == []
    log.write([row(number) for number in range(9, 25)])
    wait_for(tmp_path, 25)
    assert parts(tmp_path) == [10, 10, 5]
    log.write([row(25)])
    assert sum(parts(tmp_path)) == 25
    log.close()
    assert requests(tmp_path) == [f"r{number}" for number in range(26)]


def test_a_part_is_written_when_its_oldest_row_is_old(tmp_path: Path) -> None:
    log = ExposureLog(tmp_path, max_age=0.3)
    start = time.monotonic()
    log.write([row(0)])
    time.sleep(0.1)
    log.write([row(1)])
    assert parts(tmp_path) == []
    wait_for(tmp_path, 2)
    assert 0.3 <= time.monotonic() - start < 5 and parts(tmp_path) == [2]
    log.flush()
    assert parts(tmp_path) == [2]
    log.close()


def test_many_threads_lose_no_row(tmp_path: Path) -> None:
    with ExposureLog(tmp_path, max_rows=50, max_age=0.05) as log:

        def write(thread: int) -> None:
            for number in range(100):
                log.write([row(1000 * thread + number)])

        threads = [threading.Thread(target=write, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = requests(tmp_path)
    assert len(found) == len(set(found)) == 400 and max(parts(tmp_path)) <= 50


def test_a_killed_process_leaves_whole_parts(tmp_path: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from test_exposures import *\n"
        "log = ExposureLog(sys.argv[1], max_rows=20, max_age=1000)\n"
        "for start in range(0, 10**6, 20):\n"
        "    log.write([row(number) for number in range(start, start + 20)]); log.flush(); print(start, flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(15):
        process.stdout.readline()
    process.kill()
    flushed = 15 + len([line for line in process.stdout if line.endswith("\n")])
    process.wait()
    assert set(parts(tmp_path)) == {20} and flushed <= len(parts(tmp_path)) <= flushed + 1
    assert requests(tmp_path)[: 20 * flushed] == [f"r{number}" for number in range(20 * flushed)]


def test_what_a_killed_process_left_is_removed_and_never_read(tmp_path: Path) -> None:
    old, new = tmp_path / ".old.parquet.tmp", tmp_path / ".new.parquet.tmp"
    for leftover in (old, new):
        leftover.write_bytes(b"PAR1")
    os.utime(old, (1, 1))
    with ExposureLog(tmp_path) as log:
        log.write([row(0)])
    assert requests(tmp_path) == ["r0"]
    assert not old.exists() and new.exists()  # that of a process that may still be writing


def test_a_folder_that_cannot_be_written_keeps_rows_waiting(tmp_path: Path) -> None:
    log = ExposureLog(tmp_path / "log", max_rows=4, max_age=1000)
    (tmp_path / "log").rename(tmp_path / "away")
    log.write([row(number) for number in range(3)])
    with pytest.raises(StoreDownError, match="cannot be written"):
        log.flush()
    with pytest.raises(StoreDownError, match="cannot be written"):
        log.close()
    (tmp_path / "away").rename(tmp_path / "log")
    log.close()
    assert requests(tmp_path / "log") == ["r0", "r1", "r2"] and log.dropped == 0
    with pytest.raises(StoreDownError, match="closed"):
        log.write([row(4)])


def test_rows_that_waited_too_long_are_dropped_and_counted(tmp_path: Path) -> None:
    log = ExposureLog(tmp_path / "log", max_rows=4, max_age=1000)
    (tmp_path / "log").rmdir()
    for number in range(40):
        log.write([row(number)])
    assert log.dropped == 8  # 8 parts of 4 rows wait
    (tmp_path / "log").mkdir()
    log.close()
    assert requests(tmp_path / "log") == [f"r{number}" for number in range(8, 40)]


def test_a_user_is_removed_from_memory_and_parts(tmp_path: Path) -> None:
    with ExposureLog(tmp_path, max_rows=4, max_age=1000) as log:
        log.write([row(number, user="ann") for number in range(4)])
        log.flush()
        log.write([row(number, user="bob" if number % 2 else "ann") for number in range(4, 8)])
        log.flush()
        log.write([row(8, user=None), row(9, user="ann")])
        assert log.delete_user("ann") == 7 and log.delete_user("ann") == 0
        assert requests(tmp_path) == ["r5", "r7", "r8"] and len(parts(tmp_path)) == 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"scores": (1.0,)}, "3 items were shown"),
        ({"propensities": (1.0,)}, "3 items were shown"),
        ({"propensities": (0.5, 0.0, 1.0)}, "propensities"),
        ({"propensities": (0.5, float("nan"), 1.0)}, "propensities"),
        ({"propensities": (0.5, 1.1, 1.0)}, "propensities"),
        ({"positions": (0, -1, 2)}, "positions"),
        ({"positions": (0, 1, 2**40)}, "positions"),
        ({"item_ids": ("a", "\ud800", "b")}, "item_ids"),
        ({"user_id": "\0"}, "user_id"),
        ({"request_id": ""}, "request_id"),
        ({"timestamp": 1.5}, "timestamp"),
    ],
)
def test_a_row_that_breaks_a_rule_spoils_no_part(tmp_path: Path, change: dict[str, object], told: str) -> None:
    with ExposureLog(tmp_path) as log:
        log.write([row(0)])
        with pytest.raises(DataError, match=told):
            log.write([row(1), replace(row(2), **change)])  # type: ignore[arg-type]
        log.write([row(3)])
    assert requests(tmp_path) == ["r0", "r3"]


def test_limits_and_damaged_parts_are_told(tmp_path: Path) -> None:
    for limits in ({"max_rows": 0}, {"max_age": 0.0}, {"max_age": float("nan")}):
        with pytest.raises(ConfigError, match="greater than 0"):
            ExposureLog(tmp_path, **limits)  # type: ignore[arg-type]
    (tmp_path / "file").touch()
    with pytest.raises(StoreDownError, match="cannot be opened"):
        ExposureLog(tmp_path / "file")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(ArtifactError, match=r"a\.parquet"):
        read_exposures(tmp_path)
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(ArtifactError, match="other columns"):
        read_exposures(tmp_path)
