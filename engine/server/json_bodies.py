"""Bodies of JSON from untrusted clients: decompressed and decoded within bounds of size and time."""

from __future__ import annotations

import zlib
from typing import NamedTuple, TypeVar

import msgspec
import orjson

from distilrt.errors import TooLarge
from distilrt.server.statuses import Malformed

_Body = TypeVar("_Body")

ENCODINGS = ("identity", "gzip", "deflate")
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32


def inflated(body: bytes, most: int) -> bytes:
    """Decompress a body of HTTP's content encoding gzip or deflate.

    Raises:
        TooLarge: decompressed it has more than `most` bytes.
        Malformed: it is not compressed like that, or is not one whole stream.
    """
    stream = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        found = stream.decompress(body, most + 1)
    except zlib.error as error:
        raise Malformed(f"the body must be compressed as its content-encoding says: {error}") from None
    if len(found) > most:
        raise TooLarge(f"the body has more than the {most} bytes that are allowed; send fewer inputs")
    if not stream.eof or stream.unused_data:
        raise Malformed("the body must be one whole compressed stream, and nothing behind it")
    return found


class Bounds(NamedTuple):
    """How much JSON a large body may hold. What strings hold is not counted."""

    members: int  # arrays, objects and members of objects, and of strings four times as many
    values: int  # all values, most of which are numbers


def decode(body: bytes, decoder: msgspec.json.Decoder[_Body], most: Bounds) -> _Body:
    """Decode a large body. This blocks the interpreter, so a body of millions of values, which takes long, is refused.
    orjson parses it, since msgspec takes 30 µs for a number like 1e300.

    Raises:
        TooLarge: more than the bounds allow.
        ValueError: no JSON in UTF-8, or one of more than about 1000 levels.
        msgspec.ValidationError: of another form.
    """
    if _members(body) > most.members or body.count(b",") > most.values:
        outside = _outside_strings(body, 4 * most.members)
        _check("arrays, objects and members", _members(outside), most.members)
        _check("values", outside.count(b","), most.values)
    return msgspec.convert(orjson.loads(body), decoder.type)


def _members(body: bytes) -> int:
    return body.count(b"[") + body.count(b"{") + body.count(b":")


def _outside_strings(body: bytes, most: int) -> bytes:
    """The body without its strings.

    Raises:
        TooLarge: there are more than `most` of them.
    """
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    _check("strings", body.count(b'"') // 2, most)
    return b"".join(body.split(b'"')[::2])


def _check(what: str, found: int, most: int) -> None:
    if found > most:
        raise TooLarge(f"the body has more than the {most} {what} that are allowed; send fewer inputs")
