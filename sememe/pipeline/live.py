"""From a finished run to a catalogue that lives: new items get vectors and codes, and the run's model takes them in.

    catalogue = start_catalogue(run.world, items)
    vectors = embed_new(recipe, world, items, frame)
    newer = catalogue.add(frame["item_id"], vectors=vectors)
    recommender = follow(recommender, catalogue, newer, vectors=newer.vectors(items.vectors))

Nothing is fitted or trained again: an item that comes is known by its codes and its content.  A catalogue keeps the
vectors of what came, on disk too, so that another process goes on from there:

    first, now = start_catalogue(run.world, items), open_catalogue(folder).catalogue
    recommender = follow(run.recommender, first, now, vectors=now.vectors(items.vectors))

Shape legend: I items of the run, n items that came, dim the width of vectors.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import polars as pl

from sememe.core.errors import ArtifactError, ConfigError, NothingToEmbedError
from sememe.core.schema import Catalog, FloatArray
from sememe.data.catalog_rows import vectors_of
from sememe.decode.trie_edit import edit_trie
from sememe.embed.fuse import Fuse
from sememe.models.growth import grown
from sememe.pipeline.prepare import EXTENDED_FILE, TOKENIZER_FILE, ItemSpace, World
from sememe.pipeline.recipe import Embedder, Recipe
from sememe.pipeline.recommend import Recommender
from sememe.sid.catalogue import FreshItems, LiveCatalogue
from sememe.sid.context import CodeContext
from sememe.sid.drift import measure_fresh
from sememe.sid.fitted import load_tokenizer


def start_catalogue(world: World, items: ItemSpace, *, fresh: FreshItems | None = None) -> LiveCatalogue:
    """The catalogue that the codes of `items` were made for; its rows are the item indices of the run.

    fresh: what `fresh_items` found, so that drift can be told from the usual.

    Raises:
        ConfigError: the items have no codes.
        ArtifactError: the codes were made by a version of Sememe that did not say which tokenizer made them.
    """
    if items.codes is None or items.vectors is None:
        raise ConfigError("these items have no semantic IDs", fix="use the items of a recipe with a tokenizer")
    stage = items.stages["codes"]
    kind = stage.meta["result"].get("tokenizer")
    if kind is None:
        raise ArtifactError(
            f"{stage.path} does not say which tokenizer made it", fix="delete that directory and run the recipe again"
        )
    file = EXTENDED_FILE if EXTENDED_FILE in stage.files else TOKENIZER_FILE
    return LiveCatalogue.start(
        items.codes,
        item_ids=world.interactions.item_ids,
        tokenizer=load_tokenizer(stage.path / file, kind=kind),
        vectors=items.vectors,
        fresh=fresh,
    )


def fresh_items(recipe: Recipe, world: World, items: ItemSpace, *, seed: int = 0, share: float = 0.1) -> FreshItems:
    """What items look like that come after a fit and are embedded by `embed_new`: by one more fit, without a share.

    Raises as `measure_fresh` of `sememe.sid.drift`, and ConfigError where the recipe makes no codes.
    """
    if recipe.tokenizer is None or recipe.collisions is None or items.vectors is None:
        raise ConfigError(f"recipe {recipe.name!r} makes no semantic IDs", fix="use a recipe with a tokenizer")
    embed, widths = recipe.embed, items.vector_widths
    return measure_fresh(
        recipe.tokenizer,
        recipe.collisions,
        items.vectors,
        seed=seed,
        share=share,
        context=CodeContext(widths, world.split.train()),
        as_new=partial(embed.without_log, items.vectors, widths) if isinstance(embed, Fuse) else None,
    )


def embed_new(recipe: Recipe, world: World, items: ItemSpace, frame: pl.DataFrame) -> FloatArray:
    """float32 (n, dim): vectors of items that came after the run, in the space of `items`.

    Parts of the recipe's embedder that read the log know nothing of them; what they lack is borrowed where the embedder
    fills gaps.

    Args:
        frame: one row per item, with the columns of `world.catalog.frame` that the embedder reads; brought vectors are
            a column too.

    Raises:
        ConfigError: the recipe has no embedder, or one that cannot embed a part of the items, or that whitens them.
        NothingToEmbedError: no part of the embedder finds anything to read.
    """
    if recipe.embed is None or items.vectors is None:
        raise ConfigError(f"recipe {recipe.name!r} embeds no items", fix="use a recipe with an embedder")
    widths = items.vector_widths
    if not isinstance(recipe.embed, Fuse):
        made, problem = _embed_part(recipe.embed, world, frame, width=widths[0], seed=recipe.seeds[0])
        if problem is not None:
            raise problem
        return made
    # Before any part is asked: whitened vectors have one width, and no part of them is any part's.
    recipe.embed.check_extends()
    parts = list(zip(recipe.embed.parts, widths, strict=True))
    found = [_embed_part(part, world, frame, width=width, seed=recipe.seeds[0]) for part, width in parts]
    problems = [problem for _, problem in found if problem is not None]
    if len(problems) == len(found):
        raise problems[0]
    return recipe.embed.extend(items.vectors, widths, [made for made, _ in found])


def follow(
    recommender: Recommender, older: LiveCatalogue, newer: LiveCatalogue, *, vectors: FloatArray | None
) -> Recommender:
    """What `recommender`, which offers the items of `older`, is for the items of `newer`.

    What an item head says of known items stays.  A generator that chooses among the codes that exist shares out its
    probability to those of new items, too, so that what it says of known items becomes a little less.

    Args:
        older, newer: `newer` came from `older` by additions, removals and updates, in this process or another.
        vectors: (I + n, dim) of all rows of `newer`, where the model reads content: `newer.vectors(items.vectors)`.

    Raises:
        ConfigError: the recommender knows items by their numbers alone, or has a fitted last word, whose statistics
            hold none of the new ones.
    """
    if recommender.rerank is not None:
        raise ConfigError(
            "a fitted last word holds statistics of the items that it was fitted on, and none of new ones",
            fix='open a row without one: open_run(path, model="itemwise:rescored")',
        )
    model = grown(recommender.model, newer.codes, item_vectors=vectors)
    change = newer.changes_since(older)
    return replace(
        recommender,
        model=model,
        trie=edit_trie(recommender.trie, newer.codes, gone=change.gone, come=change.come),
    )


def _embed_part(
    part: Embedder, world: World, frame: pl.DataFrame, *, width: int, seed: int
) -> tuple[FloatArray, NothingToEmbedError | None]:
    """(n, width) zeros where `part` reads the log or finds nothing, then with the reason."""
    nothing = np.zeros((frame.height, width), np.float32)
    if getattr(part, "reads_log", False):
        return nothing, NothingToEmbedError(
            f"{type(part).__name__} reads the log, and new items are not in it",
            fix="add an embedder of content to the recipe, joined by Fuse, or train again",
        )
    brought = vectors_of(frame["vector"]) if "vector" in frame.columns else None
    try:
        return part.embed(Catalog(frame=frame, vectors=brought), world.split.train(), seed=seed), None
    except NothingToEmbedError as error:
        return nothing, error
