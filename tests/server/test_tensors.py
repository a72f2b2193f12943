"""The Open Inference Protocol's tensors: what they decode to, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilrt.server.statuses import Unprocessable
from distilrt.server.tensors import Tensor, array, blobs


def packed(texts: list[str]) -> bytes:
    return b"".join(len(text.encode()).to_bytes(4, "little") + text.encode() for text in texts)


@given(st.lists(st.text(max_size=5), min_size=1, max_size=4))
def test_strings(texts: list[str]) -> None:
    tensor = Tensor("text", [len(texts)], "BYTES", data=texts)
    assert array(tensor, None).tolist() == array(tensor, packed(texts)).tolist() == texts
    nested = Tensor("text", [len(texts), 1], "BYTES", data=[[text] for text in texts])
    assert array(nested, None).tolist() == [[text] for text in texts]


@pytest.mark.parametrize(("kind", "dtype"), [("INT64", "<i8"), ("INT32", "<i4")])
def test_numbers(kind: str, dtype: str) -> None:
    values = [[1, -2, 3], [4, 5, 2**31 - 1]]
    tensor = Tensor("ids", [2, 3], kind, data=values)
    assert array(tensor, None).tolist() == array(tensor, np.array(values, dtype).tobytes()).tolist() == values
    assert array(Tensor("ids", [2, 3], kind, data=[*values[0], *values[1]]), None).tolist() == values
    assert array(tensor, None).dtype == np.int64


REFUSED: list[tuple[Tensor, bytes | None, str]] = [
    (Tensor("x", [1], "FP32", data=[1.0]), None, "datatype BYTES, INT64 or INT32, found 'FP32'"),
    (Tensor("x", [2], "INT64", data=[1]), None, r"shape \[2\], which takes 2 values, found 1"),
    (Tensor("x", [1], "INT64", data=[1.5]), None, "must have integers"),
    (Tensor("x", [1], "INT64", data=[True]), None, "must have integers"),
    (Tensor("x", [1], "INT64", data=[2**63]), None, "must have integers"),
    (Tensor("x", [1], "INT64", data=[[[[[[[[[[1]]]]]]]]]]), None, "must have integers"),
    (Tensor("x", [1], "BYTES", data=[1]), None, "must have strings"),
    (Tensor("x", [1], "INT64"), b"1234567", "7 bytes, no multiple of 8"),
    (Tensor("x", [1], "BYTES"), b"\x05\0\0\0abc", "ends within a string"),
    (Tensor("x", [1], "BYTES"), b"\x05\0", "ends within a string"),
    (Tensor("x", [1], "BYTES"), b"\x01\0\0\0\xff", "strings in UTF-8"),
    (Tensor("x", [2**31 - 1] * 9, "INT64", data=[]), None, "found 0"),
]


@pytest.mark.parametrize(("tensor", "blob", "message"), REFUSED, ids=[case[2] for case in REFUSED])
def test_refusals(tensor: Tensor, blob: bytes | None, message: str) -> None:
    with pytest.raises(Unprocessable, match=message):
        array(tensor, blob)


def test_blobs_follow_in_order() -> None:
    def of(size: Any, data: Any = None) -> Tensor:
        return Tensor("x", [1], "INT64", None if size is None else {"binary_data_size": size}, data)

    assert blobs([of(2), of(None, [1]), of(0), of(1)], b"abc") == [b"ab", None, b"", b"c"]
    for tensors, rest, message in (
        ([of(4)], b"abc", "has the binary_data_size 4, and 3 bytes follow"),
        ([of(-1)], b"abc", "binary_data_size -1"),
        ([of("1")], b"abc", "binary_data_size '1'"),
        ([of(1)], b"abc", "2 bytes follow the tensors"),
        ([of(3, [1])], b"abc", "either data or the parameter"),
        ([of(None)], b"", "either data or the parameter"),
    ):
        with pytest.raises(Unprocessable, match=message):
            blobs(tensors, rest)
