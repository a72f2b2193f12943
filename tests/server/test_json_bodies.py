"""Large bodies: what JSON is refused before it is decoded, and that all else means the same as in a small one."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest

from distilrt.server import huggingface, json_bodies
from distilrt.server.statuses import Malformed, TooLarge

DECODER = msgspec.json.Decoder(huggingface.Payload)


@pytest.mark.parametrize("inputs", ["text", ["[" * 50, '{"a": [1]}', "\\", '\\"[[[', "é\n"], [{"text": "a:[{"}] * 10])
def test_it_means_the_same(inputs: Any) -> None:
    body = json.dumps({"inputs": inputs, "parameters": {"top_k": 2}}).encode()
    assert json_bodies.decode(body, DECODER, 50) == DECODER.decode(body)


def test_what_strings_hold_is_not_counted() -> None:
    body = json.dumps({"inputs": ['[{"a":', "\\", '"' * 9] * 30}).encode()
    assert json_bodies.decode(body, DECODER, 4) == DECODER.decode(body)
    with pytest.raises(TooLarge, match="more than the 2 arrays"):
        json_bodies.decode(body, DECODER, 2)


MANY = {"arrays": b"[" + b",".join([b"[]"] * 600_000) + b"]",
        "members": b"{" + b",".join(b'"%d":1' % number for number in range(180_000)) + b"}"}  # fmt: skip


@pytest.mark.parametrize("kind", MANY)
def test_many_values_are_refused_at_once(kind: str) -> None:
    body = b'{"inputs":' + MANY[kind] + b"}"
    start = time.perf_counter()
    with pytest.raises(TooLarge):
        json_bodies.decode(body, DECODER, 17_408)
    assert time.perf_counter() - start < 1


def test_deep_values() -> None:
    with pytest.raises(Malformed, match="at most 1000 deep"):
        json_bodies.decode(b'{"inputs":' + b'{"a":[' * 10**5, DECODER, 100)


def test_large_exponents_are_read_in_time() -> None:
    """msgspec alone took ten seconds for so many."""
    body = b'{"inputs": [' + b",".join([b"1e300"] * 300_000) + b"]}"
    start = time.perf_counter()
    assert len(json_bodies.decode(body, DECODER, 100).inputs) == 300_000
    assert time.perf_counter() - start < 2
