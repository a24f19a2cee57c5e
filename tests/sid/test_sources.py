"""Networks over several sources: what each one sees, and how their errors count."""

import numpy as np
import torch

from sememe.nn.mlp import relu_mlp
from sememe.sid.sources import JoinedDecoder, JoinedEncoder, source_weights

X = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32))


def encoder(*widths: int) -> JoinedEncoder:
    return JoinedEncoder(widths, hidden=(7,), latent=4, rng=np.random.default_rng(1))


def test_each_source_has_its_own_network_and_all_are_projected() -> None:
    net = encoder(3, 2)
    first, second = net.sources
    by_hand = net.projection(torch.cat([first(X[:, :3]), second(X[:, 3:])], dim=1))
    assert torch.equal(net(X), by_hand) and by_hand.shape == (6, 4)
    # What one source says changes nothing in the other's network.
    changed = X.clone()
    changed[:, 3:] = 9
    assert torch.equal(first(changed[:, :3]), first(X[:, :3])) and not torch.equal(net(changed), net(X))


def test_a_single_source_is_the_plain_encoder() -> None:
    plain = relu_mlp((5, 7, 4), rng=np.random.default_rng(1))
    assert torch.equal(encoder(5)(X), plain(X))


def test_the_decoder_rebuilds_every_source_from_the_same_latent() -> None:
    net = JoinedDecoder((3, 2), hidden=(7,), latent=4, rng=np.random.default_rng(1))
    latents = encoder(3, 2)(X)
    assert torch.equal(net(latents), torch.cat([net.sources[0](latents), net.sources[1](latents)], dim=1))
    assert net(latents).shape == (6, 5)


def test_sources_count_alike_however_wide() -> None:
    # Mean width 3: the squares of the source of width 4 count 3/4, those of the source of width 2 count 3/2.
    assert source_weights((4, 2)).tolist() == [0.75] * 4 + [1.5] * 2
    assert source_weights((5,)).tolist() == [1.0] * 5
