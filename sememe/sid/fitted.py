"""What a fitted tokenizer is, and how one is found again by the name of its class.

A tokenizer is kept as arrays and the name "module:Class".  Reading a name imports nothing but Sememe: a class of one's
own is found in a module that the program has imported already.

Shape legend: n vectors, dim their width, L levels.
"""

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from sememe.core.errors import ArtifactError, ConfigError
from sememe.core.schema import FloatArray, Int32Array

State = Mapping[str, npt.NDArray[np.generic]]


class FittedTokenizer(Protocol):
    """A tokenizer that knows its codebooks."""

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """(L,)"""
        ...

    def encode(self, vectors: FloatArray) -> Int32Array:
        """int32 (n, L) codes, each vector by itself."""
        ...

    def reconstruct(self, codes: Int32Array) -> FloatArray:
        """float32 (n, dim): what codes (n, L) stand for."""
        ...

    def state(self) -> State:
        """Arrays from which the class's `from_state` makes an equal tokenizer."""
        ...


def kind_of(tokenizer: FittedTokenizer) -> str:
    """The name by which `restore_tokenizer` finds the class of `tokenizer`."""
    kind = type(tokenizer)
    return f"{kind.__module__}:{kind.__qualname__}"


def restore_tokenizer(kind: str, state: State) -> FittedTokenizer:
    """The tokenizer whose `kind_of` and `state()` these are.

    Raises:
        ConfigError: its module is not imported.
        ArtifactError: there is no such class, or it cannot be made from a state.
    """
    module_name, _, class_name = kind.partition(":")
    if module_name.split(".")[0] == "sememe":
        try:
            importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise _unknown(kind) from error
    module = sys.modules.get(module_name)
    if module is None:
        raise ConfigError(
            f"the tokenizer {kind} comes from the module {module_name}, which is not imported",
            fix=f"import {module_name} first",
        )
    load: Any = getattr(getattr(module, class_name, None), "from_state", None)
    if load is None:
        raise _unknown(kind)
    restored: FittedTokenizer = load(state)
    return restored


def save_tokenizer(file: Path, tokenizer: FittedTokenizer) -> None:
    """Write the state of `tokenizer` as safetensors; its kind is kept elsewhere."""
    save_file({name: np.ascontiguousarray(array) for name, array in tokenizer.state().items()}, file)


def load_tokenizer(file: Path, *, kind: str) -> FittedTokenizer:
    """What `save_tokenizer` wrote.  Raises as `restore_tokenizer`."""
    return restore_tokenizer(kind, load_file(file))


def pack_tokenizer(tokenizer: FittedTokenizer, *, prefix: str) -> dict[str, npt.NDArray[np.generic]]:
    """State and name of `tokenizer` as arrays, for a tokenizer that holds another."""
    name = np.frombuffer(kind_of(tokenizer).encode(), np.uint8)
    return {f"{prefix}kind": name, **{f"{prefix}state.{key}": value for key, value in tokenizer.state().items()}}


def unpack_tokenizer(state: State, *, prefix: str) -> FittedTokenizer:
    """The tokenizer that `pack_tokenizer` packed."""
    inner = f"{prefix}state."
    arrays = {key.removeprefix(inner): value for key, value in state.items() if key.startswith(inner)}
    return restore_tokenizer(state[f"{prefix}kind"].tobytes().decode(), arrays)


def _unknown(kind: str) -> ArtifactError:
    return ArtifactError(
        f"there is no tokenizer {kind!r} that could be read", fix="use the version of Sememe that wrote it"
    )
