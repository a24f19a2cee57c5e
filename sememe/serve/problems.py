"""Problems as RFC 9457 documents: what is wrong, and what to do about it.

Nottingham, Wilde and Dalal, "Problem Details for HTTP APIs" (RFC 9457, 2023).  Kept: type, title, status and detail.
Added: `fix`, what to do, and `errors`, the places of a request that do not fit.
"""

import json
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from pydantic import ValidationError

from sememe.core.errors import SememeError
from sememe.serve.models import UnknownModelError
from sememe.serve.stores.protocol import StoreDownError

MEDIA_TYPE = "application/problem+json"
MOST_ERRORS = 20


class HttpProblem(SememeError):
    """A request that cannot be answered as it is, and the status that says so."""

    def __init__(
        self,
        problem: str,
        *,
        fix: str,
        status: HTTPStatus,
        retry_after: float | None = None,
        errors: tuple[dict[str, str], ...] = (),
    ) -> None:
        super().__init__(problem, fix=fix)
        self.status = status
        self.retry_after = retry_after
        """Seconds after which the same request may succeed."""
        self.errors = errors

    @property
    def headers(self) -> Mapping[str, str]:
        """What belongs to the answer beside its body."""
        told = {} if self.retry_after is None else {"retry-after": str(max(1, math.ceil(self.retry_after)))}
        if self.status == HTTPStatus.UNAUTHORIZED:
            told["www-authenticate"] = "Bearer"
        return told

    def document(self) -> bytes:
        """JSON of the problem document."""
        name = self.status.phrase.lower().replace(" ", "-")
        content: dict[str, Any] = {
            "type": f"urn:sememe:problem:{name}",
            "title": self.status.phrase,
            "status": int(self.status),
            "detail": self.problem,
            "fix": self.fix,
        }
        if self.errors:
            content["errors"] = list(self.errors)
        return json.dumps(content).encode()


def problem_of(error: Exception) -> HttpProblem:
    """The problem that `error` is to whoever asked.

    What is none of theirs is told without a word of its own, which could hold what is not for them.
    """
    if isinstance(error, HttpProblem):
        return error
    if isinstance(error, ValidationError):
        return _misfit(error)
    if isinstance(error, StoreDownError):
        return HttpProblem(error.problem, fix=error.fix, status=HTTPStatus.SERVICE_UNAVAILABLE, retry_after=1.0)
    if isinstance(error, UnknownModelError):
        return HttpProblem(error.problem, fix=error.fix, status=HTTPStatus.NOT_FOUND)
    if isinstance(error, SememeError):
        # The request fits the description of the API, and not what answers now: the model, its rules, its items.
        return HttpProblem(error.problem, fix=error.fix, status=HTTPStatus.CONFLICT)
    return HttpProblem(
        "the server failed on this request",
        fix="try again; if it stays, look into the server's log",
        status=HTTPStatus.INTERNAL_SERVER_ERROR,
    )


def _misfit(error: ValidationError) -> HttpProblem:
    """A body that is no JSON, or not what the route takes."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    if found and found[0]["type"] == "json_invalid":
        return HttpProblem(
            found[0]["msg"],
            fix="send one JSON object in UTF-8; numbers are finite, and nesting is shallow",
            status=HTTPStatus.BAD_REQUEST,
        )
    errors = tuple(
        {"place": ".".join(str(step) for step in one["loc"]) or "body", "problem": one["msg"]}
        for one in found[:MOST_ERRORS]
    )
    return HttpProblem(
        f"the request does not fit at {len(found)} place{'s' * (len(found) != 1)}: "
        f"{errors[0]['place']}: {errors[0]['problem']}",
        fix="see `errors`; /openapi.json describes what each route takes",
        status=HTTPStatus.UNPROCESSABLE_ENTITY,
        errors=errors,
    )


def too_many(what: str, *, retry_after: float) -> HttpProblem:
    """More came than can be taken now."""
    return HttpProblem(
        what,
        fix="wait as long as Retry-After says, then send it again",
        status=HTTPStatus.TOO_MANY_REQUESTS,
        retry_after=retry_after,
    )
