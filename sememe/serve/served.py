"""A model as it is served: the engine and all that stands beside it, replaced together."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sememe.core.errors import ConfigError
from sememe.core.schema import BoolArray, Int64Array
from sememe.decode.item_set import ItemSet
from sememe.decode.predicates import Predicate
from sememe.decode.rules import Part, any_of, none_of
from sememe.pipeline.engine import NO_TREE, Engine
from sememe.pipeline.lookup import UNKNOWN_ID, Id
from sememe.serve.fallback import Fallback
from sememe.serve.living import Living, offered_items
from sememe.serve.nearest import Nearest
from sememe.serve.rule_file import IN_STOCK
from sememe.serve.wire import AnyOf, Rule

HEADLINE = ("recall@10", "ndcg@10")


@dataclass(frozen=True, eq=False)
class Served:
    """Made by `load`."""

    engine: Engine
    row: str
    version: str
    """12 hex digits, equal where run and row are."""
    fallback: Fallback
    nearest: Nearest
    living: Living
    """What came, went or changed since the run."""

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        model: str | None = None,
        rules: dict[str, Predicate] | None = None,
        cache_bytes: int = 0,
        modules: Sequence[str] = (),
    ) -> "Served":
        """Open the run directory `path`.

        Raises what `Engine.load` raises; ConfigError where the model has no tree to put `rules` on, and DataError where
        the catalogue lacks a column of theirs.
        """
        engine = Engine.load(path, model=model, cache_bytes=cache_bytes, modules=modules)
        run = engine.serving.run
        if rules:
            engine.put_rules(engine.rules.define(rules, frame=run.world.catalog.frame))
        row = model or run.recipe.name
        digest = hashlib.sha256((path / "run.json").read_bytes() + row.encode())
        return cls(
            engine=engine,
            row=row,
            version=digest.hexdigest()[:12],
            fallback=Fallback.fit(run.world.split.train()),
            nearest=Nearest(run.items),
            living=Living(run, row),
        )

    @property
    def rule_names(self) -> tuple[str, ...]:
        """Rules that a request may name."""
        rules = self.engine.serving.rules
        return () if rules is None else rules.names

    def parts(self, asked: Sequence[Rule]) -> tuple[str | Part, ...]:
        """The rules of a request, and stock where anything was said of it."""
        parts = tuple(_part(rule) for rule in asked)
        return (*parts, IN_STOCK) if IN_STOCK in self.rule_names else parts

    def item_set(self, parts: Sequence[str | Part]) -> ItemSet:
        """The items for which all `parts` hold.

        Raises ConfigError for a rule that there is not, or a model without a tree.
        """
        rules = self.engine.serving.rules
        if rules is None:
            raise ConfigError(NO_TREE, fix="serve a generator, or leave rules out")
        return rules.allowed(*parts)

    def allowed(self, parts: Sequence[str | Part]) -> BoolArray | None:
        """(I,) the items of `item_set`; None for all there ever were."""
        if not parts:
            return self._offered
        trie = self.engine.rules.trie
        flags = np.zeros(len(trie.positions), np.bool_)
        flags[trie.items.cpu().numpy()[self.item_set(parts).flags()]] = True
        return flags

    @cached_property
    def _offered(self) -> BoolArray | None:
        """(I,) which items were not removed; None where none was."""
        flags = offered_items(self.engine.serving)
        return None if bool(flags.all()) else flags

    @property
    def num_offered(self) -> int:
        """Items that lists may hold, stock and other rules aside."""
        return len(self.engine.serving.items) if self._offered is None else int(self._offered.sum())

    def known_items(self, ids: Sequence[Id]) -> Int64Array:
        """(m,) indices of those of `ids` that the model knows."""
        found = self.engine.serving.items.find(ids)
        known: Int64Array = found[found != UNKNOWN_ID]
        return known

    def titles(self, ids: Sequence[Id]) -> list[str]:
        """What to print for each of `ids`, all of them items of the run."""
        catalog = self.engine.serving.run.world.catalog
        return [catalog.title(int(item)) for item in self.engine.serving.items.find(ids)]


def headline(metrics: Mapping[str, Any], row: str) -> dict[str, float]:
    """The numbers of `row` that stand first, of the test part; metrics: metrics.json of its run."""
    rows: list[dict[str, Any]] = metrics.get("rows", [])
    mine = [one for one in rows if one.get("model") == row and one.get("split") == "test"]
    chosen = [one for one in mine if one.get("mask_seen")] or mine
    return {name: float(chosen[0][name]) for name in HEADLINE if chosen and name in chosen[0]}


@dataclass(eq=False)
class Current:
    """The model that answers now; whoever answers takes it once, and goes on with it."""

    served: Served


def _part(rule: Rule) -> str | Part:
    if isinstance(rule, str):
        return rule
    return any_of(*rule.any_of) if isinstance(rule, AnyOf) else none_of(*rule.none_of)
