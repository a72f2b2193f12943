"""Large bodies: what JSON is refused before it is decoded, and that all else means the same as in a small one."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest

from distilrt.errors import TooLarge
from distilrt.server import huggingface, json_bodies
from distilrt.server.json_bodies import Bounds

DECODER = msgspec.json.Decoder(huggingface.Payload)


@pytest.mark.parametrize("inputs", ["text", ["[" * 50, '{"a": [1]}', "\\", '\\"[[[', "é\n"], [{"text": "a:[{"}] * 10])
def test_it_means_the_same(inputs: Any) -> None:
    body = json.dumps({"inputs": inputs, "parameters": {"top_k": 2}}).encode()
    assert json_bodies.decode(body, DECODER, Bounds(50, 50)) == DECODER.decode(body)


def test_what_strings_hold_is_not_counted() -> None:
    body = json.dumps({"inputs": ['[{"a":', "\\", '"' * 9] * 30}).encode()
    assert json_bodies.decode(body, DECODER, Bounds(25, 100)) == DECODER.decode(body)
    with pytest.raises(TooLarge, match="more than the 2 values"):
        json_bodies.decode(body, DECODER, Bounds(23, 2))


MANY = {
    "arrays": b"[" + b",".join([b"[]"] * 600_000) + b"]",
    "members": b"{" + b",".join([b'"a":1'] * 60_000) + b"}",
    "strings": b"[" + b",".join([b'"["'] * 400_000) + b"]",
    "values": b"[" + b",".join([b"5"] * 900_000) + b"]",
}


@pytest.mark.parametrize("kind", MANY)
def test_many_values_are_refused_before_they_are_decoded(kind: str) -> None:
    body = b'{"inputs":' + MANY[kind]  # It would be no JSON.
    with pytest.raises(TooLarge, match=f"more than the .*{kind}.* that are allowed"):
        json_bodies.decode(body, DECODER, Bounds(17_408, 541_696))


def test_deep_values() -> None:
    with pytest.raises(ValueError, match="depth"):
        json_bodies.decode(b'{"inputs":' + b'{"a":[' * 10**4, DECODER, Bounds(10**6, 10**6))


def test_large_exponents_are_read_in_time() -> None:
    """msgspec alone took ten seconds for so many."""
    body = b'{"inputs": [' + b",".join([b"1e300"] * 300_000) + b"]}"
    start = time.perf_counter()
    assert len(json_bodies.decode(body, DECODER, Bounds(100, 400_000)).inputs) == 300_000
    assert time.perf_counter() - start < 2
