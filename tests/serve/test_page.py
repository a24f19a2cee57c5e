"""The page: its files, what they are sent with, and that they were built from the sources beside them."""

import hashlib
import re
from pathlib import Path
from typing import Any

from serving import Server

from sememe.serve.keys import make_key
from sememe.serve.page_files import page_files

ROOT = Path(__file__).parents[2]
WEB, BUILT = ROOT / "web", ROOT / "sememe" / "serve" / "page"
SINGLE = ("index.html", "package.json", "package-lock.json", "tsconfig.json", "vite.config.js")


def hash_of_sources(web: Path) -> str:
    """SHA-256 over "name NUL size NUL content" of all sources by name, as vite.config.js has it."""
    paths = [web / name for name in SINGLE]
    paths += [path for folder in ("public", "src") for path in (web / folder).rglob("*") if path.is_file()]
    digest = hashlib.sha256()
    for name, path in sorted((path.relative_to(web).as_posix(), path) for path in paths):
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def test_the_built_files_belong_to_the_sources() -> None:
    built = (BUILT / "sources.sha256").read_text().strip()
    assert built == hash_of_sources(WEB), "the sources changed: npm ci && npm run build, in web/"


def test_a_changed_source_is_found(tmp_path: Path) -> None:
    for name in SINGLE:
        (tmp_path / name).write_text(name)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "main.tsx").write_text("1")
    before = hash_of_sources(tmp_path)
    (tmp_path / "src" / "main.tsx").write_text("2")
    assert hash_of_sources(tmp_path) != before


def test_the_files_are_all_that_the_page_needs() -> None:
    page = page_files()["/"].body.decode()
    named = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert set(named) == {"/icon.svg", "/page.js", "/page.css"} <= set(page_files())
    # Nothing from anywhere else, and nothing that the policy would stop.
    assert "<style" not in page and not re.search(r"<script(?![^>]*\bsrc=)", page) and not re.search(r"\son\w+=", page)
    for path in ("/page.css", "/page.js"):
        addresses = set(re.findall(rb"https?://[\w./-]+", page_files()[path].body))
        # Names of XML languages, which nobody fetches.
        assert all(address.startswith(b"http://www.w3.org/") for address in addresses), addresses
    assert b"preact" in page_files()["/licenses.txt"].body and b"uplot" in page_files()["/licenses.txt"].body
    assert sum(len(file.body) for file in page_files().values()) < 160_000


def test_files_are_sent_with_a_strict_policy(server: Server) -> None:
    for path, file in page_files().items():
        response = server.http.get(path)
        assert response.status_code == 200 and response.content == file.body
        assert response.headers["content-type"] == file.media_type
        policy = dict(one.strip().split(" ", 1) for one in response.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'" and policy["frame-ancestors"] == "'none'"
        assert {policy[name] for name in ("script-src", "style-src", "connect-src", "img-src")} == {"'self'"}
        assert "unsafe" not in response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"
    tag = server.http.get("/").headers["etag"]
    again = server.http.get("/", headers={"if-none-match": tag})
    assert again.status_code == 304 and again.content == b"" and "content-security-policy" in again.headers
    assert server.http.get("/", headers={"if-none-match": '"other"'}).status_code == 200
    assert server.http.get("/page/../wire.py").status_code == 404


def test_a_page_of_another_site_changes_nothing(server: Server) -> None:
    body = {"event_id": "e", "user_id": "ann", "item_id": "i01"}
    for path, sent in (("events", {"json": body}), ("models:rollback", {}), ("recommend", {"json": {}})):
        for origin in ("https://elsewhere.example", "null", "http://localhost:9"):
            told = server.http.post(f"/v1/{path}", headers={"origin": origin}, **sent)
            assert told.status_code == 403 and told.json()["fix"]
    assert server.http.post("/v1/events", json=body, headers={"origin": "http://localhost"}).status_code == 200
    assert server.http.get("/v1/users/ann", headers={"origin": "https://elsewhere.example"}).status_code == 200


def test_the_page_opens_without_a_key_and_shows_nothing_without_one(serve: Any, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    make_key(file, name="shop", scopes=("read",))
    server: Server = serve(keys=file, peer="192.0.2.7")
    assert server.http.get("/").status_code == 200 and server.http.get("/v1/items").status_code == 401
    # Without keys, it is for this machine only, like all else.
    assert serve(peer="192.0.2.7").http.get("/").status_code == 403
