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
    TooLarge,
    TooLong,
)

_MOST_WORDS = 2000  # characters of a message

_log = logging.getLogger("distilrt.server")


class RequestError(Exception):
    """A request that is refused before it reaches an engine. The message says what is allowed."""


class Malformed(RequestError):
    """The body is not JSON in UTF-8."""


class Empty(RequestError):
    """The request has no input, and its format has no empty answer."""


class Unauthorized(RequestError):
    """The key is missing or wrong."""


class UnknownModel(RequestError):
    """There is no model of that name."""


class TooSlow(RequestError):
    """The body took too long to arrive."""


class UnknownEncoding(RequestError):
    """The body has a content encoding that this server does not read."""


class Unprocessable(RequestError):
    """The body is JSON of another form than the route takes."""


class NoSuchTask(RequestError):
    """No model of this server has the head that the route needs."""


class Gone(Exception):
    """The client hung up; nobody reads an answer."""


class Failure(NamedTuple):
    """What a client is told of an error."""

    status: int
    kind: str  # the error's name, for programs
    message: str  # for people
    headers: dict[str, str]


Shape = Callable[[Failure], Any]  # the JSON body; its annotation says of which type

_STATUS: dict[type, int] = {
    Malformed: 400,
    Empty: 400,
    Unauthorized: 401,
    UnknownModel: 404,
    TooSlow: 408,
    TooLarge: 413,
    UnknownEncoding: 415,
    Unprocessable: 422,
    TooLong: 422,
    InvalidParameter: 422,
    InvalidInput: 422,
    NoSuchTask: 424,
    Overloaded: 429,
    BackendError: 500,
    NotReady: 503,
    DeadlineExceeded: 504,
}

# Of the router's errors: the name and the message.
_ROUTER = {
    404: ("NotFound", "there is no such route; /docs has those that there are"),
    405: ("MethodNotAllowed", "the route does not take this method; the header Allow has those that it takes"),
}


class PlainError(msgspec.Struct):
    """The body of an error."""

    error: str
    error_type: str


def plain(failure: Failure) -> PlainError:
    """`{"error": message, "error_type": name}`, which Hugging Face's clients read."""
    return PlainError(failure.message, failure.kind)


def failure(error: Exception) -> Failure:
    """What a client is told of an error. An error of no known class is logged, and its message is not sent."""
    if isinstance(error, HTTPException):
        kind, words = _ROUTER.get(error.status_code, ("HTTPException", error.detail))
        return Failure(error.status_code, kind, words, dict(error.headers or {}))
    known = next((each for each in type(error).__mro__ if each in _STATUS), None)
    status = _STATUS[known] if known else 500
    if status == 500:
        _log.error("%s", error, exc_info=error)
    if known is None:
        return Failure(500, "InternalError", "the server failed; its log says why", {})
    headers = {}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    elif status in (408, 413):
        headers["connection"] = "close"  # the rest of the body may not have been read
    elif status in (429, 503):
        headers["retry-after"] = str(max(1, math.ceil(getattr(error, "retry_after", 1.0))))  # whole seconds
    message = str(error)
    if len(message) > _MOST_WORDS:  # it may quote a long part of the body
        message = f"{message[:_MOST_WORDS]}…"
    return Failure(status, known.__name__, message, headers)


def response(error: Exception, shape: Shape = plain) -> Response:
    """The response to an error, with a body of that shape."""
    found = failure(error)
    return Response(msgspec.json.encode(shape(found)), found.status, found.headers, media_type="application/json")
