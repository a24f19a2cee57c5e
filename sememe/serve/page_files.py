"""The page: built files of the package, sent with a content-security policy that lets nothing else run.

They are built from web/ (`npm ci && npm run build` there) and kept with the sources; a server needs no Node.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from importlib.resources import files

from fastapi import FastAPI, Request, Response

FOLDER = "page"
START = "index.html"
MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    # Asked about each time, and sent again only when it changed.
    "cache-control": "no-cache",
}


@dataclass(frozen=True)
class PageFile:
    """One file, and what it is sent with."""

    body: bytes
    media_type: str

    @property
    def tag(self) -> str:
        """Of the content, for browsers that have it already."""
        return f'"{hashlib.sha256(self.body).hexdigest()[:20]}"'


@cache
def page_files() -> Mapping[str, PageFile]:
    """Path on the server -> file; the start page is at /."""
    found = {}
    for file in files("sememe.serve").joinpath(FOLDER).iterdir():
        kind = file.name.rpartition(".")[2]
        if kind in MEDIA_TYPES:
            path = "/" if file.name == START else f"/{file.name}"
            found[path] = PageFile(file.read_bytes(), MEDIA_TYPES[kind])
    return found


def add_page(app: FastAPI) -> None:
    """Have `app` answer with the page at /; its files hold no secret, so they are open to whoever may connect."""

    async def send(request: Request) -> Response:
        file = page_files()[request.url.path]
        headers = {**HEADERS, "etag": file.tag}
        if file.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        return Response(file.body, headers=headers, media_type=file.media_type)

    for path in page_files():
        app.add_route(path, send, methods=["GET"], include_in_schema=False)
