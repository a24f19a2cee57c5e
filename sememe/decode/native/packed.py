"""Weights of an item-wise generator in the kernel's layout, made once and shared by all searches and threads.

Widths are padded with zeros to whole panels, heads each by themselves.  Three things are worked out beforehand: the
root of the width is in the input vectors, the scale of attention in the queries, and what each code of an earlier level
adds to a depth network's hidden layer stands in a table, since the network is linear up to there.

Shape legend: I items, L levels, K codes of a level, V_d nodes of depth d, D width, H hidden width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sememe.core.errors import ArtifactError
from sememe.core.schema import Codes, FloatArray, Int32Array
from sememe.decode.native.structs import (
    PANEL,
    AnyArray,
    BlockStruct,
    LevelStruct,
    ModelStruct,
    Owner,
    ProductStruct,
    aligned,
    as_bf16,
    padded,
    rounded_to_bf16,
    widened,
)
from sememe.decode.trie import Trie
from sememe.nn.itemwise_weights import Affine, BlockWeights, ItemWiseWeights

Precision = Literal["fp32", "bf16"]
"""Of the weights of products and the output vectors; activations, sums and input vectors are fp32 always."""

NOTHING = -1e30
"""Logit of what fills the last panel; as in `vectors.h`."""

ROWS_AT_ONCE = 65_536


@dataclass(frozen=True, eq=False)
class PackedModel:
    """The kernel's `Model`, with all that it points to."""

    struct: ModelStruct
    owner: Owner
    code_matrix: AnyArray
    """(I, L) in the smallest type that holds it."""
    tree: Trie
    """Of all items of the model."""
    position_floats: int
    """What a kept history holds per item."""


def pack(weights: ItemWiseWeights, tree: Trie, *, precision: Precision = "fp32") -> PackedModel:
    """tree: of all items of `weights.codes`.

    Raises:
        ArtifactError: an array does not fit the others.
    """
    check_shapes(weights, tree)
    owner = Owner(bf16=precision == "bf16")
    scale = np.float32(weights.width**0.5)
    hidden = padded(len(weights.networks[0].wide.bias))
    head = padded(weights.width // weights.heads)
    code_matrix = narrow_codes(weights.codes)
    mask = aligned(padded(weights.width))
    mask[: weights.width] = 1.0
    struct = ModelStruct(
        width=weights.width,
        padded=len(mask),
        heads=weights.heads,
        head=head,
        hidden=hidden,
        layers=len(weights.blocks),
        levels=len(weights.read),
        max_history=len(weights.positions),
        num_items=weights.codes.num_items,
        epsilon=weights.epsilon,
        mask=owner.at(mask),
        positions=owner.at(widened(weights.positions)),
        item_vectors=0 if weights.item_vectors is None else owner.at(_item_vectors(weights, scale)),
        item_codes=owner.codes(code_matrix),
        read=owner.at_each([widened(table * scale) for table in weights.read]),
        blocks=owner.at_structs([_block(block, owner, heads=weights.heads) for block in weights.blocks]),
        norm=owner.norm(weights.norm.gain, weights.norm.bias),
        first=_first(weights, owner, hidden=hidden),
        root=_root(weights, owner, tree),
        level=owner.at_structs([_level(weights, owner, tree, level) for level in range(len(weights.read))]),
    )
    floats = len(weights.blocks) * 2 * weights.heads * head
    return PackedModel(struct=struct, owner=owner, code_matrix=code_matrix, tree=tree, position_floats=floats)


def check_shapes(weights: ItemWiseWeights, tree: Trie) -> None:
    """Raise ArtifactError where an array does not have the shape that the codes and the other arrays ask for."""
    sizes = weights.codes.codebook_sizes
    for name, there in (
        ("read vectors", weights.read),
        ("output vectors", weights.write),
        ("node vectors", weights.read if weights.own is None else weights.own),
        ("depth networks", weights.networks),
    ):
        if len(there) != len(sizes):
            raise _misfit(f"the {name} are of {len(there)} levels, not {len(sizes)}", weights)
    for name, array, shape in _expected_shapes(weights, tree):
        if array.shape != shape:
            raise _misfit(f"the {name} have shape {array.shape}, not {shape}", weights)


def _expected_shapes(weights: ItemWiseWeights, tree: Trie) -> Iterator[tuple[str, AnyArray, tuple[int, ...]]]:
    width, hidden = weights.width, len(weights.networks[0].wide.bias)
    for level, size in enumerate(weights.codes.codebook_sizes):
        yield f"read vectors of level {level}", weights.read[level], (size, width)
        yield f"output vectors of level {level}", weights.write[level], (size, width)
        if weights.own is not None:
            yield f"node vectors of depth {level + 1}", weights.own[level], (len(tree.child_codes[level]), width)
        # A network may read codes or leave them alone, whatever the others do.
        inner = weights.networks[level].wide.weight
        yield (
            f"inner weights of level {level}",
            inner,
            (hidden, 2 * width if level and inner.shape[1] != width else width),
        )
    if weights.item_vectors is not None:
        yield "item vectors", weights.item_vectors, (weights.codes.num_items, width)


def _misfit(problem: str, weights: ItemWiseWeights) -> ArtifactError:
    return ArtifactError(
        f"{problem}; the model is {weights.width} wide, with codes of sizes {weights.codes.codebook_sizes}",
        fix="export the weights from the model that these codes belong to",
    )


def narrow_codes(codes: Codes) -> AnyArray:
    """(I, L) codes in the smallest type that holds every level's."""
    largest = max(codes.codebook_sizes)
    kind = np.uint8 if largest <= 2**8 else np.int16 if largest <= 2**15 else np.int32
    return np.ascontiguousarray(codes.matrix, kind)


def _item_vectors(weights: ItemWiseWeights, scale: np.float32) -> FloatArray:
    """(I, padded D) what the trunk reads of each item."""
    assert weights.item_vectors is not None, "asked for only where there are some"
    matrix = weights.codes.matrix
    result = aligned(len(matrix), padded(weights.width))
    for start in range(0, len(matrix), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        vectors = weights.item_vectors[part].copy()
        for level, table in enumerate(weights.read):
            vectors += table[matrix[part, level]]
        result[part, : weights.width] = vectors * scale
    return result


def _block(block: BlockWeights, owner: Owner, *, heads: int) -> BlockStruct:
    width = block.joined.weight.shape[0]
    query, key, value = (
        Affine(weight, bias)
        for weight, bias in zip(
            np.split(block.query_key_value.weight, 3), np.split(block.query_key_value.bias, 3), strict=True
        )
    )
    shrink = np.float32((width // heads) ** -0.5)
    parts = [_by_head(part, heads) for part in (Affine(query.weight * shrink, query.bias * shrink), key, value)]
    joined = _by_head(Affine(np.ascontiguousarray(block.joined.weight.T), np.zeros(width, np.float32)), heads)
    return BlockStruct(
        attention_norm=owner.norm(block.attention_norm.gain, block.attention_norm.bias),
        query=owner.product(parts[0].weight, parts[0].bias),
        key_value=owner.product(
            np.concatenate([parts[1].weight, parts[2].weight]), np.concatenate([parts[1].bias, parts[2].bias])
        ),
        joined=owner.product(joined.weight.T, block.joined.bias),
        ff_norm=owner.norm(block.ff_norm.gain, block.ff_norm.bias),
        wide=owner.product(block.wide.weight, block.wide.bias),
        narrow=owner.product(block.narrow.weight, block.narrow.bias),
    )


def _by_head(part: Affine, heads: int) -> Affine:
    """The same with zeros behind the outputs of each head, so that each begins a panel."""
    width = len(part.bias) // heads
    room = padded(width)
    weight = np.zeros((heads, room, part.weight.shape[1]), np.float32)
    weight[:, :width] = part.weight.reshape(heads, width, -1)
    bias = np.zeros((heads, room), np.float32)
    bias[:, :width] = part.bias.reshape(heads, width)
    return Affine(weight.reshape(heads * room, -1), bias.ravel())


def _first(weights: ItemWiseWeights, owner: Owner, *, hidden: int) -> ProductStruct:
    """What the position alone gives to the hidden layer of every level."""
    weight = np.zeros((len(weights.networks), hidden, weights.width), np.float32)
    bias = np.zeros((len(weights.networks), hidden), np.float32)
    for level, network in enumerate(weights.networks):
        weight[level, : len(network.wide.bias)] = network.wide.weight[:, : weights.width]
        bias[level, : len(network.wide.bias)] = network.wide.bias
    return owner.product(weight.reshape(-1, weights.width), bias.ravel())


def _root(weights: ItemWiseWeights, owner: Owner, tree: Trie) -> ProductStruct:
    vectors = _node_vectors(weights, tree, np.arange(len(tree.child_codes[0])), depth=1)
    return owner.product(vectors, np.zeros(len(vectors), np.float32), behind=NOTHING)


def _node_vectors(weights: ItemWiseWeights, tree: Trie, nodes: AnyArray, *, depth: int) -> FloatArray:
    """(n, D) output vectors of nodes (n,)."""
    vectors: FloatArray = weights.write[depth - 1][tree.child_codes[depth - 1].numpy()[nodes]]
    return vectors if weights.own is None else vectors + weights.own[depth - 1][nodes]


def _level(weights: ItemWiseWeights, owner: Owner, tree: Trie, level: int) -> LevelStruct:
    network = weights.networks[level]
    starts = tree.child_starts[level].numpy()
    first_vector = None if weights.own is None or level == 0 else first_vectors(starts)
    # The root's children have a product of their own.
    vectors = aligned(PANEL) if level == 0 else _vectors(weights, tree, level, first_vector)
    return LevelStruct(
        narrow=owner.product(network.narrow.weight, network.narrow.bias),
        told=_told(weights, owner, level),
        by_code=_by_code(weights, owner, level),
        vectors=0 if owner.bf16 else owner.at(vectors),
        half_vectors=owner.at(as_bf16(rounded_to_bf16(vectors))) if owner.bf16 else 0,
        first_vector=0 if first_vector is None else owner.at(first_vector),
        child_starts=owner.at(starts),
        child_codes=owner.codes(tree.child_codes[level].numpy()),
    )


def first_vectors(starts: Int32Array) -> Int32Array:
    """(V,) the row of each node's first child in a table that leaves only children out; -1 for nodes with one child.

    starts: (V + 1,) first child of each node.
    """
    counts = np.diff(starts)
    counts[counts == 1] = 0
    rows = np.cumsum(counts, dtype=np.int32) - counts
    rows[counts == 0] = -1
    return rows.astype(np.int32, copy=False)


def _vectors(weights: ItemWiseWeights, tree: Trie, level: int, first_vector: Int32Array | None) -> FloatArray:
    """Output vectors of the nodes that have siblings, or of codes where nodes have no vector of their own."""
    if first_vector is None:
        return widened(weights.write[level])
    several = np.repeat(first_vector >= 0, np.diff(tree.child_starts[level].numpy()))
    nodes = np.flatnonzero(several)
    vectors = aligned(max(1, len(nodes)), padded(weights.width))
    for start in range(0, len(nodes), ROWS_AT_ONCE):
        part = nodes[start : start + ROWS_AT_ONCE]
        vectors[start : start + len(part), : weights.width] = _node_vectors(weights, tree, part, depth=level + 1)
    return vectors


def _by_code(weights: ItemWiseWeights, owner: Owner, level: int) -> ProductStruct:
    """The output vectors of all codes as a product; nothing where nodes have vectors of their own."""
    if weights.own is not None or level == 0:
        return ProductStruct()
    return owner.product(weights.write[level], np.zeros(len(weights.write[level]), np.float32))


def _told(weights: ItemWiseWeights, owner: Owner, level: int) -> int:
    """Tables (K, H) of what each code of each earlier level adds to the hidden layer; 0 where codes are not read."""
    wide, width = weights.networks[level].wide.weight, weights.width
    if wide.shape[1] == width:
        return 0
    return owner.at_each(_tables(weights.read[:level], wide[:, width:] * np.float32(width**0.5)))


def _tables(read: Sequence[FloatArray], wide: FloatArray) -> list[FloatArray]:
    return [widened(table @ wide.T) for table in read]
