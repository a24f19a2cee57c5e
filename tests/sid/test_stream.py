"""Catalogues in Parquet: read in blocks, coded in parts, gone on with after a kill."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import sememe.sid.stream
from sememe.core.errors import ArtifactError, ConfigError, DataError
from sememe.core.schema import FloatArray
from sememe.core.seeding import generator
from sememe.sid.aligned import AlignedRqVae
from sememe.sid.balanced import BalancedKMeans
from sememe.sid.dual import DualRqVae
from sememe.sid.rqkmeans import ResidualKMeans
from sememe.sid.stream import VectorFile, encode_file, fit_sampled, read_codes_file
from sememe.sid.two_sided import TwoSidedRqVae

ROWS, DIM = 1_000, 6
PLAN = ResidualKMeans(levels=2, codebook_size=8)


def vectors(rows: int = ROWS) -> FloatArray:
    return np.random.default_rng(0).standard_normal((rows, DIM)).astype(np.float32)


def write(path: Path, values: FloatArray, *, first: int = 0, dtype: pl.DataType | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = [f"item {first + row}" for row in range(len(values))]
    kind = dtype or pl.Array(pl.Float32, values.shape[1])
    column = pl.Series("vector", values.tolist(), dtype=kind)
    pl.DataFrame([pl.Series("item_id", ids), column]).write_parquet(path, row_group_size=90)
    return path


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sememe.sid.stream, "BLOCK_ROWS", 64)


@pytest.fixture
def source(tmp_path: Path) -> VectorFile:
    return VectorFile(write(tmp_path / "vectors.parquet", vectors()))


def quiet(line: str) -> None:
    del line


@pytest.mark.parametrize("kind", [pl.Array(pl.Float32, DIM), pl.List(pl.Float64), pl.List(pl.Float32)])
def test_blocks_are_the_rows_in_order(kind: pl.DataType, tmp_path: Path) -> None:
    source = VectorFile(write(tmp_path / "vectors.parquet", vectors(), dtype=kind))
    for start, rows in ((0, 64), (130, 70), (995, 64)):
        found = list(source.blocks(start=start, rows=rows))
        assert max(len(block.vectors) for block in found) <= rows
        np.testing.assert_array_equal(np.concatenate([block.vectors for block in found]), vectors()[start:])
        ids = [item for block in found for item in block.items]
        assert ids == [f"item {row}" for row in range(start, ROWS)]
        assert [block.first for block in found] == [
            start + sum(len(b.vectors) for b in found[:n]) for n in range(len(found))
        ]


def test_a_directory_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    write(tmp_path / "many" / "b.parquet", vectors()[300:], first=300)
    write(tmp_path / "many" / "a.parquet", vectors()[:300])
    source = VectorFile(tmp_path / "many")
    assert source.count() == ROWS
    np.testing.assert_array_equal(np.concatenate([block.vectors for block in source.blocks()]), vectors())


def test_a_sample_is_drawn_from_all_rows_without_replacement(source: VectorFile) -> None:
    drawn = source.sample(200, seed=3)
    rows = [int(np.flatnonzero((vectors() == row).all(1))[0]) for row in drawn]
    expected = np.sort(generator(3, "sid", "sample").choice(ROWS, 200, replace=False))
    assert rows == expected.tolist() and len(set(rows)) == 200
    np.testing.assert_array_equal(source.sample(ROWS + 5, seed=3), vectors())


def test_codes_are_those_of_memory(source: VectorFile, tmp_path: Path) -> None:
    tokenizer = fit_sampled(PLAN, source, seed=0)
    in_memory = PLAN.fit(vectors(), seed=0)
    said: list[str] = []
    path = encode_file(tokenizer, source, tmp_path / "codes.parquet", part_rows=300, say=said.append)
    assert said == [f"{done} of 1,000 items have codes" for done in ("300", "600", "900", "1,000")]
    found = read_codes_file(path)
    np.testing.assert_array_equal(found.matrix, in_memory.encode(vectors()))
    assert found.codebook_sizes == (8, 8) and found.matrix.dtype == np.int32
    assert found.items.to_list() == [f"item {row}" for row in range(ROWS)]
    assert not (tmp_path / "codes.parquet.parts").exists()
    # A sample that is smaller than the file gives another tokenizer of the same kind.
    small = fit_sampled(PLAN, source, most=100, seed=0)
    np.testing.assert_array_equal(
        small.encode(vectors()), PLAN.fit(source.sample(100, seed=0), seed=0).encode(vectors())
    )


MEASURED = """
import re, sys
from pathlib import Path
import numpy as np
import sememe.sid.stream
from sememe.sid.rqkmeans import FittedResidualKMeans
from sememe.sid.stream import VectorFile, encode_file

folder, sememe.sid.stream.BLOCK_ROWS = Path(sys.argv[1]), int(sys.argv[2])
held = []

def note(line=""):
    # Anonymous memory: pages of the file that the system maps come and go as it likes.
    held.append(int(re.search(r"RssAnon:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024)

class Noting(FittedResidualKMeans):
    def encode(self, vectors):
        note()
        return super().encode(vectors)

tokenizer = Noting((np.ones((4, 512), np.float32),))
for name in ("small", "large"):
    encode_file(tokenizer, VectorFile(folder / f"{name}.parquet"), folder / f"{name}.codes", part_rows=8192, say=note)
    print(max(held))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Ten times the file, 74 MB more of vectors, must not be 74 MB more in memory."""
    sizes = {}
    for name, rows in (("small", 4_000), ("large", 40_000)):
        values = np.random.default_rng(0).standard_normal((rows, 512)).astype(np.float32)
        column = pl.Series("vector", values, dtype=pl.Array(pl.Float32, 512))
        frame = pl.DataFrame([pl.Series("item_id", np.arange(rows)), column])
        frame.write_parquet(tmp_path / f"{name}.parquet", row_group_size=512, compression="uncompressed")
        sizes[name] = values.nbytes
    # Readers of polars' pool each hold a row group.
    environment = {**os.environ, "POLARS_MAX_THREADS": "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEASURED, str(tmp_path), "512"]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    small, large = map(int, found.stdout.split())
    assert large - small < 0.5 * (sizes["large"] - sizes["small"])


def test_a_tokenizer_is_asked_for_a_block_at_a_time(source: VectorFile, tmp_path: Path) -> None:
    asked: list[int] = []

    class Counting:
        codebook_sizes = (8,)

        def encode(self, given: FloatArray) -> np.ndarray:
            asked.append(len(given))
            return np.zeros((len(given), 1), np.int32)

        def state(self) -> dict[str, np.ndarray]:
            return {}

    encode_file(Counting(), source, tmp_path / "codes.parquet", part_rows=300, say=quiet)  # type: ignore[arg-type]
    assert max(asked) <= 64 and sum(asked) == ROWS


def test_an_encoding_that_failed_goes_on_with_the_next_part(source: VectorFile, tmp_path: Path) -> None:
    tokenizer = fit_sampled(PLAN, source, seed=0)
    out, said = tmp_path / "codes.parquet", []

    def stop_at_600(line: str) -> None:
        if line.startswith("600"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_file(tokenizer, source, out, part_rows=300, say=stop_at_600)
    assert not out.exists()
    parts = tmp_path / "codes.parquet.parts"
    kept = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.parquet")}
    assert len(kept) == 2

    def looks(line: str) -> None:
        said.append({path.name: path.stat().st_mtime_ns for path in parts.glob("*.parquet")})

    encode_file(tokenizer, source, out, part_rows=300, say=looks)
    assert all(kept.items() <= seen.items() for seen in said), "finished parts are not written again"
    np.testing.assert_array_equal(read_codes_file(out).matrix, tokenizer.encode(vectors()))


def test_parts_of_something_else_are_not_mixed_in(source: VectorFile, tmp_path: Path) -> None:
    first, second = (fit_sampled(PLAN, source, most=most, seed=0) for most in (ROWS, 100))
    out = tmp_path / "codes.parquet"

    def stop(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_file(first, source, out, part_rows=300, say=stop)
    with pytest.raises(ConfigError, match="another encoding: tokenizer changed"):
        encode_file(second, source, out, part_rows=300, say=quiet)
    write(source.path, vectors()[::-1])
    with pytest.raises(ConfigError, match="another encoding: source changed"):
        encode_file(first, source, out, part_rows=300, say=quiet)


def test_kill_9_loses_one_part_at_most(source: VectorFile, tmp_path: Path) -> None:
    """A process that is killed between parts and one that is not write the same file."""
    out, plain = tmp_path / "codes.parquet", tmp_path / "plain.parquet"
    script = textwrap.dedent(
        f"""
        import time
        from pathlib import Path
        from sememe.sid.rqkmeans import ResidualKMeans
        from sememe.sid.stream import VectorFile, encode_file, fit_sampled
        source = VectorFile(Path({str(source.path)!r}))
        tokenizer = fit_sampled(ResidualKMeans(levels=2, codebook_size=8), source, seed=0)
        def slow(line):
            print(line, flush=True)
            time.sleep(60)
        encode_file(tokenizer, source, Path({str(out)!r}), part_rows=300, say=slow)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline().startswith("300")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    started = time.monotonic()
    tokenizer = fit_sampled(PLAN, source, seed=0)
    encode_file(tokenizer, source, out, part_rows=300, say=quiet)
    encode_file(tokenizer, source, plain, part_rows=300, say=quiet)
    assert out.read_bytes() == plain.read_bytes() and time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.__setitem__((700, 2), np.nan), "the vector in row 700 holds NaN"),
        (lambda v: v.__setitem__((3, 0), np.inf), "the vector in row 3 holds NaN or infinity"),
    ],
)
def test_numbers_that_are_none_are_named_by_their_row(change: object, message: str, tmp_path: Path) -> None:
    values = vectors()
    change(values)  # type: ignore[operator]
    source = VectorFile(write(tmp_path / "vectors.parquet", values))
    with pytest.raises(DataError, match=message):
        source.sample(10, seed=0)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    tokenizer = PLAN.fit(vectors(), seed=0)
    ragged = [[1.0, 2.0]] * 70 + [[1.0]] + [None]
    frame = pl.DataFrame({"item_id": range(72), "vector": ragged})
    frame.write_parquet(tmp_path / "ragged.parquet")
    with pytest.raises(DataError, match="row 70 has 1 numbers, where others have 2"):
        list(VectorFile(tmp_path / "ragged.parquet").blocks())
    frame.filter(pl.col("item_id") != 70).write_parquet(tmp_path / "missing.parquet")
    with pytest.raises(DataError, match="row 70 has no numbers, where others have 2"):
        list(VectorFile(tmp_path / "missing.parquet").blocks())
    with pytest.raises(DataError, match="no column 'embedding', but 'item_id', 'vector'"):
        VectorFile(tmp_path / "ragged.parquet", vectors="embedding").count()
    with pytest.raises(DataError, match="holds Int64, not one vector of numbers per row"):
        VectorFile(tmp_path / "ragged.parquet", vectors="item_id").count()
    words = pl.DataFrame({"item_id": [1, 2], "vector": [["a", "b"], ["c", "d"]]})
    words.write_parquet(tmp_path / "words.parquet")
    for ask in (VectorFile.count, lambda source: next(source.blocks())):
        with pytest.raises(DataError, match=r"holds List\(String\), not one vector of numbers per row"):
            ask(VectorFile(tmp_path / "words.parquet"))
    with pytest.raises(DataError, match="no Parquet file"):
        VectorFile(tmp_path / "nothing").count()
    frame.clear().write_parquet(tmp_path / "empty.parquet")
    with pytest.raises(DataError, match="has no row"):
        VectorFile(tmp_path / "empty.parquet").count()
    twice = VectorFile(write(tmp_path / "twice" / "a.parquet", vectors()).parent)
    write(tmp_path / "twice" / "b.parquet", vectors()[:4])
    with pytest.raises(DataError, match="4 of 1004 rows repeat an item id"):
        encode_file(tokenizer, twice, tmp_path / "codes.parquet", say=quiet)
    narrow = VectorFile(write(tmp_path / "narrow.parquet", vectors()[:, :4]))
    with pytest.raises(DataError, match="4 wide, the tokenizer was fitted on width 6"):
        encode_file(tokenizer, narrow, tmp_path / "codes.parquet", say=quiet)
    assert not (tmp_path / "codes.parquet").exists()
    with pytest.raises(ConfigError, match="most is 0"):
        fit_sampled(PLAN, narrow, most=0, seed=0)


def test_codes_that_are_dealt_out_together_are_not_streamed(source: VectorFile, tmp_path: Path) -> None:
    dealt = BalancedKMeans(levels=2, codebook_size=8).fit(vectors(), seed=0)
    with pytest.raises(ConfigError, match="deals its codes out to all items together"):
        encode_file(dealt, source, tmp_path / "codes.parquet", say=quiet)


@pytest.mark.parametrize("part", [AlignedRqVae(), DualRqVae(), TwoSidedRqVae()], ids=lambda part: type(part).__name__)
def test_tokenizers_that_read_the_log_are_not_fitted_on_a_file(part: Any, source: VectorFile) -> None:
    with pytest.raises(ConfigError, match=f"{type(part).__name__} is fitted on the parts .* and the log too") as caught:
        fit_sampled(part, source, seed=0)
    assert "fit_in(vectors, context=CodeContext(widths, train)" in caught.value.fix


def test_a_file_that_holds_no_codes_is_refused(source: VectorFile, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no file of codes"):
        read_codes_file(tmp_path / "nothing.parquet")
    with pytest.raises(ArtifactError, match="was not written by encode_file"):
        read_codes_file(source.path)
    path = encode_file(PLAN.fit(vectors(), seed=0), source, tmp_path / "codes.parquet", say=quiet)
    frame, metadata = pl.read_parquet(path), pl.read_parquet_metadata(path)
    wrong = frame.with_columns(pl.Series("codes", [[9, 0]] * ROWS, dtype=pl.Array(pl.Int32, 2)))
    wrong.write_parquet(path, metadata={name: text for name, text in metadata.items() if name.startswith("sememe")})
    with pytest.raises(ArtifactError, match="outside of its codebooks"):
        read_codes_file(path)
