"""The kernel's structs, field by field as `kernel.h` has them, and arrays as the kernel reads them.

Every field is eight bytes wide (two floats share one), so that no compiler has anything to align differently.
"""

import sys
from collections.abc import Sequence
from ctypes import Structure, addressof, c_float, c_int64, c_void_p
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from sememe.core.schema import FloatArray

AnyArray = npt.NDArray[Any]

PANEL, DEPTH = 16, 128
"""As in `kernel.h`."""

CACHE_LINE = 64


class CodesStruct(Structure):
    """`Codes`"""

    _fields_ = (("at", c_void_p), ("bytes", c_int64))


class ProductStruct(Structure):
    """`Product`"""

    _fields_ = (
        ("panels", c_void_p),
        ("halves", c_void_p),
        ("bias", c_void_p),
        ("inputs", c_int64),
        ("outputs", c_int64),
    )


class NormStruct(Structure):
    """`Norm`"""

    _fields_ = (("gain", c_void_p), ("bias", c_void_p))


class BlockStruct(Structure):
    """`Block`"""

    _fields_ = (
        ("attention_norm", NormStruct),
        ("query", ProductStruct),
        ("key_value", ProductStruct),
        ("joined", ProductStruct),
        ("ff_norm", NormStruct),
        ("wide", ProductStruct),
        ("narrow", ProductStruct),
    )


class LevelStruct(Structure):
    """`Level`"""

    _fields_ = (
        ("narrow", ProductStruct),
        ("told", c_void_p),
        ("by_code", ProductStruct),
        ("vectors", c_void_p),
        ("half_vectors", c_void_p),
        ("first_vector", c_void_p),
        ("child_starts", c_void_p),
        ("child_codes", CodesStruct),
    )


class ModelStruct(Structure):
    """`Model`"""

    _fields_ = (
        ("width", c_int64),
        ("padded", c_int64),
        ("heads", c_int64),
        ("head", c_int64),
        ("hidden", c_int64),
        ("layers", c_int64),
        ("levels", c_int64),
        ("max_history", c_int64),
        ("num_items", c_int64),
        ("epsilon", c_float),
        ("unused", c_float),
        ("mask", c_void_p),
        ("positions", c_void_p),
        ("item_vectors", c_void_p),
        ("item_codes", CodesStruct),
        ("read", c_void_p),
        ("blocks", c_void_p),
        ("norm", NormStruct),
        ("first", ProductStruct),
        ("root", ProductStruct),
        ("level", c_void_p),
    )


class TrieStruct(Structure):
    """`Trie`"""

    _fields_ = (
        ("levels", c_int64),
        ("num_items", c_int64),
        ("num_known", c_int64),
        ("child_starts", c_void_p),
        ("child_codes", c_void_p),
        ("item_starts", c_void_p),
        ("items", c_void_p),
        ("positions", c_void_p),
        ("model_nodes", c_void_p),
    )


SIZED = (ModelStruct, BlockStruct, LevelStruct, TrieStruct)
"""In the order of the kernel's `sizes`."""


def address(array: AnyArray) -> int:
    """Where a C-contiguous array starts."""
    place: int = array.__array_interface__["data"][0]
    return place


def padded(size: int) -> int:
    """`size` rounded up to whole panels."""
    return -(-size // PANEL) * PANEL


def room_for(*shape: int) -> FloatArray:
    """Room that starts on a cache line, whatever is in it."""
    count = prod(shape)
    room = np.empty(count + CACHE_LINE // 4, np.float32)
    start = -address(room) % CACHE_LINE // 4
    return room[start : start + count].reshape(shape)


def aligned(*shape: int) -> FloatArray:
    """Zeros that start on a cache line."""
    room = room_for(*shape)
    room.fill(0.0)
    return room


def widened(rows: FloatArray) -> FloatArray:
    """(n, D) as (n, padded(D)) with zeros behind each row; a bias (D,) likewise."""
    result = aligned(*rows.shape[:-1], padded(rows.shape[-1]))
    result[..., : rows.shape[-1]] = rows
    return result


def rounded_to_bf16(values: FloatArray) -> FloatArray:
    """The nearest numbers whose lower 16 bits are zero; of two, the even one."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    return (rounded & np.uint32(0xFFFF0000)).view(np.float32)


def as_bf16(panels: FloatArray) -> npt.NDArray[np.uint16]:
    """The upper halves of panels that were rounded, in the order of the kernel's `halves`."""
    halves = panels.ravel().view(np.uint16)[1 if sys.byteorder == "little" else 0 :: 2]
    result = room_for(panels.size // 2).view(np.uint16)
    result[:] = halves.reshape(-1, 2, PANEL // 2).transpose(0, 2, 1).ravel()
    return result


class Owner:
    """Arrays that a struct points into, kept alive and counted."""

    def __init__(self, *, bf16: bool = False) -> None:
        """bf16: round the weights of products."""
        self.bf16 = bf16
        self.arrays: dict[int, AnyArray] = {}
        self._pointed: list[object] = []

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, each counted once."""
        return sum(array.nbytes for array in self.arrays.values())

    def at(self, array: AnyArray) -> int:
        """The address of `array`, which lives from now on as long as this owner."""
        assert array.flags.c_contiguous, "the kernel reads rows one after the other"
        self.arrays[address(array)] = array
        return address(array)

    def at_each(self, arrays: Sequence[AnyArray | None]) -> int:
        """The address of a table of addresses; 0 in place of None."""
        return self.at(np.array([0 if array is None else self.at(array) for array in arrays], np.uint64))

    def at_structs(self, structs: Sequence[Structure]) -> int:
        """The address of `structs`, one after the other."""
        array = (type(structs[0]) * len(structs))(*structs)
        self._pointed.append(array)
        return addressof(array)

    def codes(self, array: AnyArray) -> CodesStruct:
        """Codes in 1, 2 or 4 bytes."""
        assert array.dtype in (np.uint8, np.int16, np.int32), "codes are uint8, int16 or int32"
        return CodesStruct(self.at(array), array.itemsize)

    def norm(self, gain: FloatArray, bias: FloatArray) -> NormStruct:
        """A norm of (D,) gain and bias."""
        return NormStruct(self.at(widened(gain)), self.at(widened(bias)))

    def product(self, weight: FloatArray, bias: FloatArray, *, behind: float = 0.0) -> ProductStruct:
        """weight (out, in) as panels, bias (out,); behind: the bias of the columns that fill the last panel."""
        outputs, inputs = weight.shape
        weight = rounded_to_bf16(weight) if self.bf16 else weight
        full = aligned(padded(inputs), padded(outputs))
        full[:inputs, :outputs] = weight.T
        panels = aligned(full.size)
        for start in range(0, len(full), DEPTH):
            block = full[start : start + DEPTH]
            by_panel = block.reshape(len(block), -1, PANEL).transpose(1, 0, 2)
            panels[start * full.shape[1] :][: block.size] = by_panel.ravel()
        wide_bias = widened(bias)
        wide_bias[outputs:] = behind
        places = (0, self.at(as_bf16(panels))) if self.bf16 else (self.at(panels), 0)
        return ProductStruct(*places, self.at(wide_bias), *full.shape)
