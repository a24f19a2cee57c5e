"""Named rules of a server, from a JSON file: what `rules` of a request may ask for.

    {"cheap": {"at_most": ["price", 20]}, "DE": {"one_of": ["regions", ["DE"]]},
     "new": {"at_least": ["day", "2024-05-01"]}, "has photo": {"positive": "photos"}}

Each asks a column of the run's catalogue; see `sememe.decode.predicates`.
"""

import json
from collections.abc import Callable, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any

from sememe.core.errors import ConfigError, did_you_mean
from sememe.decode.predicates import AtLeast, AtMost, OneOf, Positive, Predicate

IN_STOCK = "in stock"
"""The rule that stock is kept in: always in force, once anything was said of stock."""


def read_rules(path: Path) -> dict[str, Predicate]:
    """The rules of a file, by name.  Raises ConfigError where it is not there, or a rule is not understood."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} holds no rules: {error}", fix="give a JSON file: name -> rule") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no rules", fix="write one JSON object: name -> rule")
    if IN_STOCK in content:
        raise ConfigError(
            f"{path} has a rule called {IN_STOCK!r}, and this name stands for what PUT /v1/stock says",
            fix="call it otherwise",
        )
    return {name: _predicate(name, rule) for name, rule in content.items()}


def _predicate(name: str, rule: Any) -> Predicate:
    if not isinstance(rule, dict) or len(rule) != 1:
        raise ConfigError(f"rule {name!r} is {rule!r}", fix='write one kind, e.g. {"at_most": ["price", 20]}')
    ((kind, told),) = rule.items()
    if kind not in KINDS:
        raise ConfigError(f"rule {name!r} is of no known kind: {kind!r}", fix=did_you_mean(kind, KINDS))
    try:
        return KINDS[kind](told)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"rule {name!r} cannot be read: {error}", fix='write e.g. {"at_most": ["price", 20]}'
        ) from error


def _positive(told: Any) -> Predicate:
    return Positive(_column(told))


def _at_most(told: Any) -> Predicate:
    column, limit = told
    return AtMost(_column(column), _limit(limit))


def _at_least(told: Any) -> Predicate:
    column, limit = told
    return AtLeast(_column(column), _limit(limit))


def _one_of(told: Any) -> Predicate:
    column, values = told
    if not isinstance(values, list) or not values:
        raise TypeError(f"{values!r} is no list of values")
    return OneOf(_column(column), tuple(values))


KINDS: Mapping[str, Callable[[Any], Predicate]] = {
    "positive": _positive,
    "at_most": _at_most,
    "at_least": _at_least,
    "one_of": _one_of,
}


def _column(told: Any) -> str:
    if not isinstance(told, str):
        raise TypeError(f"{told!r} is no column")
    return told


def _limit(told: Any) -> float | date | datetime:
    if isinstance(told, str):
        return datetime.fromisoformat(told) if "T" in told else date.fromisoformat(told)
    return float(told)
