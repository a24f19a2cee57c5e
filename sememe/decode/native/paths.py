"""Finding the compiled kernel, and choosing the instructions that it uses on this processor."""

import os
from ctypes import sizeof
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

from sememe.core.errors import ConfigError, did_you_mean
from sememe.core.schema import FloatArray
from sememe.decode.native.structs import SIZED

MODULE = "sememe.decode.native._kernel"

ABI = 2
"""`SEMEME_ABI` of `kernel.h`."""

PATHS = ("portable", "avx2", "avx512")
"""Numbered as in `module.cpp`, the best one last."""

NEEDED = {"avx2": "AVX2, FMA and POPCNT", "avx512": "AVX-512 (F, BW, DQ, VL)"}
"""What a processor must have for a path."""

SETTING = "SEMEME_NATIVE"
"""Environment variable: "off", or one of PATHS to take it and no other."""


@dataclass(frozen=True)
class NativeStatus:
    """What searches of the item-wise generator can run on."""

    path: str | None
    """One of PATHS; None: torch."""
    reason: str
    """Why this one and no better one."""


class Kernel(Protocol):
    """The compiled module; `module.cpp` says what each function takes.  Other threads run while it works."""

    ABI: int

    def sizes(self) -> tuple[int, ...]: ...
    def can_run(self, path: int) -> bool: ...
    def run(self, *request: Any) -> tuple[int, int, int] | None: ...
    def new_workspace(self) -> int: ...
    def workspace_bytes(self, place: int) -> int: ...
    def free_workspace(self, place: int) -> None: ...
    def multiply_add(self, path: int, rounds: int) -> int: ...
    def gelu(self, path: int, values: FloatArray) -> None: ...
    def first_difference(self, trie: int, codes: int) -> int: ...
    def match(self, *addresses: int) -> None: ...


@cache
def find_kernel() -> Kernel | str:
    """The compiled kernel, or why there is none."""
    if find_spec(MODULE) is None:
        return "the kernel was not compiled: there was no C++ compiler that could when sememe was installed"
    try:
        kernel: Any = import_module(MODULE)
    except ImportError as error:
        return f"the kernel cannot be loaded: {error}"
    if kernel.ABI != ABI or kernel.sizes() != tuple(sizeof(struct) for struct in SIZED):
        return "the kernel was compiled from other sources than these: install sememe again"
    found: Kernel = kernel
    return found


def native_status(path: str | None = None) -> NativeStatus:
    """Which path runs here and why.

    path: one of PATHS; None: what the environment variable SEMEME_NATIVE says, and where it says nothing, the best.

    Raises:
        ConfigError: there is no such path.
    """
    wanted = path or os.environ.get(SETTING) or "best"
    if wanted not in ("best", "off", *PATHS):
        raise ConfigError(f"{SETTING} is {wanted!r}, which is no way to run", fix=did_you_mean(wanted, ("off", *PATHS)))
    if wanted == "off":
        return NativeStatus(None, f"{SETTING} is off")
    kernel = find_kernel()
    if isinstance(kernel, str):
        return NativeStatus(None, kernel)
    if wanted == "best":
        return _best(kernel)
    if not kernel.can_run(PATHS.index(wanted)):
        return NativeStatus(None, f"{wanted} was asked for, and this processor lacks {NEEDED[wanted]}")
    return NativeStatus(wanted, f"{wanted} was asked for")


def _best(kernel: Kernel) -> NativeStatus:
    lacking = []
    for path in PATHS[:0:-1]:
        if kernel.can_run(PATHS.index(path)):
            break
        lacking.append(NEEDED[path])
    else:
        path = PATHS[0]
    return NativeStatus(path, f"this processor lacks {' and '.join(lacking)}" if lacking else "the best there is")


def open_kernel(path: str | None = None) -> tuple[Kernel, str]:
    """The kernel and the path to take; `path` as in `native_status`.

    Raises:
        ConfigError: there is none that runs here.
    """
    status, kernel = native_status(path), find_kernel()
    if status.path is None or isinstance(kernel, str):
        raise ConfigError(
            f"the native kernel cannot run: {status.reason}",
            fix=f"search with torch; or unset {SETTING}, and install sememe again where there is a C++ compiler",
        )
    return kernel, status.path
