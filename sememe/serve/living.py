"""What came, went or changed since a run was made, in force at a model that is served.

An item that came gets a vector and a code, as those of the run did, and stands behind them; nothing is trained.  An
item of the run keeps its code and vector, whatever is said of it: its title changes, and which rules hold of it.  What
is removed is in no list any more, and can still be read in histories.

Shape legend: I items, n items of a change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from sememe.core.errors import SememeError
from sememe.core.schema import PAD, BoolArray, FloatArray, Int64Array
from sememe.decode.trie_edit import edit_trie
from sememe.pipeline.engine import Engine, Serving, grown_serving, offering
from sememe.pipeline.live import follow, start_catalogue
from sememe.pipeline.lookup import UNKNOWN_ID
from sememe.pipeline.opened import Run
from sememe.pipeline.prepare import ItemSpace
from sememe.serve.item_fields import Fields, catalogue_rows, check_growable
from sememe.serve.nearest import Nearest
from sememe.serve.rule_file import IN_STOCK
from sememe.serve.stores.protocol import ItemChange
from sememe.sid.catalogue import LiveCatalogue

if TYPE_CHECKING:
    from sememe.serve.served import Served

Vectors = Mapping[str, FloatArray]
"""(dim,) by item id."""


@dataclass(frozen=True, eq=False)
class Living:
    """What a model has taken in."""

    run: Run
    """As it was opened."""
    row: str
    catalogue: LiveCatalogue | None = None
    """None as long as nothing came."""
    fields: Mapping[str, Fields] = field(default_factory=dict)
    """What was said of items, by id."""

    @property
    def growable(self) -> bool:
        """Whether new items can be taken in."""
        try:
            check_growable(self.run, self.row)
        except SememeError:
            return False
        return True

    def is_of_run(self, index: int) -> bool:
        return index < self.run.world.interactions.num_items


def offered_items(serving: Serving) -> BoolArray:
    """(I,) which items lists may hold."""
    trie = serving.answerer.recommender.trie
    if trie is not None:
        flags: BoolArray = (trie.positions != PAD).cpu().numpy()
        return flags
    flags = np.ones(len(serving.items), np.bool_)
    flags[serving.gone] = False
    return flags


def needs_vector(served: "Served", change: ItemChange) -> bool:
    """Whether `change` is of an item that has no vector of the run, or says something new of one."""
    if change.removed or change.fields is None:
        return False
    index = int(served.engine.serving.items.find([change.item_id])[0])
    if index == UNKNOWN_ID:
        return True
    is_new = not served.living.is_of_run(index)
    return is_new and (change.fields != served.living.fields.get(change.item_id) or not _is_offered(served, index))


def take_in(served: "Served", changes: Sequence[ItemChange], vectors: Vectors) -> "Served":
    """`served` with `changes` in force; those of items that it neither knows nor has `vectors` for are passed over.

    Raises DataError where no item would be left, or a tuple has no code left.
    """
    known = served.engine.serving.items.find([change.item_id for change in changes])
    offered = offered_items(served.engine.serving)
    sides: dict[str, list[ItemChange]] = {"gone": [], "come": [], "edited": []}
    for change, index in zip(changes, known.tolist(), strict=True):
        is_offered = index != UNKNOWN_ID and bool(offered[index])
        if change.removed:
            sides["gone"] += [change] if is_offered else []
        elif is_offered:
            changed = change.fields is not None and change.fields != served.living.fields.get(change.item_id)
            sides["edited"] += [change] if changed else []
        elif change.item_id in vectors or (index != UNKNOWN_ID and served.living.is_of_run(index)):
            sides["come"].append(change)
    if sides["gone"] or sides["come"] or any(change.item_id in vectors for change in sides["edited"]):
        move = _move_codes if served.living.growable else _move_offer
        served = move(served, gone=sides["gone"], come=sides["come"], edited=sides["edited"], vectors=vectors)
    return _describe(served, [*sides["edited"], *sides["come"]], gone=sides["gone"])


def _is_offered(served: "Served", index: int) -> bool:
    return bool(offered_items(served.engine.serving)[index])


def _rows(served: "Served", changes: Sequence[ItemChange]) -> Int64Array:
    found = served.engine.serving.items.find([change.item_id for change in changes])
    known: Int64Array = found[found != UNKNOWN_ID]
    return known


def _move_offer(
    served: "Served",
    *,
    gone: Sequence[ItemChange],
    come: Sequence[ItemChange],
    edited: Sequence[ItemChange],
    vectors: Vectors,
) -> "Served":
    """Items of the run leave and come back; others are passed over."""
    del edited, vectors
    serving = served.engine.serving
    left, back = _rows(served, gone), _rows(served, come)
    trie = serving.answerer.recommender.trie
    if trie is None:
        kept = np.setdiff1d(np.union1d(serving.gone, left), back).astype(np.int32)
        return replace(served, engine=Engine(replace(serving, gone=kept)))
    codes = served.living.run.items.codes
    assert codes is not None, "a tree is made of codes"
    return replace(served, engine=Engine(offering(serving, edit_trie(trie, codes, gone=left, come=back))))


def _move_codes(
    served: "Served",
    *,
    gone: Sequence[ItemChange],
    come: Sequence[ItemChange],
    edited: Sequence[ItemChange],
    vectors: Vectors,
) -> "Served":
    """Items come with codes of their own, leave, and change their content."""
    living, serving = served.living, served.engine.serving
    older = living.catalogue or start_catalogue(living.run.world, living.run.items)
    fitted = living.run.items.vectors
    assert fitted is not None, "asked for by check_growable"
    changed = [change for change in edited if change.item_id in vectors]
    ids = [change.item_id for change in come]
    known = serving.items.find(ids).tolist()
    now = older
    if come:
        of_run = [index != UNKNOWN_ID and living.is_of_run(index) for index in known]
        each = zip(ids, known, of_run, strict=True)
        now = now.add(ids, vectors=np.stack([fitted[index] if ours else vectors[one] for one, index, ours in each]))
    if changed:
        ids = [change.item_id for change in changed]
        now = now.update(ids, vectors=np.stack([vectors[one] for one in ids]))
    if gone:
        now = now.remove([change.item_id for change in gone])
    fresh = [change for change, index in zip(come, known, strict=True) if index == UNKNOWN_ID]
    return _follow(served, older, now, fresh=fresh)


def _follow(served: "Served", older: LiveCatalogue, now: LiveCatalogue, *, fresh: Sequence[ItemChange]) -> "Served":
    living, serving = served.living, served.engine.serving
    run, change = living.run, now.changes_since(older)
    fitted = run.items.vectors
    assert fitted is not None, "asked for by check_growable"
    recommender = serving.answerer.recommender
    if not fresh and np.array_equal(now.codes.matrix, older.codes.matrix):
        trie = edit_trie(recommender.trie, now.codes, gone=change.gone, come=change.come)
        newer = offering(serving, trie)
        return replace(served, engine=Engine(newer), living=replace(living, catalogue=now))
    vectors = now.vectors(fitted)
    more = catalogue_rows(run, [one.item_id for one in fresh], [one.fields or {} for one in fresh])
    newer = grown_serving(serving, follow(recommender, older, now, vectors=vectors), more=more)
    if newer.rules is not None and IN_STOCK in newer.rules.names and fresh:
        # Of what nobody said that it is sold out, it can be had.
        came = np.arange(len(serving.items), len(newer.items))
        newer = replace(newer, rules=newer.rules.change(IN_STOCK, came, to=True))
    return replace(
        served,
        engine=Engine(newer),
        fallback=served.fallback.grown(len(newer.items)),
        nearest=Nearest(ItemSpace(vectors=vectors, codes=now.codes, stages=run.items.stages)),
        living=replace(living, catalogue=now),
    )


def _describe(served: "Served", changes: Sequence[ItemChange], *, gone: Sequence[ItemChange]) -> "Served":
    """With what `changes` say in titles and rules."""
    living = served.living
    told = [change for change in changes if change.fields is not None and len(_rows(served, [change]))]
    kept = {key: value for key, value in living.fields.items() if key not in {change.item_id for change in gone}}
    said = {change.item_id: change.fields or {} for change in told}
    served = replace(served, living=replace(living, fields={**kept, **said}))
    if not told:
        return served
    serving, rows = served.engine.serving, _rows(served, told)
    frame = _overlaid(living.run, rows, told)
    catalog = serving.run.world.catalog
    place = np.arange(catalog.num_items)
    place[rows] = catalog.num_items + np.arange(len(rows))
    whole = pl.concat([catalog.frame, frame])[place]
    world = replace(serving.run.world, catalog=replace(catalog, frame=whole))
    rules = serving.rules
    if rules is not None:
        for name, compiled in rules.compiled.items():
            if compiled.predicate is not None:
                rules = rules.change(name, rows, to=compiled.predicate.holds(frame))
    newer = replace(serving, run=replace(serving.run, world=world), rules=rules)
    return replace(served, engine=Engine(newer))


def _overlaid(run: Run, rows: Int64Array, told: Sequence[ItemChange]) -> pl.DataFrame:
    """(n rows) what is said of items; of those of the run, what the run says where nothing is."""
    frame = run.world.catalog.frame
    said = catalogue_rows(run, [change.item_id for change in told], [change.fields or {} for change in told])
    came = pl.Series((rows >= frame.height).tolist())
    # What came has no row of its own in the run: any will do, since nothing is taken from it.
    ours = frame[np.minimum(rows, frame.height - 1)]
    filled = []
    for name in frame.columns:
        named = pl.Series([name == "item_id" or name in (change.fields or {}) for change in told])
        filled.append(said[name].zip_with(named | came, ours[name]).alias(name))
    return pl.DataFrame(filled)
