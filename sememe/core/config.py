"""Recipes as data: a tree of frozen dataclasses to JSON and back, its hash, `--set path=value`, and diffs.

A node of the tree is any frozen dataclass ("part"); a leaf is None, bool, int, float, str or a tuple of those.
No class is found by a user's string: a node is changed by writing Python, a leaf by `--set`.
"""

import dataclasses
import hashlib
import json
import sys
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from sememe.core.errors import ConfigError, did_you_mean

TYPE_KEY = "part"
Node = TypeVar("Node")


@dataclass(frozen=True)
class Difference:
    """One place where two trees differ; None stands for "not there"."""

    path: str
    left: str | None
    right: str | None


def to_tree(value: object) -> Any:
    """`value` as JSON: a part becomes {"part": "module:Class", field: ...}, a tuple becomes a list.

    Raises:
        ConfigError: something in the tree is neither a frozen dataclass nor a plain leaf, or a part has a field of the
            name that its class is kept under.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return [to_tree(element) for element in value]
    if is_part(value):
        kind: type[Any] = type(value)
        fields = {field.name: to_tree(getattr(value, field.name)) for field in dataclasses.fields(kind)}
        if TYPE_KEY in fields:
            raise ConfigError(
                f"{kind.__qualname__} has a field called {TYPE_KEY!r}, the name under which its class is kept",
                fix="rename the field",
            )
        return {TYPE_KEY: f"{kind.__module__}:{kind.__qualname__}", **fields}
    raise ConfigError(
        f"{value!r} of type {type(value).__name__} cannot stand in a recipe",
        fix="use a frozen dataclass, a tuple, or None, bool, int, float, str",
    )


def from_tree(tree: Any) -> Any:
    """The value that `to_tree` was given.

    A part's class is looked up in Sememe or in a module that the program has imported already: reading a file never
    imports code.

    Raises:
        ConfigError: a part is unknown, or its fields are not those that this version has.
    """
    if isinstance(tree, list):
        return tuple(from_tree(element) for element in tree)
    if not isinstance(tree, dict):
        return tree
    part = _find_part(tree.get(TYPE_KEY))
    fields = {name: from_tree(value) for name, value in tree.items() if name != TYPE_KEY}
    known = {field.name for field in dataclasses.fields(part)}
    unknown = sorted(fields.keys() - known)
    if unknown:
        raise ConfigError(
            f"{part.__name__} has no setting {unknown[0]!r}",
            fix=f"{did_you_mean(unknown[0], known)} (the file may come from another version of Sememe)",
        )
    return part(**fields)


def tree_hash(value: object) -> str:
    """SHA-256 of the tree, 64 hex digits; equal settings give equal hashes."""
    text = json.dumps(to_tree(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def is_part(value: object) -> bool:
    """Whether `value` is an instance of a frozen dataclass."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return False
    return bool(getattr(type(value), "__dataclass_params__").frozen)  # noqa: B009 - private to dataclasses, untyped


def set_path(root: Node, path: str, text: str) -> Node:
    """`root` with the leaf at `path` ("model.layers", "embed.parts.0.dim") set to `text`, parsed by the field's type.

    Raises:
        ConfigError: no such path, the path names a part rather than a setting, or the text is not of the field's type.
    """
    return typing.cast(Node, _set(root, path.split("."), text, path=path))


def apply_settings(root: Node, settings: Mapping[str, str]) -> Node:
    """`set_path` for each item of `settings`, in order."""
    for path, text in settings.items():
        root = set_path(root, path, text)
    return root


def leaves(value: object) -> dict[str, str]:
    """Path -> JSON text of every leaf, and path -> class name of every part, in order."""
    return dict(_walk(value, ""))


def diff(left: object, right: object) -> list[Difference]:
    """Every path at which the two trees differ, in the order of `left`, then what only `right` has."""
    ours, theirs = leaves(left), leaves(right)
    paths = [*ours, *(path for path in theirs if path not in ours)]
    return [Difference(p, ours.get(p), theirs.get(p)) for p in paths if ours.get(p) != theirs.get(p)]


def render(value: object) -> str:
    """The whole tree as text, one setting a line."""
    return "\n".join(f"{path or '.'} = {text}" for path, text in leaves(value).items())


def _walk(value: object, path: str) -> Iterator[tuple[str, str]]:
    if is_part(value):
        if path:
            yield path, type(value).__name__
        for field in dataclasses.fields(value):  # type: ignore[arg-type]
            yield from _walk(getattr(value, field.name), f"{path}.{field.name}" if path else field.name)
    elif isinstance(value, tuple) and any(is_part(element) for element in value):
        for place, element in enumerate(value):
            yield from _walk(element, f"{path}.{place}")
    else:
        yield path, json.dumps(to_tree(value))


def _set(value: object, steps: list[str], text: str, *, path: str) -> object:
    step, rest = steps[0], steps[1:]
    if isinstance(value, tuple):
        if not step.isdecimal() or int(step) >= len(value):
            raise _unknown(path, step, [str(place) for place in range(len(value))])
        changed = _set(value[int(step)], rest, text, path=path) if rest else _refuse(path, value[int(step)])
        return (*value[: int(step)], changed, *value[int(step) + 1 :])
    if not is_part(value):
        raise _unknown(path, step, [])
    fields = {field.name: field for field in dataclasses.fields(value)}  # type: ignore[arg-type]
    if step not in fields:
        raise _unknown(path, step, list(fields))
    old = getattr(value, step)
    if rest:
        return dataclasses.replace(value, **{step: _set(old, rest, text, path=path)})  # type: ignore[type-var]
    if is_part(old) or (isinstance(old, tuple) and any(is_part(element) for element in old)):
        return _refuse(path, old)
    annotation = typing.get_type_hints(type(value))[step]
    return dataclasses.replace(value, **{step: _parse(text, annotation, path=path)})  # type: ignore[type-var]


def _parse(text: str, annotation: Any, *, path: str) -> object:
    """`text` as JSON where it is JSON ("3", "true", "[1,2]", "null"), else as a string; checked by `annotation`."""
    try:
        candidate = json.loads(text)
    except ValueError:
        candidate = text
    try:
        # JSON rules: no silent 3.7 -> 3 or "yes" -> True, while a list may still become a tuple.
        return TypeAdapter(annotation).validate_json(json.dumps(candidate), strict=True)
    except PydanticSchemaGenerationError:
        _refuse(path, None)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise ConfigError(
            f"--set {path}={text}: {reason}", fix=f"give a value of type {_type_name(annotation)}"
        ) from error


def _refuse(path: str, value: object) -> typing.NoReturn:
    name = "none now" if value is None else type(value).__name__
    settings = [f"{path}.{f.name}" for f in dataclasses.fields(value)] if is_part(value) else []  # type: ignore[arg-type]
    raise ConfigError(
        f"--set {path}: this is a part ({name}), not a setting",
        fix=f"set one of {', '.join(settings)}, or replace the part in a recipe function of your own"
        if settings
        else "replace it in a recipe function of your own",
    )


def _unknown(path: str, step: str, options: list[str]) -> ConfigError:
    return ConfigError(f"--set {path}: there is no setting {step!r}", fix=did_you_mean(step, options))


def _find_part(name: object) -> type[Any]:
    if not isinstance(name, str) or ":" not in name:
        raise ConfigError(f"a part is named by {name!r}", fix='name it as "module:Class"')
    module_name, _, class_name = name.partition(":")
    if module_name.split(".")[0] == "sememe":
        __import__(module_name)
    module = sys.modules.get(module_name)
    if module is None:
        raise ConfigError(
            f"the part {name} comes from the module {module_name}, which is not imported",
            fix=f"import {module_name} first (command line: --import {module_name})",
        )
    part = getattr(module, class_name, None)
    if not isinstance(part, type) or not dataclasses.is_dataclass(part):
        raise ConfigError(
            f"{module_name} has no part {class_name!r}", fix="use the version of Sememe that wrote the file"
        )
    return part


def _type_name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
