import hashlib
import stat

import pytest
import torch
from torch import nn

from sememe.core.errors import ArtifactError
from sememe.train.checkpoint import load_module, module_tensors, read_tensors, save_module, write_tensors, write_text


class Tied(nn.Module):
    """A weight under two names and a buffer."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.items = nn.Embedding(4, width)
        self.head = nn.Linear(width, 4)
        self.head.weight = self.items.weight
        self.register_buffer("codes", torch.arange(4))


def test_a_module_comes_back_equal_and_a_shared_weight_is_written_once(tmp_path):
    model, other = Tied(), Tied()
    assert list(module_tensors(model)) == ["codes", "items.weight", "head.bias"]
    save_module(tmp_path / "m.safetensors", model, facts={"step": 3, "name": "x"})
    assert load_module(tmp_path / "m.safetensors", other) == {"step": 3, "name": "x"}
    for ours, theirs in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert other.head.weight is other.items.weight
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_equal_weights_give_equal_bytes_that_others_may_read(tmp_path):
    model = Tied()
    for name in ("a", "b"):
        save_module(tmp_path / name, model, facts={"one": 1, "two": 2, "three": 3})
    digests = {hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("a", "b")}
    assert len(digests) == 1
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) & 0o444 == 0o444


def test_what_does_not_fit_is_named_and_nothing_is_changed(tmp_path):
    path = tmp_path / "m.safetensors"
    save_module(path, Tied(width=3))
    wide = Tied(width=5)
    before = wide.items.weight.detach().clone()
    with pytest.raises(ArtifactError, match=r"tensor 'items.weight' has shape \(4, 3\) in .*, but \(4, 5\) in this"):
        load_module(path, wide)
    assert torch.equal(wide.items.weight, before)
    with pytest.raises(ArtifactError, match="has no tensor 'weight', which this model needs"):
        load_module(path, nn.Linear(2, 2))
    write_tensors(path, {**module_tensors(Tied()), "more": torch.zeros(1)}, facts={})
    with pytest.raises(ArtifactError, match="has a tensor 'more', which this model does not have"):
        load_module(path, Tied())


def test_missing_and_truncated_files_are_refused_by_name(tmp_path):
    path = tmp_path / "m.safetensors"
    with pytest.raises(ArtifactError, match=r"m\.safetensors does not exist"):
        read_tensors(path)
    save_module(path, Tied())
    for size in (0, 4, 60, path.stat().st_size - 1):
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(ArtifactError, match=r"m\.safetensors is truncated or damaged"):
            read_tensors(path)
        save_module(path, Tied())


def test_a_write_that_breaks_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "notes.json"
    write_text(path, "old")

    def breaks(handle: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", breaks)
    with pytest.raises(OSError, match="no space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
