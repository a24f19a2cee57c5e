"""Weights on disk: safetensors written atomically, and clear errors when a file does not fit a model.  No pickle.

A file is either there in full or not there: it is written under a temporary name, fsynced, and renamed.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sememe.core.errors import ArtifactError

_FACTS = "sememe"
"""The one metadata key: with several, safetensors writes them in random order and equal files get different bytes."""


def save_module(path: Path, module: nn.Module, *, facts: Mapping[str, Any] | None = None) -> None:
    """Write the parameters and persistent buffers of `module`; weights shared under several names are written once.

    facts: JSON-able notes stored in the file's header.
    """
    write_tensors(path, module_tensors(module), facts=facts or {})


def load_module(path: Path, module: nn.Module) -> dict[str, Any]:
    """Fill `module` in place from a file of `save_module`; returns its facts.

    Raises ArtifactError naming the tensor that is missing, unexpected or of another shape; `module` is then unchanged.
    """
    tensors, facts = read_tensors(path)
    copy_into(module, tensors, path=path)
    return facts


def module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Name -> tensor of everything in the state dict, each storage once, under the first of its names."""
    tensors: dict[str, Tensor] = {}
    seen: set[tuple[int, torch.Size]] = set()
    for name, value in module.state_dict().items():
        place = (value.data_ptr(), value.shape)
        if value.numel() and place in seen:
            continue
        seen.add(place)
        tensors[name] = value.detach()
    return tensors


@torch.no_grad()
def copy_into(module: nn.Module, tensors: Mapping[str, Tensor], *, path: Path) -> None:
    """Copy `tensors` into `module`, after checking that names and shapes agree; `path` is for the error message."""
    places = module_tensors(module)
    fix = "build the model with the settings that it was trained with, or train it again"
    for name, place in places.items():
        if name not in tensors:
            raise ArtifactError(f"{path} has no tensor {name!r}, which this model needs", fix=fix)
        if tensors[name].shape != place.shape:
            shapes = f"{tuple(tensors[name].shape)} in {path}, but {tuple(place.shape)} in this model"
            raise ArtifactError(f"tensor {name!r} has shape {shapes}", fix=fix)
    extra = sorted(set(tensors) - set(places))
    if extra:
        raise ArtifactError(f"{path} has a tensor {extra[0]!r}, which this model does not have", fix=fix)
    for name, place in places.items():
        place.copy_(tensors[name])


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON-able facts as one safetensors file, all or nothing."""
    temporary = path.with_name(f".{path.name}.tmp")
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    save_file(plain, temporary, metadata={_FACTS: json.dumps(facts, sort_keys=True)})
    temporary.chmod(0o644)  # safetensors makes files that only their owner can read; a server may be someone else
    put_in_place(temporary, path)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and facts of a file of `write_tensors`; ArtifactError where it is missing or cut off."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get(_FACTS, "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118 (not a dict)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} does not exist", fix="run the training that writes it") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(f"{path} is truncated or damaged ({error})", fix="train again; delete the file") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file, all or nothing."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    put_in_place(temporary, path)


def put_in_place(temporary: Path, path: Path) -> None:
    """Rename a finished file to its name and make both the bytes and the name survive a power cut."""
    _sync(temporary)
    os.replace(temporary, path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
