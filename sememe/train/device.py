"""Where tensors live: device, number format, threads, determinism, and a description of the machine.

The only place that sets the number of torch threads.
"""

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sememe.core.errors import ConfigError
from sememe.core.schema import Batch

Precision = Literal["auto", "fp32", "bf16"]

BF16_CPU_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
BF16_MIN_ROWS = 64
"""Below this many rows a CPU spends more on converting to bf16 than it gains in the products (1 row: 1.07 ms in fp32,
1.44 ms in bf16; 64 rows: .61 and .43 ms, item-wise d128 x 2 on one AVX512-BF16 core)."""


def resolve_device(name: str = "auto") -> torch.device:
    """The device called `name`; "auto" is the first GPU where there is one, else the CPU.

    Raises ConfigError where the device does not exist on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r} is not a device name", fix="use auto, cpu, cuda or cuda:1") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {name!r} does not exist: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA GPUs",
            fix="use device=auto, or install a CUDA build of torch and a driver",
        )
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {name!r} is not supported", fix="use auto, cpu, cuda or cuda:1")
    return device


def to_tensors(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """Every array of `batch` as a tensor on `device`; integers become int64 (what torch indexes with), floats fp32."""
    tensors = {}
    for name, array in batch.items():
        values = np.ascontiguousarray(array)
        if values.dtype.kind in "iu":
            values = values.astype(np.int64, copy=False)
        elif values.dtype.kind == "f":
            values = values.astype(np.float32, copy=False)
        if (
            not values.flags.writeable
        ):  # a read-only memory map; torch must not hold a view that it believes it may write
            values = values.copy()
        tensors[name] = torch.from_numpy(values).to(device, non_blocking=True)
    return tensors


def choose_precision(wanted: Precision, *, device: torch.device, rows: int) -> Literal["fp32", "bf16"]:
    """The number format of the forward pass for batches of `rows` rows; a rule, so that equal runs choose alike."""
    if wanted not in ("auto", "fp32", "bf16"):
        raise ConfigError(f"precision is {wanted!r}", fix="use auto, fp32 or bf16")
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if rows >= BF16_MIN_ROWS and BF16_CPU_FLAGS & cpu_flags() else "fp32"


def autocast(
    device: torch.device, *, rows: int, precision: Precision = "auto"
) -> contextlib.AbstractContextManager[object]:
    """The context for forward passes of `rows` rows; weights and the optimiser stay in fp32."""
    if choose_precision(precision, device=device, rows=rows) == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


@contextlib.contextmanager
def reproducible(device: torch.device, *, threads: int) -> Iterator[None]:
    """Inside: `threads` torch threads (0: as many as this process may use) and, on a CPU, kernels with a fixed order.

    Without it the gradient of fancy indexing is added up by racing threads.  A GPU keeps its fast kernels: there, equal
    runs agree closely and not bit for bit.  Everything is put back at the end.
    """
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    filling: Any = torch.utils.deterministic
    fill = filling.fill_uninitialized_memory
    torch.set_num_threads(threads if threads > 0 else default_threads())
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        keep_freed_memory()
        # Filling fresh memory is a debugging aid that costs a pass over each result.
        filling.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        filling.fill_uninitialized_memory = fill


def limit_threads(threads: int) -> None:
    """Have torch compute with so many threads in this process from now on: for one that computes in threads itself."""
    torch.set_num_threads(threads)


def keep_freed_memory() -> bool:
    """Let this process keep freed memory for its next step; False where the C library is not glibc.

    A training frees and takes the same large blocks at every step.  glibc returns them to the system each time, and
    getting them back, page by page, cost 14 % of the processor time of a small encoder-decoder.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(mallopt(mmap_threshold, 32 << 20)) and bool(mallopt(trim_threshold, 2**31 - 1))


def default_threads() -> int:
    """OMP_NUM_THREADS where it is set, else the CPUs that this process may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdecimal() and int(wanted) > 0 else usable_cpus()


def usable_cpus() -> int:
    """CPUs that this process may use: its affinity mask, cut by the container's quota (cgroup v2) if any."""
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cpus = min(cpus, max(1, round(int(quota) / int(period))))
    return cpus


def cpu_flags() -> frozenset[str]:
    """Instruction-set flags of the CPU as Linux names them; empty where the system does not tell."""
    return frozenset(_cpuinfo().get("flags", "").split())


@dataclass(frozen=True)
class Machine:
    """What this machine is, for benchmark headers and `sememe doctor`."""

    cpu: str
    cpus: int
    usable_cpus: int
    flags: tuple[str, ...]
    """The instruction sets that matter for speed here."""
    ram_gib: float
    gpus: tuple[str, ...]
    system: str
    python: str
    torch: str

    def rows(self) -> Mapping[str, str]:
        """Name -> text, in the order in which to print them."""
        return {
            "CPU": f"{self.cpu}, {self.cpus} CPUs, {self.usable_cpus} usable here",
            "instruction sets": " ".join(self.flags) or "unknown",
            "memory": f"{self.ram_gib:.1f} GiB",
            "GPU": "; ".join(self.gpus) or "none",
            "system": self.system,
            "versions": f"Python {self.python}, torch {self.torch}",
        }

    def render(self) -> str:
        """The same as aligned lines of text."""
        return "\n".join(f"{name:<17}{text}" for name, text in self.rows().items())


def describe_machine() -> Machine:
    """Look at the machine; reads /proc where there is one and asks torch for GPUs."""
    flags = cpu_flags()
    known = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
    gpus = []
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        gpus.append(f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, compute {facts.major}.{facts.minor}")
    return Machine(
        cpu=_cpuinfo().get("model name", platform.processor() or platform.machine()),
        cpus=os.cpu_count() or 1,
        usable_cpus=usable_cpus(),
        flags=tuple(flag for flag in known if flag in flags),
        ram_gib=_ram_bytes() / 2**30,
        gpus=tuple(gpus),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        torch=torch.__version__,
    )


def _cpuinfo() -> dict[str, str]:
    """The first processor's entries of /proc/cpuinfo."""
    entries: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, colon, value = line.partition(":")
            if not colon:
                break
            entries[name.strip()] = value.strip()
    return entries


def _ram_bytes() -> int:
    with contextlib.suppress(OSError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 0
