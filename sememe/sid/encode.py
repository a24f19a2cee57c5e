"""Codes for the catalogue that a tokenizer was fitted on."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from sememe.core.schema import Codes, FloatArray, Int32Array
from sememe.sid.fitted import FittedTokenizer


class Encoder(Protocol):
    """A fitted tokenizer: codes for vectors, each by itself."""

    def encode(self, vectors: FloatArray) -> Int32Array: ...


@runtime_checkable
class WholeEncoder(Protocol):
    """A fitted tokenizer whose promise is about all codes together, such as equal use of each; `encode` breaks it."""

    def assign(self, vectors: FloatArray) -> Int32Array: ...


@dataclass(frozen=True, eq=False)
class Settled:
    """Codes of a catalogue after its collisions were dealt with."""

    codes: Codes
    tokenizer: FittedTokenizer
    """What gives later items their codes: the tokenizer itself, or one that a collision rule made of it."""


class PlainRule(Protocol):
    """A collision rule that goes by the codes alone."""

    def resolve(self, matrix: Int32Array, sizes: tuple[int, ...]) -> Codes: ...


@runtime_checkable
class VectorRule(Protocol):
    """A collision rule that goes by the vectors, too."""

    def settle(self, matrix: Int32Array, *, tokenizer: FittedTokenizer, vectors: FloatArray, seed: int) -> Settled: ...


def encode_catalog(tokenizer: Encoder, vectors: FloatArray) -> Int32Array:
    """int32 (n, L) codes of all items: dealt out as a whole where the tokenizer does that, else one by one."""
    return tokenizer.assign(vectors) if isinstance(tokenizer, WholeEncoder) else tokenizer.encode(vectors)


def settle_catalog(
    rule: PlainRule | VectorRule, *, tokenizer: FittedTokenizer, vectors: FloatArray, seed: int
) -> Settled:
    """Codes of all items (n, dim), with collisions dealt with by `rule`.

    Raises what the rule raises: DataError where more items collide than can be told apart.
    """
    matrix = encode_catalog(tokenizer, vectors)
    if isinstance(rule, VectorRule):
        return rule.settle(matrix, tokenizer=tokenizer, vectors=vectors, seed=seed)
    return Settled(rule.resolve(matrix, tokenizer.codebook_sizes), tokenizer)
