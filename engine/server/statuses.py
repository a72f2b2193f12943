"""Errors as HTTP: the status of each error, and the body that most wire formats share.

A wire format whose clients expect another body has a `Shape` of its own; statuses are the same everywhere.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from distilrt.errors import (
    BackendError,
    DeadlineExceeded,
    InvalidInput,
    InvalidParameter,
    NotReady,
    Overloaded,
    TooLong,
)
from distilrt.errors import TooLarge as RequestTooLarge

_MOST_WORDS = 2000  # characters of a message

_log = logging.getLogger("distilrt.server")


class RequestError(Exception):
    """A request that is refused before it reaches an engine. The message says what is allowed."""

    status = 400


class Malformed(RequestError):
    """The body is not JSON in UTF-8."""


class Empty(RequestError):
    """The request has no input, and its format has no empty answer."""


class Unauthorized(RequestError):
    """The key is missing or wrong."""

    status = 401


class UnknownModel(RequestError):
    """There is no model of that name."""

    status = 404


class TooSlow(RequestError):
    """The body took too long to arrive."""

    status = 408


class TooLarge(RequestError):
    """The body has too many bytes or inputs."""

    status = 413


class UnknownEncoding(RequestError):
    """The body has a content encoding that this server does not read."""

    status = 415


class Unprocessable(RequestError):
    """The body is JSON of another form than the route takes."""

    status = 422


class NoSuchTask(RequestError):
    """No model of this server has the head that the route needs."""

    status = 424


class Gone(Exception):
    """The client hung up; nobody reads an answer."""


class Failure(NamedTuple):
    """What a client is told of an error."""

    status: int
    kind: str  # the error's name, for programs
    message: str  # for people
    headers: dict[str, str]


Shape = Callable[[Failure], Any]  # the JSON body; its annotation says of which type

# The first class of which an error is an instance counts.
_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (Overloaded, 429),
    (NotReady, 503),
    (DeadlineExceeded, 504),
    (RequestTooLarge, 413),
    (TooLong, 422),
    (InvalidParameter, 422),
    (InvalidInput, 422),
    (BackendError, 500),
)


class PlainError(msgspec.Struct):
    """The body of an error."""

    error: str
    error_type: str


def plain(failure: Failure) -> PlainError:
    """`{"error": message, "error_type": name}`, which Hugging Face's clients read."""
    return PlainError(failure.message, failure.kind)


def failure(error: Exception) -> Failure:
    """What a client is told of an error. An error of no known class is logged, and its message is not sent."""
    if isinstance(error, RequestError):
        headers = {"www-authenticate": "Bearer"} if error.status == 401 else {}
        if error.status in (408, 413):
            headers["connection"] = "close"  # the rest of the body is not read
        return Failure(error.status, type(error).__name__, _words(error), headers)
    if isinstance(error, HTTPException):  # of the router
        kind = {404: "NotFound", 405: "MethodNotAllowed"}.get(error.status_code, "HTTPException")
        words = {
            404: "there is no such route; /docs has those that there are",
            405: "the route does not take this method; the header Allow has those that it takes",
        }
        return Failure(error.status_code, kind, words.get(error.status_code, error.detail), dict(error.headers or {}))
    for known, status in _STATUS:
        if isinstance(error, known):
            if status == 500:
                _log.error("%s", error, exc_info=error)
            headers = {"retry-after": str(_seconds(error))} if status in (429, 503) else {}
            return Failure(status, known.__name__, _words(error), headers)
    _log.error("an unexpected error", exc_info=error)
    return Failure(500, "InternalError", "the server failed; its log says why", {})


def response(error: Exception, shape: Shape = plain) -> Response:
    """The response to an error, with a body of that shape."""
    found = failure(error)
    return Response(msgspec.json.encode(shape(found)), found.status, found.headers, media_type="application/json")


def _words(error: Exception) -> str:
    """The message, shortened: it may quote a long part of the body."""
    words = str(error)
    return words if len(words) <= _MOST_WORDS else f"{words[:_MOST_WORDS]}…"


def _seconds(error: Exception) -> int:
    """Whole seconds, as HTTP has it; at least 1."""
    return max(1, math.ceil(getattr(error, "retry_after", 1.0)))
