"""Bodies of JSON from untrusted clients: decompressed and decoded within bounds of size and time."""

from __future__ import annotations

import zlib
from typing import TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import orjson

from distilrt.server.statuses import Malformed, TooLarge

_Body = TypeVar("_Body")

ENCODINGS = ("identity", "gzip", "deflate")
_MOST_DEPTH = 1000
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


def decode(body: bytes, decoder: msgspec.json.Decoder[_Body], most_members: int) -> _Body:
    """Decode a large body. This blocks the interpreter, so a body of millions of arrays, which takes long, is refused.
    orjson parses it, since msgspec takes 30 µs for a number like 1e300.

    Raises:
        TooLarge: more arrays, objects and members than that.
        Malformed: deeper than is read.
        ValueError: no JSON in UTF-8; `msgspec.ValidationError`: of another form.
    """
    if _members(body) > most_members:
        plain = _outside_strings(body)
        if _depth(plain) > _MOST_DEPTH:
            raise Malformed(f"the body must be JSON whose arrays and objects are at most {_MOST_DEPTH} deep")
        if _members(plain.tobytes()) > most_members:
            raise TooLarge(
                f"the body has more than the {most_members} arrays, objects and members that are allowed; "
                "send fewer inputs"
            )
    return msgspec.convert(orjson.loads(body), decoder.type)


def _members(body: bytes) -> int:
    return body.count(b"[") + body.count(b"{") + body.count(b":")


def _outside_strings(body: bytes) -> npt.NDArray[np.uint8]:
    characters = np.frombuffer(body.replace(b"\\\\", b"").replace(b'\\"', b""), np.uint8)
    inside = np.cumsum(characters == ord('"'), dtype=np.uint8) & 1
    found: npt.NDArray[np.uint8] = characters[inside == 0]
    return found


def _depth(characters: npt.NDArray[np.uint8]) -> int:
    opening = (characters == ord("[")) | (characters == ord("{"))
    closing = (characters == ord("]")) | (characters == ord("}"))
    return int(np.cumsum(opening.astype(np.int8) - closing, dtype=np.int32).max(initial=0))
