"""What a route takes and gives, as data: handlers decode with these types, and /openapi.json is made of them."""

from __future__ import annotations

from typing import Any, NamedTuple

from distilrt.server.errors import Shape


class Operation(NamedTuple):
    """What there is to say of a route.

    Attributes:
        summary: in a few words.
        body: the type that its body is decoded to; None: it has none.
        answer: the type of its JSON, as msgspec has types; None: it answers in another format.
        media_type: of that format.
    """

    summary: str
    body: Any
    answer: Any
    media_type: str = "text/plain"


class Described(NamedTuple):
    """A route with what there is to say of it; the other fields are `Serving.route`'s."""

    path: str
    methods: tuple[str, ...]
    about: Operation
    shape: Shape
    public: bool
