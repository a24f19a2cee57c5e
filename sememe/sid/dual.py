"""Two semantic IDs per item that begin alike: one ends in what the item says, the other in who takes it.

Source: GenSAR, arXiv 2504.05730, RecSys 2025, section 3.1 (joint tokenizer), and its public code.
Kept: an encoder per branch; shared levels quantise both latents side by side; what they leave over is cut in two, and
each half goes through the levels of its own branch; two decoders; the sum of both reconstruction errors and of the
codebook and commitment terms of all three quantisers, beta .25; collisions are settled for each ID by itself.
Changed:
- the encoders are 512-256-128 wide, TIGER's, where GenSAR's (as the RQ-VAE of MiniOneRec) are 2048-1024-512-256-128-64:
  `hidden` takes those;
- errors are scaled to the width of the collaborative vectors, so that the wide semantic ones do not drown them;
- training, standardised inputs, start and revival of codes are those of our RQ-VAE, in minutes where the paper takes
  500 epochs and more; with the semantic vectors zeroed, the collaborative ID is that of the plain RQ-VAE;
- any collision rule will do; `ReassignLast` is nearest to the paper's Sinkhorn on the last level.

Shape legend: n vectors, dim their width, S shared levels, A and B levels of the semantic and the collaborative branch,
latent the width of one branch's bottleneck.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import Codes, FloatArray, Int32Array
from sememe.core.seeding import generator
from sememe.nn.quantize import ResidualCodebooks, straight_through
from sememe.sid.codebook_training import (
    CodebookTraining,
    Scale,
    in_blocks,
    revive_dead_codes,
    shuffled,
    start_codebooks,
    train_codebooks,
)
from sememe.sid.context import CodeContext
from sememe.sid.dual_net import BRANCHES, Branch, DualNet, DualShape
from sememe.sid.encode import PlainRule, Settled, VectorRule, settle_catalog
from sememe.sid.kmeans import distinct_rows
from sememe.sid.rqkmeans import check_room, check_sizes, check_vectors, quantize_residuals


@dataclass(frozen=True)
class DualRqVae:
    """Fit GenSAR's tokenizer on the CPU."""

    shared: tuple[int, ...] = (256, 256)
    """Codes of each level that both IDs begin with."""
    semantic: tuple[int, ...] = (256, 256)
    """Codes of each further level of the semantic ID."""
    collaborative: tuple[int, ...] = (256, 256)
    """Codes of each further level of the collaborative ID."""
    semantic_parts: int = 1
    """How many of the first parts of the joined vectors are semantic; all after them are collaborative."""
    hidden: tuple[int, ...] = (512, 256, 128)
    latent: int = 32
    """Width of each branch's bottleneck."""
    beta: float = 0.25
    """Weight of the commitment terms."""
    training: CodebookTraining = CodebookTraining()

    def fit_in(self, vectors: FloatArray, *, context: CodeContext, seed: int) -> "FittedDual":
        """Fit on float32 (n, dim), whose parts are known; the order of the rows does not matter, the log is not read.

        Raises:
            ConfigError: settings that cannot be, or codebooks that are larger than the catalogue.
            DataError: vectors or a context that cannot be used, or a context without parts for both branches.
        """
        self._check()
        check_vectors(vectors)
        context.check(vectors)
        check_room((*self.shared, *self.semantic, *self.collaborative), items=len(vectors))
        widths = self._branch_widths(context.widths)
        shape = DualShape(widths, self.hidden, self.latent, self.shared, self.semantic, self.collaborative)
        net = DualNet(shape, seed=seed)
        rows = distinct_rows(vectors).rows
        scale = Scale.of(rows)
        learner = _Learner(net, scale.apply(rows), self, seed)
        steps = -(-len(rows) // self.training.batch_size)
        train_codebooks(learner, net.parameters(), self.training, steps_per_epoch=steps)
        return FittedDual(net.eval(), scale)

    def _branch_widths(self, widths: tuple[int, ...]) -> tuple[int, int]:
        if not 1 <= self.semantic_parts < len(widths):
            raise DataError(
                f"the item vectors are joined from parts of widths {widths}; {self.semantic_parts} of them are to be "
                "semantic and the rest collaborative",
                fix="join vectors of both kinds: Fuse(parts=(TextEmbedder(), CooccurrenceSvd())), without whitening",
            )
        return sum(widths[: self.semantic_parts]), sum(widths[self.semantic_parts :])

    def _check(self) -> None:
        self.training.check(owner="DualRqVae.training")
        for sizes in (self.shared, self.semantic, self.collaborative):
            check_sizes(len(sizes), sizes)
        if self.latent < 1:
            raise ConfigError(f"DualRqVae got latent={self.latent}", fix="give at least 1")


@dataclass(frozen=True, eq=False)
class FittedDual:
    """Turns vectors into shared, semantic and collaborative codes, in this order, and codes into vectors."""

    rebuilds_prefixes: ClassVar[bool] = True
    """`reconstruct` takes the first codes alone, too."""

    net: DualNet
    scale: Scale

    @property
    def shared_levels(self) -> int:
        """S"""
        return len(self.net.shape.shared)

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """(S + A + B,)"""
        return (*self.net.shape.shared, *self.net.shape.semantic, *self.net.shape.collaborative)

    def branch(self, branch: Branch) -> "FittedBranch":
        """The tokenizer of one of the two IDs."""
        return FittedBranch(self, branch)

    def encode(self, vectors: FloatArray) -> Int32Array:
        """int32 (n, S + A + B); equal vectors get equal codes wherever they stand in the input."""
        check_vectors(vectors, dim=len(self.scale.mean))
        distinct = distinct_rows(vectors)
        latents = in_blocks(self.net.encode, self.scale.apply(distinct.rows)).numpy()
        shared = quantize_residuals(latents, _books(self.net.shared))
        rest = latents - self.net.shared.sum_of(_index(shared)).numpy()
        halves = zip(self.net.own(), np.split(rest, 2, axis=1), strict=True)
        own = [quantize_residuals(half, _books(codebooks)) for codebooks, half in halves]
        return np.concatenate([shared, *own], axis=1)[distinct.inverse]

    def reconstruct(self, codes: Int32Array) -> FloatArray:
        """float32 (n, dim): the decoders' answer to codes (n, l), l <= S + A + B, in the units of the vectors."""
        ends = np.cumsum([len(self.net.shape.shared), len(self.net.shape.semantic)])
        shared, *own = np.split(codes, ends, axis=1)
        return self.rebuild(shared, dict(zip(BRANCHES, own, strict=True)))

    def rebuild(self, shared: Int32Array, own: Mapping[Branch, Int32Array]) -> FloatArray:
        """float32 (n, dim) of the first shared codes (n, <= S) and what is known of each branch's own first codes."""
        nothing = np.zeros((len(shared), 0), np.int32)
        halves = tuple(_index(own.get(branch, nothing)) for branch in BRANCHES)
        return self.scale.undo(in_blocks(self.net.decode, self.net.sum_of(_index(shared), halves)))

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """Arrays from which `from_state` makes an equal tokenizer."""
        weights = {f"net.{name}": value.numpy() for name, value in self.net.state_dict().items()}
        shape = {f"shape.{name}": np.array(value, np.int64, ndmin=1) for name, value in asdict(self.net.shape).items()}
        return {"mean": self.scale.mean, "spread": self.scale.spread, **shape, **weights}

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray[np.generic]]) -> "FittedDual":
        """The tokenizer that `state` described."""
        numbers = {name.removeprefix("shape."): array for name, array in state.items() if name.startswith("shape.")}
        latent = int(numbers.pop("latent")[0])
        shape = DualShape(latent=latent, **{name: tuple(int(x) for x in array) for name, array in numbers.items()})
        # The weights drawn here are replaced at once.
        net = DualNet(shape, seed=0)
        net.load_state_dict(
            {
                name.removeprefix("net."): torch.from_numpy(np.array(array, dtype=np.float32))
                for name, array in state.items()
                if name.startswith("net.")
            }
        )
        mean, spread = (np.asarray(state[name], dtype=np.float32) for name in ("mean", "spread"))
        return cls(net.eval(), Scale(mean, spread))


@dataclass(frozen=True, eq=False)
class FittedBranch:
    """One of the two IDs of a dual tokenizer: the shared codes, then those of its branch."""

    rebuilds_prefixes: ClassVar[bool] = True
    """`reconstruct` takes the first codes alone, too."""

    dual: FittedDual
    branch: Branch

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """(S + A,) or (S + B,)"""
        shape = self.dual.net.shape
        return (*shape.shared, *(shape.semantic if self.branch == "semantic" else shape.collaborative))

    def encode(self, vectors: FloatArray) -> Int32Array:
        """int32 (n, S + A) or (n, S + B); equal vectors get equal codes wherever they stand in the input."""
        codes, shared = self.dual.encode(vectors), self.dual.shared_levels
        own = len(self.codebook_sizes) - shared
        suffix = codes[:, shared : shared + own] if self.branch == "semantic" else codes[:, -own:]
        return np.concatenate([codes[:, :shared], suffix], axis=1)

    def reconstruct(self, codes: Int32Array) -> FloatArray:
        """float32 (n, dim): what codes (n, l) stand for; of the other branch, what the shared ones say."""
        shared = self.dual.shared_levels
        return self.dual.rebuild(codes[:, :shared], {self.branch: codes[:, shared:]})

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """Arrays from which `from_state` makes an equal tokenizer."""
        return {**self.dual.state(), "branch": np.frombuffer(self.branch.encode(), np.uint8)}

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray[np.generic]]) -> "FittedBranch":
        """The tokenizer that `state` described."""
        name = state["branch"].tobytes().decode()
        return cls(FittedDual.from_state(state), BRANCHES[BRANCHES.index(name)])


@dataclass(frozen=True, eq=False)
class DualCodes:
    """Both IDs of a catalogue; each is a semantic ID of its own, with a trie of its own."""

    semantic: Settled
    collaborative: Settled
    shared_levels: int
    """How many first codes are equal in both."""


def dual_codes(fitted: FittedDual, vectors: FloatArray, *, rule: PlainRule | VectorRule, seed: int) -> DualCodes:
    """Both IDs of all items (n, dim), the collisions of each settled by `rule`.

    Raises:
        ConfigError: the rule changes codes that the two IDs share.
        DataError: the rule cannot tell the items apart.
    """
    semantic, collaborative = (
        settle_catalog(rule, tokenizer=fitted.branch(branch), vectors=vectors, seed=seed) for branch in BRANCHES
    )
    depth = fitted.shared_levels
    if not np.array_equal(_first(semantic.codes, depth), _first(collaborative.codes, depth)):
        raise ConfigError(
            f"the collision rule {type(rule).__name__} changes codes that both IDs begin with",
            fix="use a rule that changes last codes or adds levels",
        )
    return DualCodes(semantic, collaborative, depth)


def _first(codes: Codes, depth: int) -> Int32Array:
    return codes.matrix[:, :depth]


def _index(codes: Int32Array) -> Tensor:
    return torch.from_numpy(codes.astype(np.int64))


def _books(codebooks: ResidualCodebooks) -> list[FloatArray]:
    return [book.detach().numpy() for book in codebooks.books()]


@dataclass(frozen=True, eq=False)
class _Learner:
    """The network in training."""

    net: DualNet
    inputs: Tensor
    """(m, dim) the distinct vectors, standardised."""
    config: DualRqVae
    seed: int

    def batches(self, epoch: int) -> Iterator[Tensor]:
        rng = generator(self.seed, "sid", "rqvae", "order", epoch)
        for rows in shuffled(len(self.inputs), size=self.config.training.batch_size, rng=rng):
            yield self.inputs[rows]

    def warm_loss(self, batch: Tensor) -> Tensor:
        return self.net.error(batch, self.net.decode(self.net.encode(batch))).mean()

    def start(self) -> None:
        rest = start_codebooks(self.net.shared, self._latents().numpy(), seed=self.seed)
        for place, (codebooks, half) in enumerate(zip(self.net.own(), np.split(rest, 2, axis=1), strict=True)):
            # The collaborative levels draw as the further levels of a plain RQ-VAE would.
            first = len(self.config.shared) + (1 - place) * len(self.config.collaborative)
            start_codebooks(codebooks, np.ascontiguousarray(half), seed=self.seed, first_level=first)

    def loss(self, batch: Tensor) -> Tensor:
        z = self.net.encode(batch)
        quantized = self.net.quantize(z)
        x_hat = self.net.decode(straight_through(z, quantized.total()))
        loss = self.net.loss(batch, x_hat, quantized, beta=self.config.beta)
        self.net.shared.note(quantized.shared)
        for codebooks, own in zip(self.net.own(), quantized.own, strict=True):
            codebooks.note(own)
        return loss

    def end_epoch(self, *, revive: bool) -> None:
        if revive:
            latents = self._latents()
            with torch.no_grad():
                # Before the shared codes move: residuals go with the codes that the epoch used.
                halves = torch.chunk(self.net.shared(latents).rest, 2, dim=1)
            revive_dead_codes(self.net.shared, latents)
            for codebooks, half in zip(self.net.own(), halves, strict=True):
                revive_dead_codes(codebooks, half)
        for codebooks in (self.net.shared, *self.net.own()):
            codebooks.forget()

    def _latents(self) -> Tensor:
        return in_blocks(self.net.encode, self.inputs)
