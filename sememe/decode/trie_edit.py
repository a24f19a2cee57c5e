"""A trie with a few items more or less, without sorting the catalogue again.

The items that come or go are walked down the tree, so that at each depth it is known between which nodes they fall;
then each array is copied once, with its gaps opened or closed.  The result is the tree that `Trie.build` would make.

Shape legend: L levels, I items, P of them in the tree, V_d nodes at depth d, n items that come or go.
"""

from dataclasses import dataclass

import numpy as np

from sememe.core.errors import DataError
from sememe.core.schema import PAD, BoolArray, Codes, Int32Array, Int64Array
from sememe.decode.trie import IntArray, Trie, check_codes, lexicographic_order


def edit_trie(trie: Trie, codes: Codes, *, gone: Int32Array | Int64Array, come: Int32Array | Int64Array) -> Trie:
    """`trie` without the items `gone`, then with the items `come`; an item whose code changed is in both.

    codes: of the whole catalogue after the change.

    Raises:
        DataError: no item would be left, or a code of `come` lies outside its codebook.
    """
    if len(gone) == trie.num_items and len(come):
        offered = np.zeros(codes.num_items, np.bool_)
        offered[come] = True
        return Trie.build(codes, offered=offered).to(trie.device)
    smaller = without_items(trie, gone) if len(gone) else trie
    # Items that nobody offers still have rows, for histories to name.
    return with_items(smaller, codes, come)


def with_items(trie: Trie, codes: Codes, items: Int32Array | Int64Array) -> Trie:
    """`trie` with `items` too, on its device.

    codes: of the whole catalogue, which may have grown; the rows of the items already in `trie` are as they were.
    items: (n,) distinct rows of `codes`, none of them in `trie`.

    Raises:
        DataError: a code of `items` lies outside its codebook.
    """
    assert codes.codebook_sizes == trie.codebook_sizes, "the trie and the items come from different codes"
    known = trie.positions.cpu().numpy()
    assert codes.num_items >= len(known), "the catalogue has fewer rows than before"
    assert len(np.unique(items)) == len(items), "an item comes twice"
    assert bool((known[items[items < len(known)]] == PAD).all()), "an item is in the tree already"
    rising = np.sort(items).astype(np.int64)
    check_codes(codes, rising)
    coming = rising[lexicographic_order(codes.matrix[rising], codes.codebook_sizes)]
    tree = _Arrays.of(trie)
    return _insert(tree, codes.matrix[coming], coming, num_items=codes.num_items).to_trie().to(trie.device)


def without_items(trie: Trie, items: Int32Array | Int64Array) -> Trie:
    """`trie` without `items` (n,), distinct ones that it holds, on its device.

    Raises:
        DataError: no item would be left.
    """
    gone = np.sort(trie.positions.cpu().numpy()[items]).astype(np.int64)
    assert bool((gone != PAD).all() and (np.diff(gone) > 0).all()), "an item is not in the tree, or goes twice"
    if len(gone) == trie.num_items:
        raise DataError("no item would be left in the tree, and a search needs one", fix="add the new items first")
    return _delete(_Arrays.of(trie), gone).to_trie().to(trie.device)


@dataclass(frozen=True, eq=False)
class _Arrays:
    """The arrays of a trie, item_starts of all depths among them."""

    codebook_sizes: tuple[int, ...]
    child_starts: tuple[IntArray, ...]
    child_codes: tuple[IntArray, ...]
    item_starts: tuple[IntArray, ...]
    items: IntArray
    num_items: int

    @classmethod
    def of(cls, trie: Trie) -> "_Arrays":
        starts = [array.cpu().numpy() for array in trie.item_starts]
        if len(starts) == trie.num_levels:
            starts.append(np.arange(trie.num_items + 1, dtype=np.int32))
        return cls(
            codebook_sizes=trie.codebook_sizes,
            child_starts=tuple(array.cpu().numpy() for array in trie.child_starts),
            child_codes=tuple(array.cpu().numpy() for array in trie.child_codes),
            item_starts=tuple(starts),
            items=trie.items.cpu().numpy(),
            num_items=len(trie.positions),
        )

    def to_trie(self) -> Trie:
        return Trie.of_arrays(
            codebook_sizes=self.codebook_sizes,
            child_starts=self.child_starts,
            child_codes=self.child_codes,
            item_starts=self.item_starts,
            items=self.items,
            num_items=self.num_items,
        )


@dataclass(frozen=True, eq=False)
class _Walk:
    """Where coming items meet the nodes of one depth."""

    nodes: Int64Array
    """(n,) the item's node where `there`, else the node that its new one stands right before."""
    there: BoolArray
    """(n,)"""

    @property
    def turns(self) -> Int64Array:
        """(n,) the first node that stands behind the item."""
        return self.nodes + self.there


def _insert(tree: _Arrays, matrix: Int32Array, items: Int64Array, *, num_items: int) -> _Arrays:
    """`tree` with `items` (n,) of codes `matrix` (n, L), sorted by code, then index."""
    walks = _walk_down(tree, matrix)
    places = _places(tree, walks[-1], items)
    arrived = places + np.arange(len(items))
    # A new node is made by the first item of its prefix.
    fresh = [np.flatnonzero(~walk.there & _first_of_prefix(matrix, depth)) for depth, walk in enumerate(walks)]
    child_starts, child_codes, item_starts = [], [], []
    for depth, walk in enumerate(walks):
        new = fresh[depth]
        before = walk.nodes[new]
        starts = tree.item_starts[depth]
        item_starts.append(np.insert(starts + _count_up(walk.turns, len(starts)), before, arrived[new]))
        if depth > 0:
            child_codes.append(np.insert(tree.child_codes[depth - 1], before, matrix[new, depth - 1]))
        if depth + 1 < len(walks):
            below = fresh[depth + 1]
            numbers = walks[depth + 1].nodes[below] + np.arange(len(below))
            starts = tree.child_starts[depth] + _count_up(walk.turns[below], len(tree.child_starts[depth]))
            child_starts.append(np.insert(starts, before, numbers[np.searchsorted(below, new)]))
    return _Arrays(
        codebook_sizes=tree.codebook_sizes,
        child_starts=tuple(child_starts),
        child_codes=tuple(child_codes),
        item_starts=tuple(item_starts),
        items=np.insert(tree.items, places, items),
        num_items=num_items,
    )


def _walk_down(tree: _Arrays, matrix: Int32Array) -> list[_Walk]:
    """Per depth 0..L, where the codes `matrix` (n, L) meet its nodes."""
    walks = [_Walk(np.zeros(len(matrix), np.int64), np.ones(len(matrix), np.bool_))]
    for level in range(matrix.shape[1]):
        above, starts = walks[-1], tree.child_starts[level]
        low = starts[above.nodes].astype(np.int64)
        # Below a node that is not there yet, everything falls before the first child of the next one.
        high = np.where(above.there, starts[above.turns], low)
        wanted = matrix[:, level]
        place = _lower_bound(tree.child_codes[level], wanted, low=low, high=high)
        there = place < high
        there[there] = tree.child_codes[level][place[there]] == wanted[there]
        walks.append(_Walk(place, there))
    return walks


def _places(tree: _Arrays, leaves: _Walk, items: Int64Array) -> Int64Array:
    """(n,) the position that each item falls before: within a leaf, items are in order of index."""
    starts = tree.item_starts[-1]
    low = starts[leaves.nodes].astype(np.int64)
    high = np.where(leaves.there, starts[leaves.turns], low)
    return _lower_bound(tree.items, items, low=low, high=high)


def _lower_bound(values: IntArray, wanted: IntArray, *, low: Int64Array, high: Int64Array) -> Int64Array:
    """(n,) the first place in low..high-1 of `values`, which rise there, that is not below `wanted`; else high."""
    low, high = low.copy(), high.astype(np.int64)
    while (open_rows := np.flatnonzero(low < high)).size:
        middle = (low[open_rows] + high[open_rows]) // 2
        below = values[middle] < wanted[open_rows]
        low[open_rows[below]] = middle[below] + 1
        high[open_rows[~below]] = middle[~below]
    return low


def _first_of_prefix(matrix: Int32Array, depth: int) -> BoolArray:
    """(n,) whether the row's first `depth` codes differ from those of the row before it."""
    first = np.ones(len(matrix), np.bool_)
    first[1:] = (matrix[1:, :depth] != matrix[:-1, :depth]).any(axis=1)
    return first


def _count_up(turns: Int64Array, length: int) -> Int32Array:
    """(length,) how many of `turns` are at most 0, 1, 2, ..."""
    counts = np.zeros(length, np.int32)
    np.add.at(counts, turns, 1)
    return np.cumsum(counts, out=counts)


def _delete(tree: _Arrays, gone: Int64Array) -> _Arrays:
    """`tree` without the items at the positions `gone` (n,), rising."""
    nodes = [np.searchsorted(starts, gone, side="right") - 1 for starts in tree.item_starts]
    dead = [_emptied(starts, above) for starts, above in zip(tree.item_starts, nodes, strict=True)]
    child_starts, child_codes, item_starts = [], [], []
    for depth, starts in enumerate(tree.item_starts):
        item_starts.append(np.delete(starts - _count_up(nodes[depth] + 1, len(starts)), dead[depth]))
        if depth > 0:
            child_codes.append(np.delete(tree.child_codes[depth - 1], dead[depth]))
        if depth + 1 < len(tree.item_starts):
            children = tree.child_starts[depth]
            parents = np.searchsorted(children, dead[depth + 1], side="right") - 1
            child_starts.append(np.delete(children - _count_up(parents + 1, len(children)), dead[depth]))
    return _Arrays(
        codebook_sizes=tree.codebook_sizes,
        child_starts=tuple(child_starts),
        child_codes=tuple(child_codes),
        item_starts=tuple(item_starts),
        items=np.delete(tree.items, gone),
        num_items=tree.num_items,
    )


def _emptied(starts: IntArray, nodes: Int64Array) -> Int64Array:
    """The nodes that lose all their items where one goes from each of `nodes`; rising."""
    losing, lost = np.unique(nodes, return_counts=True)
    emptied: Int64Array = losing[lost == starts[losing + 1] - starts[losing]]
    return emptied
