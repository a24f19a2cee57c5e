"""OneRec-V2's generator (Kuaishou 2025, arXiv 2508.20900): a decoder that reads a context which nothing encodes.

Kept: the pathways of the Technical Report as context, one projection of it to a few groups of keys that neighbouring
layers share, and no projection of keys or values in the layers (`sememe.nn.lazy`); fewer heads of keys than of queries;
one item at a time, the loss on its codes alone.  So almost all that is computed is computed for the codes that are
written.  Changed: no shared expert beside the mixture's; what else differs stands in `sememe.nn.lazy` and
`sememe.models.contexts`.

Shape legend: N rows, S context positions, D width of the model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from sememe.core.errors import ConfigError
from sememe.core.schema import ModelInputs
from sememe.core.seeding import derive_seed
from sememe.models.code_decoder import CodeDecoder, Memories
from sememe.models.contexts import CodeTokens, CodeTokensModule, Context, Pathways, PathwaysModule
from sememe.models.generator import ListGenerator, check_sizes, need_codes
from sememe.models.tokens import TokenTable
from sememe.nn.blocks import BlockShape
from sememe.nn.dropout import Dropout
from sememe.nn.experts import ExpertFeedForward
from sememe.nn.lazy import KeyValueGroups, LazyBlock


@dataclass(frozen=True)
class LazyDecoder:
    """The lazy decoder of OneRec-V2; the defaults are a small one."""

    reads_target_codes: ClassVar[bool] = True

    context: Pathways | CodeTokens = Pathways()
    session: int = 1
    """Items of a list that is learned; version 2 learns one."""
    layers: int = 8
    d_model: int = 128
    heads: int = 4
    head_dim: int = 32
    kv_heads: int = 1
    """Heads of keys and values, which divide `heads` (G_kv)."""
    groups: int = 1
    """Groups of keys and values that the layers share (L_kv)."""
    own_values: bool = False
    """Whether values have a projection of their own (S_kv = 2), else they are the keys."""
    ff: int = 512
    dropout: float = 0.1
    experts: int = 0
    """Networks of each layer to choose from; 0: one that is always used."""
    experts_per_token: int = 2
    user_buckets: int = 2000
    """Tokens that user indices are hashed into; 0: no user token."""

    @property
    def reads_events(self) -> tuple[str, ...]:
        """What batches must hold of each event."""
        return self.context.reads_events

    def build(self, inputs: ModelInputs, *, seed: int) -> ListGenerator:
        """A model with fresh weights for the items of `inputs`, which must have codes; equal seeds, equal weights."""
        codes = need_codes(inputs, name="LazyDecoder")
        self._check()
        shape = BlockShape(self.d_model, self.heads, self.head_dim, self.ff, self.dropout, self.kv_heads)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "lazy decoder"))
            tokens = TokenTable(codes, d_model=self.d_model, user_buckets=self.user_buckets)
            # What reads the context is no part of the decoder, and has all its heads.
            full = BlockShape(self.d_model, self.heads, self.head_dim, self.ff, self.dropout)
            reader = LazyReader(self, shape, self.context.build(full, inputs))
            blocks = [LazyBlock(shape, network=self._network(shape)) for _ in range(self.layers)]
            decoder = CodeDecoder(blocks, shape, codebook_sizes=codes.codebook_sizes)
            return ListGenerator(tokens, reader, decoder, session=self.session)

    def _check(self) -> None:
        sizes = ("session", "layers", "d_model", "heads", "head_dim", "kv_heads", "groups", "ff")
        check_sizes(self, least={**dict.fromkeys(sizes, 1), "experts": 0, "user_buckets": 0})
        if self.heads % self.kv_heads:
            raise ConfigError(
                f"kv_heads is {self.kv_heads}, which does not divide {self.heads} heads", fix="choose a divisor, e.g. 1"
            )
        if self.groups > self.layers:
            raise ConfigError(
                f"groups is {self.groups}, and {self.layers} layers cannot share so many",
                fix="set groups to the number of layers or less",
            )

    def _network(self, shape: BlockShape) -> nn.Module | None:
        if not self.experts:
            return None
        return ExpertFeedForward(shape, experts=self.experts, per_token=self.experts_per_token)


class LazyReader(nn.Module):
    """A context, and the groups of keys and values that it becomes."""

    def __init__(self, config: LazyDecoder, shape: BlockShape, source: PathwaysModule | CodeTokensModule) -> None:
        super().__init__()
        self.source = source
        self.dropout = Dropout(shape.dropout)
        self.groups = KeyValueGroups(shape, layers=config.layers, groups=config.groups, own_values=config.own_values)

    def context(self, batch: Mapping[str, Tensor], tokens: TokenTable) -> Context:
        """(N, S, D) the context as it is."""
        return cast(Context, self.source(batch, tokens))

    def memories(self, context: Context) -> Memories:
        """Keys and values of each layer; layers of a group share them."""
        return cast(Memories, self.groups(self.dropout(context.states), context.bias()))
