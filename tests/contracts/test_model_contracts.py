"""What every recommender promises, whatever is inside: one battery, run over each kind that a recipe can hold.

All of it goes through `Recommender`, as evaluation, the command line and `open_run` do.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from sememe.core.schema import PAD, Codes, Int32Array, ModelInputs, Ranked
from sememe.data.simulator import PlantedWorld
from sememe.decode.beam import BeamSearch
from sememe.decode.exact import ExactCodes, ExactItems
from sememe.decode.rescore import Rescored
from sememe.decode.sample import Sampled
from sememe.decode.sessions import SessionSearch
from sememe.decode.trie import Trie
from sememe.models.contexts import Pathways
from sememe.models.counting import ItemKnn, Popularity, RepeatLast
from sememe.models.depth import Depth
from sememe.models.encdec import EncDec
from sememe.models.frequency import BsaRec
from sememe.models.itemwise import ItemWise
from sememe.models.lazy import LazyDecoder
from sememe.models.onerec import OneRec
from sememe.models.sequential import ESasRec, SasRec
from sememe.nn.trunk import Trunk
from sememe.pipeline.recommend import Recommender
from sememe.rerank.blend import MODEL_FEATURES, Blend, FittedBlend
from sememe.rerank.blend_net import BlendNet
from sememe.rerank.signals import CoOccurrence, Evidence, Likeness
from sememe.train.checkpoint import load_module, save_module

WORLD = PlantedWorld(branching=(3, 3), items_per_leaf=3, num_users=60, events_per_user=(3, 12)).generate(seed=0)
NUM_ITEMS = WORLD.interactions.num_items
MAX_HISTORY = 8
TIED = Codes(matrix=WORLD.leaf_codes, codebook_sizes=(3, 3), num_semantic_levels=2, collisions="tied")
"""Three items share each semantic ID."""
HISTORIES = [WORLD.interactions.history(user)[: 1 + user % 10] for user in range(0, 60, 9)]
"""7 of different lengths, one of a single item, and one longer than MAX_HISTORY."""
USERS = np.array([user if user % 4 else PAD for user in range(0, 60, 9)], np.int32)
"""Some are unknown to the model."""
NETWORK = EncDec(layers=1, d_model=16, heads=2, head_dim=8, ff=32, user_buckets=8)
ITEM_WISE = ItemWise(trunk=Trunk(layers=1, d_model=16, ff=32, max_history=MAX_HISTORY + 5), depth=Depth(hidden=16))
SMALL = {"d_model": 16, "heads": 2, "head_dim": 8, "ff": 32, "user_buckets": 8}
SESSION = OneRec(session=3, encoder_layers=1, decoder_layers=1, experts=3, **SMALL)
PATHWAYS = Pathways(short=4, positive=6, lifelong=4, members=2, queries=3, query_blocks=1)
MULTI_SCALE = replace(SESSION, context=PATHWAYS, session=1)
LAZY = LazyDecoder(context=PATHWAYS, layers=2, groups=2, **SMALL)
SIGNALS = (CoOccurrence(ItemKnn()), Likeness(embedder=0))


def blend(*, candidates: int) -> FittedBlend:
    """Real signals, weighed at random."""
    vectors = WORLD.catalog.vectors
    assert vectors is not None, "a planted world has vectors"
    evidence = Evidence(train=WORLD.interactions, vectors=vectors, vector_widths=(vectors.shape[1],))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # Those of the model, two of each signal, and all of them times the length of the history.
        net = BlendNet(2 * (len(MODEL_FEATURES) + 2 * len(SIGNALS)), hidden=8)
    config = Blend(signals=SIGNALS, candidates=candidates)
    signals = tuple(signal.fit(evidence) for signal in SIGNALS)
    return FittedBlend(config=config, signals=signals, known=evidence.known_items(), net=net)


@dataclass(frozen=True)
class Kind:
    """One kind of recommender."""

    part: Any
    decode: Any
    codes: Codes | None = None
    finds_all: bool = True
    """Whether the whole catalogue is ranked, each item as if alone: a narrow beam keeps a part of it, and a draw gives
    the chances of what is left out to its neighbours."""
    rerank: FittedBlend | None = None

    @property
    def is_network(self) -> bool:
        return hasattr(self.part, "build")

    def make(self, *, seed: int = 0) -> Recommender:
        """A recommender with fresh weights (they rank as well as trained ones), or counts of the world's events."""
        model = self.part.build(self._inputs(), seed=seed) if self.is_network else self.part.fit(WORLD.interactions)
        return Recommender(
            model=model,
            decode=self.decode,
            trie=None if self.codes is None else Trie.build(self.codes),
            max_history=MAX_HISTORY,
            device=torch.device("cpu"),
            rerank=self.rerank,
        )

    def _inputs(self) -> ModelInputs:
        return ModelInputs(num_users=60, num_items=NUM_ITEMS, codes=self.codes, item_vectors=WORLD.catalog.vectors)


KINDS = {
    "encdec-beam": Kind(NETWORK, BeamSearch(width=NUM_ITEMS), WORLD.codes()),
    "encdec-narrow-beam": Kind(NETWORK, BeamSearch(width=7), WORLD.codes(), finds_all=False),
    "encdec-tied-beam": Kind(NETWORK, BeamSearch(width=9), TIED),
    "encdec-sampled": Kind(NETWORK, Sampled(temperature=0.8, top_p=0.95), WORLD.codes(), finds_all=False),
    "encdec-tied-sampled": Kind(NETWORK, Sampled(level_temperatures=(0.5, 2.0)), TIED, finds_all=False),
    "encdec-exact": Kind(NETWORK, ExactCodes(chunk=100), WORLD.codes()),
    "encdec-tied-exact": Kind(NETWORK, ExactCodes(), TIED),
    "onerec-session": Kind(SESSION, SessionSearch(width=5), WORLD.codes(), finds_all=False),
    "onerec-tied-session": Kind(SESSION, SessionSearch(width=9), TIED, finds_all=False),
    "onerec-joint-session": Kind(SESSION, SessionSearch(width=5, lists=4), WORLD.codes(), finds_all=False),
    "onerec-beam": Kind(SESSION, BeamSearch(width=NUM_ITEMS), WORLD.codes()),
    "onerec-exact": Kind(SESSION, ExactCodes(chunk=100), WORLD.codes()),
    "pathways-beam": Kind(MULTI_SCALE, BeamSearch(width=NUM_ITEMS), WORLD.codes()),
    "pathways-tied-beam": Kind(MULTI_SCALE, BeamSearch(width=9), TIED),
    "pathways-tied-exact": Kind(MULTI_SCALE, ExactCodes(), TIED),
    "lazy-beam": Kind(LAZY, BeamSearch(width=NUM_ITEMS), WORLD.codes()),
    "lazy-narrow-beam": Kind(LAZY, BeamSearch(width=7), WORLD.codes(), finds_all=False),
    "lazy-sampled": Kind(LAZY, Sampled(temperature=0.8, top_p=0.95), WORLD.codes(), finds_all=False),
    "lazy-exact": Kind(LAZY, ExactCodes(chunk=100), WORLD.codes()),
    "itemwise-beam": Kind(ITEM_WISE, BeamSearch(width=NUM_ITEMS), WORLD.codes()),
    "itemwise-narrow-beam": Kind(ITEM_WISE, BeamSearch(width=7), WORLD.codes(), finds_all=False),
    "itemwise-tied-beam": Kind(ITEM_WISE, BeamSearch(width=9), TIED),
    "itemwise-exact": Kind(ITEM_WISE, ExactCodes(chunk=100), WORLD.codes()),
    "itemwise-tied-exact": Kind(ITEM_WISE, ExactCodes(), TIED),
    "itemwise-items": Kind(ITEM_WISE, ExactItems(), WORLD.codes()),
    "itemwise-rescored": Kind(ITEM_WISE, Rescored(BeamSearch(width=NUM_ITEMS)), WORLD.codes()),
    "itemwise-narrow-rescored": Kind(ITEM_WISE, Rescored(BeamSearch(width=7)), WORLD.codes(), finds_all=False),
    "itemwise-blend": Kind(ITEM_WISE, BeamSearch(), WORLD.codes(), rerank=blend(candidates=NUM_ITEMS)),
    "itemwise-narrow-blend": Kind(ITEM_WISE, BeamSearch(), WORLD.codes(), finds_all=False, rerank=blend(candidates=9)),
    "sasrec": Kind(SasRec(d_model=16, ff=32, max_history=MAX_HISTORY + 5), ExactItems()),
    "bsarec": Kind(BsaRec(d_model=16, ff=32, max_history=MAX_HISTORY + 5), ExactItems()),
    "esasrec": Kind(ESasRec(d_model=16, ff=32, max_history=MAX_HISTORY + 5), ExactItems()),
    "popularity": Kind(Popularity(), ExactItems()),
    "repeat-last": Kind(RepeatLast(), ExactItems()),
    "item-knn": Kind(ItemKnn(), ExactItems()),
    "item-knn-unfilled": Kind(ItemKnn(fill="none"), ExactItems()),
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())


def ask(recommender: Recommender, *, k: int = 6, leave_out: list[Int32Array] | None = None) -> Ranked:
    return recommender.recommend(HISTORIES, users=USERS, k=k, leave_out=leave_out)


def assert_same(ours: Ranked, theirs: Ranked, *, atol: float = 0.0) -> None:
    np.testing.assert_array_equal(ours.items, theirs.items)
    np.testing.assert_allclose(ours.scores, theirs.scores, rtol=0, atol=atol)
    if ours.tied_beyond is not None and theirs.tied_beyond is not None:
        np.testing.assert_array_equal(ours.tied_beyond, theirs.tied_beyond)


def rows_of(ranked: Ranked, rows: Any) -> Ranked:
    tied = None if ranked.tied_beyond is None else ranked.tied_beyond[rows]
    return replace(ranked, items=ranked.items[rows], scores=ranked.scores[rows], tied_beyond=tied)


@every_kind
def test_a_batch_is_its_rows_one_by_one(kind: Kind) -> None:
    recommender = kind.make()
    together = ask(recommender, leave_out=HISTORIES)
    for row, history in enumerate(HISTORIES):
        alone = recommender.recommend([history], users=USERS[[row]], k=6, leave_out=[history])
        assert_same(alone, rows_of(together, [row]), atol=1e-5)


@every_kind
def test_wider_padding_changes_nothing(kind: Kind) -> None:
    recommender = kind.make()
    history = np.full((len(HISTORIES), MAX_HISTORY), PAD, np.int32)
    for row, items in enumerate(HISTORIES):
        history[row, : len(items[-MAX_HISTORY:])] = items[-MAX_HISTORY:]
    lengths = np.sum(history != PAD, axis=1, dtype=np.int32)
    seen = history[:, ::-1].copy()
    answers = []
    for extra in (0, 4):
        wide = ((0, 0), (0, extra))
        batch = {"history": np.pad(history, wide, constant_values=PAD), "lengths": lengths, "user": USERS}
        answers.append(recommender.rank(batch, k=6, seen=np.pad(seen, wide, constant_values=PAD)))
    assert_same(answers[0], answers[1], atol=1e-5)


@every_kind
def test_permuted_rows_give_permuted_answers(kind: Kind) -> None:
    recommender = kind.make()
    order = np.random.default_rng(0).permutation(len(HISTORIES))
    permuted = [HISTORIES[row] for row in order]
    answer = recommender.recommend(permuted, users=USERS[order], k=6, leave_out=permuted)
    assert_same(answer, rows_of(ask(recommender, leave_out=HISTORIES), order), atol=1e-5)


@every_kind
def test_only_the_latest_items_are_read(kind: Kind) -> None:
    recommender = kind.make()
    long = np.concatenate([HISTORIES[3], HISTORIES[4], HISTORIES[6]])
    assert len(long) > MAX_HISTORY
    assert_same(recommender.recommend([long]), recommender.recommend([long[-MAX_HISTORY:]]))


@every_kind
def test_the_seed_decides(kind: Kind) -> None:
    first = ask(kind.make(seed=3))
    torch.manual_seed(99)
    assert_same(ask(kind.make(seed=3)), first)
    other = ask(kind.make(seed=4))
    assert np.array_equal(other.scores, first.scores) != kind.is_network


@every_kind
def test_asking_changes_nothing(kind: Kind) -> None:
    recommender = kind.make()
    histories = [history.copy() for history in HISTORIES]
    first = ask(recommender)
    ask(recommender, k=2, leave_out=HISTORIES)
    assert_same(ask(recommender), first)
    assert all(np.array_equal(before, now) for before, now in zip(histories, HISTORIES, strict=True))


@every_kind
def test_a_saved_model_answers_the_same(kind: Kind, tmp_path: Path) -> None:
    recommender, file = kind.make(seed=3), tmp_path / "model.safetensors"
    if kind.is_network:
        save_module(file, recommender.model)
        loaded = kind.make(seed=4)
        load_module(file, loaded.model)
    else:
        save_file({name: np.ascontiguousarray(array) for name, array in recommender.model.state().items()}, file)
        loaded = replace(recommender, model=kind.part.load(load_file(file)))
    assert_same(ask(loaded), ask(recommender))


@every_kind
def test_left_out_items_never_come_back(kind: Kind) -> None:
    recommender = kind.make()
    narrow = ask(recommender, leave_out=HISTORIES, k=NUM_ITEMS)
    for row, history in enumerate(HISTORIES):
        assert not set(narrow.items[row].tolist()) & set(history.tolist())
    # Rows that leave nothing out are not touched by those that do.
    mixed = [history if row % 2 else history[:0] for row, history in enumerate(HISTORIES)]
    answer, whole = ask(recommender, leave_out=mixed, k=5), ask(recommender, k=5)
    assert_same(rows_of(answer, slice(0, None, 2)), rows_of(whole, slice(0, None, 2)), atol=1e-6)


@every_kind
def test_leaving_out_is_filtering_the_whole_list(kind: Kind) -> None:
    if not kind.finds_all:
        pytest.skip("a narrow beam does not list the whole catalogue")
    recommender = kind.make()
    whole = ask(recommender, k=NUM_ITEMS)
    answer = ask(recommender, k=NUM_ITEMS, leave_out=HISTORIES)
    for row, history in enumerate(HISTORIES):
        keep = ~np.isin(whole.items[row], history)
        count = int(keep.sum())
        np.testing.assert_array_equal(answer.items[row, :count], whole.items[row, keep])
        np.testing.assert_allclose(answer.scores[row, :count], whole.scores[row, keep], rtol=0, atol=1e-6)
        assert np.all(answer.items[row, count:] == PAD) and np.all(answer.scores[row, count:] == -np.inf)


@every_kind
@pytest.mark.parametrize("left", [0, 2])
def test_few_items_that_are_left_are_all_found(kind: Kind, left: int) -> None:
    """Also by a narrow beam: what is left out takes no place in it."""
    recommender = kind.make()
    kept = np.array([5, 20], np.int32)[:left]
    almost_all = np.setdiff1d(np.arange(NUM_ITEMS, dtype=np.int32), kept)
    answer = recommender.recommend([HISTORIES[4], HISTORIES[2]], k=4, leave_out=[almost_all, HISTORIES[2]])
    assert sorted(answer.items[0, :left].tolist()) == kept.tolist()
    assert np.all(answer.items[0, left:] == PAD) and np.all(answer.scores[0, left:] == -np.inf)
    assert np.all(answer.items[1] != PAD)


@every_kind
@pytest.mark.parametrize("k", [1, NUM_ITEMS + 9])
def test_lists_are_of_catalogue_items_once_each_best_first(kind: Kind, k: int) -> None:
    answer = ask(kind.make(), k=k)
    assert answer.items.dtype == np.int32 and answer.scores.dtype == np.float32
    for items, scores in zip(answer.items.tolist(), answer.scores, strict=True):
        listed = [item for item in items if item != PAD]
        assert items == listed + [PAD] * (len(items) - len(listed))
        assert len(set(listed)) == len(listed)
        assert set(listed) <= set(range(NUM_ITEMS))
        assert np.all(scores[1:] <= scores[:-1]) and np.all(np.isfinite(scores[: len(listed)]))


@every_kind
def test_more_than_there_is_gives_the_whole_catalogue_once(kind: Kind) -> None:
    if not kind.finds_all:
        pytest.skip("a narrow beam does not list the whole catalogue")
    answer = ask(kind.make(), k=NUM_ITEMS + 9)
    for row in answer.items:
        assert sorted(row[row != PAD].tolist()) == list(range(NUM_ITEMS))


@every_kind
def test_a_shorter_list_is_the_head_of_a_longer_one(kind: Kind) -> None:
    recommender = kind.make()
    short, long = ask(recommender, k=3, leave_out=HISTORIES), ask(recommender, k=7, leave_out=HISTORIES)
    np.testing.assert_array_equal(short.items, long.items[:, :3])
    np.testing.assert_array_equal(short.scores, long.scores[:, :3])


@pytest.mark.parametrize(
    "model", ["encdec", "encdec-tied", "onerec", "pathways-tied", "lazy", "itemwise", "itemwise-tied"]
)
def test_a_full_beam_and_exact_scoring_agree(model: str) -> None:
    """The one battery test that compares two kinds: the search may only be faster, never different."""
    beam, exact = (KINDS[f"{model}-{decode}"].make() for decode in ("beam", "exact"))
    assert_same(ask(beam, k=8, leave_out=HISTORIES), ask(exact, k=8, leave_out=HISTORIES), atol=1e-5)
