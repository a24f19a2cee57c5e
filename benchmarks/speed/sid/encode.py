"""Codes for a million vectors, and for more than fit in memory: ours against faiss's residual quantiser, one thread.

Both sides get the same vectors and our codebooks, and faiss searches greedily (a beam of 1), so that both do the same
work: three levels of 256 codes.  Agreement is the share of codes per level that equal those of a plain float64 search
on a sample.  Times are processor seconds of this process; sides are interleaved, and the median of the repeats counts.
With --stream N a file of N vectors is written and coded in a process of its own, whose peak of memory is reported.

faiss is no dependency of Sememe; without it its side is left out, and the output says so:

    pip install faiss-cpu==1.15.1
    python -m benchmarks.speed.sid.encode --rows 20000 --repeats 1       seconds
    python -m benchmarks.speed.sid.encode --stream 10000000              what is committed; needs 16 GB of disk
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import polars as pl

from benchmarks.header import header, write_output
from benchmarks.speed.sid.balanced import make_vectors
from sememe.core.schema import FloatArray, Int32Array
from sememe.sid.rqkmeans import FittedResidualKMeans, ResidualKMeans
from sememe.sid.stream import VectorFile, encode_file, read_codes_file

DIM, LEVELS, SIZE = 384, 3, 256
TARGETS = {"seconds": 10.0, "agreement": 0.98, "stream_gib": 6.0}
"""At a million vectors, and at ten million from disk."""
FITTED_ON = 50_000
COMPARED = 20_000
WRITTEN_AT_ONCE = 200_000

Encode = Callable[[FloatArray], Int32Array]


def main() -> None:
    """Measure every side on the same vectors and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--stream", type=int, default=0)
    parser.add_argument("--streaming", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    if options.streaming:
        stream_in_this_process(options.streaming)
        return
    peer = find_spec("faiss") is not None
    result: dict[str, Any] = {"what": __doc__.split("\n", 1)[0] if __doc__ else ""}
    result |= header("numpy", "polars", *(("faiss-cpu",) if peer else ()))
    vectors = make_vectors(options.rows, DIM, rng=np.random.default_rng(0))
    tokenizer = ResidualKMeans(levels=LEVELS, codebook_size=SIZE, iterations=5).fit(vectors[:FITTED_ON], seed=0)
    sides: dict[str, Encode] = {"sememe": tokenizer.encode}
    if peer:
        sides["faiss"] = faiss_encoder(tokenizer)
    result["world"] = {"vectors": options.rows, "dim": DIM, "levels": LEVELS, "codes": SIZE}
    result["targets"] = TARGETS
    result["sides"] = compare(sides, vectors, plain_codes(vectors[:COMPARED], tokenizer), repeats=options.repeats)
    result["peer"] = "measured" if peer else "left out: faiss-cpu is not installed"
    del vectors
    if options.stream:
        result["stream"] = stream(options.stream, tokenizer)
    write_output(options.out, result)
    print(json.dumps({name: result[name] for name in ("sides", "peer", "stream") if name in result}, indent=2))


def faiss_encoder(tokenizer: FittedResidualKMeans) -> Encode:
    """faiss with our codebooks."""
    import faiss  # type: ignore[import-not-found]

    faiss.omp_set_num_threads(1)
    bits = SIZE.bit_length() - 1
    quantizer = faiss.ResidualQuantizer(DIM, LEVELS, bits)
    quantizer.max_beam_size = 1
    faiss.copy_array_to_vector(np.concatenate(list(tokenizer.codebooks)).ravel(), quantizer.codebooks)
    quantizer.is_trained = True

    def encode(vectors: FloatArray) -> Int32Array:
        packed = quantizer.compute_codes(vectors)
        assert bits == 8 and packed.shape[1] == LEVELS, "a byte per code"
        return np.asarray(packed, np.int32)

    return encode


def plain_codes(vectors: FloatArray, tokenizer: FittedResidualKMeans) -> Int32Array:
    """(n, L) by all distances in float64."""
    residual = vectors.astype(np.float64)
    codes = []
    for codebook in tokenizer.codebooks:
        book = codebook.astype(np.float64)
        squared = np.square(residual).sum(1)[:, None] - 2 * residual @ book.T + np.square(book).sum(1)
        codes.append(squared.argmin(1))
        residual = residual - book[codes[-1]]
    return np.stack(codes, 1).astype(np.int32)


def compare(
    sides: dict[str, Encode], vectors: FloatArray, plain: Int32Array, *, repeats: int
) -> dict[str, dict[str, Any]]:
    """Median processor seconds of each side, and per level the share of codes that the plain search gives too."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    codes: dict[str, Int32Array] = {}
    for _ in range(repeats):
        for name, encode in sides.items():
            start = time.process_time()
            codes[name] = encode(vectors)
            seconds[name].append(time.process_time() - start)
    return {
        name: {
            "seconds": round(statistics.median(seconds[name]), 3),
            "all_seconds": [round(value, 3) for value in seconds[name]],
            "agreement": [round(float(share), 5) for share in (found[: len(plain)] == plain).mean(0)],
        }
        for name, found in codes.items()
    }


def stream(rows: int, tokenizer: FittedResidualKMeans) -> dict[str, Any]:
    """Write a file of `rows` vectors and code it from disk in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "vectors"
        source.mkdir()
        rng = np.random.default_rng(1)
        for first in range(0, rows, WRITTEN_AT_ONCE):
            block = make_vectors(min(WRITTEN_AT_ONCE, rows - first), DIM, rng=rng)
            ids = pl.Series("item_id", np.arange(first, first + len(block)))
            frame = pl.DataFrame([ids, pl.Series("vector", block, dtype=pl.Array(pl.Float32, DIM))])
            frame.write_parquet(source / f"{first:012d}.parquet", compression="uncompressed")
        np.savez(Path(folder) / "codebooks.npz", *tokenizer.codebooks)
        command = [sys.executable, "-m", "benchmarks.speed.sid.encode", "--streaming", folder]
        answer = subprocess.run(command, check=True, capture_output=True, text=True)
        found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return found


def stream_in_this_process(folder: Path) -> None:
    """Code what `stream` wrote, and print what it took."""
    with np.load(folder / "codebooks.npz") as arrays:
        tokenizer = FittedResidualKMeans(tuple(arrays[f"arr_{level}"] for level in range(LEVELS)))
    start, processor = time.monotonic(), time.process_time()
    path = encode_file(tokenizer, VectorFile(folder / "vectors"), folder / "codes.parquet", say=lambda line: None)
    took = {"seconds": round(time.monotonic() - start, 1), "cpu_seconds": round(time.process_time() - processor, 1)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"vectors": len(read_codes_file(path).matrix), **took, "peak_gib": round(peak, 2)}))


if __name__ == "__main__":
    main()
