"""Controls: codes from random planes, and codes that mean nothing.  What a learned tokenizer must beat.

Source: TIGER, arXiv 2305.05065, its comparison of ID sources: LSH codes (the signs of random projections) and random
codes, at the same number and size of codes.
Kept: the bits of 8 random planes make one code of 256; random codes know nothing of the content.
Changed: the planes of LSH go through the catalogue's mean, since text vectors lie on one side of most planes through
the origin and would use a handful of codes; random codes are a hash of the vector's bytes instead of a draw per item,
so that equal vectors get equal codes and an item keeps its codes when others come.

Shape legend: n vectors, dim their width, L levels, B bits per code, K codes per level.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sememe.core.errors import ConfigError
from sememe.core.schema import FloatArray, Int32Array
from sememe.core.seeding import derive_seed, generator
from sememe.sid.kmeans import distinct_rows
from sememe.sid.rqkmeans import check_sizes, check_vectors


@dataclass(frozen=True)
class RandomPlanes:
    """LSH: on which side of random planes a vector lies, `bits` planes per code."""

    levels: int = 3
    bits: int = 8
    """Of every level."""

    def fit(self, vectors: FloatArray, *, seed: int) -> "FittedRandomPlanes":
        """Draw planes for float32 (n, dim); only the vectors' mean and how to undo the signs are learnt."""
        bits: Any = self.bits
        if self.levels < 1 or not isinstance(bits, int | np.integer) or not 1 <= bits <= 16:
            raise ConfigError(
                f"RandomPlanes got levels={self.levels} and bits={self.bits}",
                fix="give levels >= 1 and 1 to 16 bits, which make 2 to 65,536 codes on every level",
            )
        check_vectors(vectors)
        distinct = distinct_rows(vectors)
        rows, weights = distinct.rows.astype(np.float64), distinct.counts / distinct.counts.sum()
        mean = weights @ rows
        rng = generator(seed, "sid", "planes")
        planes = rng.standard_normal((vectors.shape[1], self.levels * self.bits)).astype(np.float32)
        # The signs themselves are fitted to the vectors by least squares, to have something that codes stand for.
        signs = 2.0 * _sides(distinct.rows, mean.astype(np.float32), planes) - 1
        root = np.sqrt(weights)[:, None]
        decoder = np.linalg.lstsq(root * signs, root * (rows - mean), rcond=None)[0]
        return FittedRandomPlanes(mean.astype(np.float32), planes, decoder.astype(np.float32), self.bits)


@dataclass(frozen=True, eq=False)
class FittedRandomPlanes:
    """Turns vectors into codes and codes into the vectors they stand for."""

    mean: FloatArray
    """(dim,)"""
    planes: FloatArray
    """(dim, L * B) their normals"""
    decoder: FloatArray
    """(L * B, dim) what each sign adds"""
    bits: int

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """(L,)"""
        return (1 << self.bits,) * (int(self.planes.shape[1]) // self.bits)

    def encode(self, vectors: FloatArray) -> Int32Array:
        """int32 (n, L); equal vectors get equal codes wherever they stand in the input."""
        check_vectors(vectors, dim=len(self.mean))
        distinct = distinct_rows(vectors)
        sides = _sides(distinct.rows, self.mean, self.planes).reshape(len(distinct.rows), -1, self.bits)
        return (sides @ self._places()).astype(np.int32)[distinct.inverse]

    def reconstruct(self, codes: Int32Array) -> FloatArray:
        """float32 (n, dim): what the signs say in the least-squares sense."""
        sides = (codes[:, :, None] & self._places()) > 0
        return np.asarray((2 * sides.reshape(len(codes), -1) - 1) @ self.decoder + self.mean, dtype=np.float32)

    def _places(self) -> npt.NDArray[np.int64]:
        return 1 << np.arange(self.bits)[::-1]

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """Arrays from which `from_state` makes an equal tokenizer."""
        arrays = {"mean": self.mean, "planes": self.planes, "decoder": self.decoder}
        return {**arrays, "bits": np.array([self.bits], np.int64)}

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray[np.generic]]) -> "FittedRandomPlanes":
        """The tokenizer that `state` described."""
        mean, planes, decoder = (np.asarray(state[name], np.float32) for name in ("mean", "planes", "decoder"))
        return cls(mean, planes, decoder, int(state["bits"][0]))


def _sides(rows: FloatArray, mean: FloatArray, planes: FloatArray) -> npt.NDArray[np.bool_]:
    above: npt.NDArray[np.bool_] = (rows - mean) @ planes > 0
    return above


@dataclass(frozen=True)
class RandomCodes:
    """Codes that tell nothing of the content: a hash of the seed and the vector's bytes."""

    levels: int = 3
    codebook_size: int | tuple[int, ...] = 256
    """One size for all levels, or one per level."""

    def fit(self, vectors: FloatArray, *, seed: int) -> "FittedRandomCodes":
        """Nothing is learnt of float32 (n, dim) but the mean, which is what every code stands for."""
        sizes = check_sizes(self.levels, self.codebook_size)
        check_vectors(vectors)
        distinct = distinct_rows(vectors)
        mean = distinct.counts / distinct.counts.sum() @ distinct.rows.astype(np.float64)
        return FittedRandomCodes(mean.astype(np.float32), sizes, derive_seed(seed, "sid", "random"))


@dataclass(frozen=True, eq=False)
class FittedRandomCodes:
    """Turns vectors into codes."""

    mean: FloatArray
    """(dim,)"""
    codebook_sizes: tuple[int, ...]
    """(L,)"""
    key: int
    """Of the hash, below 2^63"""

    def encode(self, vectors: FloatArray) -> Int32Array:
        """int32 (n, L); equal vectors get equal codes wherever they stand in the input."""
        check_vectors(vectors, dim=len(self.mean))
        distinct = distinct_rows(vectors)
        return np.array([self._codes(row.tobytes()) for row in distinct.rows], np.int32)[distinct.inverse]

    def _codes(self, content: bytes) -> list[int]:
        # 64 bits per level: the remainder favours no code by more than one in 2^40.
        return [
            int.from_bytes(
                hashlib.blake2b(
                    content, digest_size=8, key=self.key.to_bytes(8, "big"), salt=level.to_bytes(8, "big")
                ).digest(),
                "big",
            )
            % size
            for level, size in enumerate(self.codebook_sizes)
        ]

    def reconstruct(self, codes: Int32Array) -> FloatArray:
        """float32 (n, dim): the mean, whatever the codes."""
        return np.tile(self.mean, (len(codes), 1))

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """Arrays from which `from_state` makes an equal tokenizer."""
        sizes = np.array(self.codebook_sizes, np.int64)
        return {"mean": self.mean, "sizes": sizes, "key": np.array([self.key], np.int64)}

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray[np.generic]]) -> "FittedRandomCodes":
        """The tokenizer that `state` described."""
        sizes = tuple(int(size) for size in state["sizes"])
        return cls(np.asarray(state["mean"], np.float32), sizes, int(state["key"][0]))
