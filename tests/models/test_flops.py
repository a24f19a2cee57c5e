"""Counted operations against the sums on paper."""

import numpy as np
import torch
from tiny_encdec import ITEMS, SIZES, batch_of, some_codes

from sememe.core.schema import ModelInputs
from sememe.models.contexts import Pathways
from sememe.models.flops import count_flops
from sememe.models.lazy import LazyDecoder
from sememe.models.onerec import OneRec

SHAPE = {"d_model": 16, "heads": 4, "head_dim": 8, "ff": 24, "user_buckets": 0, "experts": 0}
D, INNER, FF, HEADS_OUT = 16, 32, 24, 16 * sum(SIZES)
INPUTS = ModelInputs(num_users=10, num_items=ITEMS, codes=some_codes(), item_vectors=np.eye(ITEMS, dtype=np.float32))


def test_an_encoder_decoder_pays_for_the_keys_of_each_layer() -> None:
    model = OneRec(session=1, encoder_layers=2, decoder_layers=3, **SHAPE).build(INPUTS, seed=0)
    flops = count_flops(model, batch_of(5))
    read, written = 5 * 4, 4
    encoder = 2 * (read * (4 * D * INNER + 2 * D * FF) + 2 * read * read * INNER)
    keys = 3 * read * 2 * D * INNER
    layer = written * (4 * D * INNER + 2 * D * INNER + 2 * D * FF) + 2 * written * (written + read) * INNER
    assert flops.context == 2 * encoder
    assert flops.decoder == 2 * (keys + 3 * layer + HEADS_OUT)
    assert flops.total == flops.context + flops.decoder


def test_a_lazy_decoder_pays_for_them_once() -> None:
    context = Pathways(short=6, positive=0, lifelong=0)
    model = LazyDecoder(context=context, layers=3, kv_heads=1, **SHAPE).build(INPUTS, seed=0)
    flops = count_flops(model, batch_of(5))
    read, written, kv = 1 + 5, 4, 8
    networks = (D * D + D * D) + 5 * (4 * D * D + D * D)
    layer = written * (D * (INNER + 2 * kv) + INNER * D + 2 * D * INNER + 2 * D * FF)
    layer += 2 * written * (written + read) * INNER
    assert flops.context == 2 * networks
    assert flops.decoder == 2 * (read * D * kv + 3 * layer + HEADS_OUT)


def test_counting_leaves_the_model_as_it_was_and_adds_up_over_rows() -> None:
    mixed = OneRec(session=1, encoder_layers=1, decoder_layers=1, **SHAPE | {"experts": 3})
    model = mixed.build(INPUTS, seed=0).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one, two = batch_of(5), batch_of(5, 5)
    assert count_flops(model, two).total == 2 * count_flops(model, one).total
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
