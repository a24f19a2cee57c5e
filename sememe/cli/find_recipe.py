"""From what a user types to a Recipe: `tiger`, `tiger@small`, `my_module:my_recipe`, `my_module:my_recipe@large`."""

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import sememe.recipes
from sememe.cli.set_option import read_settings
from sememe.core.config import apply_settings
from sememe.core.errors import ConfigError, did_you_mean
from sememe.pipeline.recipe import Recipe

RecipeFunction = Callable[..., Recipe]


@dataclass(frozen=True)
class RecipeHeader:
    """What a recipe's file says of itself."""

    name: str
    summary: str
    status: str
    text: str


def recipe_names() -> list[str]:
    """Names of the built-in recipes, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(sememe.recipes.__path__))


def recipe_header(name: str) -> RecipeHeader:
    """The header of a built-in recipe, from the docstring of its file."""
    text = inspect.getdoc(importlib.import_module(f"sememe.recipes.{name}")) or ""
    status = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("Status:")]
    return RecipeHeader(name=name, summary=text.splitlines()[0], status=status[0] if status else "unstated", text=text)


def find_recipe(spec: str, *, settings: Sequence[str] = ()) -> Recipe:
    """The recipe that `spec` names, with `--set path=value` settings applied.

    Raises:
        ConfigError: no such recipe, size or setting.
    """
    name, _, size = spec.partition("@")
    function = _own_function(name) if ":" in name else _built_in(name)
    recipe = function(**({"size": _checked_size(function, size, name=name)} if size else {}))
    if not isinstance(recipe, Recipe):
        raise ConfigError(f"{name} gave {type(recipe).__name__}", fix="return a sememe.pipeline.recipe.Recipe")
    return apply_settings(recipe, read_settings(settings, example="train.epochs=5"))


def _built_in(name: str) -> RecipeFunction:
    if name not in recipe_names():
        raise ConfigError(f"there is no recipe {name!r}", fix=did_you_mean(name, recipe_names()))
    function: RecipeFunction = getattr(importlib.import_module(f"sememe.recipes.{name}"), name)
    return function


def _own_function(name: str) -> RecipeFunction:
    module_name, _, function_name = name.partition(":")
    # A recipe of one's own usually lies in the directory from which the command is called.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the module {module_name!r} cannot be imported: {error}", fix="start from its directory, or install it"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        options = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ConfigError(f"{module_name} has no function {function_name!r}", fix=did_you_mean(function_name, options))
    found: RecipeFunction = function
    return found


def _checked_size(function: RecipeFunction, size: str, *, name: str) -> str:
    parameter = inspect.signature(function).parameters.get("size")
    if parameter is None:
        raise ConfigError(f"recipe {name!r} has one size only", fix=f"write {name} without @{size}")
    sizes = getattr(parameter.annotation, "__args__", ())
    if sizes and size not in sizes:
        raise ConfigError(f"recipe {name!r} has no size {size!r}", fix=did_you_mean(size, sizes))
    return size
