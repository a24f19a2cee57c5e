"""A trained generator for a catalogue to which items came, without training.

A generator that reads and writes codes alone needs to be told the codes of what came.  One whose items and nodes of the
code tree have vectors of their own has none for new ones: their codes and their content speak for them.

Shape legend: I items, V width of the item vectors.
"""

from copy import deepcopy

import numpy as np
import torch
from torch import nn

from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import Codes, FloatArray, ModelInputs
from sememe.models.contexts import PathwaysModule
from sememe.models.encdec import EncDecModel
from sememe.models.generator import ListGenerator
from sememe.models.itemwise import ItemWiseModel


def grown(model: nn.Module, codes: Codes, *, item_vectors: FloatArray | None) -> nn.Module:
    """The same model for more items; `model` stays as it is.

    Args:
        codes: of all items, those known before in their old rows; they may have new codes.
        item_vectors: (I, V) of all items, where the model reads content.

    Raises:
        ConfigError: the model knows items by their numbers alone.
        DataError: rows are missing, or the codebooks are others.
    """
    if not isinstance(model, EncDecModel | ItemWiseModel | ListGenerator):
        raise ConfigError(
            f"{type(model).__name__} knows items by their numbers, and cannot know new ones",
            fix="use a generator, or train again",
        )
    known = _num_items(model)
    if codes.num_items < known or codes.codebook_sizes != model.codebook_sizes:
        raise DataError(
            f"a model of {known} items and codebooks {model.codebook_sizes} cannot grow into {codes.num_items} items "
            f"and codebooks {codes.codebook_sizes}",
            fix="give the codes of a catalogue that grew from the one that the model was trained on",
        )
    with torch.random.fork_rng(devices=[]):
        if isinstance(model, ItemWiseModel):
            newer: nn.Module = _itemwise(model, codes, item_vectors)
        else:
            newer = _lists(model, codes, item_vectors) if isinstance(model, ListGenerator) else _encdec(model, codes)
    return newer.train(model.training)


def _num_items(model: EncDecModel | ItemWiseModel | ListGenerator) -> int:
    # The last row of the token table stands for padding.
    return model.items.num_items if isinstance(model, ItemWiseModel) else len(model.tokens.item_tokens) - 1


def _lists(model: ListGenerator, codes: Codes, item_vectors: FloatArray | None) -> ListGenerator:
    newer = deepcopy(model)
    newer.tokens.know(codes)
    source = getattr(newer.reader, "source", None)
    if isinstance(source, PathwaysModule) and source.item_vectors is not None:
        if item_vectors is None:
            raise ConfigError("the lifelong pathway clusters item vectors, and there are none", fix="give item_vectors")
        source.know(item_vectors)
    return newer


def _encdec(model: EncDecModel, codes: Codes) -> EncDecModel:
    newer = EncDecModel(model.config, codes=codes)
    newer.load_state_dict(model.state_dict())
    return newer.to(model.tokens.embedding)


def _itemwise(model: ItemWiseModel, codes: Codes, item_vectors: FloatArray | None) -> ItemWiseModel:
    known = model.writer.nodes.known_items.cpu().numpy()
    sizes = {name: len(table.weight) for name, table in model.events.items() if isinstance(table, nn.Embedding)}
    inputs = ModelInputs(
        num_users=0,
        num_items=codes.num_items,
        codes=codes,
        item_vectors=item_vectors,
        train_counts=np.pad(known.astype(np.int64), (0, codes.num_items - len(known))),
        num_actions=sizes.get("action", 0),
        num_gaps=sizes.get("gap", 0),
    )
    newer = ItemWiseModel(model.config, inputs).to(model.repeat_bias.weight)
    of_its_own = ("items.", "writer.own.")
    shared = {name: value for name, value in model.state_dict().items() if not name.startswith(of_its_own)}
    newer.load_state_dict(shared, strict=False)
    newer.items.take_over(model.items, item_vectors)
    newer.writer.take_over(model.writer)
    return newer
