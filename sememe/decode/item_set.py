"""A set of items of one tree that is small, and quick to count in: a bitmap over positions with counts beside it.

Positions are the tree's order of items, in which the items below a node are neighbours.  How many members a node has
below it is therefore a difference of two counts, at any depth and with no array per node.

Jacobson, "Space-efficient Static Trees and Graphs" (FOCS 1989): rank and select over a bitmap.  Kept: counts are stored
per block, and the rest of a count comes from the block.  Changed: a block is one machine word, whose set bits are
counted by an instruction, so that one level of counts does: 1.5 bits per item in all.

Shape legend: I items of the catalogue, P of them in the tree, W = ceil(P / 64) words, m members.
"""

import zlib
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from sememe.core.errors import DataError
from sememe.core.schema import PAD, BoolArray, Int32Array, Int64Array
from sememe.decode.trie import Trie

IntArray = npt.NDArray[np.integer[Any]]
WordArray = npt.NDArray[np.uint64]

ONES = np.uint64(2**64 - 1)
BITS = np.uint64(1) << np.arange(64, dtype=np.uint64)
BELOW = BITS - np.uint64(1)
"""(64,) the bits of a word that stand before each bit."""

CHUNK = 2**14
"""Positions whose ranks are worked out at once: what lies between the steps stays in the cache, which is 4 times faster
than whole arrays of a large batch."""

_marks: WeakKeyDictionary[Trie, int] = WeakKeyDictionary()


def tree_mark(trie: Trie) -> int:
    """A number that trees share if they have the same item at every position, and else hardly ever."""
    mark = _marks.get(trie)
    if mark is None:
        mark = _marks[trie] = zlib.crc32(trie.items.cpu().numpy().astype("<i4", copy=False).tobytes())
    return mark


@dataclass(frozen=True, eq=False)
class ItemSet:
    """Items of one tree.  Its arrays never change: a changed set is another one, and nobody reads half of a change."""

    words: WordArray
    """(W,) bit i % 64, from the lowest, of word i // 64 says whether the item at position i is a member; no bit stands
    at or after position P."""
    ranks: Int32Array
    """(W + 1,) members before each word, and in all."""
    num_positions: int
    """P"""
    tree: int
    """`tree_mark` of the tree whose positions these are."""

    @classmethod
    def of_words(cls, words: WordArray, *, num_positions: int, tree: int) -> "ItemSet":
        """The set with these `words`, which are its own from here on."""
        assert words.dtype == np.uint64 and len(words) == num_words(num_positions), "one bit per position"
        ranks = np.zeros(len(words) + 1, np.int32)
        np.cumsum(np.bitwise_count(words), dtype=np.int32, out=ranks[1:])
        words.flags.writeable = ranks.flags.writeable = False
        return cls(words=words, ranks=ranks, num_positions=num_positions, tree=tree)

    @classmethod
    def of_flags(cls, flags: BoolArray, trie: Trie) -> "ItemSet":
        """The items of `trie` for which `flags` (I,) is true.

        Raises:
            DataError: there is not one flag for each item of the catalogue.
        """
        if flags.shape != tuple(trie.positions.shape):
            raise DataError(
                f"there are {len(flags):,} flags for a catalogue of {len(trie.positions):,} items",
                fix="give one for each item index",
            )
        by_position = flags.astype(np.bool_, copy=False)[trie.items.cpu().numpy()]
        return cls.of_words(pack(by_position), num_positions=trie.num_items, tree=tree_mark(trie))

    @classmethod
    def of_items(cls, items: IntArray, trie: Trie) -> "ItemSet":
        """Those of `items` (n,), item indices in any order, that `trie` holds.

        Raises:
            DataError: an index is not of the catalogue.
        """
        return cls.of_flags(np.zeros(len(trie.positions), np.bool_), trie).changed(items, trie, to=True)

    @classmethod
    def every(cls, trie: Trie) -> "ItemSet":
        """All items of `trie`."""
        words = pack(np.ones(trie.num_items, np.bool_))
        return cls.of_words(words, num_positions=trie.num_items, tree=tree_mark(trie))

    @property
    def num_members(self) -> int:
        return int(self.ranks[-1])

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self.words.nbytes + self.ranks.nbytes

    def flags(self) -> BoolArray:
        """(P,) whether the item at each position is a member."""
        return unpack(self.words, self.num_positions)

    def rank(self, positions: IntArray) -> Int32Array:
        """How many members stand before each position, 0..P; any shape."""
        if positions.size > CHUNK:
            flat = positions.ravel()
            parts = [self.rank(flat[start : start + CHUNK]) for start in range(0, flat.size, CHUNK)]
            return np.concatenate(parts).reshape(positions.shape)
        word = positions >> 6
        # Position P may stand in a word that is not there: none of its bits are asked for.
        below = self.words.take(word, mode="clip") & BELOW.take(positions & 63)
        counts: Int32Array = self.ranks.take(word) + np.bitwise_count(below)
        return counts

    def contains(self, positions: IntArray) -> BoolArray:
        """Whether the item at each position, 0..P-1, is a member; any shape."""
        held: BoolArray = (self.words.take(positions >> 6) & BITS.take(positions & 63)) != 0
        return held

    def select(self, ranks: IntArray) -> Int64Array:
        """Position of the member before which so many, 0..m-1, stand; any shape.  Where there is none, some number."""
        wanted = ranks.astype(np.int32, copy=False)
        word = np.searchsorted(self.ranks, wanted, side="right") - 1
        word = word.clip(0, len(self.words) - 1)
        bits = (self.words[word][..., np.newaxis] & BITS) != 0
        # The place of a bit is the number of places up to which fewer bits are set than are wanted.
        short_of = bits.cumsum(axis=-1, dtype=np.int32) <= (wanted - self.ranks[word])[..., np.newaxis]
        found: Int64Array = word * 64 + short_of.sum(axis=-1)
        return found

    def changed(self, items: IntArray, trie: Trie, *, to: BoolArray | bool) -> "ItemSet":
        """The set in which those of `items` (n,) that the tree holds are members or not; this one stays as it is.

        to: for all of them, or (n,).

        Raises:
            DataError: an index is not of the catalogue, the tree is another, or an item is to be both.
        """
        self.check(trie)
        check_indices(items, len(trie.positions))
        positions = trie.positions.cpu().numpy()[items]
        held = positions != PAD
        values = np.broadcast_to(np.asarray(to, np.bool_), positions.shape)
        words = with_bits(self.words, positions[held], values[held])
        return ItemSet.of_words(words, num_positions=self.num_positions, tree=self.tree)

    def check(self, trie: Trie) -> None:
        """Raise DataError where the positions are those of another tree."""
        if self.num_positions != trie.num_items or self.tree != tree_mark(trie):
            raise DataError(
                f"the item set was made for a tree of {self.num_positions:,} items with mark {self.tree:08x}, "
                f"and this tree has {trie.num_items:,} items and mark {tree_mark(trie):08x}",
                fix="make it anew for this tree; rules are carried over to an edited one by Rules.follow",
            )

    def __and__(self, other: "ItemSet") -> "ItemSet":
        return self._joined(other, self.words & other.words)

    def __or__(self, other: "ItemSet") -> "ItemSet":
        return self._joined(other, self.words | other.words)

    def __sub__(self, other: "ItemSet") -> "ItemSet":
        return self._joined(other, self.words & ~other.words)

    def _joined(self, other: "ItemSet", words: WordArray) -> "ItemSet":
        assert (self.num_positions, self.tree) == (other.num_positions, other.tree), "sets of items of different trees"
        return ItemSet.of_words(words, num_positions=self.num_positions, tree=self.tree)


def num_words(count: int) -> int:
    """Words that hold `count` bits."""
    return -(-count // 64)


def pack(flags: BoolArray) -> WordArray:
    """Words of (n,) flags; the bits after them are 0."""
    octets = np.zeros(8 * num_words(len(flags)), np.uint8)
    packed = np.packbits(flags, bitorder="little")
    octets[: len(packed)] = packed
    # Written down byte by byte, lowest first; on other machines astype turns them around.
    return octets.view("<u8").astype(np.uint64, copy=False)


def unpack(words: WordArray, count: int) -> BoolArray:
    """The first `count` flags of `words`."""
    octets = words.astype("<u8", copy=False).view(np.uint8)
    return np.unpackbits(octets, count=count, bitorder="little").view(np.bool_)


def with_bits(words: WordArray, places: IntArray, values: BoolArray) -> WordArray:
    """A copy of `words` with the bits at `places` (n,) as `values` (n,) say.

    Raises:
        DataError: a bit is to be both set and not.
    """
    result = words.copy()
    on, off = places[values], places[~values]
    np.bitwise_or.at(result, on >> 6, BITS.take(on & 63))
    np.bitwise_and.at(result, off >> 6, ONES ^ BITS.take(off & 63))
    if not (result.take(on >> 6) & BITS.take(on & 63)).all():
        raise DataError("an item is to be in the set and not in it, in one change", fix="name each item once")
    return result


def check_indices(items: IntArray, count: int) -> None:
    """Raise DataError where one of `items` is no item index below `count`."""
    outside = (items < 0) | (items >= count)
    if outside.any():
        raise DataError(
            f"item index {items[outside][0]} is outside 0..{count - 1}", fix="look ids up in the run's item_ids first"
        )
