"""From the stages of a run to a catalogue that lives: the run's codes and item ids, and what gives new items codes."""

from sememe.core.errors import ArtifactError, ConfigError
from sememe.pipeline.prepare import EXTENDED_FILE, TOKENIZER_FILE, ItemSpace, World
from sememe.sid.catalogue import FreshItems, LiveCatalogue
from sememe.sid.fitted import load_tokenizer


def start_catalogue(world: World, items: ItemSpace, *, fresh: FreshItems | None = None) -> LiveCatalogue:
    """The catalogue that the codes of `items` were made for; its rows are the item indices of the run.

    fresh: what `measure_fresh` of `sememe.sid.drift` found, so that drift can be told from the usual.

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
