"""Which path runs and why."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from native_worlds import PATHS_HERE, WHY_NOT, World

from sememe.core.errors import ConfigError
from sememe.decode.native import paths
from sememe.decode.native.paths import MODULE, PATHS, SETTING, NativeStatus, find_kernel, native_status
from sememe.decode.native.search import NativeSearch
from sememe.models.itemwise import ItemWise
from sememe.models.itemwise_export import export_itemwise

ROOT = Path(__file__).parents[2]
with_kernel = pytest.mark.skipif(bool(WHY_NOT), reason=f"no native kernel: {WHY_NOT}")


class Processor:
    """A kernel on a processor that can run some paths."""

    def __init__(self, *able: str) -> None:
        self.able = able

    def can_run(self, path: int) -> bool:
        return PATHS[path] in self.able


@pytest.fixture(autouse=True)
def no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SETTING, raising=False)


@pytest.mark.parametrize(
    ("able", "path", "reason"),
    [
        (("portable", "avx2", "avx512"), "avx512", "the best there is"),
        (("portable", "avx2"), "avx2", "this processor lacks AVX-512 (F, BW, DQ, VL)"),
        (("portable",), "portable", "this processor lacks AVX-512 (F, BW, DQ, VL) and AVX2, FMA and POPCNT"),
    ],
)
def test_the_best_path_that_the_processor_can_run_is_taken(
    monkeypatch: pytest.MonkeyPatch, able: tuple[str, ...], path: str, reason: str
) -> None:
    monkeypatch.setattr(paths, "find_kernel", lambda: Processor(*able))
    assert native_status() == NativeStatus(path, reason)


def test_a_path_may_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "find_kernel", lambda: Processor("portable", "avx2"))
    assert native_status("portable").path == "portable"
    monkeypatch.setenv(SETTING, "portable")
    assert native_status() == NativeStatus("portable", "portable was asked for")
    assert native_status("avx2").path == "avx2"
    lacking = native_status("avx512")
    assert lacking.path is None and lacking.reason.endswith("this processor lacks AVX-512 (F, BW, DQ, VL)")
    monkeypatch.setenv(SETTING, "off")
    assert native_status() == NativeStatus(None, "SEMEME_NATIVE is off")
    monkeypatch.setenv(SETTING, "avx")
    with pytest.raises(ConfigError, match=r"SEMEME_NATIVE is 'avx'.*\n.*did you mean 'avx2'"):
        native_status()


def test_no_kernel_is_told_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "find_spec", lambda name: None if name == MODULE else object())
    missing = find_kernel.__wrapped__()
    assert isinstance(missing, str) and "no C++ compiler that could" in missing
    monkeypatch.setattr(paths, "find_kernel", lambda: missing)
    assert native_status() == NativeStatus(None, missing)
    world = World(items=3, sizes=(2,), model=ItemWise(content=False), seed=0, offered=1.0)
    with pytest.raises(ConfigError, match="the native kernel cannot run: the kernel was not compiled"):
        NativeSearch.build(export_itemwise(world.build()), world.trie())


@with_kernel
def test_a_kernel_of_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "ABI", paths.ABI + 1)
    assert find_kernel.__wrapped__() == "the kernel was compiled from other sources than these: install sememe again"


@with_kernel
def test_every_processor_runs_the_portable_path() -> None:
    assert PATHS_HERE[0] == "portable"


def test_where_there_is_a_compiler_there_is_a_kernel() -> None:
    """All other tests of the kernel are left out without one: it must not be missing unseen."""
    if shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("this machine has no C++ compiler")
    assert not WHY_NOT, "pip install -e . has to compile the kernel here; see what it prints with -v"


ENDING = """
import threading, time
import numpy as np
from native_worlds import World
from sememe.decode.native.search import NativeSearch
from sememe.models.itemwise import ItemWise
from sememe.models.itemwise_export import export_itemwise

world = World(items=400, sizes=(20, 20, 20), model=ItemWise(content=False), seed=0, offered=1.0)
engine = NativeSearch.build(export_itemwise(world.build()), world.trie())
rows = {"history": np.arange(6400).reshape(64, 100) % 400, "lengths": np.full(64, 100)}
started = threading.Event()

def work():
    while True:
        started.set()
        engine.search(rows, width=50, k=20)

for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
started.wait()
time.sleep(0.2)
"""


@with_kernel
def test_a_process_may_end_while_a_thread_is_searching() -> None:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, "-c", ENDING], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
