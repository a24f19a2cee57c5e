"""Business rules by name, compiled to item sets and composed per request or per tenant.

    rules = Rules.start(trie).define({"in stock": Positive("stock"), "adult": OneOf("label", ("18",))}, frame=frame)
    allowed = rules.allowed("in stock", any_of("DE", "AT"), none_of("adult"))
    rules = rules.change("in stock", sold_out, to=False)

`Rules` never change: each change gives other ones, which share with the old all that stayed the same.  Whoever serves
puts the new ones in the place of the old, by one assignment; a search that is under way goes on with the sets that it
was given, whole as they were.  Two that change rules at once must take turns, or one's change is lost.

Shape legend: I items of the catalogue, n items that change or come.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl

from sememe.core.errors import ConfigError, DataError, did_you_mean
from sememe.core.schema import BoolArray
from sememe.decode.item_set import IntArray, ItemSet, WordArray, check_indices, pack, unpack, with_bits
from sememe.decode.predicates import Predicate
from sememe.decode.trie import Trie

CACHED = 64
"""Compositions that are kept, those used last."""


@dataclass(frozen=True)
class Part:
    """One condition of a composition, over names of predicates."""

    names: frozenset[str]
    negated: bool = False
    """Whether none of them may hold, instead of one of them having to."""


def any_of(*names: str) -> Part:
    """At least one of the predicates holds."""
    return Part(frozenset(names))


def none_of(*names: str) -> Part:
    """None of the predicates holds."""
    return Part(frozenset(names), negated=True)


Ingredients = frozenset[tuple[frozenset[ItemSet], bool]]
"""What a composition is made of: per part its sets, and whether it is negated."""


class Compositions:
    """The compositions used last, by what they are made of; safe to share between threads."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._sets: OrderedDict[Ingredients, ItemSet] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._sets)

    def get(self, ingredients: Ingredients) -> ItemSet | None:
        """The composition, if it is here; now it is the one used last."""
        with self._lock:
            if ingredients not in self._sets:
                return None
            self._sets.move_to_end(ingredients)
            return self._sets[ingredients]

    def put(self, ingredients: Ingredients, item_set: ItemSet) -> None:
        """Keep the composition, and let go of the one that was not used for longest."""
        with self._lock:
            self._sets[ingredients] = item_set
            self._sets.move_to_end(ingredients)
            while len(self._sets) > self.capacity:
                self._sets.popitem(last=False)

    def without(self, old: ItemSet | None) -> "Compositions":
        """Those that are not made of `old`."""
        kept = Compositions(self.capacity)
        with self._lock:
            for ingredients, item_set in self._sets.items():
                if not any(old in sets for sets, _ in ingredients):
                    kept._sets[ingredients] = item_set
        return kept


@dataclass(frozen=True, eq=False)
class Compiled:
    """A predicate and the items that it holds of."""

    predicate: Predicate | None
    """Says whether it holds of items that come; None where flags were given: it holds of none until told so."""
    by_item: WordArray
    """Bits over item indices: items that the tree does not hold now may come back."""
    item_set: ItemSet


@dataclass(frozen=True, eq=False)
class Rules:
    """Named predicates over the items of one tree."""

    trie: Trie
    compiled: Mapping[str, Compiled] = field(default_factory=dict)
    compositions: Compositions = field(default_factory=lambda: Compositions(CACHED))

    @classmethod
    def start(cls, trie: Trie, *, cached: int = CACHED) -> "Rules":
        """No predicates yet; at most `cached` compositions will be kept."""
        return cls(trie=trie, compositions=Compositions(cached))

    @property
    def names(self) -> tuple[str, ...]:
        """The predicates there are."""
        return tuple(self.compiled)

    @property
    def num_items(self) -> int:
        """I"""
        return len(self.trie.positions)

    def define(self, predicates: Mapping[str, Predicate | BoolArray], *, frame: pl.DataFrame | None = None) -> "Rules":
        """These rules with `predicates` by name, in the place of those that have the name already.

        Args:
            predicates: each is asked about `frame`, or is (I,) flags, one per item index.
            frame: the catalogue, row i being item index i.

        Raises:
            DataError: there is not one row or flag per item, or no frame that can say what a predicate asks.
        """
        rules = self
        for name, given in predicates.items():
            predicate, flags = _asked(given, frame)
            item_set = ItemSet.of_flags(flags, self.trie)
            rules = rules._with(name, Compiled(predicate=predicate, by_item=pack(flags), item_set=item_set))
        return rules

    def change(self, name: str, items: IntArray, *, to: BoolArray | bool) -> "Rules":
        """These rules where predicate `name` holds of `items` (n,), item indices, or does not.

        to: for all of them, or (n,).

        Raises:
            ConfigError: there is no such predicate.
            DataError: an index is not of the catalogue, or an item is to be both.
        """
        old = self._find(name)
        check_indices(items, self.num_items)
        values = np.broadcast_to(np.asarray(to, np.bool_), items.shape)
        by_item = with_bits(old.by_item, items, values)
        item_set = old.item_set.changed(items, self.trie, to=values)
        return self._with(name, replace(old, by_item=by_item, item_set=item_set))

    def allowed(self, *parts: str | Part) -> ItemSet:
        """The items for which all `parts` hold, a name being a part of its own; all items where there are none.

        Raises:
            ConfigError: there is no predicate of a name, or a part has none.
        """
        conditions = [any_of(part) if isinstance(part, str) else part for part in parts]
        ingredients = frozenset((self._sets(part), part.negated) for part in conditions)
        found = self.compositions.get(ingredients)
        if found is None:
            found = _compose(ingredients, self.trie)
            self.compositions.put(ingredients, found)
        return found

    def follow(self, trie: Trie, *, frame: pl.DataFrame | None = None) -> "Rules":
        """These rules over `trie`, which `edit_trie` made of this tree; items keep what was said of them.

        frame: one row for each item index that the catalogue has more than before, in order.

        Raises:
            DataError: the catalogue grew, and the frame has not one row for each of the new items.
        """
        grown = len(trie.positions) - self.num_items
        if grown < 0:
            raise DataError(
                f"the catalogue has {len(trie.positions):,} items, and had {self.num_items:,} before",
                fix="start rules anew for another catalogue: Rules.start(trie)",
            )
        rows = 0 if frame is None else frame.height
        if rows != grown:
            raise DataError(
                f"the catalogue has {grown:,} items more than before, and the frame has {rows:,} rows",
                fix="give one row for each new item index, in order",
            )
        rules = Rules.start(trie, cached=self.compositions.capacity)
        for name, old in self.compiled.items():
            known = unpack(old.by_item, self.num_items)
            fresh = np.zeros(grown, np.bool_)
            if frame is not None and old.predicate is not None:
                fresh = old.predicate.holds(frame)
            flags = np.concatenate([known, fresh])
            new = replace(old, by_item=pack(flags), item_set=ItemSet.of_flags(flags, trie))
            rules = rules._with(name, new)
        return rules

    def _with(self, name: str, new: Compiled) -> "Rules":
        old = self.compiled.get(name)
        return replace(
            self,
            compiled={**self.compiled, name: new},
            compositions=self.compositions.without(None if old is None else old.item_set),
        )

    def _find(self, name: str) -> Compiled:
        if name not in self.compiled:
            raise ConfigError(f"there is no predicate {name!r}", fix=did_you_mean(name, self.compiled))
        return self.compiled[name]

    def _sets(self, part: Part) -> frozenset[ItemSet]:
        if not part.names:
            raise ConfigError("a part of a rule names no predicate", fix="name one, or leave the part out")
        return frozenset(self._find(name).item_set for name in part.names)


def _asked(given: Predicate | BoolArray, frame: pl.DataFrame | None) -> tuple[Predicate | None, BoolArray]:
    """What to ask about items that come, and the flags of those that are there."""
    if isinstance(given, np.ndarray):
        return None, given
    if frame is None:
        raise DataError(f"{given} asks the catalogue, and there is none", fix="give the catalogue's frame")
    return given, given.holds(frame)


def _compose(ingredients: Ingredients, trie: Trie) -> ItemSet:
    """The items for which all parts hold."""
    everything = ItemSet.every(trie)
    # Words are joined as they are: members are counted once, at the end.
    words = everything.words.copy()
    for sets, negated in ingredients:
        union = np.bitwise_or.reduce([item_set.words for item_set in sets])
        words &= ~union if negated else union
    return ItemSet.of_words(words, num_positions=everything.num_positions, tree=everything.tree)
