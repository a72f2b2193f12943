"""The Open Inference Protocol's tensors: JSON or the binary extension on the wire, arrays inside.

In binary, a body is a JSON header as long as `Inference-Header-Content-Length` says, then each binary tensor's bytes in
the header's order: numbers little-endian, a string as its length in 4 bytes and its UTF-8.
"""

from __future__ import annotations

import math
from itertools import accumulate
from operator import mul
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from distilrt.server.statuses import Unprocessable

_DTYPES = {"INT64": "<i8", "INT32": "<i4"}


class Tensor(msgspec.Struct, forbid_unknown_fields=True):
    """A tensor of a request; its data are in row-major order, nested or flat, or after the header."""

    name: str
    shape: Annotated[list[Annotated[int, Meta(ge=0, le=2**31 - 1)]], Meta(max_length=8)]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


def array(tensor: Tensor, blob: bytes | None) -> npt.NDArray[Any]:
    """A request's tensor: int64 numbers, or objects that are str.

    Args:
        tensor: as in the header.
        blob: its bytes, where they follow the header.

    Raises:
        Unprocessable: another datatype, or data that isn't what datatype and shape say.
    """
    name, number = tensor.name, math.prod(tensor.shape)
    if tensor.datatype == "BYTES":
        texts = _flat(tensor, number) if blob is None else _strings(name, blob)
        if not all(isinstance(text, str) for text in texts):
            raise Unprocessable(f"tensor {name!r} of datatype BYTES must have strings as its data")
        found = np.empty(len(texts), object)
        found[:] = texts
    elif tensor.datatype not in _DTYPES:
        raise Unprocessable(
            f"tensor {name!r} must have the datatype BYTES, {' or '.join(_DTYPES)}, found {tensor.datatype!r}"
        )
    elif blob is not None:
        dtype = np.dtype(_DTYPES[tensor.datatype])
        if len(blob) % dtype.itemsize:
            raise Unprocessable(f"tensor {name!r} has {len(blob)} bytes, no multiple of {dtype.itemsize}")
        found = np.frombuffer(blob, dtype).astype(np.int64)
    else:
        values = _flat(tensor, number)
        if not all(type(value) is int and -(2**63) <= value < 2**63 for value in values):
            raise Unprocessable(f"tensor {name!r} of datatype {tensor.datatype} must have integers as its data")
        found = np.array(values, np.int64)
    if len(found) != number:
        raise Unprocessable(
            f"tensor {name!r} has the shape {tensor.shape}, which takes {number} values, found {len(found)}"
        )
    return found.reshape(tensor.shape)


def blobs(tensors: list[Tensor], rest: bytes) -> list[bytes | None]:
    """The bytes of each tensor that has its data after the header.

    Raises:
        Unprocessable: sizes that don't add up, or data in both places or none.
    """
    found: list[bytes | None] = []
    start = 0
    for tensor in tensors:
        size = (tensor.parameters or {}).get("binary_data_size")
        if (size is None) == (tensor.data is None):
            raise Unprocessable(f"tensor {tensor.name!r} must have either data or the parameter binary_data_size")
        if size is None:
            found.append(None)
            continue
        if type(size) is not int or not 0 <= size <= len(rest) - start:
            raise Unprocessable(
                f"tensor {tensor.name!r} has the binary_data_size {size!r:.40}, and {len(rest) - start} bytes follow"
            )
        found.append(rest[start : start + size])
        start += size
    if start < len(rest):
        raise Unprocessable(
            f"{len(rest) - start} bytes follow the tensors; binary_data_size and "
            "Inference-Header-Content-Length must cover the whole body"
        )
    return found


def _flat(tensor: Tensor, number: int) -> list[Any]:
    """The data without nesting; it stops early where they are too many or nested too deeply, and are refused."""
    values: list[Any] = tensor.data or []
    most = max([number, *accumulate(tensor.shape, mul)])  # of lists, where there is an empty dimension
    for _ in range(8):
        if len(values) > most or not any(isinstance(value, list) for value in values):
            break
        values = [item for value in values for item in (value if isinstance(value, list) else [value])]
    return values


def _strings(name: str, blob: bytes) -> list[str]:
    texts, start = [], 0
    while start < len(blob):
        end = start + 4 + int.from_bytes(blob[start : start + 4], "little")
        if start + 4 > len(blob) or end > len(blob):
            raise Unprocessable(f"tensor {name!r} ends within a string; each must follow its length in 4 bytes")
        try:
            texts.append(blob[start + 4 : end].decode())
        except UnicodeDecodeError:
            raise Unprocessable(f"tensor {name!r} must have strings in UTF-8") from None
        start = end
    return texts
