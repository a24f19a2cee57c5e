"""OneRec's generator: an encoder-decoder whose decoder has a mixture of experts, over codes or over pathways.

OneRec version 1 (Kuaishou 2025, arXiv 2502.18965) writes a session: context `CodeTokens`, `session` items.  The
Technical Report (2025, arXiv 2506.13695) reads several time scales and writes one item: context `Pathways`, `session`
1.  Kept: a T5-like encoder-decoder, in whose decoder the network of each layer is a mixture of experts, two of them for
a token, balanced without a loss (`sememe.nn.experts`); START before each item; the same weights write every item of a
list.  Changed: an output layer for each level of codes, as in `EncDec`; only the decoder has experts (the report's
encoder has none either).

Shape legend: N rows, S context positions, D width of the model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from sememe.core.schema import ModelInputs
from sememe.core.seeding import derive_seed
from sememe.models.code_decoder import CodeDecoder, Memories
from sememe.models.contexts import CodeTokens, CodeTokensModule, Context, Pathways, PathwaysModule
from sememe.models.generator import ListGenerator, check_sizes, need_codes
from sememe.models.tokens import TokenTable
from sememe.nn.attention import RelativeBias
from sememe.nn.blocks import BlockShape, CrossMemory, DecoderBlock, EncoderBlock, Memory
from sememe.nn.dropout import Dropout
from sememe.nn.experts import ExpertFeedForward
from sememe.nn.norm import RmsNorm


@dataclass(frozen=True)
class OneRec:
    """The encoder-decoder of OneRec; the defaults are a small one."""

    reads_target_codes: ClassVar[bool] = True

    context: CodeTokens | Pathways = CodeTokens()
    session: int = 5
    """Items of a list that is learned; 1 writes one item at a time."""
    encoder_layers: int = 4
    decoder_layers: int = 4
    d_model: int = 128
    heads: int = 4
    head_dim: int = 32
    ff: int = 512
    """Hidden width of each network, each expert's too."""
    dropout: float = 0.1
    experts: int = 24
    """Networks of each decoder layer to choose from; 0: one that is always used."""
    experts_per_token: int = 2
    user_buckets: int = 2000
    """Tokens that user indices are hashed into; 0: no user token."""

    @property
    def reads_events(self) -> tuple[str, ...]:
        """What batches must hold of each event."""
        return self.context.reads_events

    def build(self, inputs: ModelInputs, *, seed: int) -> ListGenerator:
        """A model with fresh weights for the items of `inputs`, which must have codes; equal seeds, equal weights."""
        codes = need_codes(inputs, name="OneRec")
        sizes = dict.fromkeys(("session", "encoder_layers", "decoder_layers", "d_model", "heads", "head_dim", "ff"), 1)
        check_sizes(self, least={**sizes, "experts": 0, "user_buckets": 0})
        shape = BlockShape(self.d_model, self.heads, self.head_dim, self.ff, self.dropout)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "onerec"))
            tokens = TokenTable(codes, d_model=self.d_model, user_buckets=self.user_buckets)
            reader = EncoderReader(self, shape, self.context.build(shape, inputs))
            blocks = [DecoderBlock(shape, network=self._network(shape)) for _ in range(self.decoder_layers)]
            decoder = CodeDecoder(blocks, shape, codebook_sizes=codes.codebook_sizes)
            return ListGenerator(tokens, reader, decoder, session=self.session)

    def _network(self, shape: BlockShape) -> nn.Module | None:
        if not self.experts:
            return None
        return ExpertFeedForward(shape, experts=self.experts, per_token=self.experts_per_token)


class EncoderReader(nn.Module):
    """An encoder over a context, and keys and values of its own for each decoder layer."""

    def __init__(self, config: OneRec, shape: BlockShape, source: CodeTokensModule | PathwaysModule) -> None:
        super().__init__()
        self.source = source
        self.blocks = nn.ModuleList(EncoderBlock(shape) for _ in range(config.encoder_layers))
        self.norm = RmsNorm(shape.d_model)
        self.dropout = Dropout(shape.dropout)
        self.cross = CrossMemory(shape, layers=config.decoder_layers)
        self.bias = None
        if source.by_distance:
            self.bias = RelativeBias(shape.heads, bidirectional=True, buckets=32, max_distance=128)
            nn.init.normal_(self.bias.weight, std=shape.d_model**-0.5)

    def context(self, batch: Mapping[str, Tensor], tokens: TokenTable) -> Context:
        """(N, S, D) the encoded context."""
        read = cast(Context, self.source(batch, tokens))
        bias = read.bias()
        if self.bias is not None:
            distances = self.bias(read.states.shape[1])
            bias = distances if bias is None else distances + bias
        states = self.dropout(read.states)
        for block in self.blocks:
            states = block(states, bias)
        return Context(self.dropout(self.norm(states)), read.valid)

    def memories(self, context: Context) -> Memories:
        """Keys and values of each layer."""
        parts, padding = self.cross(context.states), context.bias()
        return tuple(Memory(*pair, padding) for pair in zip(parts[::2], parts[1::2], strict=True))
