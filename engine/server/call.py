"""One HTTP request on its way: its body within bounds, the engine's answer, and the response."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv6Address
from typing import Any, TypeVar

import msgspec
import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope

from distilrt import tasks
from distilrt.errors import DeadlineExceeded, NotReady
from distilrt.runtime.counters import Timing
from distilrt.runtime.engine import Engine
from distilrt.runtime.reading import Limits
from distilrt.runtime.request import Request
from distilrt.server import json_bodies, statuses
from distilrt.server.body_reader import MOST_DIGITS, SMALL, BodyReader
from distilrt.server.json_bodies import Bounds
from distilrt.server.long_response import LongResponse, json_pieces
from distilrt.server.serving import Serving

_Body = TypeVar("_Body")
_Result = TypeVar("_Result")
_Input = TypeVar("_Input", str, list[int])
_HANG_UP_SECONDS = 0.02  # before a task listens for a client that hangs up; most requests are answered sooner
_LONG = 4096  # tokens whose answers may take long to encode; vectors of all of them take some 0.1 s


class Call:
    """One HTTP request.

    Attributes:
        serving: the server's state.
        path: the route's parameters.
        method, headers: the request's, the headers by their names in lower case.
        client: the address that sent it, or of an IPv6 address its /64 network; "" for a local socket without one.
        body: the body as bytes, to be read once.
        steps: for each answer of an engine, when it came in seconds from the start, and its timing.
        priority, timeout: what the body asks for, the timeout in seconds; None: what the headers say counts.
    """

    def __init__(self, serving: Serving, scope: Scope, receive: Receive) -> None:
        self.serving, self._scope, self._receive = serving, scope, receive
        self.path: dict[str, Any] = scope.get("path_params", {})
        self.method: str = scope["method"]
        # The first counts of those that came twice.
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(scope["headers"])}
        self.client = _network((scope.get("client") or ("",))[0])
        self.steps: list[tuple[float, Timing]] = []
        self.priority: int | None = None
        self.timeout: float | None = None
        self._listed = 0  # tokens that were made and not computed
        self._start = time.perf_counter()  # a loop's own clock may have steps of a millisecond
        self.body = BodyReader(serving, self.client, self.headers, receive)

    def authorize(self) -> None:
        """Check the key.

        Raises:
            Unauthorized: it is missing or wrong.
        """
        key = self.serving.settings.api_key
        if key is None:
            return
        given = self.headers.get("authorization", "").encode("latin-1")
        if not hmac.compare_digest(given, f"Bearer {key}".encode()):
            raise statuses.Unauthorized(
                "this server needs a key, and this one is missing or wrong; send the header Authorization: Bearer KEY"
            )

    @property
    def limits(self) -> Limits:
        """What the request may have in all. The limit of characters, which bounds memory and time, is that of a body's
        bytes."""
        settings = self.serving.settings
        return Limits(settings.max_inputs, settings.max_body_bytes, settings.max_tokens)

    def decode(self, body: bytes, decoder: msgspec.json.Decoder[_Body]) -> _Body:
        """A body of JSON, or a part of one, decoded.

        Raises:
            TooLarge: more values than the settings allow.
            Malformed: no JSON in UTF-8.
            Unprocessable: JSON of another form.
        """
        try:
            if len(body) <= SMALL:
                return decoder.decode(body)
            settings = self.serving.settings
            members = 8 * settings.max_inputs + 1024
            # A token may have an id and a mask.
            return json_bodies.decode(body, decoder, Bounds(members, members + 2 * settings.max_tokens))
        except msgspec.ValidationError as error:
            raise statuses.Unprocessable(f"the body is not what this route takes, see /docs: {error}") from None
        except (msgspec.DecodeError, orjson.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise statuses.Malformed(f"the body must be JSON in UTF-8: {error}") from None

    async def answer(self, engine: Engine, task: str, inputs: Any, params: Mapping[str, Any] | None = None) -> Any:
        """An engine's answer, under the server's limits and defaults.

        A client that hangs up takes its work out of the queues. May be called several times for one request.

        Raises:
            TooLarge: too many texts, characters or tokens.
            NotReady: the server is still warming up.
            Gone: the client hung up.
            Unprocessable: a header that is not allowed.
            DistilrtError: as `Engine.submit` and its future.
        """
        if not self.serving.warm:
            raise NotReady(self.serving.trouble or "the server is warming up; try again in a moment")
        params = dict(params or {})
        cuts = self.serving.settings.truncate and "truncation" in tasks.find(task).params
        if cuts and params.get("truncation") is None:
            params["truncation"] = True
        return await self._await(engine.enqueue(task, inputs, params, **self._terms()))

    async def tokenized(
        self, engine: Engine, inputs: Sequence[_Input], tokenize: Callable[[Sequence[_Input]], list[Any]]
    ) -> list[Any]:
        """The result of `tokenize` for each text or list of token ids.

        The inputs wait in the queue of those to be tokenized, under the limits of `answer`, and it raises the same.
        """
        found = list(await self._await(engine.read(inputs, tokenize, **self._terms())))
        self._listed = sum(map(len, found))
        return found

    async def aside(self, size: int, work: Callable[[], _Result]) -> _Result:
        """The result of work in Python on so many bytes; for many, a thread beside the event loop does it."""
        return work() if size <= SMALL else await asyncio.to_thread(work)

    def reply(self, content: Any) -> Response:
        """A JSON response with the timing headers; content may hold NumPy arrays."""
        if self.long:
            return LongResponse(json_pieces(content), self.timings())
        body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
        return Response(body, headers=self.timings(), media_type="application/json")

    def total(self, part: str) -> float:
        """The sum of a field of `Timing` over all answers of engines."""
        return float(sum(getattr(timing, part) for _, timing in self.steps))

    def age(self) -> float:
        """Seconds since the request came."""
        return time.perf_counter() - self._start

    @property
    def long(self) -> bool:
        """Whether an answer may take long to encode."""
        return self.tokens + self._listed > _LONG

    @property
    def tokens(self) -> int:
        """The tokens that were computed for the answers."""
        return sum(timing.tokens for _, timing in self.steps)

    def timings(self) -> dict[str, str]:
        """Headers that say where the time of the request went.

        They have text-embeddings-inference's names and are in milliseconds; with `-us` they are in microseconds.
        """
        headers = {}
        if self.steps:
            seconds = {
                "x-total-time": self.age(),
                "x-tokenization-time": self.total("tokenize"),
                "x-queue-time": self.total("queue"),
                "x-inference-time": self.total("compute"),
            }
            for name, value in seconds.items():
                headers[name] = str(int(value * 1e3))
                headers[f"{name}-us"] = str(int(value * 1e6))
            headers["x-compute-tokens"] = str(self.tokens)
        return headers

    def _terms(self) -> dict[str, Any]:
        """The client, priority, deadline and limits of a request to an engine."""
        return {
            "client": self.client,
            "priority": self._priority(),
            "deadline": self._deadline(),
            "limits": self.limits,
        }

    def _priority(self) -> int:
        if self.priority is not None:
            return self.priority
        text = self.headers.get("x-priority", "0")
        try:
            return int(text)
        except ValueError:
            raise statuses.Unprocessable(f"x-priority must be an integer, found {text!r:.40}") from None

    def _deadline(self) -> float | None:
        most, seconds, text = self.serving.settings.deadline, self.timeout, self.headers.get("x-deadline-ms")
        if seconds is None and text is not None:
            if not text.isascii() or not text.isdigit() or not text.strip("0"):
                raise statuses.Unprocessable(f"x-deadline-ms must be an integer above 0, found {text!r:.40}")
            if len(text) > MOST_DIGITS:
                raise statuses.Malformed(f"x-deadline-ms may have at most {MOST_DIGITS} digits, found {len(text)}")
            seconds = int(text) / 1e3
        if seconds is not None:
            most = seconds if most is None else min(most, seconds)
        if most is None:
            return None
        left = most - (time.perf_counter() - (self.body.arrived or self._start))
        if left <= 0:
            raise DeadlineExceeded(
                f"the deadline of {most:g} seconds passed before the request could be queued; give it more time"
            )
        return left

    async def _await(self, request: Request) -> Any:
        """Wait for a request, note its timing, and cancel it when the client hangs up."""
        future = asyncio.wrap_future(request)
        listening: list[asyncio.Task[None]] = []
        gone = False

        async def listen() -> None:
            nonlocal gone
            while (await self._receive())["type"] != "http.disconnect":
                pass
            gone = True
            future.cancel()

        timer = asyncio.get_running_loop().call_later(
            _HANG_UP_SECONDS, lambda: listening.append(asyncio.create_task(listen()))
        )
        try:
            answer = await future
            if request.timing is not None:
                self.steps.append((self.age(), request.timing))
            return answer
        except asyncio.CancelledError:
            if gone:
                raise statuses.Gone from None
            raise
        finally:
            timer.cancel()
            for task in listening:
                task.cancel()


def _network(address: str) -> str:
    """An address; of IPv6 its /64 network, since a single machine may have every address of that."""
    with suppress(ValueError):  # no address, as a proxy may forward
        found = IPv6Address(address) if ":" in address else None
        if found is not None and found.ipv4_mapped is None:
            return str(IPv6Address(int(found) >> 64 << 64)) + "/64"
    return address
