"""Predicates say what the frame says; compositions are their logic; changes are seen at once, and nowhere by halves."""

import threading
from datetime import UTC, date, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_steps import random_codes

from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import Codes
from sememe.decode.item_set import ItemSet
from sememe.decode.predicates import AtLeast, AtMost, OneOf, Positive, Predicate
from sememe.decode.rules import Part, Rules, any_of, none_of
from sememe.decode.trie import Trie
from sememe.decode.trie_edit import edit_trie

FRAME = pl.DataFrame(
    {
        "item_id": ["a", "b", "c", "d", "e", "f"],
        "stock": [3, 0, None, -1, 1, 7],
        "on_sale": [True, False, None, True, False, True],
        "regions": [["DE", "AT"], ["FR"], [], None, ["AT", None], ["DE"]],
        "age": [0.0, 6.0, 12.0, 18.0, float("nan"), None],
        "released": [date(2024, 1, day) for day in (1, 5, 9)] + [None, date(2023, 1, 1), date(2024, 1, 5)],
        "added": [datetime(2024, 1, day) for day in (1, 5, 9, 2, 3, 4)],
        "category": ["toys", "books", None, "toys", "games", "books"],
        "creator": [11, 12, 13, None, 11, 12],
    }
)


def letters(flags: np.ndarray) -> str:
    return "".join(FRAME.filter(pl.Series(flags))["item_id"])


@pytest.mark.parametrize(
    ("predicate", "expected"),
    [
        (Positive("stock"), "aef"),
        (Positive("on_sale"), "adf"),
        (Positive("age"), "bcd"),
        (AtMost("age", 12), "abc"),
        (AtLeast("age", 12), "cd"),
        (AtLeast("released", date(2024, 1, 5)), "bcf"),
        (AtMost("released", datetime(2024, 1, 1)), "ae"),
        (AtLeast("added", datetime(2024, 1, 4)), "bcf"),
        (AtLeast("stock", -1), "abdef"),
        (OneOf("regions", ("DE",)), "af"),
        (OneOf("regions", ("AT", "FR")), "abe"),
        (OneOf("category", ("toys", "games")), "ade"),
        (OneOf("category", ("no such",)), ""),
        (OneOf("category", ()), ""),
        (OneOf("creator", (11, 99)), "ae"),
        (OneOf("item_id", ("f", "b", "of an item to come")), "bf"),
    ],
    ids=str,
)
def test_a_predicate_holds_of_what_the_column_says(predicate: Predicate, expected: str) -> None:
    flags = predicate.holds(FRAME)
    assert flags.dtype == np.bool_ and flags.shape == (6,)
    assert letters(flags) == expected


def test_a_list_of_fixed_length_is_a_list() -> None:
    frame = pl.DataFrame({"pair": pl.Series([[1, 2], [3, 4]], dtype=pl.Array(pl.Int64, 2))})
    assert OneOf("pair", (4, 9)).holds(frame).tolist() == [False, True]


@pytest.mark.parametrize(
    ("predicate", "message"),
    [
        (Positive("stok"), "did you mean 'stock'"),
        (Positive("category"), "'category' holds String"),
        (AtMost("category", 3), "'category' holds String"),
        (AtMost("regions", 3), "'regions' holds List"),
        (AtLeast("added", 5), "'added' holds Datetime.* with 5"),
        (AtLeast("age", date(2024, 1, 1)), "'age' holds Float64.* with datetime.date"),
        (OneOf("creator", ("11",)), "'creator' holds Int64.* with '11'"),
        (OneOf("regions", (7,)), "'regions' holds List"),
    ],
    ids=str,
)
def test_what_a_column_cannot_say_is_refused(predicate: Predicate, message: str) -> None:
    with pytest.raises(DataError, match=message):
        predicate.holds(FRAME)


def test_a_time_of_no_zone_is_no_limit_for_times_of_one() -> None:
    frame = FRAME.select(pl.col("added").dt.replace_time_zone("UTC"))
    with pytest.raises(DataError, match="time_zone='UTC'"):
        AtLeast("added", datetime(2024, 1, 4)).holds(frame)
    assert letters(AtLeast("added", datetime(2024, 1, 4, tzinfo=UTC)).holds(frame)) == "bcf"


def six_items() -> Trie:
    return Trie.build(random_codes((3, 4), items=6, seed=2))


def composed(rules: Rules, *parts: str | Part) -> str:
    flags = rules.allowed(*parts).flags()
    by_item = np.zeros(len(FRAME), np.bool_)
    by_item[rules.trie.items.numpy()] = flags
    return letters(by_item)


def six_rules(*, cached: int = 8) -> Rules:
    predicates = {
        "stock": Positive("stock"),
        "DE": OneOf("regions", ("DE",)),
        "AT": OneOf("regions", ("AT",)),
        "toys": OneOf("category", ("toys",)),
        "adult": AtLeast("age", 18),
    }
    return Rules.start(six_items(), cached=cached).define(predicates, frame=FRAME)


def test_compositions_by_hand() -> None:
    rules = six_rules()
    assert rules.names == ("stock", "DE", "AT", "toys", "adult") and rules.num_items == 6
    assert composed(rules) == "abcdef"
    assert composed(rules, "stock") == "aef"
    assert composed(rules, any_of("DE", "AT")) == "aef"
    assert composed(rules, "stock", any_of("DE", "AT"), none_of("toys", "adult")) == "ef"
    assert composed(rules, none_of("stock")) == "bcd"
    assert composed(rules, "DE", none_of("DE")) == ""


def test_explicit_lists_of_items() -> None:
    rules = six_rules().define({"chosen": np.array([1, 1, 0, 0, 0, 1], np.bool_)})
    assert composed(rules, "chosen", "stock") == "af"
    once = ItemSet.of_items(np.array([0, 4]), rules.trie)
    assert (rules.allowed("stock") & once).num_members == 2
    assert (rules.allowed("stock") - once).num_members == 1


def test_compositions_are_kept_by_what_they_are_made_of() -> None:
    rules = six_rules(cached=2)
    first = rules.allowed("stock", any_of("DE", "AT"))
    assert rules.allowed(any_of("AT", "DE"), "stock", "stock") is first
    assert rules.allowed("stock", none_of("DE", "AT")) is not first
    assert rules.allowed("stock", any_of("DE", "AT")) is first
    rules.allowed("toys")
    # Of the two that are kept, the one used before the last is still there, the other is not.
    assert len(rules.compositions) == 2 and rules.allowed("stock", any_of("DE", "AT")) is first
    rules.allowed("DE"), rules.allowed("AT")
    assert rules.allowed("stock", any_of("DE", "AT")) is not first


def test_a_change_is_seen_by_what_uses_it_alone() -> None:
    rules = six_rules()
    stocked, toys = rules.allowed("stock", "DE"), rules.allowed("toys")
    newer = rules.change("stock", np.array([0, 3, 3]), to=np.array([False, True, True]))
    assert composed(newer, "stock") == "def" and composed(newer, "stock", "DE") == "f"
    assert newer.allowed("toys") is toys and len(newer.compositions) == 3
    # The old rules, and the set that a search may be reading, are what they were.
    assert rules.allowed("stock", "DE") is stocked and composed(rules, "stock", "DE") == "af"
    again = newer.define({"DE": OneOf("regions", ("FR",))}, frame=FRAME)
    assert composed(again, "DE") == "b" and composed(newer, "DE") == "af"


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1000), items=st.integers(1, 150), data=st.data())
def test_any_composition_is_its_logic_after_any_changes(seed: int, items: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    names = ["p", "q", "r"]
    flags = {name: rng.random(items) < 0.5 for name in names}
    rules = Rules.start(Trie.build(random_codes((5, 4), items=items, seed=seed))).define(
        {name: held.copy() for name, held in flags.items()}
    )
    parts = st.lists(st.tuples(st.sets(st.sampled_from(names), min_size=1), st.booleans()), max_size=3)
    for _ in range(3):
        name = data.draw(st.sampled_from(names))
        changing = rng.permutation(items)[: items // 2]
        values = rng.random(len(changing)) < 0.5
        rules, flags[name][changing] = rules.change(name, changing, to=values), values
        expected = np.ones(items, np.bool_)
        wanted = data.draw(parts)
        for group, negated in wanted:
            union = np.any([flags[name] for name in group], axis=0)
            expected &= ~union if negated else union
        found = rules.allowed(*(none_of(*group) if negated else any_of(*group) for group, negated in wanted))
        np.testing.assert_array_equal(found.words, ItemSet.of_flags(expected, rules.trie).words)


def test_a_search_never_meets_half_a_change() -> None:
    """One thread changes the stock of everything back and forth while others read: they see all of it or nothing."""
    items = 5000
    trie = Trie.build(random_codes((60, 60), items=items, seed=0))
    held = [Rules.start(trie).define({"stock": np.ones(items, np.bool_), "all": np.ones(items, np.bool_)})]
    every, done, torn = np.arange(items), threading.Event(), []

    def read() -> None:
        while not done.is_set():
            chosen = held[0].allowed("stock", "all")
            if {int(chosen.flags().sum()), chosen.num_members} not in ({0}, {items}):
                torn.append(chosen)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for step in range(40):
        held[0] = held[0].change("stock", every, to=step % 2 == 1)
    done.set()
    for reader in readers:
        reader.join()
    assert not torn and held[0].allowed("stock", "all").num_members == items


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1000), items=st.integers(2, 60), more=st.integers(0, 20))
def test_rules_follow_an_edited_tree(seed: int, items: int, more: int) -> None:
    """Items go, come back, move to other codes and come anew; what is said of each stays, or is asked of its row."""
    rng = np.random.default_rng(seed)
    sizes = (4, 3, 3)
    stock = rng.integers(0, 2, size=items + more)
    frame = pl.DataFrame({"stock": stock})
    older = random_codes(sizes, items=items, seed=seed)
    offered = rng.random(items) < 0.7
    offered[0] = True
    trie = Trie.build(older, offered=offered)
    listed = rng.random(items) < 0.5
    rules = Rules.start(trie).define({"stock": Positive("stock"), "listed": listed}, frame=frame[:items])
    sold = np.flatnonzero(rng.random(items) < 0.3)
    rules = rules.change("stock", sold, to=False)
    stock[sold] = 0
    # Every third item that is offered goes, those that are not come, and every seventh one gets another code.
    moved = np.flatnonzero(offered)[::7]
    matrix = np.concatenate([older.matrix, random_codes(sizes, items=more, seed=seed + 1).matrix])
    matrix[moved] = (matrix[moved] + 1) % np.array(sizes)
    newer = Codes(matrix=matrix, codebook_sizes=sizes, num_semantic_levels=3)
    gone = np.union1d(np.flatnonzero(offered)[1::3], moved)
    come = np.concatenate([np.flatnonzero(~offered), moved, np.arange(items, items + more)])
    edited = edit_trie(trie, newer, gone=gone.astype(np.int32), come=come.astype(np.int32))
    followed = rules.follow(edited, frame=frame[items:] if more else None)
    fresh = Rules.start(edited).define({"stock": stock > 0, "listed": np.concatenate([listed, np.zeros(more, bool)])})
    for parts in (("stock",), ("listed",), ("stock", none_of("listed"))):
        np.testing.assert_array_equal(followed.allowed(*parts).words, fresh.allowed(*parts).words)
    assert followed.allowed("stock").tree != rules.allowed("stock").tree or edited.items.equal(trie.items)


def test_what_rules_cannot_do_is_said() -> None:
    rules = six_rules()
    for asked in (lambda: rules.allowed("stok"), lambda: rules.change("stok", np.array([0]), to=True)):
        with pytest.raises(ConfigError, match="did you mean 'stock'"):
            asked()
    with pytest.raises(ConfigError, match="names no predicate"):
        rules.allowed(any_of())
    with pytest.raises(DataError, match="item index 6 is outside 0..5"):
        rules.change("stock", np.array([6]), to=True)
    with pytest.raises(DataError, match="one change"):
        rules.change("stock", np.array([1, 1]), to=np.array([True, False]))
    with pytest.raises(DataError, match="5 flags for a catalogue of 6 items"):
        rules.define({"stock": Positive("stock")}, frame=FRAME[:5])
    with pytest.raises(DataError, match="asks the catalogue, and there is none"):
        rules.define({"stock": Positive("stock")})
    with pytest.raises(DataError, match="0 items more than before, and the frame has 6 rows"):
        rules.follow(rules.trie, frame=FRAME)
