"""Memory that was freed goes back to the system; models go by themselves, since nobody looks for cycles in them."""

import ctypes
import gc
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from sememe.serve.served import Served

PROGRAM = """
from pathlib import Path
from sememe.serve.memory import settle_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

pieces = [bytearray(2048) for _ in range(50_000)]
# What lies above keeps the heap from shrinking by itself.
last = pieces[-1]
del pieces
before = resident()
settle_memory()
print(before - resident())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc")
def test_freed_memory_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 50


def test_a_model_holds_no_cycles(served_run: Path) -> None:
    gc.collect()
    gc.disable()
    try:
        served = Served.load(served_run)
        serving = served.engine.serving
        parts = (served, served.engine, serving, serving.answerer, serving.run, served.fallback, served.nearest)
        left = [weakref.ref(part) for part in (*parts, serving.answerer.recommender.model, served.living)]
        del served, serving, parts
        assert [part() for part in left if part() is not None] == []
    finally:
        gc.enable()
