"""What stands before every route: who may connect where nobody is asked for a key, how long headers may be.

Pure ASGI, since each request passes it.
"""

from collections.abc import Mapping
from functools import lru_cache
from http import HTTPStatus
from ipaddress import ip_address

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sememe.serve.exchange import Endpoint, Reply
from sememe.serve.keys import KeyRing
from sememe.serve.problems import HttpProblem
from sememe.serve.service import Service

LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
READING = frozenset({"GET", "HEAD", "OPTIONS"})

_FOREIGN = HttpProblem(
    "a page of another site sent this, and without API keys it may not change or ask anything here",
    fix="start the server with --keys, and have that site's own server call this one",
    status=HTTPStatus.FORBIDDEN,
)


class Gate:
    """Refuses, or lets pass; and asks clients to leave while the server is being stopped."""

    def __init__(
        self, app: ASGIApp, direct: Mapping[tuple[str, str], Endpoint], *, service: Service, keys: KeyRing
    ) -> None:
        """direct: by method and path, what is answered without `app`: its way to a route takes longer than a list."""
        self._app, self._direct, self._service, self._keys = app, direct, service, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._service.draining:
            send = _farewell(send)
        problem = self._problem(scope)
        if problem is not None:
            await Reply.of_problem(problem).send(send)
            return
        endpoint = self._direct.get((scope["method"], scope["path"]))
        if endpoint is None:
            await self._app(scope, receive, send)
        else:
            await (await endpoint(scope, receive)).send(send)

    def _problem(self, scope: Scope) -> HttpProblem | None:
        headers = scope["headers"]
        most = self._service.settings.limits.header_bytes
        if sum(len(name) + len(value) for name, value in headers) + len(scope["raw_path"]) > most:
            return HttpProblem(
                f"the headers have more than {most:,} bytes",
                fix="send fewer, or shorter ones",
                status=HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            )
        if self._keys.required:
            return None
        if _is_local(scope) and _asks_for_local(scope):
            return _FOREIGN if scope["method"] not in READING and _is_sent_by_another_site(scope) else None
        return HttpProblem(
            "without API keys, this server answers its own machine only",
            fix="make a key, and start the server with it: sememe new-key FILE, sememe serve RUN --keys FILE",
            status=HTTPStatus.FORBIDDEN,
        )


def _farewell(send: Send) -> Send:
    """`send`, which tells clients to come back on another connection, and so to another server."""

    async def send_and_close(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        await send(message)

    return send_and_close


def _is_local(scope: Scope) -> bool:
    """Whether the peer, or whom a local proxy speaks for, is on this machine."""
    client = scope.get("client")
    # A socket that is a file belongs to this machine.
    if client is None:
        return True
    return _is_loopback(client[0])


@lru_cache(maxsize=1024)
def _is_loopback(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool(address.is_loopback or (mapped is not None and mapped.is_loopback))


def _is_sent_by_another_site(scope: Scope) -> bool:
    """Whether a browser sent the request for a page that did not come from here; browsers say so of all that is more
    than reading, also where a page needs nobody's leave to send it."""
    headers = scope["headers"]
    origin = next((value for name, value in headers if name == b"origin"), None)
    return origin is not None and origin.rpartition(b"//")[2] != next(
        (value for name, value in headers if name == b"host"), b""
    )


def _asks_for_local(scope: Scope) -> bool:
    """Whether the request names this machine: a page of another site that has its name resolve to here does not."""
    hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    name, colon, port = (hosts[0] if hosts else "").rpartition(":")
    host = name if colon and port.isdecimal() else (hosts[0] if hosts else "")
    return host.lower() in LOCAL_HOSTS
