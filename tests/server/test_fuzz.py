"""Seeded fuzzing: whatever is sent, the server answers with an error of its own or not at all, and goes on."""

from __future__ import annotations

import copy
import json
import random
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from distilrt.runtime.engine import Engine

_TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}
_IDS = {"name": "input_ids", "shape": [1, 3], "datatype": "INT64", "data": [1, 2, 3]}
_PARAMETERS = {"top_k": 2, "function_to_apply": "sigmoid", "truncation": True, "max_length": 8, "pooling": "mean",
               "normalize": True, "dimensions": 4, "prompt": "p ", "candidate_labels": ["x", "y"], "stride": 3,
               "hypothesis_template": "This is {}.", "targets": ["cat"], "doc_stride": 2, "max_seq_len": 16,
               "aggregation_strategy": "first", "ignore_labels": ["O"], "is_split_into_words": False}  # fmt: skip
_SEEDS: list[tuple[str, Any]] = [
    ("/", {"inputs": ["a b [MASK]", {"text": "a", "text_pair": "b"}], "parameters": _PARAMETERS, "options": {}}),
    ("/", {"inputs": {"question": "who?", "context": "Ann. "}, "parameters": _PARAMETERS}),
    ("/", {"inputs": {"source_sentence": "a", "sentences": ["b", "c"]}, "normalize": True, "prompt_name": None}),
    ("/", {"inputs": {"prompt": "a", "choices": ["b", "c"]}, "truncate": True, "truncation_direction": "left"}),
    ("/embed", {"inputs": ["a", [1, 2]], "truncate": True, "normalize": False, "dimensions": 3}),
    ("/embed_all", {"inputs": "a", "truncate": True}),
    ("/embed_sparse", {"inputs": ["a b"], "truncate": False}),
    ("/predict", {"inputs": [["a"], ["a", "b"]], "raw_scores": True, "truncate": True}),
    ("/rerank", {"query": "q", "texts": ["a", "b"], "raw_scores": True, "return_text": True}),
    ("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["b"]}, "parameters": {"truncate": True}}),
    ("/tokenize", {"inputs": ["a b"], "add_special_tokens": True}),
    ("/decode", {"ids": [[101, 5], [102]], "skip_special_tokens": True}),
    ("/v1/embeddings", {"input": ["a", [101, 102]], "encoding_format": "base64", "dimensions": 4, "user": "u"}),
    ("/v2/models/{model}/infer", {"inputs": [_IDS], "id": "x", "parameters": {"truncation": True, "timeout": 9}}),
    ("/v2/models/{model}/infer", {"inputs": [_TENSOR], "outputs": [{"name": "logits", "parameters": {}}]}),
    ("/invocations", {"inputs": "a", "parameters": {"pooling": "mean"}}),
    ("/vertex", {"instances": ["a", {"inputs": "b"}], "parameters": {"top_k": 1}}),
]
_ODD: list[Any] = [None, -1, 0, 2**31, 10**18, 2**64, 1e300, 1.5, True, "", "x", "a" * 5000, [], {}, [[]],
                   {"a": 1}, "\0", "[MASK] [MASK]", "{:>9}", "{0!r:>{0}}", "{0.__len__}", "\ud7ff", [["a"]], "softmax",
                   [None]]  # fmt: skip
_BODY = b'{"inputs":"hi"}'
_STREAMS = [
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\nx-deadline-ms: 100\r\nx-priority: 1\r\n\r\n" + _BODY,
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nf\r\n" + _BODY + b"\r\n0\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /livez HTTP/1.1\r\n\r\n" * 5,
    b"HEAD / HTTP/1.0\r\n\r\n",
]
_PIECES = [b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n",
           b"Expect: 100-continue\r\n", b"Connection: upgrade\r\n", b"Upgrade: h2c\r\n", b"HTTP/9.9", b"\xff\xfe",
           b"%00", b"..", b"0\r\n\r\n", b"FFFFFFFF\r\n", b"Connection: close\r\n", b"Authorization: \r\n"]  # fmt: skip


def _bodies(seed: int, number: int, model: str) -> Iterator[tuple[str, bytes]]:
    """Path and body of so many requests."""
    chance = random.Random(seed)
    for _ in range(number):
        path, value = chance.choice(_SEEDS)
        changed = copy.deepcopy(value)
        for _ in range(chance.choice([1, 1, 2, 3, 5])):
            _change(changed, chance)
        body = bytearray(json.dumps(changed).encode())
        if chance.random() < 0.1:
            body[chance.randrange(len(body))] = chance.randrange(256)
        yield path.replace("{model}", model), bytes(body)


def _streams(seed: int, number: int) -> Iterator[bytes]:
    """What a client sends on so many connections."""
    chance = random.Random(seed)
    for _ in range(number):
        data = bytearray(chance.choice(_STREAMS) + (chance.choice(_STREAMS) if chance.random() < 0.3 else b""))
        for _ in range(chance.choice([1, 1, 2, 4, 8])):
            at, kind = chance.randrange(len(data) + 1), chance.randrange(4)
            if kind == 0:
                data[at : at + 1] = bytes([chance.randrange(256)])
            elif kind == 1:
                data[at:at] = chance.choice(_PIECES)
            elif kind == 2:
                del data[at : at + chance.choice([1, 2, 10])]
            else:
                data[at:at] = data[at : at + 20]
        yield bytes(data)


def _change(value: Any, chance: random.Random) -> None:
    """Put something odd into a place of a value, or take one away."""
    places = list(_places(value))
    if places:
        holder, key = chance.choice(places)
        if chance.randrange(6):
            holder[key] = copy.deepcopy(chance.choice(_ODD))
        else:
            del holder[key]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _status(address: str, data: bytes, patience: float) -> int:
    """The first status that comes for a stream within so many seconds; 0: none."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection, suppress(OSError):
        connection.sendall(data)
        connection.settimeout(patience)
        found = re.match(rb"HTTP/1\.1 (\d+) ", connection.recv(65536))
        return int(found[1]) if found else 0
    return 0


@pytest.mark.parametrize(("seed", "number"), [(1, 400), pytest.param(2, 10_000, marks=pytest.mark.whole)])
def test_mutated_bodies(engine_of: Callable[..., Engine], client_of: Any, seed: int, number: int) -> None:
    names = ("DistilBertForSequenceClassification", "DistilBertModel", "DistilBertForMaskedLM")
    client = client_of(*map(engine_of, names))
    for path, body in _bodies(seed, number, names[0]):
        response = client.post(path, content=body)
        assert response.status_code < 500 or response.status_code == 504, (path, body, response.text)
        assert response.status_code == 200 or "error" in response.json()


@pytest.mark.parametrize(("seed", "number"), [(1, 40), pytest.param(2, 1_500, marks=pytest.mark.whole)])
def test_mutated_streams(address: str, seed: int, number: int) -> None:
    for data in _streams(seed, number):
        status = _status(address, data, 0.05)
        assert status < 500 or status in (503, 504), data
    assert _status(address, b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n", 5.0) == 200
