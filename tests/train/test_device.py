import platform

import numpy as np
import pytest
import torch

from sememe.core.errors import ConfigError
from sememe.train import device as device_module
from sememe.train.device import (
    autocast,
    choose_precision,
    default_threads,
    describe_machine,
    keep_freed_memory,
    reproducible,
    resolve_device,
    to_tensors,
    usable_cpus,
)

CPU = torch.device("cpu")


def test_freed_memory_is_kept_where_the_c_library_can() -> None:
    assert keep_freed_memory() is (platform.libc_ver()[0] == "glibc")


def test_devices_are_found_or_refused_by_name():
    assert resolve_device("cpu") == CPU
    assert resolve_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ConfigError, match="device 'cuda:9' does not exist"):
        resolve_device("cuda:9")
    with pytest.raises(ConfigError, match="device 'gpu' is not a device name"):
        resolve_device("gpu")
    with pytest.raises(ConfigError, match="device 'meta' is not supported"):
        resolve_device("meta")


def test_arrays_become_tensors_of_the_types_torch_computes_with():
    read_only = np.arange(3, dtype=np.int64)
    read_only.flags.writeable = False
    batch = {
        "items": np.array([[1, -1]], dtype=np.int32),
        "codes": np.array([200], dtype=np.uint8),
        "weights": np.array([0.5]),
        "flags": np.array([True]),
        "map": read_only,
        "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    }
    tensors = to_tensors(batch, CPU)
    kinds = {name: value.dtype for name, value in tensors.items()}
    assert kinds["items"] == kinds["codes"] == kinds["map"] == torch.int64
    assert kinds["weights"] == kinds["turned"] == torch.float32
    assert kinds["flags"] == torch.bool
    assert tensors["codes"].tolist() == [200]
    assert tensors["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]
    tensors["map"][0] = 9
    assert read_only[0] == 0


def test_precision_is_a_rule_of_hardware_and_rows(monkeypatch):
    def chosen(wanted: str, rows: int) -> str:
        return choose_precision(wanted, device=CPU, rows=rows)

    monkeypatch.setattr(device_module, "cpu_flags", lambda: frozenset({"avx512_bf16"}))
    assert [chosen("auto", 64), chosen("auto", 63), chosen("fp32", 64), chosen("bf16", 1)] == [
        "bf16",
        "fp32",
        "fp32",
        "bf16",
    ]
    monkeypatch.setattr(device_module, "cpu_flags", lambda: frozenset({"avx2"}))
    assert chosen("auto", 1000) == "fp32"
    with pytest.raises(ConfigError, match="precision is 'fp16'"):
        chosen("fp16", 1)


def test_autocast_computes_products_in_the_chosen_format():
    x = torch.ones(2, 2)
    with autocast(CPU, rows=2, precision="bf16"):
        assert (x @ x).dtype == torch.bfloat16
    with autocast(CPU, rows=2, precision="fp32"):
        assert (x @ x).dtype == torch.float32


def test_reproducible_sets_threads_and_order_and_puts_both_back(monkeypatch):
    before = torch.get_num_threads()
    with reproducible(CPU, threads=2):
        assert torch.get_num_threads() == 2
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory
    assert torch.get_num_threads() == before
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert default_threads() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert default_threads() == usable_cpus() >= 1


def test_the_machine_is_described_in_words():
    machine = describe_machine()
    assert machine.cpus >= machine.usable_cpus >= 1
    assert machine.torch == torch.__version__
    assert list(machine.rows()) == ["CPU", "instruction sets", "memory", "GPU", "system", "versions"]
    lines = machine.render().splitlines()
    assert lines[0].startswith("CPU              ")
    assert f"torch {torch.__version__}" in lines[-1]
