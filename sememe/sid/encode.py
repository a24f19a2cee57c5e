"""Codes for the catalogue that a tokenizer was fitted on."""

from typing import Protocol, runtime_checkable

from sememe.core.schema import FloatArray, Int32Array


class Encoder(Protocol):
    """A fitted tokenizer: codes for vectors, each by itself."""

    def encode(self, vectors: FloatArray) -> Int32Array: ...


@runtime_checkable
class WholeEncoder(Protocol):
    """A fitted tokenizer whose promise is about all codes together, such as equal use of each; `encode` breaks it."""

    def assign(self, vectors: FloatArray) -> Int32Array: ...


def encode_catalog(tokenizer: Encoder, vectors: FloatArray) -> Int32Array:
    """int32 (n, L) codes of all items: dealt out as a whole where the tokenizer does that, else one by one."""
    return tokenizer.assign(vectors) if isinstance(tokenizer, WholeEncoder) else tokenizer.encode(vectors)
