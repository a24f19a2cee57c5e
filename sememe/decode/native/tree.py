"""The search's tree as the kernel reads it, checked against the codes that the model was trained on."""

import zlib
from collections.abc import Sequence
from ctypes import addressof
from dataclasses import dataclass

import numpy as np
import torch

from sememe.core.errors import ArtifactError
from sememe.core.schema import Int32Array
from sememe.decode.native.paths import Kernel
from sememe.decode.native.structs import AnyArray, CodesStruct, Owner, TrieStruct
from sememe.decode.trie import Trie


@dataclass(frozen=True, eq=False)
class PackedTrie:
    """The kernel's `Trie`, with all that it points to; the tree's own arrays are not copied."""

    struct: TrieStruct
    owner: Owner

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self.owner.nbytes


def codes_mark(matrix: AnyArray, sizes: tuple[int, ...]) -> int:
    """A number that code sets (I, L) share if every item has the same codes in both, else hardly ever."""
    return zlib.crc32(matrix.astype("<i4").tobytes(), zlib.crc32(np.array(sizes, "<i4").tobytes()))


def check_codes_match(kernel: Kernel, trie: Trie, matrix: AnyArray, sizes: tuple[int, ...]) -> None:
    """Raise ArtifactError where `trie` has an item that the codes `matrix` (I, L) lack, or give other codes."""
    if trie.codebook_sizes != sizes:
        raise _mismatch(trie, matrix, sizes, detail="")
    most = int(trie.items.max())
    if most >= len(matrix):
        raise _mismatch(trie, matrix, sizes, detail=f"; item {most} is in the tree alone")
    owner = Owner()
    struct = _describe(trie, owner, model_nodes=[None] * (trie.num_levels + 1))
    rows = owner.codes(matrix)
    position = kernel.first_difference(addressof(struct), addressof(rows))
    if position >= 0:
        item = int(trie.items[position])
        raise _mismatch(trie, matrix, sizes, detail=f"; item {item} has different ones, for example")


def _mismatch(trie: Trie, matrix: AnyArray, sizes: tuple[int, ...], *, detail: str) -> ArtifactError:
    own = trie.leaf_codes().repeat_interleave(trie.leaf_sizes(), 0)[trie.items.argsort()].numpy()
    return ArtifactError(
        f"the tree and the model come from different codes: the tree has {trie.num_items:,} items, "
        f"sizes {trie.codebook_sizes} and mark {codes_mark(own, trie.codebook_sizes):08x}, the model has "
        f"{len(matrix):,} items, sizes {sizes} and mark {codes_mark(matrix, sizes):08x}{detail}",
        fix="build the tree from the codes that the model was trained on",
    )


def pack_trie(kernel: Kernel, trie: Trie, tree: Trie) -> PackedTrie:
    """tree: of all items of the model; `trie` may be a part of it, as `check_codes_match` has made sure."""
    nodes: Sequence[Int32Array | None] = [None] * (trie.num_levels + 1)
    if trie.num_items != tree.num_items:
        nodes = _match_nodes(kernel, trie, tree)
    owner = Owner()
    return PackedTrie(struct=_describe(trie, owner, model_nodes=nodes), owner=owner)


def _match_nodes(kernel: Kernel, trie: Trie, tree: Trie) -> list[Int32Array | None]:
    """Per depth, the node of `tree` with the prefix of each node of `trie`."""
    owner = Owner()
    found = [np.zeros(1, np.int32)]
    for level in range(trie.num_levels):
        below = np.empty(len(trie.child_codes[level]), np.int32)
        codes, larger_codes = (owner.codes(part.child_codes[level].numpy()) for part in (trie, tree))
        kernel.match(
            owner.at(found[-1]),
            len(found[-1]),
            owner.at(trie.child_starts[level].numpy()),
            addressof(codes),
            owner.at(tree.child_starts[level].numpy()),
            addressof(larger_codes),
            owner.at(below),
        )
        found.append(below)
    return list(found)


def _describe(trie: Trie, owner: Owner, *, model_nodes: Sequence[Int32Array | None]) -> TrieStruct:
    assert trie.device == torch.device("cpu"), "the kernel reads main memory"
    starts: list[AnyArray | None] = [array.numpy() for array in trie.item_starts]
    # Left out where leaf v has position v.
    starts += [None] * (trie.num_levels + 1 - len(starts))
    codes: list[CodesStruct] = [owner.codes(array.numpy()) for array in trie.child_codes]
    return TrieStruct(
        levels=trie.num_levels,
        num_items=trie.num_items,
        num_known=len(trie.positions),
        child_starts=owner.at_each([array.numpy() for array in trie.child_starts]),
        child_codes=owner.at_structs(codes),
        item_starts=owner.at_each(starts),
        items=owner.at(trie.items.numpy()),
        positions=owner.at(trie.positions.numpy()),
        model_nodes=owner.at_each(list(model_nodes)),
    )
