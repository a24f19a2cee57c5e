"""The weights of an `ItemWiseModel` as plain arrays, for engines that are not torch."""

import numpy as np
import torch
from torch import Tensor, nn

from sememe.core.schema import Codes, FloatArray
from sememe.models.itemwise import ItemWiseModel
from sememe.nn.itemwise_weights import Affine, BlockWeights, DepthNetwork, ItemWiseWeights, LayerNorm
from sememe.nn.trunk import TrunkBlock

ITEMS_AT_ONCE = 65_536


def unsupported(model: ItemWiseModel) -> str | None:
    """What of `model` the plain description cannot say, or None: it says all of it."""
    trunk, depth = model.config.trunk, model.config.depth
    refusals = {
        "its trunk reads event inputs": bool(model.config.reads_events),
        f"its trunk has {trunk.positions} positions, not learned ones": trunk.positions != "learned",
        f"its trunk has {trunk.norm} norms, not layer norms": trunk.norm != "layer",
        f"its trunk has {trunk.feed_forward} networks, not gelu ones": trunk.feed_forward != "gelu",
        "its trunk is a mixture of experts": trunk.experts > 0,
        f"its depth decoder has the form {depth.form}": depth.form == "transformer",
        "some of its items are made to look new for a while": model.items.as_new is not None,
    }
    return next((reason for reason, holds in refusals.items() if holds), None)


@torch.inference_mode()
def export_itemwise(model: ItemWiseModel) -> ItemWiseWeights:
    """The weights as they are now, fp32 on the CPU; those that are so already are shared, not copied."""
    refusal = unsupported(model)
    assert refusal is None, f"{refusal}: ask unsupported() first"
    writer = model.writer
    matrix = writer.nodes.matrix.cpu().numpy().astype(np.int32)
    codes = Codes(matrix=matrix, codebook_sizes=model.codebook_sizes, num_semantic_levels=matrix.shape[1])
    positions = model.trunk.positions
    assert positions is not None and isinstance(model.trunk.norm, nn.LayerNorm), "checked by unsupported()"
    return ItemWiseWeights(
        heads=model.config.trunk.heads,
        epsilon=model.trunk.norm.eps,
        positions=_array(positions.weight),
        blocks=tuple(_block(block) for block in model.trunk.blocks),
        norm=_norm(model.trunk.norm),
        codes=codes,
        item_vectors=_item_vectors(model),
        read=tuple(_table(table) for table in writer.read),
        write=tuple(_table(table) for table in writer.write),
        own=tuple(_table(table) for table in writer.own) or None,
        networks=tuple(DepthNetwork(wide=_affine(net, 0), narrow=_affine(net, -1)) for net in writer.query.nets),
    )


def _block(block: nn.Module) -> BlockWeights:
    assert isinstance(block, TrunkBlock), "a trunk is made of its blocks"
    return BlockWeights(
        attention_norm=_norm(block.attention_norm),
        query_key_value=_linear(block.attention.qkv),
        joined=_linear(block.attention.out),
        ff_norm=_norm(block.ff_norm),
        wide=_affine(block.ff, 0),
        narrow=_affine(block.ff, -1),
    )


def _item_vectors(model: ItemWiseModel) -> FloatArray | None:
    """(I, D) what the item table gives; a block at a time, since content is wider than the result."""
    if model.items.own is None and model.items.project is None:
        return None
    device = model.writer.nodes.matrix.device
    every = torch.arange(model.items.num_items, device=device)
    vectors = np.empty((len(every), model.config.trunk.d_model), np.float32)
    # In training, some items drawn anew each time are made to look new.
    training = model.items.training
    model.items.eval()
    for start in range(0, len(every), ITEMS_AT_ONCE):
        vectors[start : start + ITEMS_AT_ONCE] = _array(model.items(every[start : start + ITEMS_AT_ONCE]))
    model.items.train(training)
    return vectors


def _affine(network: nn.Module, place: int) -> Affine:
    assert isinstance(network, nn.Sequential), "a network is a sequence of layers"
    return _linear(network[place])


def _linear(layer: object) -> Affine:
    assert isinstance(layer, nn.Linear), "the layers at both ends are linear"
    return Affine(weight=_array(layer.weight), bias=_array(layer.bias))


def _norm(norm: object) -> LayerNorm:
    assert isinstance(norm, nn.LayerNorm), "checked by unsupported()"
    return LayerNorm(gain=_array(norm.weight), bias=_array(norm.bias))


def _table(table: nn.Module) -> FloatArray:
    assert isinstance(table, nn.Embedding), "a vector per code or node"
    return _array(table.weight)


def _array(values: Tensor) -> FloatArray:
    return values.detach().to("cpu", torch.float32).numpy()
