"""Codes on disk, codes as text, and the way back from codes to items.

Shape legend: I items, L levels.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sememe.core.errors import ArtifactError, DataError
from sememe.core.schema import Codes, Int32Array, Int64Array
from sememe.sid.collisions import tuple_groups

CODES_FILE = "codes.npy"
LAYOUT_FILE = "codes.json"


def save_codes(directory: Path, codes: Codes) -> None:
    """Write `codes.npy`, int32 (I, L), and `codes.json`, what its columns mean, into an existing directory."""
    np.save(directory / CODES_FILE, np.ascontiguousarray(codes.matrix, dtype=np.int32), allow_pickle=False)
    layout = {
        "codebook_sizes": list(codes.codebook_sizes),
        "num_semantic_levels": codes.num_semantic_levels,
        "collisions": codes.collisions,
    }
    (directory / LAYOUT_FILE).write_text(json.dumps(layout, indent=2) + "\n", encoding="utf-8")


def load_codes(directory: Path) -> Codes:
    """The codes that `save_codes` wrote.

    Raises ArtifactError where a file is missing or a code lies outside its codebook.
    """
    fix = "make the codes again: run the stage that fits the tokenizer"
    for name in (CODES_FILE, LAYOUT_FILE):
        if not (directory / name).is_file():
            raise ArtifactError(f"{directory} holds no codes: {name} is missing", fix=fix)
    layout = json.loads((directory / LAYOUT_FILE).read_text(encoding="utf-8"))
    matrix = np.load(directory / CODES_FILE, allow_pickle=False)
    sizes = tuple(int(size) for size in layout["codebook_sizes"])
    if matrix.ndim != 2 or matrix.shape[1] != len(sizes) or not ((matrix >= 0) & (matrix < np.array(sizes))).all():
        raise ArtifactError(f"{directory / CODES_FILE} does not fit the codebook sizes {sizes}", fix=fix)
    return Codes(matrix.astype(np.int32), sizes, int(layout["num_semantic_levels"]), str(layout["collisions"]))


@dataclass(frozen=True, eq=False)
class SidLookup:
    """From items to semantic IDs and back; made by `SidLookup.of`."""

    codes: Codes
    order: Int64Array
    """(I,) item indices sorted by semantic ID, then by index."""
    keys: Int32Array
    """(I, L) the codes in that order."""

    @classmethod
    def of(cls, codes: Codes) -> "SidLookup":
        """Sort the items of `codes` once."""
        order = np.argsort(tuple_groups(codes.matrix, codes.codebook_sizes), kind="stable")
        return cls(codes, order, codes.matrix[order])

    def sid_of(self, item: int) -> tuple[int, ...]:
        """The semantic ID of an item index."""
        return tuple(int(code) for code in self.codes.matrix[item])

    def items_of(self, prefix: tuple[int, ...]) -> Int64Array:
        """Item indices, rising, whose semantic ID starts with `prefix`; empty where there is none."""
        low, high = 0, len(self.keys)
        for level, code in enumerate(prefix):
            column = self.keys[low:high, level]
            low, high = low + int(column.searchsorted(code)), low + int(column.searchsorted(code, side="right"))
        return np.sort(self.order[low:high])

    def item_of(self, sid: tuple[int, ...]) -> int:
        """The one item with this full semantic ID.

        Raises DataError where no item or more than one has it.
        """
        items = self.items_of(sid) if len(sid) == self.codes.num_levels else np.empty(0, np.int64)
        if len(items) != 1:
            raise DataError(
                f"{sid_text(sid)} names {len(items)} items",
                fix=f"give {self.codes.num_levels} codes of one item"
                + "; items_of() lists tied items" * (len(items) > 1),
            )
        return int(items[0])


def sid_text(sid: tuple[int, ...] | Int32Array) -> str:
    """Codes as people write them: (12, 7) is "<a_12><b_7>"."""
    assert len(sid) <= 26, "one letter per level"
    return "".join(f"<{chr(ord('a') + level)}_{int(code)}>" for level, code in enumerate(sid))


def parse_sid(text: str) -> tuple[int, ...]:
    """The codes of "<a_12><b_7>"; the inverse of `sid_text`.

    Raises DataError for other text.
    """
    codes = tuple(int(number) for number in re.findall(r"<[a-z]_(\d+)>", text))
    if not codes or sid_text(codes) != text:
        raise DataError(f"{text!r} is no semantic ID", fix='write it like "<a_12><b_7>", levels in order')
    return codes
