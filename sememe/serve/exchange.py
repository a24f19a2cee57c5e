"""One exchange in the terms of ASGI: a body that is read within bounds, an answer that is sent."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sememe.serve.problems import MEDIA_TYPE, HttpProblem
from sememe.serve.settings import Limits


@dataclass(frozen=True, eq=False)
class Reply:
    """An answer, whole."""

    status: HTTPStatus
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = "application/json"

    @classmethod
    def of_problem(cls, problem: HttpProblem) -> "Reply":
        """The document of a problem."""
        return cls(problem.status, problem.document(), problem.headers, MEDIA_TYPE)

    def as_response(self) -> Response:
        return Response(self.body, int(self.status), headers=dict(self.headers), media_type=self.media_type)

    async def send(self, send: Send) -> None:
        """Send it through ASGI."""
        headers = [(b"content-type", self.media_type.encode()), (b"content-length", str(len(self.body)).encode())]
        headers += [(name.encode(), value.encode()) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": int(self.status), "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


Endpoint = Callable[[Scope, Receive], Awaitable[Reply]]
"""Answers a request, whatever happens."""


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, *, limits: Limits) -> bytes:
    """The body of a request.  Raises HttpProblem where it is not JSON, too large, or too slow."""
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")
    # A page of another site can send other types without asking, and nothing else keeps it from a local server.
    if kind != "application/json":
        raise HttpProblem(
            f"the body is {kind or 'of no type'}",
            fix="send JSON with the header Content-Type: application/json",
            status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        )
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > limits.body_bytes:
        raise _too_large(int(length), limits.body_bytes)
    try:
        async with asyncio.timeout(limits.read_seconds):
            return await _gather(receive, most=limits.body_bytes)
    except TimeoutError:
        raise HttpProblem(
            f"the body did not come within {limits.read_seconds:g} seconds",
            fix="send it in one go",
            status=HTTPStatus.REQUEST_TIMEOUT,
        ) from None


async def _gather(receive: Receive, *, most: int) -> bytes:
    """All pieces of a body."""
    body: bytes = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise HttpProblem("the client left before its request was whole", fix="stay", status=HTTPStatus.BAD_REQUEST)
        body = body + message.get("body", b"") if body else message.get("body", b"")
        if len(body) > most:
            raise _too_large(len(body), most)
        if not message.get("more_body", False):
            return body


def _too_large(size: int, most: int) -> HttpProblem:
    return HttpProblem(
        f"the body has {size:,} bytes or more, and at most {most:,} are taken",
        fix="send less at once",
        status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    )
