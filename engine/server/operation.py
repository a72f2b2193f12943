"""An operation: one route of a wire format, as the record from which the application and /openapi.json are made.

A wire format is a module with `OPERATIONS`, its operations in the order in which paths are tried.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from distilrt.server.statuses import Shape, plain


@dataclass(frozen=True)
class Operation:
    """A route and what it does.

    Attributes:
        method: of HTTP.
        path: as Starlette has it; its parameters are in `call.path`.
        handler: takes the `distilrt.server.call.Call`, and the decoded body where there is one. It returns what is to
            be sent as JSON, or a response. What it raises becomes a status by `distilrt.server.statuses`.
        summary: what it does, in a few words.
        body: the type that the JSON of the body is decoded to; None: it has no body.
        answer: the type of the JSON that it answers, as msgspec has types; None: it answers in another format.
        media_type: of that format.
        shape: the body of an error.
        public: whether it needs no key.
        decodes: whether the body is decoded for the handler; otherwise the handler reads it.
    """

    method: str
    path: str
    handler: Callable[..., Awaitable[Any]]
    summary: str
    body: Any = None
    answer: Any = None
    media_type: str = "text/plain"
    shape: Shape = plain
    public: bool = False
    decodes: bool = True
