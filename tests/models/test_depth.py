"""The depth decoder against a loop over positions, levels and the children that exist."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import sememe.models.depth
from sememe.core.errors import ConfigError
from sememe.core.schema import BoolArray, Codes
from sememe.models.code_nodes import CodeNodes
from sememe.models.depth import CodeHead, Depth, QueryNet, segment_logsumexp
from sememe.train.optim import AdamW

WIDTH = 8
SIZES = (4, 3, 5)
ITEMS = 24


def drawn_codes() -> Codes:
    """Some items share a semantic ID, and some prefixes have one child only."""
    rng = np.random.default_rng(3)
    matrix = np.stack([rng.integers(size, size=ITEMS) for size in SIZES], axis=1).astype(np.int32)
    matrix[:2] = matrix[2]
    matrix[matrix[:, 0] == 3, 1] = 0
    return Codes(matrix=matrix, codebook_sizes=SIZES, num_semantic_levels=3)


CODES = drawn_codes()
KNOWN: BoolArray = (CODES.matrix[:, 0] != 1) & (np.arange(ITEMS) % 3 != 0)
"""No item below the first code 1 is known, nor every third of the others."""
FORMS = {
    "mlp": Depth(form="mlp", hidden=12, dropout=0.0),
    "transformer": Depth(form="transformer", hidden=12, layers=2, dropout=0.0),
    "parallel": Depth(form="parallel", hidden=12, dropout=0.0),
    "codes-alone": Depth(form="mlp", hidden=12, dropout=0.0, node_vectors=False),
}
every_form = pytest.mark.parametrize("config", FORMS.values(), ids=FORMS.keys())


def head_of(config: Depth, *, known: BoolArray | None = KNOWN) -> CodeHead:
    torch.manual_seed(0)
    head = CodeHead(config, nodes=CodeNodes(CODES, known_items=known), d_model=WIDTH, heads=2).double().eval()
    with torch.no_grad():
        for parameter in head.query.parameters():
            # Fresh weights are near zero: larger ones make mistakes visible.
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    return head


def positions(count: int = 5) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def prefixes_of(depth: int, *, known_only: bool = False) -> list[tuple[int, ...]]:
    """Distinct prefixes in lexicographic order; a node's number is its place among all of them."""
    rows = CODES.matrix[KNOWN] if known_only else CODES.matrix
    return sorted({tuple(row[:depth]) for row in rows.tolist()})


def level_by_hand(head: CodeHead, hidden: Tensor, codes: tuple[int, ...], *, known_only: bool) -> Tensor:
    """log p(last of `codes` | position (D,), the codes before it), in plain steps."""
    level = len(codes) - 1
    told = [head.read[place].weight[code] * WIDTH**0.5 for place, code in enumerate(codes[:-1])]
    prefix = torch.stack(told) if told else hidden.new_zeros(0, WIDTH)
    query = head.query(hidden.unsqueeze(0), prefix.unsqueeze(0))[0]
    numbers = {found: number for number, found in enumerate(prefixes_of(level + 1))}
    logits = {}
    for child in prefixes_of(level + 1, known_only=known_only):
        if child[:-1] == codes[:-1]:
            vector = head.write[level].weight[child[-1]]
            if len(head.own):
                vector = vector + head.own[level].weight[numbers[child]]
            logits[child] = query @ vector
    total = torch.stack([logit.exp() for logit in logits.values()]).sum()
    return logits[codes] - total.log()


def by_hand(head: CodeHead, hidden: Tensor, item: int, *, known_only: bool = False) -> Tensor:
    """(L,) log-probabilities of the codes of one item at one position."""
    codes = tuple(CODES.matrix[item].tolist())
    levels = range(1, len(SIZES) + 1)
    return torch.stack([level_by_hand(head, hidden, codes[:depth], known_only=known_only) for depth in levels])


def distinct_items(*, known_only: bool = False) -> list[int]:
    """One item for each semantic ID."""
    rows = {tuple(row): item for item, row in enumerate(CODES.matrix.tolist()) if KNOWN[item] or not known_only}
    return list(rows.values())


def pairs(items: list[int], *, count: int) -> tuple[Tensor, Tensor]:
    """Every position with every item: hidden (count * items, D), items (count * items,)."""
    return positions(count).repeat_interleave(len(items), dim=0), torch.tensor(items).repeat(count)


def test_the_example_has_what_it_must() -> None:
    nodes = CodeNodes(CODES, known_items=KNOWN)
    for depth in (1, 2, 3):
        assert not nodes.is_known(depth).all() and nodes.is_known(depth).any()
    assert (nodes.child_counts(torch.arange(nodes.num_nodes(1)), depth=1) == 1).any()
    # Unknown nodes have known siblings.
    assert {prefix[0] for prefix in prefixes_of(1, known_only=True)} == {0, 2, 3}
    assert len(prefixes_of(2, known_only=True)) < len([p for p in prefixes_of(2) if p[0] != 1])
    assert len(distinct_items()) < ITEMS


@every_form
def test_log_probs_are_those_of_a_loop_over_the_children_that_exist(config: Depth) -> None:
    head = head_of(config)
    hidden, items = pairs(list(range(ITEMS)), count=3)
    ours = head.log_probs(hidden, items)
    expected = [by_hand(head, state, int(item)) for state, item in zip(hidden, items, strict=True)]
    torch.testing.assert_close(ours, torch.stack(expected))


@every_form
def test_training_counts_only_what_the_training_part_reaches(config: Depth) -> None:
    head = head_of(config).train()
    hidden, items = pairs(np.flatnonzero(KNOWN).tolist(), count=3)
    ours = head.log_probs(hidden, items)
    expected = torch.stack([by_hand(head, h, int(i), known_only=True) for h, i in zip(hidden, items, strict=True)])
    torch.testing.assert_close(ours, expected)
    assert not torch.allclose(ours, head.eval().log_probs(hidden, items))
    weights = [weight for weight in head.parameters() if weight.requires_grad]
    for got, wanted in zip(gradients(ours, weights), gradients(expected, weights), strict=True):
        torch.testing.assert_close(got, wanted)


def gradients(log_probs: Tensor, weights: list[Tensor]) -> list[Tensor]:
    """Of a sum in which every term counts differently."""
    odd = torch.linspace(0.5, 2.0, log_probs.numel(), dtype=log_probs.dtype).view_as(log_probs)
    found = torch.autograd.grad((log_probs * odd).sum(), weights, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]


@every_form
@pytest.mark.parametrize("training", [False, True])
def test_the_probabilities_of_all_semantic_ids_sum_to_one(config: Depth, training: bool) -> None:
    head = head_of(config).train(training)
    hidden, items = pairs(distinct_items(known_only=training), count=4)
    whole = head.log_probs(hidden, items).sum(1).exp().view(4, -1).sum(1)
    torch.testing.assert_close(whole, torch.ones(4, dtype=torch.float64))


@every_form
@pytest.mark.parametrize("grouped_from", [0, 10**9])
def test_next_level_gives_what_log_probs_gave(
    config: Depth, grouped_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sememe.models.depth, "GROUPED_FROM", grouped_from)
    head = head_of(config)
    hidden, items = pairs(list(range(ITEMS)), count=2)
    expected = head.log_probs(hidden, items)
    prefix = hidden.new_zeros(len(hidden), 0, WIDTH)
    for level, size in enumerate(SIZES):
        nodes = head.nodes.of_items(items, depth=level)
        found = head.next_level(hidden, prefix, nodes)
        assert found.shape == (len(hidden), size) and found.dtype == torch.float32
        torch.testing.assert_close(found.exp().sum(1), torch.ones(len(hidden)))
        codes = torch.from_numpy(CODES.matrix[items.numpy(), level]).long()
        chosen = found.gather(1, codes.unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(chosen.double(), expected[:, level], rtol=1e-5, atol=1e-5)
        exist = set(prefixes_of(level + 1))
        for row, item in enumerate(items.tolist()):
            before = tuple(CODES.matrix[item, :level].tolist())
            assert [bool(value > -np.inf) for value in found[row]] == [(*before, code) in exist for code in range(size)]
        prefix = torch.cat([prefix, head.embed(codes, level=level).unsqueeze(1)], 1)


@every_form
@pytest.mark.parametrize("grouped_from", [0, 10**9])
def test_items_of_a_row_share_their_work_and_keep_their_numbers(
    config: Depth, grouped_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways to multiply, products of whole groups and pair by pair, give the loop's sums, in any order of items."""
    monkeypatch.setattr(sememe.models.depth, "GROUPED_FROM", grouped_from)
    head, hidden = head_of(config), positions(3)
    items = torch.from_numpy(np.random.default_rng(4).integers(ITEMS, size=(3, 20)))
    items[0, :3] = items[0, 3]
    ours = head.item_log_prob(hidden, items)
    expected = [
        [float(by_hand(head, hidden[row], int(item)).sum().detach()) for item in items[row]] for row in range(3)
    ]
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-5)
    whole = head.item_log_prob(hidden, torch.tensor(distinct_items()).expand(3, -1)).exp().sum(1)
    np.testing.assert_allclose(whole.detach(), 1, rtol=1e-5)


@every_form
def test_withheld_nodes_take_no_part_in_training(config: Depth) -> None:
    head = head_of(config).train()
    hidden, items = pairs(np.flatnonzero(KNOWN).tolist(), count=3)
    before = head.log_probs(hidden, items)
    before.sum().backward()
    for level, table in enumerate(head.write):
        used = {prefix[-1] for prefix in prefixes_of(level + 1, known_only=True)}
        unused = [code for code in range(SIZES[level]) if code not in used]
        assert not table.weight.grad[unused].any() and table.weight.grad[sorted(used)].any()
    for depth, table in enumerate(head.own, start=1):
        unknown = ~head.nodes.is_known(depth)
        assert not table.weight.grad[unknown].any() and table.weight.grad[~unknown].any()
        with torch.no_grad():
            table.weight[unknown] += 5.0
    assert torch.equal(head.log_probs(hidden, items), before)


def test_vectors_of_withheld_nodes_are_zero_and_stay_so() -> None:
    head = head_of(FORMS["mlp"]).train()
    optimizer = AdamW(lr=0.1, weight_decay=0.1, decay_embeddings=True).build(head)
    hidden, items = pairs(np.flatnonzero(KNOWN).tolist(), count=3)
    before = [table.weight.detach().clone() for table in head.own]
    for _ in range(4):
        optimizer.zero_grad()
        (-head.log_probs(hidden, items).sum()).backward()
        optimizer.step()
    for depth, (table, old) in enumerate(zip(head.own, before, strict=True), start=1):
        known = head.nodes.is_known(depth)
        assert not old[~known].any() and not table.weight[~known].any()
        assert (table.weight != old)[known].any(1).all()


def test_a_likely_item_is_learned() -> None:
    head = head_of(FORMS["mlp"]).train()
    optimizer = AdamW(lr=0.05).build(head)
    items = torch.from_numpy(np.flatnonzero(KNOWN)[:5].copy())
    for _ in range(40):
        optimizer.zero_grad()
        (-head.log_probs(positions(5), items).sum()).backward()
        optimizer.step()
    assert head.log_probs(positions(5), items).sum(1).exp().min() > 0.9


def test_an_only_child_is_certain_and_costs_nothing() -> None:
    codes = Codes(np.array([[0, 1], [2, 0], [3, 2]], np.int32), (4, 3), num_semantic_levels=2)
    head = CodeHead(FORMS["mlp"], nodes=CodeNodes(codes), d_model=WIDTH, heads=2)
    found = head.log_probs(positions(3).float(), torch.tensor([0, 1, 2]))
    assert found[:, 1].tolist() == [0.0, 0.0, 0.0] and (found[:, 0] < 0).all()
    found.sum().backward()
    assert head.own[1].weight.grad is None


def queries(net: QueryNet, hidden: Tensor, told: Tensor) -> Iterator[Tensor]:
    return (net(hidden, told[:, :level]) for level in range(told.shape[1] + 1))


def test_the_query_of_an_mlp_reads_the_position_and_the_sum_of_the_codes() -> None:
    net = head_of(FORMS["mlp"]).query
    hidden, told = positions(2), positions(4).view(2, 2, WIDTH)
    for level, query in enumerate(queries(net, hidden, told)):
        wide, narrow = net.nets[level][0], net.nets[level][3]
        read = torch.cat([hidden, told[:, 0] + (told[:, 1] if level > 1 else 0)], 1) if level else hidden
        expected = hidden + F.gelu(read @ wide.weight.T + wide.bias) @ narrow.weight.T + narrow.bias
        torch.testing.assert_close(query, expected)


def test_the_query_of_parallel_levels_reads_the_position_alone() -> None:
    net = head_of(FORMS["parallel"]).query
    hidden, told = positions(2), positions(4).view(2, 2, WIDTH)
    for level, query in enumerate(queries(net, hidden, told)):
        wide, narrow = net.nets[level][0], net.nets[level][3]
        expected = hidden + F.gelu(hidden @ wide.weight.T + wide.bias) @ narrow.weight.T + narrow.bias
        torch.testing.assert_close(query, expected)


def test_the_queries_of_a_transformer_are_the_positions_of_one_pass() -> None:
    """Blocks are causal, so writing code by code reads what one pass over the whole tuple reads."""
    net = head_of(FORMS["transformer"]).query
    hidden, told = positions(2), positions(4).view(2, 2, WIDTH)
    states = torch.cat([hidden.unsqueeze(1), told], 1) + net.levels
    for block in net.blocks:
        states = block(states)
    assert len(net.blocks) == 2
    for level, query in enumerate(queries(net, hidden, told)):
        torch.testing.assert_close(query, hidden + states[:, level])


def test_fresh_decoders_ask_for_what_the_position_says() -> None:
    torch.manual_seed(0)
    net = QueryNet(Depth(hidden=64), levels=2, d_model=WIDTH, heads=2).double()
    for query in queries(net, positions(3), positions(3).view(3, 1, WIDTH)):
        assert (query - positions(3)).norm() < 0.2 * positions(3).norm()


def test_segment_logsumexp_is_torchs_per_segment() -> None:
    random = torch.Generator().manual_seed(0)
    owner = torch.randint(0, 4, (30,), generator=random)
    values = torch.randn(30, generator=random, dtype=torch.float64) * 400
    values[(owner == 1).nonzero()[0]] = -torch.inf
    values.requires_grad_()
    ours = segment_logsumexp(values, owner, segments=4)
    expected = torch.stack([values[owner == segment].logsumexp(0) for segment in range(4)])
    torch.testing.assert_close(ours, expected)
    scale = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    (got,), (wanted,) = (torch.autograd.grad((found * scale).sum(), values) for found in (ours, expected))
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"form": "rnn"}, "form is 'rnn'"),
        ({"hidden": 0}, "hidden is 0"),
        ({"layers": 0}, "layers is 0"),
        ({"layers": 2}, "only the transformer form"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_settings_that_cannot_be_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        head_of(Depth(**changes))  # type: ignore[arg-type]
