"""The generators of the OneRec family: contract checks on small random models, searching against teacher forcing."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_encdec import ITEMS, SIZES, batch_of, rows, some_codes

from sememe.core.errors import ConfigError
from sememe.core.schema import PAD, ModelInputs
from sememe.models.contexts import CodeTokens, Pathways
from sememe.models.generator import ListGenerator
from sememe.models.growth import grown
from sememe.models.lazy import LazyDecoder
from sememe.models.onerec import OneRec
from sememe.objectives.next_token import NextToken
from sememe.objectives.session_token import SessionToken

SHAPE = {"d_model": 16, "head_dim": 8, "ff": 32, "user_buckets": 7}
PATHWAYS = Pathways(short=3, positive=4, lifelong=6, members=2, queries=5, query_blocks=2)
V1 = OneRec(encoder_layers=2, decoder_layers=2, heads=2, experts=4, session=3, **SHAPE)
REPORT = replace(V1, context=PATHWAYS, session=1)
V2 = LazyDecoder(context=PATHWAYS, layers=3, heads=4, kv_heads=2, groups=2, **SHAPE)
PARTS: dict[str, Any] = {
    "v1": V1,
    "v1-dense": replace(V1, experts=0, user_buckets=0),
    "report": REPORT,
    "v2": V2,
    "v2-values": replace(V2, own_values=True, groups=3, kv_heads=1, experts=3),
    "v2-codes": replace(V2, context=CodeTokens(), session=3),
}
every_part = pytest.mark.parametrize("part", PARTS.values(), ids=PARTS.keys())


def build(part: Any, *, seed: int = 1) -> ListGenerator:
    vectors = np.random.default_rng(1).standard_normal((ITEMS, 6)).astype(np.float32)
    inputs = ModelInputs(num_users=10, num_items=ITEMS, codes=some_codes(), item_vectors=vectors)
    model: ListGenerator = part.build(inputs, seed=seed)
    with torch.no_grad():
        # Fresh biases and positions are small: larger ones make mistakes of places visible.
        for name, weight in model.named_parameters():
            if "bias" in name or "positions" in name:
                weight.normal_()
    return model


def sessions(*lengths: int, width: int = 3, seed: int = 9) -> torch.Tensor:
    """(N, width, L) codes of random items, PAD after the end."""
    rng = np.random.default_rng(seed)
    codes = some_codes().matrix[rng.integers(0, ITEMS, (len(lengths), width))]
    codes[np.arange(width) >= np.array(lengths)[:, None]] = PAD
    return torch.from_numpy(codes)


@torch.no_grad()
def logits(model: ListGenerator, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return model.eval()(batch)["code_logits"]


@every_part
def test_a_row_does_not_depend_on_its_batch_or_padding(part: Any) -> None:
    model, batch = build(part), batch_of(5, 1, 3, 9, 5)
    together = logits(model, batch)
    assert together.shape == (5, 4, 16)
    for row in range(5):
        alone = rows(batch, [row])
        alone["history"] = alone["history"][:, : int(alone["lengths"][0])]
        torch.testing.assert_close(logits(model, alone)[0], together[row], atol=1e-5, rtol=0)
    wider = batch | {"history": torch.nn.functional.pad(batch["history"], (0, 4), value=PAD)}
    torch.testing.assert_close(logits(model, wider), together, atol=1e-5, rtol=0)


@every_part
def test_steps_of_a_search_equal_teacher_forcing(part: Any) -> None:
    """Beams that branch, swap and die, for the third item of a list: each step is what its whole prefix says."""
    part = replace(part, session=3)
    model, batch, rng = build(part).eval(), batch_of(4, 1, 2), np.random.default_rng(5)
    listed = torch.from_numpy(rng.integers(0, ITEMS, (3, 2)))
    with torch.no_grad():
        state = model.open_list(model.read(batch), rows=None, listed=listed)
        stepped = model.step(state)
        before = torch.from_numpy(some_codes().matrix)[listed].long()
        prefixes = torch.zeros(3, 1, 0, dtype=torch.long)
        for level in range(4):
            if level:
                beams = (6, 4, 7)[level - 1]
                parents = torch.from_numpy(rng.integers(0, prefixes.shape[1], (3, beams)))
                codes = torch.from_numpy(rng.integers(0, SIZES[level - 1], (3, beams)))
                kept = prefixes.gather(1, parents[..., None].expand(-1, -1, level - 1))
                prefixes = torch.cat([kept, codes[..., None]], -1)
                stepped = model.step(state, codes, parents)
            assert stepped.dtype == torch.float32
            for beam in range(prefixes.shape[1]):
                target = torch.nn.functional.pad(prefixes[:, beam], (0, 4 - level))
                forced = logits(model, batch | {"target_codes": torch.cat([before, target[:, None]], 1)})
                expected = forced[:, 2, level, : SIZES[level]].log_softmax(-1)
                torch.testing.assert_close(stepped[:, beam], expected, atol=1e-5, rtol=0)


@every_part
def test_a_list_of_one_is_an_item_and_later_items_change_nothing_before(part: Any) -> None:
    model, batch = build(part), batch_of(4, 2)
    lists = sessions(3, 2)
    one = logits(model, batch | {"target_codes": lists[:, 0]})
    whole = logits(model, batch | {"target_codes": lists})
    assert whole.shape == (2, 3, 4, 16)
    torch.testing.assert_close(whole[:, 0], one, atol=1e-5, rtol=0)
    changed = lists.clone()
    changed[:, 1, 2] = (changed[:, 1, 2] + 1) % SIZES[2]
    other = logits(model, batch | {"target_codes": changed})
    torch.testing.assert_close(other[:, :1], whole[:, :1], atol=1e-5, rtol=0)
    torch.testing.assert_close(other[:, 1, :3], whole[:, 1, :3], atol=1e-5, rtol=0)
    assert (other[0, 1, 3, :4] - whole[0, 1, 3, :4]).abs().max() > 1e-4
    assert (other[0, 2, 0, :8] - whole[0, 2, 0, :8]).abs().max() > 1e-4


@every_part
def test_log_probs_of_samples_are_those_of_teacher_forcing(part: Any) -> None:
    model, batch = build(part).eval(), batch_of(4, 1, 3)
    samples = torch.stack([sessions(3, 3, 3, seed=seed) for seed in range(4)], 1)
    found = model.sample_log_probs(batch, samples.flatten(2))
    assert found.requires_grad and found.shape == (3, 4, 12)
    for sample in range(4):
        forced = logits(model, batch | {"target_codes": samples[:, sample]}).log_softmax(-1)
        expected = forced.gather(-1, samples[:, sample].long().unsqueeze(-1)).flatten(1)
        torch.testing.assert_close(found[:, sample].detach(), expected, atol=1e-5, rtol=0)


@every_part
def test_every_parameter_gets_a_gradient(part: Any) -> None:
    model, batch = build(part).train(), batch_of(9, 5, 2, 7, 8, 3)
    batch["target_codes"] = sessions(3, 2, 3, 3, 1, 2)
    SessionToken()(model(batch), batch).backward()
    silent = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    # An expert that no position of the batch chose has nothing to learn.
    assert all("experts" in name for name in silent), silent


def test_the_loss_of_sessions_is_the_mean_over_the_items_that_are_there() -> None:
    model, batch = build(V1).eval(), batch_of(4, 2)
    batch["target_codes"] = sessions(3, 1)
    outputs = model(batch)
    flat = [
        (outputs["code_logits"][row, place], batch["target_codes"][row, place])
        for row, place in ((0, 0), (0, 1), (0, 2), (1, 0))
    ]
    each = [NextToken()({"code_logits": out[None]}, {"target_codes": code[None]}) for out, code in flat]
    torch.testing.assert_close(SessionToken()(outputs, batch), torch.stack(each).mean())


def test_of_a_longer_list_the_end_counts() -> None:
    model, batch = build(V1).eval(), batch_of(4, 2)
    listed = torch.from_numpy(np.random.default_rng(2).integers(0, ITEMS, (2, 7)))
    with torch.no_grad():
        memories = model.read(batch)
        long, short = (
            model.step(model.open_list(memories, rows=None, listed=part)) for part in (listed, listed[:, -2:])
        )
    assert torch.equal(long, short)


def test_lists_of_one_user_are_written_apart() -> None:
    model, batch = build(V1).eval(), batch_of(4, 2)
    listed = torch.from_numpy(np.random.default_rng(2).integers(0, ITEMS, (4, 2)))
    owners = torch.tensor([1, 0, 0, 1])
    with torch.no_grad():
        memories = model.read(batch)
        many = model.step(model.open_list(memories, rows=owners, listed=listed))
        for place, owner in enumerate(owners.tolist()):
            alone = model.read(rows(batch, [owner]))
            one = model.step(model.open_list(alone, rows=None, listed=listed[[place]]))
            torch.testing.assert_close(many[[place]], one, atol=1e-5, rtol=0)


def test_layers_of_the_lazy_decoder_share_keys_and_have_no_projections() -> None:
    model = build(replace(V2, layers=5, groups=2))
    assert model.reader.groups.group_of_layer == (0, 0, 0, 1, 1)  # floor(l * 2 / 5)
    with torch.no_grad():
        memories = model.eval().read(batch_of(4, 2))
    assert memories[0] is memories[2] and memories[3] is memories[4] and memories[0] is not memories[4]
    assert memories[0].keys is memories[0].values
    assert memories[0].keys.shape == (2, 2, 1 + 3 + 4 + 5, 8)
    torch.testing.assert_close(memories[0].keys.square().mean(-1), torch.ones(2, 2, 13), atol=1e-4, rtol=0)
    own = build(replace(V2, own_values=True)).eval().read(batch_of(4, 2))
    assert not torch.equal(own[0].keys, own[0].values)
    for block in model.decoder.blocks:
        assert block.cross.query.weight.shape == (32, 16) and not hasattr(block.cross, "project")
        assert block.attention.qkv.weight.shape == (32 + 2 * 16, 16)


def test_the_pathways_read_what_they_should() -> None:
    """The newest event moves all pathways, an older one than `short` only the longer ones; and a clicked one counts
    among positives only where the log says so."""
    part = replace(REPORT, context=replace(PATHWAYS, lifelong=0, feedback=True), user_buckets=0)
    assert part.reads_events == ("positive",)
    model, batch = build(part).eval(), batch_of(6)
    batch["positive"] = torch.tensor([[2, 1, 2, 1, 1, 1]])

    def context(**changed: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            read = model.reader.source(batch | changed, model.tokens)
        assert read.valid.tolist() == [[True] * 4 + [True, True, False, False]]
        return read.states[0, read.valid[0]]

    base = context()
    for place, moved in ((5, {1}), (2, {4}), (0, {5}), (1, set())):
        history = batch["history"].clone()
        history[0, place] = (history[0, place] + 1) % ITEMS
        differs = (context(history=history) - base).abs().amax(1) > 1e-6
        assert set(differs.nonzero().flatten().tolist()) == moved


def test_a_lifelong_history_is_clusters_of_its_items() -> None:
    model = build(REPORT)
    vectors = np.repeat(np.eye(5, 6, dtype=np.float32), 8, axis=0)
    model.reader.source.item_vectors = vectors
    # Items 0..7 are alike, 8..15 are, and so on: each kind is one cluster, for which its latest event speaks.
    history = torch.tensor([[16, 17, 0, 18, 1, 2, 3], [8, PAD, PAD, PAD, PAD, PAD, PAD]])
    assert model.reader.source._clusters(history).tolist() == [[18, 3], [8, PAD]]


@pytest.mark.parametrize("part", [V1, V2], ids=["v1", "v2"])
def test_a_catalogue_grows_without_training(part: Any) -> None:
    """Of old items the grown model says what it said; a new one with the codes of an old one is read as that one is."""
    model, batch = build(part), batch_of(4, 2)
    matrix = np.vstack([some_codes().matrix, some_codes().matrix[7:8]])
    vectors = np.random.default_rng(1).standard_normal((ITEMS, 6)).astype(np.float32)
    newer = grown(model, replace(some_codes(), matrix=matrix), item_vectors=np.vstack([vectors, vectors[7:8]]))
    assert isinstance(newer, ListGenerator)
    torch.testing.assert_close(logits(newer, batch), logits(model, batch), atol=1e-5, rtol=0)
    old, new = (batch | {"history": torch.tensor([[3, item], [item, PAD]])} for item in (7, ITEMS))
    torch.testing.assert_close(logits(newer, new), logits(model, old), atol=1e-5, rtol=0)
    assert len(model.tokens.item_tokens) == ITEMS + 1


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (replace(V1, session=0), "session is 0"),
        (replace(V1, experts=4, experts_per_token=5), "experts_per_token is 5"),
        (replace(V1, dropout=1.0), "dropout is 1.0"),
        (replace(V2, kv_heads=3), "kv_heads is 3"),
        (replace(V2, groups=4), "groups is 4"),
        (replace(V2, context=replace(PATHWAYS, members=0)), "members is 0"),
    ],
)
def test_impossible_settings_are_named(part: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(part)


def test_what_the_data_lacks_is_said() -> None:
    with pytest.raises(ConfigError, match="tokenizer"):
        V1.build(ModelInputs(10, ITEMS), seed=0)
    with pytest.raises(ConfigError, match="lifelong"):
        V2.build(ModelInputs(10, ITEMS, some_codes()), seed=0)


@pytest.mark.parametrize("part", [V1, V2], ids=["v1", "v2"])
def test_a_small_model_learns_a_planted_list(part: Any) -> None:
    """Each item of the list repeats one of the history: copies through attention that a broken decoder cannot learn."""
    torch.manual_seed(0)
    model = build(replace(part, dropout=0.0, session=2)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    codes = torch.from_numpy(some_codes().matrix)
    for step in range(120):
        batch = batch_of(*[2] * 32, seed=100 + step)
        batch["target_codes"] = codes[batch["history"].flip(1)]
        loss = SessionToken()(model(batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # Knowing the items but not the history gives log(40) / 4 = .92 per level.
    assert float(loss.detach()) < 0.6
