"""The nodes of the code tree against a tree of plain tuples in dictionaries, and against the tree of the search."""

import numpy as np
import pytest
import torch

from sememe.core.schema import Codes
from sememe.decode.trie import Trie
from sememe.models.code_nodes import CodeNodes

Prefix = tuple[int, ...]


def drawn(sizes: tuple[int, ...], *, items: int, seed: int) -> Codes:
    """Codes drawn with repeats: ragged trees, and items that share a semantic ID where there are many."""
    rng = np.random.default_rng(seed)
    matrix = np.stack([rng.integers(size, size=items) for size in sizes], axis=1).astype(np.int32)
    return Codes(matrix=matrix, codebook_sizes=sizes, num_semantic_levels=len(sizes))


WORLDS = {
    "ragged": drawn((5, 4, 6), items=30, seed=0),
    "tied": drawn((3, 2), items=40, seed=1),
    "sparse": drawn((50, 40, 30, 20), items=25, seed=2),
    "one-level": drawn((7,), items=20, seed=3),
    "one-item": drawn((4, 4), items=1, seed=4),
    "one-child": Codes(np.array([[2, 0], [2, 3], [2, 3]], np.int32), (3, 4), num_semantic_levels=1),
}
every_world = pytest.mark.parametrize("codes", WORLDS.values(), ids=WORLDS.keys())


def numbered(codes: Codes, depth: int) -> dict[Prefix, int]:
    """Every prefix of `depth` codes and its number: its place among them in lexicographic order."""
    found = sorted({tuple(row[:depth]) for row in codes.matrix.tolist()})
    return {prefix: number for number, prefix in enumerate(found)}


@every_world
def test_nodes_and_codes_of_items(codes: Codes) -> None:
    nodes = CodeNodes(codes)
    items = torch.arange(codes.num_items)
    assert nodes.num_levels == codes.num_levels and nodes.codebook_sizes == codes.codebook_sizes
    assert nodes.of_items(items, depth=0).tolist() == [0] * codes.num_items
    assert nodes.item_codes(items).tolist() == codes.matrix.tolist()
    for depth in range(1, codes.num_levels + 1):
        numbers = numbered(codes, depth)
        expected = [numbers[tuple(row[:depth])] for row in codes.matrix.tolist()]
        assert nodes.of_items(items, depth=depth).tolist() == expected
        assert nodes.num_nodes(depth) == len(numbers)
        assert nodes.node_codes(depth).tolist() == [prefix[-1] for prefix in numbers]
        assert nodes.is_known(depth).all()
    table = items.flip(0).unsqueeze(1)
    assert nodes.of_items(table, depth=1).shape == table.shape


@every_world
def test_children(codes: Codes) -> None:
    nodes = CodeNodes(codes)
    rng = np.random.default_rng(0)
    for depth in range(codes.num_levels):
        prefixes, below = list(numbered(codes, depth)), numbered(codes, depth + 1)
        # In any order, and more than once.
        asked = rng.integers(len(prefixes), size=12)
        expected = [
            (place, number)
            for place, node in enumerate(asked)
            for prefix, number in below.items()
            if prefix[:depth] == prefixes[node]
        ]
        found = nodes.children_of(torch.from_numpy(asked), depth=depth)
        assert list(zip(found.owner.tolist(), found.node.tolist(), strict=True)) == expected
        counts = nodes.child_counts(torch.from_numpy(asked).view(3, 4), depth=depth)
        assert counts.flatten().tolist() == np.bincount(found.owner, minlength=12).tolist()
    nothing = nodes.children_of(torch.zeros(0, dtype=torch.int64), depth=0)
    assert nothing.owner.tolist() == nothing.node.tolist() == []


@every_world
def test_a_child_by_its_code(codes: Codes) -> None:
    nodes = CodeNodes(codes)
    for depth in range(codes.num_levels):
        above, below = numbered(codes, depth), numbered(codes, depth + 1)
        parents = torch.tensor([above[prefix[:-1]] for prefix in below])
        last = torch.tensor([prefix[-1] for prefix in below])
        assert nodes.child(parents, last, depth=depth).tolist() == list(below.values())
        assert nodes.child(parents[None, :, None], last[None, :, None], depth=depth).shape == (1, len(below), 1)


@every_world
def test_any_item_of_a_node_lies_below_it(codes: Codes) -> None:
    nodes = CodeNodes(codes)
    assert nodes.any_item(torch.zeros(3, dtype=torch.int64), depth=0).tolist() == [0, 0, 0]
    for depth in range(1, codes.num_levels + 1):
        every = torch.arange(nodes.num_nodes(depth))
        assert nodes.of_items(nodes.any_item(every, depth=depth), depth=depth).tolist() == every.tolist()


@every_world
def test_a_node_is_known_by_the_known_items_below_it(codes: Codes) -> None:
    known = np.random.default_rng(5).random(codes.num_items) < 0.3
    nodes = CodeNodes(codes, known_items=known)
    for depth in range(1, codes.num_levels + 1):
        reached = {tuple(row[:depth]) for row in codes.matrix[known].tolist()}
        assert nodes.is_known(depth).tolist() == [prefix in reached for prefix in numbered(codes, depth)]


@every_world
def test_the_search_numbers_its_nodes_alike(codes: Codes) -> None:
    nodes, trie = CodeNodes(codes), Trie.build(codes)
    for depth in range(1, codes.num_levels + 1):
        assert nodes.above[depth].tolist() == trie.node_at(trie.positions, depth=depth).tolist()
        assert nodes.node_codes(depth).tolist() == trie.child_codes[depth - 1].tolist()
        every = torch.arange(len(trie.child_starts[depth - 1]) - 1)
        assert nodes.child_counts(every, depth=depth - 1).tolist() == trie.child_starts[depth - 1].diff().tolist()


def test_the_tree_is_not_saved_with_the_weights() -> None:
    assert dict(CodeNodes(WORLDS["ragged"]).state_dict()) == {}
