import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_steps import TableModel, random_codes, unique_codes
from scipy import stats
from slow_sample import Code, slow_draw, slow_row_key

from sememe.core.errors import ArtifactError, ConfigError
from sememe.core.schema import PAD, Codes
from sememe.decode.beam import BeamSearch
from sememe.decode.sample import Sampled, condition_on_maximum, level_distribution
from sememe.decode.trie import Trie


def request(rows: int, *, user: int = 0) -> dict[str, torch.Tensor]:
    """One user of the table, with so many different histories: as many independent draws."""
    return {"user": torch.full((rows,), user), "history": torch.arange(rows).unsqueeze(1)}


def table_model(sizes: Code, *tables: Sequence[Sequence[float]]) -> TableModel:
    """One user's probabilities: per level a row for each prefix."""
    model = TableModel(sizes, users=1, seed=0)
    model.tables = [torch.tensor([table]).log() for table in tables]
    return model


def one_level(probabilities: Sequence[float]) -> tuple[TableModel, Trie]:
    count = len(probabilities)
    codes = Codes(np.arange(count, dtype=np.int32)[:, None], codebook_sizes=(count,), num_semantic_levels=1)
    return table_model((count,), [probabilities]), Trie.build(codes)


def two_levels() -> tuple[TableModel, Trie]:
    """Items 0..4 are 00 01 10 11 12: .3 .3 | .32 .06 .02."""
    model = table_model((2, 3), [[0.6, 0.4]], [[0.5, 0.5, 0.0], [0.8, 0.15, 0.05]])
    matrix = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [1, 2]], np.int32)
    return model, Trie.build(Codes(matrix=matrix, codebook_sizes=(2, 3), num_semantic_levels=2))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple),
    items=st.integers(1, 40),
    seed=st.integers(0, 10_000),
    temperature=st.floats(0.3, 3),
    top_p=st.sampled_from([1.0, 0.9, 0.5, 0.1]),
    data=st.data(),
)
def test_equals_the_slow_walk_over_the_whole_tree_without_the_seen_items(
    sizes: Code, items: int, seed: int, temperature: float, top_p: float, data: st.DataObject
) -> None:
    factors = data.draw(st.tuples(*[st.sampled_from([0.5, 1.0, 2.0])] * len(sizes)))
    k = data.draw(st.integers(1, 12))
    codes, model = random_codes(sizes, items=items, seed=seed), TableModel(sizes, users=3, seed=seed)
    rng = np.random.default_rng(seed)
    history = rng.integers(100, size=(3, 2))
    seen = rng.integers(PAD, items, size=(3, data.draw(st.integers(1, 2 * items)))).astype(np.int32)
    part = Sampled(temperature=temperature, level_temperatures=factors, top_p=top_p, seed=seed)
    batch = {"user": torch.arange(3), "history": torch.tensor(history)}
    drawn = part.draw(model, batch, k=k, trie=Trie.build(codes), seen=seen)
    for row in range(3):
        allowed = {item: tuple(code) for item, code in enumerate(codes.matrix.tolist()) if item not in seen[row]}
        key = slow_row_key(seed, user=row, history=history[row].tolist())
        leaves = slow_draw(
            model,
            set(allowed.values()),
            user=row,
            key=key,
            temperatures=[temperature * factor for factor in factors],
            top_p=top_p,
        )
        expected = [(item, leaf) for leaf in leaves for item, code in allowed.items() if code == leaf.code]
        listed, fill = expected[:k], k - len(expected[:k])
        assert drawn.found.items[row].tolist() == [item for item, _ in listed] + [PAD] * fill
        nothing = [-math.inf] * fill
        columns = {
            "perturbed": drawn.found.scores,
            "draw_log_prob": drawn.draw_log_probs,
        }
        for name, values in columns.items():
            np.testing.assert_allclose(values[row], [getattr(leaf, name) for _, leaf in listed] + nothing, atol=2e-4)
        scores = [model.score(row, leaf.code) for _, leaf in listed] + nothing
        np.testing.assert_allclose(drawn.log_probs[row], scores, atol=1e-6)
        # Items beyond the list that share its last semantic ID.
        tied = sum(leaf.code == listed[-1][1].code for _, leaf in expected[k:]) if listed else 0
        assert drawn.found.tied_beyond[row] == tied


def exact_chances(part: Sampled, model: TableModel, trie: Trie, *, seen: np.ndarray | None = None) -> np.ndarray:
    """(I,) chance to be drawn first, from a draw of the whole catalogue; the twin above holds these to the formula."""
    drawn = part.draw(model, request(1), k=trie.num_items, trie=trie, seen=seen)
    chances = np.zeros(trie.num_items)
    listed = drawn.found.items[0] != PAD
    chances[drawn.found.items[0, listed].numpy()] = drawn.draw_log_probs[0, listed].double().exp().numpy()
    return chances


@pytest.mark.parametrize(
    "part", [Sampled(), Sampled(temperature=0.6), Sampled(level_temperatures=(2.0, 0.5, 1.0), top_p=0.8)]
)
def test_first_places_follow_the_distribution(part: Sampled) -> None:
    codes, model = unique_codes((3, 3, 3), items=14, seed=5), TableModel((3, 3, 3), users=1, seed=5)
    trie = Trie.build(codes)
    chances = exact_chances(part, model, trie)
    assert chances.sum() == pytest.approx(1, abs=1e-5)
    first = []
    for seed in range(40):
        first.append(replace(part, seed=seed).recommend(model, request(250), k=1, trie=trie).items[:, 0])
    counts = np.bincount(np.concatenate(first), minlength=14)
    assert counts[chances == 0].sum() == 0
    possible = chances > 0
    expected = chances[possible] / chances[possible].sum() * counts.sum()
    assert stats.chisquare(counts[possible], expected).pvalue > 0.01


def test_seeds_are_draws_too() -> None:
    model, trie = one_level([0.5, 0.3, 0.2])
    first = [Sampled(seed=seed).recommend(model, request(1), k=1, trie=trie).items[0, 0] for seed in range(600)]
    counts = np.bincount(first, minlength=3)
    assert stats.chisquare(counts, 600 * np.array([0.5, 0.3, 0.2])).pvalue > 0.01


def test_two_places_are_a_draw_without_replacement() -> None:
    model, trie = two_levels()
    chances = np.array([0.3, 0.3, 0.32, 0.06, 0.02])
    items = Sampled().recommend(model, request(20_000), k=2, trie=trie).items
    assert np.all(items[:, 0] != items[:, 1])
    # Plackett-Luce: the second place is drawn from what the first one left.
    pairs = chances[:, None] * chances[None, :] / (1 - chances[:, None])
    np.fill_diagonal(pairs, 0)
    counts = np.zeros((5, 5))
    np.add.at(counts, (items[:, 0], items[:, 1]), 1)
    apart = ~np.eye(5, dtype=bool)
    assert stats.chisquare(counts[apart], 20_000 * pairs[apart]).pvalue > 0.01
    included = pairs.sum(axis=0) + pairs.sum(axis=1)
    np.testing.assert_allclose(np.bincount(items.ravel()) / 20_000, included, atol=0.012)


def test_the_score_of_an_item_is_gumbel_located_at_its_log_probability() -> None:
    model, trie = two_levels()
    drawn = Sampled().draw(model, request(4000), k=5, trie=trie)
    for item, chance in enumerate([0.3, 0.3, 0.32, 0.06, 0.02]):
        scores = drawn.found.scores[drawn.found.items == item].numpy()
        assert len(scores) == 4000
        assert stats.kstest(scores, "gumbel_r", args=(math.log(chance),)).pvalue > 0.01


def test_every_item_is_listed_once_where_there_is_room() -> None:
    codes = random_codes((4, 3, 2), items=30, seed=2)
    answer = Sampled().recommend(TableModel((4, 3, 2), users=1, seed=2), request(50), k=33, trie=Trie.build(codes))
    assert all(sorted(row[:30].tolist()) == list(range(30)) for row in answer.items)
    assert np.all(answer.items[:, 30:] == PAD)
    assert np.all(np.diff(answer.scores[:, :30], axis=1) <= 0) and answer.source == "sample:code_log_prob"


def test_temperatures_by_hand() -> None:
    # p ** 2 of .6 .4: .36 and .16, so 9/13 and 4/13; p ** .5 of .64 .36 (of .1 not, it leads nowhere): 8/14 and 6/14.
    log_probs = torch.tensor([[[0.6, 0.4, 0.0]], [[0.64, 0.36, 0.0]]]).log()
    np.testing.assert_allclose(
        level_distribution(log_probs, temperature=0.5, top_p=1.0)[0, 0].exp(), [9 / 13, 4 / 13, 0]
    )
    flat = level_distribution(log_probs, temperature=2.0, top_p=1.0)[1, 0].exp()
    np.testing.assert_allclose(flat, [8 / 14, 6 / 14, 0], atol=1e-7)
    # Half the temperature at the first level only: 9/13 * .5, 9/13 * .5, then 4/13 of .8 .15 .05.
    model, trie = two_levels()
    chances = exact_chances(Sampled(level_temperatures=(0.5, 1.0)), model, trie)
    np.testing.assert_allclose(chances, [4.5 / 13, 4.5 / 13, 3.2 / 13, 0.6 / 13, 0.2 / 13], atol=1e-6)
    # The overall temperature multiplies: .5 * (1, 2).
    again = exact_chances(Sampled(temperature=0.5, level_temperatures=(1.0, 2.0)), model, trie)
    np.testing.assert_allclose(again, chances, atol=1e-6)


def test_codes_that_lead_nowhere_get_no_share() -> None:
    model = table_model((4,), [[0.4, 0.3, 0.2, 0.1]])
    codes = Codes(np.array([[1], [3]], np.int32), codebook_sizes=(4,), num_semantic_levels=1)
    np.testing.assert_allclose(exact_chances(Sampled(), model, Trie.build(codes)), [0.75, 0.25], atol=1e-6)


def test_top_p_by_hand() -> None:
    model, trie = one_level([0.2, 0.5, 0.3])
    for top_p, expected in (
        (0.4, [0, 1, 0]),
        (0.5, [0, 1, 0]),
        (0.51, [0, 0.625, 0.375]),
        (0.8, [0, 0.625, 0.375]),
        (0.81, [0.2, 0.5, 0.3]),
        (1e-9, [0, 1, 0]),
    ):
        np.testing.assert_allclose(exact_chances(Sampled(top_p=top_p), model, trie), expected, atol=1e-6)
    # Of the mass after the temperature: p ** .5 is .447 .707 .548, so .263 .415 .322, and .51 needs two.
    warm = np.sqrt([0.5, 0.3]) / np.sqrt([0.5, 0.3]).sum()
    chances = exact_chances(Sampled(temperature=2.0, top_p=0.7), model, trie)
    np.testing.assert_allclose(chances, [0, *warm], atol=1e-6)
    # A list can end early; of equally probable codes the lower one stays.
    short = Sampled(top_p=0.8).recommend(model, request(5), k=3, trie=trie)
    assert np.all(short.items[:, 2] == PAD) and np.all(short.scores[:, 2] == -np.inf)
    # In floating point, three times a tenth falls just short of .3.
    level = level_distribution(torch.full((1, 1, 10), 0.1).log(), temperature=1.0, top_p=0.3)
    np.testing.assert_allclose(level[0, 0].exp(), [1 / 3] * 3 + [0] * 7, atol=1e-7)


def test_top_p_counts_the_mass_of_each_level_on_its_own() -> None:
    model, trie = two_levels()
    # Level 0 keeps both (.6 < .7); below 0 both are needed, below 1 the first is enough.
    chances = exact_chances(Sampled(top_p=0.7), model, trie)
    np.testing.assert_allclose(chances, [0.3, 0.3, 0.4, 0, 0], atol=1e-6)


def test_temperature_zero_is_beam_search() -> None:
    codes, model = random_codes((5, 4, 3), items=60, seed=7), TableModel((5, 4, 3), users=4, seed=7)
    trie, batch = Trie.build(codes), {"user": torch.arange(4), "history": torch.arange(4).unsqueeze(1)}
    seen = np.random.default_rng(0).integers(60, size=(4, 9)).astype(np.int32)
    for width in (4, 30):
        ours = Sampled(temperature=0.0, width=width).recommend(model, batch, k=6, trie=trie, seen=seen)
        theirs = BeamSearch(width=width).recommend(model, batch, k=6, trie=trie, seen=seen)
        np.testing.assert_array_equal(ours.items, theirs.items)
        np.testing.assert_array_equal(ours.scores, theirs.scores)
        np.testing.assert_array_equal(ours.tied_beyond, theirs.tied_beyond)
        assert ours.source == theirs.source


def test_a_small_temperature_gives_the_beams_list_where_no_prefix_is_surer_than_another() -> None:
    """Every prefix of a level has the same probabilities in another order, so that only the order of codes differs."""
    sizes = (4, 3, 5)
    generator = torch.Generator().manual_seed(3)
    model, prefixes = TableModel(sizes, users=1, seed=0), 1
    for level, size in enumerate(sizes):
        values = torch.randn(size, generator=generator).log_softmax(0)
        orders = torch.stack([torch.randperm(size, generator=generator) for _ in range(prefixes)])
        model.tables[level] = values[orders].unsqueeze(0)
        prefixes *= size
    trie = Trie.build(unique_codes(sizes, items=60, seed=0))
    cold = Sampled(temperature=1e-5).recommend(model, request(20), k=12, trie=trie)
    best = BeamSearch(width=60).recommend(model, request(20), k=12, trie=trie)
    assert np.all(cold.items[:, 0] == best.items[:, 0])
    # Tied items of the beam stand in any order here.
    sums = np.array([model.score(0, tuple(code)) for code in unique_codes(sizes, items=60, seed=0).matrix.tolist()])
    np.testing.assert_allclose(sums[cold.items], best.scores, atol=1e-5)


def test_a_small_temperature_is_greedy_and_no_beam() -> None:
    model, trie = two_levels()
    assert np.all(Sampled(temperature=0.01).recommend(model, request(50), k=1, trie=trie).items <= 1)
    assert Sampled(temperature=0.0).recommend(model, request(1), k=1, trie=trie).items.tolist() == [[2]]


def test_seen_items_are_left_out_as_if_the_catalogue_had_never_held_them() -> None:
    codes, model = random_codes((5, 4, 3), items=50, seed=1), TableModel((5, 4, 3), users=1, seed=1)
    out = np.random.default_rng(4).permutation(50)[:20].astype(np.int32)
    rest = np.setdiff1d(np.arange(50), out)
    fewer = Codes(codes.matrix[rest], codebook_sizes=(5, 4, 3), num_semantic_levels=3)
    part, batch = Sampled(temperature=1.5, top_p=0.9), request(30)
    masked = part.recommend(model, batch, k=8, trie=Trie.build(codes), seen=np.tile(out, (30, 1)))
    pruned = part.recommend(model, batch, k=8, trie=Trie.build(fewer))
    np.testing.assert_array_equal(masked.items, np.where(pruned.items == PAD, PAD, rest[pruned.items]))
    np.testing.assert_allclose(masked.scores, pruned.scores, atol=1e-6)
    by_hand, small = two_levels()
    # Without item 2 the second branch has .15 and .05 left, and keeps its .4.
    chances = exact_chances(Sampled(), by_hand, small, seen=np.array([[2]], np.int32))
    np.testing.assert_allclose(chances, [0.3, 0.3, 0, 0.3, 0.1], atol=1e-6)
    nothing = Sampled().recommend(by_hand, request(1), k=2, trie=small, seen=np.arange(5, dtype=np.int32)[None])
    assert nothing.items.tolist() == [[PAD, PAD]]


def test_a_batch_is_its_rows_and_padding_is_nothing() -> None:
    codes, model = random_codes((6, 5, 4), items=80, seed=3), TableModel((6, 5, 4), users=7, seed=3)
    trie, rng = Trie.build(codes), np.random.default_rng(0)
    seen = rng.integers(PAD, 80, size=(7, 30)).astype(np.int32)
    history = torch.tensor(rng.integers(80, size=(7, 4)))
    part = Sampled(temperature=1.3)
    batch = {"user": torch.arange(7), "history": torch.nn.functional.pad(history, (0, 2), value=PAD)}
    together = part.recommend(model, batch, k=9, trie=trie, seen=seen)
    for row in range(7):
        one = {"user": torch.tensor([row]), "history": history[row : row + 1]}
        alone = part.recommend(model, one, k=9, trie=trie, seen=seen[row : row + 1])
        np.testing.assert_array_equal(together.items[row], alone.items[0])
        np.testing.assert_array_equal(together.scores[row], alone.scores[0])


def test_seed_user_and_history_each_make_another_draw() -> None:
    codes = unique_codes((8, 8, 8), items=200, seed=0)
    trie, model = Trie.build(codes), TableModel((8, 8, 8), users=1, seed=0)
    model.tables = [table.expand(3, -1, -1) for table in model.tables]
    batch = {"user": torch.tensor([1, 1, 2]), "history": torch.tensor([[5, 6], [6, 5], [5, 6]])}
    first = Sampled(seed=0).recommend(model, batch, k=10, trie=trie)
    lists = [*first.items.tolist(), *Sampled(seed=1).recommend(model, batch, k=10, trie=trie).items.tolist()]
    assert len({tuple(row) for row in lists}) == 6
    np.testing.assert_array_equal(Sampled(seed=0).recommend(model, batch, k=10, trie=trie).items, first.items)


def test_a_shorter_list_is_the_head_of_a_longer_one_whatever_the_width() -> None:
    codes, model = unique_codes((8, 8, 8), items=200, seed=0), TableModel((8, 8, 8), users=1, seed=0)
    long = Sampled(width=1).recommend(model, request(20), k=150, trie=Trie.build(codes))
    short = Sampled(width=99).recommend(model, request(20), k=3, trie=Trie.build(codes))
    np.testing.assert_array_equal(short.items, long.items[:, :3])


def test_conditioning_on_the_maximum() -> None:
    perturbed = torch.tensor([[[0.3, -1.2, 2.0, -math.inf]], [[-600.0, -3.0, 4.0, 4.0]]], dtype=torch.float64)
    maximum = torch.tensor([[-0.7], [-900.0]], dtype=torch.float64)
    result = condition_on_maximum(perturbed, maximum=maximum)
    by_hand = [-math.log(math.exp(0.7) - math.exp(-2.0) + math.exp(-value)) for value in (0.3, -1.2)]
    np.testing.assert_allclose(result[0, 0], [*by_hand, -0.7, -math.inf], rtol=1e-12)
    # exp(900) overflows; beside it the others' noise is nothing.
    np.testing.assert_allclose(result[1, 0], [-900.0] * 4, rtol=1e-12)
    dead = condition_on_maximum(torch.full((1, 1, 2), -math.inf), maximum=torch.full((1, 1), -math.inf))
    assert torch.all(dead == -math.inf)


def test_an_impossible_code_is_never_listed() -> None:
    model, trie = one_level([1.0, 0.0])
    for part in (Sampled(), Sampled(top_p=0.5), Sampled(temperature=5.0)):
        answer = part.recommend(model, request(3), k=2, trie=trie)
        assert answer.items.tolist() == [[0, PAD]] * 3 and np.all(answer.scores[:, 1] == -np.inf)


def test_a_model_that_gives_no_number_is_refused() -> None:
    model = TableModel((3, 3), users=1, seed=0)
    model.tables[1][:] = float("nan")
    for part in (Sampled(), Sampled(top_p=0.5)):
        with pytest.raises(ArtifactError, match="not a number"):
            part.recommend(model, request(1), k=3, trie=Trie.build(random_codes((3, 3), items=9, seed=0)))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Sampled(temperature=-1.0), "temperature of a level is -1"),
        (Sampled(temperature=math.nan), "temperature of a level is nan"),
        (Sampled(temperature=1e-9), "outside 1e-06..1e\\+06"),
        (Sampled(level_temperatures=(1.0, 0.0)), "temperature of a level is 0"),
        (Sampled(temperature=0.0, level_temperatures=(1.0, 0.0)), "temperature of a level is 0"),
        (Sampled(level_temperatures=(1.0,)), "1 numbers, and the semantic IDs have 2 levels"),
        (Sampled(top_p=0.0), "top_p is 0.0"),
        (Sampled(top_p=1.5), "top_p is 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(part: Sampled, message: str) -> None:
    model, trie = two_levels()
    with pytest.raises(ConfigError, match=message):
        part.recommend(model, request(1), k=2, trie=trie)


def test_nothing_is_drawn_at_temperature_zero() -> None:
    model, trie = two_levels()
    with pytest.raises(ConfigError, match="nothing is drawn"):
        Sampled(temperature=0.0).draw(model, request(1), k=2, trie=trie)
