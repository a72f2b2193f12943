"""What every route has: key, limits, deadlines, overload, timings, and clients that are slow or hang up."""

from __future__ import annotations

import asyncio
import gc
import gzip
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from distilrt.errors import DeadlineExceeded
from distilrt.runtime.engine import Engine
from distilrt.runtime.reading import PART
from distilrt.server.app import create_app
from distilrt.server.call import Call
from distilrt.server.serving import Serving
from distilrt.server.settings import Settings
from distilrt.tasks.text_classification import TextClassification

Engines = Callable[..., Engine]
CLASSIFIER = "DistilBertForSequenceClassification"
BODY = b'{"inputs": "a"}'


def test_the_key(engine_of: Engines, client_of: Any) -> None:
    client = client_of(engine_of(CLASSIFIER), api_key="secret")
    for key in ("", "Bearer wrong", "secret"):
        response = client.post("/", content=BODY, headers={"authorization": key} if key else {})
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.json()["error_type"] == "Unauthorized"
    assert client.post("/", content=BODY, headers={"authorization": "Bearer secret"}).status_code == 200
    for path in ("/livez", "/readyz", "/health", "/metrics"):
        assert client.get(path).status_code == 200


def test_timing_headers(engine_of: Engines, client_of: Any) -> None:
    headers = client_of(engine_of(CLASSIFIER)).post("/", content=BODY).headers
    names = ["x-total-time", "x-tokenization-time", "x-queue-time", "x-inference-time"]
    total, *parts = (int(headers[f"{name}-us"]) for name in names)
    assert 0 < sum(parts) <= total
    assert [int(headers[name]) for name in names] == [value // 1000 for value in (total, *parts)]
    assert headers["x-compute-tokens"] == "3"


def test_large_bodies(engine_of: Engines, client_of: Any) -> None:
    client = client_of(engine_of(CLASSIFIER), max_body_bytes=100)
    assert client.post("/", content=BODY + b" " * 85).status_code == 200
    announced = client.post("/", content=BODY + b" " * 86)
    streamed = client.post("/", content=(BODY[i : i + 5] + b" " * 40 for i in range(0, 15, 5)))
    for response in (announced, streamed):
        assert response.status_code == 413
        assert response.json()["error_type"] == "TooLarge"
        assert "bytes" in response.json()["error"]
    assert client.post("/", content=(BODY[i : i + 5] for i in range(0, 15, 5))).status_code == 200


def test_too_many_texts(engine_of: Engines, client_of: Any) -> None:
    classifier = client_of(engine_of(CLASSIFIER), max_inputs=4)
    for count, labels, status in ((4, 0, 200), (5, 0, 413), (1, 4, 200), (1, 5, 413), (2, 2, 200), (2, 3, 413)):
        parameters: dict[str, Any] = {"candidate_labels": ["x"] * labels} if labels else {}
        response = classifier.post("/", json={"inputs": ["a"] * count, "parameters": parameters})
        assert response.status_code == status, (count, labels)
    parameters = {"candidate_labels": "a,b,c,d,e"}
    assert classifier.post("/", json={"inputs": "a", "parameters": parameters}).status_code == 413
    encoder = client_of(engine_of("DistilBertModel"), max_inputs=5)
    for count, status in ((4, 200), (5, 413)):  # the source is a text, too
        inputs = {"source_sentence": "a", "sentences": ["b"] * count}
        assert encoder.post("/", json={"inputs": inputs}).status_code == status
    chooser = client_of(engine_of("DistilBertForMultipleChoice"), max_inputs=4)
    for count, status in ((4, 200), (5, 413)):
        assert chooser.post("/", json={"inputs": {"prompt": "a", "choices": ["b"] * count}}).status_code == status


def test_too_many_tokens(engine_of: Engines, client_of: Any) -> None:
    client = client_of(engine_of(CLASSIFIER), max_tokens=7)  # "[CLS] a [SEP]" has three
    for count, status in ((2, 200), (3, 413), (1, 200)):
        response = client.post("/", json={"inputs": ["a"] * count})
        assert response.status_code == status, response.text
    assert "9 tokens, at most 7" in client.post("/", json={"inputs": ["a"] * 3}).json()["error"]


def test_routes_that_are_not_there(engine_of: Engines, client_of: Any) -> None:
    client = client_of(engine_of(CLASSIFIER))
    for method, path, status, kind in (
        ("GET", "/nowhere", 404, "NotFound"), ("POST", "/livez", 405, "MethodNotAllowed"),
        ("PUT", "/", 405, "MethodNotAllowed"), ("GET", "/models/x", 405, "MethodNotAllowed"),
    ):  # fmt: skip
        response = client.request(method, path)
        assert (response.status_code, response.json()["error_type"]) == (status, kind)
    assert "POST" in client.get("/models/x").headers["allow"]


@pytest.mark.parametrize("header", ["x-priority", "x-deadline-ms"])
def test_headers_of_a_wrong_kind(engine_of: Engines, client_of: Any, header: str) -> None:
    client = client_of(engine_of(CLASSIFIER), deadline=10.0)
    for value in ("soon", "1.5", "99", "") if header == "x-priority" else ("soon", "-1", "0", "1.5"):
        response = client.post("/", content=BODY, headers={header: value})
        assert response.status_code == 422
    assert client.post("/", content=BODY, headers={header: "9"}).status_code in (200, 504)


@pytest.fixture
def stuck(folder_of: Callable[..., Path]) -> Any:
    """An engine that computes nothing for a minute, unless closed, and takes one request at each priority."""
    with Engine(folder_of(CLASSIFIER), name="stuck", max_delay=60, max_queue_tokens=1) as engine:
        yield engine


class Wire:
    """An application asked as a server asks it, where the test decides what comes when."""

    def __init__(self, engine: Engine, **settings: Any) -> None:
        self.engine = engine
        self.app = create_app({engine.name: engine}, Settings(**settings))
        self.serving = self.app.state.serving
        self.serving.warm = True

    async def post(
        self, *messages: Any, headers: dict[str, str] | None = None, path: str = "/", client: str = "one"
    ) -> tuple[int, dict[str, str], Any]:
        """Messages are parts of a body, seconds to wait, or None: the client hangs up; then it waits for ever."""
        coming = list(messages)
        sent: list[Any] = []

        async def receive() -> Any:
            while coming and isinstance(coming[0], float):
                await asyncio.sleep(coming.pop(0))
            if not coming:
                await asyncio.Event().wait()
            part = coming.pop(0)
            if part is None:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": part, "more_body": any(isinstance(m, bytes) for m in coming)}

        async def send(message: Any) -> None:
            sent.append(message)

        fields = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        scope = {"type": "http", "method": "POST", "path": path, "headers": fields, "query_string": b"",
                 "root_path": "", "client": (client, 1)}  # fmt: skip
        await self.app(scope, receive, send)
        if not sent:
            return 0, {}, None
        found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], found, orjson.loads(sent[1]["body"])


def test_overload(stuck: Engine) -> None:
    wire = Wire(stuck)

    async def main() -> None:
        first = asyncio.create_task(wire.post(BODY))
        while not stuck.waiting[0]:
            await asyncio.sleep(0.001)
        status, headers, body = await wire.post(BODY)
        assert (status, headers["retry-after"], body["error_type"]) == (429, "1", "Overloaded")
        urgent = asyncio.create_task(wire.post(BODY, headers={"x-priority": "1"}))
        while stuck.waiting[0] < 2:
            await asyncio.sleep(0.001)
        await asyncio.to_thread(stuck.close)  # which computes what waits
        assert [(await one)[0] for one in (first, urgent)] == [200, 200]
        status, headers, body = await wire.post(BODY)
        assert (status, headers["retry-after"], body["error_type"]) == (503, "1", "NotReady")

    asyncio.run(main())
    assert wire.serving.responses == {("/", 200): 2, ("/", 429): 1, ("/", 503): 1}


def test_clients_are_known_by_their_address(stuck: Engine) -> None:
    wire = Wire(stuck)

    async def main() -> None:
        greedy = asyncio.create_task(wire.post(BODY))
        while not stuck.waiting[0]:
            await asyncio.sleep(0.001)
        assert (await wire.post(BODY))[0] == 429
        other = asyncio.create_task(wire.post(BODY, client="other"))
        while stuck.waiting[0] < 2:
            await asyncio.sleep(0.001)
        await asyncio.to_thread(stuck.close)
        assert [(await one)[0] for one in (greedy, other)] == [200, 200]

    asyncio.run(main())


def test_a_deadline_counts_from_the_arrival_of_the_body(stuck: Engine) -> None:
    """Not from the first byte; and it holds where a request asks an engine several times."""
    wire = Wire(stuck)
    status, _, body = asyncio.run(wire.post(b'{"inputs"', 0.1, b': "a"}', headers={"x-deadline-ms": "50"}))
    assert (status, body["error_type"]) == (504, "DeadlineExceeded")
    call = Call(wire.serving, {"type": "http", "method": "POST", "headers": [(b"x-deadline-ms", b"20")]}, _never)
    time.sleep(0.03)
    with pytest.raises(DeadlineExceeded, match=r"the deadline of 0\.02 seconds passed"):
        asyncio.run(call.answer(stuck, "text-classification", "a"))


async def _never() -> Any:
    await asyncio.Event().wait()


def test_refusals_keep_no_body(engine_of: Engines) -> None:
    """Each of 2 MB; 30 of them held 1.8 GB until the garbage collector came by."""
    wire = Wire(engine_of(CLASSIFIER))
    body = orjson.dumps({"inputs": ["a " * 1000] * 50 + [7]})

    def kept() -> int:
        return sum(type(found) is list and len(found) == 51 for found in gc.get_objects())

    async def main() -> None:
        assert (await wire.post(body))[0] == 422
        gc.collect()
        gc.disable()
        try:
            before = kept()
            for _ in range(8):
                assert (await wire.post(body))[0] == 422
            end = time.monotonic() + 5
            while kept() > before + 2 and time.monotonic() < end:  # a thread may be on its way out
                await asyncio.sleep(0.01)
            assert kept() <= before + 2  # both threads' last
        finally:
            gc.enable()

    asyncio.run(main())


@pytest.mark.parametrize(("setting", "headers"), [(0.03, {}), (None, {"x-deadline-ms": "30"}),
                                                  (0.03, {"x-deadline-ms": "60000"})])  # fmt: skip
def test_deadlines(folder_of: Callable[..., Path], setting: float | None, headers: dict[str, str]) -> None:
    with Engine(folder_of(CLASSIFIER), max_delay=0.06) as engine:
        status, _, body = asyncio.run(Wire(engine, deadline=setting).post(BODY, headers=headers))
    assert (status, body["error_type"]) == (504, "DeadlineExceeded")


@pytest.mark.parametrize("messages", [(BODY, 0.05, None), (BODY, None)], ids=["later", "at once"])
def test_a_client_that_hangs_up_takes_its_work_away(stuck: Engine, messages: Any) -> None:
    wire = Wire(stuck)
    assert asyncio.run(wire.post(*messages)) == (0, {}, None)
    assert stuck.waiting == (0, 0, 0)
    assert stuck.counters.requests == {("text-classification", "cancelled"): 1}
    assert wire.serving.responses == {("/", 499): 1}


def test_a_client_that_hangs_up_in_its_body(stuck: Engine) -> None:
    wire = Wire(stuck)
    assert asyncio.run(wire.post(b'{"inp', None, b"")) == (0, {}, None)
    assert not stuck.counters.requests


def test_a_client_that_is_slow(stuck: Engine) -> None:
    status, headers, body = asyncio.run(Wire(stuck, body_timeout=0.02).post(b'{"inp', 60.0, b'uts": "a"}'))
    assert (status, headers["connection"], body["error_type"]) == (408, "close", "TooSlow")


def test_before_and_after(stuck: Engine) -> None:
    wire = Wire(stuck)
    wire.serving.warm = False
    status, headers, body = asyncio.run(wire.post(BODY))
    assert (status, body["error_type"], headers["retry-after"]) == (503, "NotReady", "1")
    assert "warming up" in body["error"]
    wire.serving.warm = wire.serving.draining = True
    status, headers, _ = asyncio.run(wire.post(b"{}"))
    assert (status, headers["connection"]) == (422, "close")


@pytest.mark.parametrize("path", ["/", "/tokenize"])
def test_a_client_that_hangs_up_is_not_tokenized(stuck: Engine, path: str) -> None:
    wire, gate = Wire(stuck), threading.Event()
    try:
        for client in "ab":  # both threads that tokenize are busy
            stuck.read(["a" * PART], lambda texts: [[gate.wait(60)] for _ in texts], client=client)
            while stuck.unread[1]:
                time.sleep(0.001)
        body = orjson.dumps({"inputs": ["a b " * 1000] * 10})
        assert asyncio.run(wire.post(body, 0.05, None, path=path)) == (0, {}, None)
        assert stuck.unread == (2, 0)
    finally:
        gate.set()
    assert not stuck.waiting[0]


def test_tokenizing_has_limits(engine_of: Engines, client_of: Any) -> None:
    client = client_of(engine_of(CLASSIFIER), max_tokens=50, max_inputs=9, max_body_bytes=300)
    for inputs, status in (["a"] * 9, 200), (["a"] * 10, 413), (["a " * 20] * 3, 413):
        assert client.post("/tokenize", json={"inputs": inputs}).status_code == status
    labels = {"candidate_labels": ["x" * 10] * 8}
    response = client.post("/", json={"inputs": "a " * 40, "parameters": labels})
    assert response.status_code == 413
    assert "characters to read" in response.json()["error"]


@pytest.mark.parametrize("step", ["texts", "answer"])
def test_a_fault_of_ours_is_500_and_logged(
    engine_of: Engines,
    client_of: Any,
    step: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*arguments: Any) -> Any:
        raise ValueError("bug")

    client = client_of(engine_of(CLASSIFIER))
    monkeypatch.setattr(TextClassification, step, broken)
    for text in ("a", "a " * 3000):
        caplog.clear()
        response = client.post("/", json={"inputs": text, "truncate": True})
        assert response.status_code == 500
        assert "ValueError: bug" in response.json()["error"]
        assert "in broken" in caplog.text
    monkeypatch.undo()
    assert client.post("/", json={"inputs": "a " * 3000}).status_code == 422
    assert client.post("/", json={"inputs": "a"}).status_code == 200


def test_without_an_engine() -> None:
    with pytest.raises(ValueError, match="at least one engine"):
        create_app({})


@pytest.mark.parametrize("text", ["9" * 400, "9" * 5000])
def test_a_deadline_of_many_digits(engine_of: Engines, client_of: Any, text: str) -> None:
    response = client_of(engine_of(CLASSIFIER)).post("/", content=BODY, headers={"x-deadline-ms": text})
    assert (response.status_code, response.json()["error_type"]) == (400, "Malformed")


COMPRESSED: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.mark.parametrize("encoding", COMPRESSED)
def test_compressed_bodies(engine_of: Engines, client_of: Any, encoding: str) -> None:
    client, compress = client_of(engine_of(CLASSIFIER), max_body_bytes=100_000), COMPRESSED[encoding]
    headers = {"content-encoding": encoding}
    assert client.post("/", content=compress(BODY), headers=headers).json() == client.post("/", content=BODY).json()
    large = client.post("/", content=compress(BODY + b" " * 100_000), headers=headers)
    assert (large.status_code, large.json()["error_type"]) == (413, "TooLarge")
    for broken in (BODY, b"", compress(BODY)[:-1], compress(BODY) + b"a"):
        response = client.post("/", content=broken, headers=headers)
        assert (response.status_code, response.json()["error_type"]) == (400, "Malformed")
    other = client.post("/", content=BODY, headers={"content-encoding": "br"})
    assert (other.status_code, other.json()["error_type"]) == (415, "UnknownEncoding")


def test_an_answered_error_keeps_no_body(engine_of: Engines) -> None:
    """Without waiting for the garbage collector: the body ends with its response."""
    wire = Wire(engine_of(CLASSIFIER))

    async def main() -> None:
        for size in (3_000, 300_000):  # tokenized by the event loop and by a thread
            body = b'{"inputs": "%b"}' % (b"word " * size)
            assert (await wire.post(body))[0] in (413, 422)
        await asyncio.sleep(0.05)

    gc.collect()
    gc.disable()
    try:
        tracemalloc.start()
        asyncio.run(main())
        assert tracemalloc.get_traced_memory()[0] < 500_000
    finally:
        tracemalloc.stop()
        gc.enable()


@pytest.mark.parametrize(
    ("address", "client"),
    [("10.0.0.1", "10.0.0.1"), ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"), ("::ffff:10.0.0.1", "::ffff:10.0.0.1"),
     ("fe80::1%eth0", "fe80::/64"), ("a:b", "a:b"), (None, "")],
)  # fmt: skip
def test_a_client_is_an_address_or_a_network(
    engine_of: Callable[..., Engine], address: str | None, client: str
) -> None:
    engine = engine_of("DistilBertModel")
    scope: dict[str, Any] = {"type": "http", "method": "GET", "headers": [], "client": address and (address, 1)}
    assert Call(Serving({engine.name: engine}, Settings()), scope, None).client == client  # type: ignore[arg-type]
