"""What all wire formats share: the engines by name, the way of a request through them, and its limits.

A wire format is a module with `routes(serving)`, a list made with `serving.route(path, handler)`; a handler takes a
`Call`, reads its body, asks an engine and returns `call.reply(…)`. What it raises becomes a status by
`distilrt.server.errors`.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv6Address
from typing import Any, TypeVar

import msgspec
import orjson
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from distilrt.errors import DeadlineExceeded, NotReady, detached
from distilrt.runtime.engine import Engine
from distilrt.runtime.reading import Limits
from distilrt.runtime.request import Request, Timing
from distilrt.server import errors, json_bodies
from distilrt.server.long_response import LongResponse, json_pieces
from distilrt.server.memory import Budget
from distilrt.server.operation import Described, Operation
from distilrt.server.served_files import ServedFiles
from distilrt.server.settings import Settings

_Body = TypeVar("_Body")
_Result = TypeVar("_Result")
_Input = TypeVar("_Input", str, list[int])
_SMALL = 65536  # bytes of a body that is on no account; a connection reads as many before it is asked to
_BODIES = 8  # of the largest size, that are on their way at once
_MOST_DIGITS = 15  # of a header's number
_PATIENCE = 0.02  # seconds before somebody listens for a client that hangs up, which costs a task

_LONG = 4096  # tokens whose answers may take long to encode; vectors of all of them take some 0.1 s

Handler = Callable[["Call"], Awaitable[Response]]
Observer = Callable[["Call", str, int], None]  # told of each response: its call, route and status


class Gone(Exception):
    """The client hung up; nobody reads an answer."""


class Serving:
    """The engines of one server, and its state.

    Attributes:
        engines: by name, at least one; the first answers where a request names none.
        settings: as given.
        warm: whether the engines are warmed up; requests before that get 503.
        draining: whether the process is about to end; only `/readyz` and `/health` say so, requests are still taken.
        trouble: why warming up failed, if it did.
        responses: how many, by route and status.
        budget: of the bytes of large bodies.
        files: that the models are mapped from.
        described: the routes that have a description.
        observers: who is told of each response once it is sent.
    """

    def __init__(self, engines: Mapping[str, Engine], settings: Settings) -> None:
        if not engines:
            raise ValueError("there must be at least one engine to serve")
        self.engines, self.settings = dict(engines), settings
        self.warm = self.draining = False
        self.trouble: str | None = None
        self.responses: Counter[tuple[str, int]] = Counter()
        self.files = ServedFiles(self.engines.values())
        self.budget = Budget(_BODIES * settings.max_body_bytes)
        self.described: list[Described] = []
        self.observers: list[Observer] = []

    def engine(self, name: str | None = None) -> Engine:
        """The engine of that name; None: the first.

        Raises:
            UnknownModel: there is none.
        """
        engine = next(iter(self.engines.values())) if name is None else self.engines.get(name)
        if engine is None:
            raise errors.UnknownModel(f"there is no model {name!r} here; there is {', '.join(self.engines)}")
        return engine

    def having(self, task: str, fits: Callable[[Engine], bool] = lambda engine: True) -> Engine:
        """The first engine that serves a task, for routes that are for one task and name no model.

        Raises:
            NoSuchTask: there is none.
        """
        for engine in self.engines.values():
            if task in engine.tasks and fits(engine):
                return engine
        there = ", ".join(f"{name} ({', '.join(engine.tasks)})" for name, engine in self.engines.items())
        raise errors.NoSuchTask(f"no model here serves {task}; there is {there}")

    def route(
        self,
        path: str,
        handler: Handler,
        *,
        methods: Sequence[str] = ("POST",),
        shape: errors.Shape = errors.plain,
        public: bool = False,
        about: Operation | None = None,
    ) -> Route:
        """A route of a wire format.

        Args:
            path: as Starlette has it; parameters are in `call.path`.
            handler: what answers.
            methods: what the route takes.
            shape: the body of an error.
            public: needs no key.
            about: what /openapi.json says of it; None: nothing.
        """
        if about is not None:
            self.described.append(Described(path, tuple(methods), about, shape, public))
        return Route(path, _Endpoint(self, path, handler, shape, public), methods=list(methods))


class _Endpoint:
    """A handler as ASGI application, without the layers that Starlette would put around a function."""

    def __init__(self, serving: Serving, path: str, handler: Handler, shape: errors.Shape, public: bool) -> None:
        self._serving, self._path, self._handler, self._shape, self._public = serving, path, handler, shape, public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        serving = self._serving
        call = Call(serving, scope, receive)
        try:
            if not self._public:
                call.authorize()
            response = await self._handler(call)
        except Gone as error:
            detached(error)
            serving.responses[self._path, 499] += 1
            return
        except asyncio.CancelledError:
            if not serving.draining:
                raise
            response = errors.response(NotReady("the server ends, and the time for what it had taken is over; send the "
                                                "request to another one"), self._shape)  # fmt: skip
        except Exception as error:
            response = errors.response(error, self._shape)
            detached(error)  # its functions' variables have the body, and the request that has the error
        finally:
            call.release()
        if serving.draining:  # so that the client opens its next connection elsewhere
            response.headers["connection"] = "close"
        serving.responses[self._path, response.status_code] += 1
        await response(scope, receive, send)
        for observe in serving.observers:
            observe(call, self._path, response.status_code)


class Call:
    """One HTTP request.

    Attributes:
        serving: the server's state.
        path: the route's parameters.
        method, headers: the request's.
        client: the address that sent it, of IPv6 the /64 network; "" where there is none, on a socket of the machine
            itself.
        steps: when, in seconds from the start, something was answered, and its timing.
        priority, timeout: what the body asks for, in seconds; None: what the headers do.
    """

    def __init__(self, serving: Serving, scope: Scope, receive: Receive) -> None:
        self.serving, self._scope, self._receive = serving, scope, receive
        self.path: dict[str, Any] = scope.get("path_params", {})
        self.method: str = scope["method"]
        self.headers = Headers(scope=scope)
        self.client = _network((scope.get("client") or ("",))[0])
        self.steps: list[tuple[float, Timing]] = []
        self.priority: int | None = None
        self.timeout: float | None = None
        self._held = 0  # bytes of the budget
        self._listed = 0  # tokens that were made and not computed
        self._start = time.perf_counter()  # a loop's own clock may have steps of a millisecond
        self._arrived = self._start  # when the whole body was there, from when deadlines count

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
            raise errors.Unauthorized("this server needs a key, and this one is missing or wrong; send the header "
                                      "Authorization: Bearer KEY")  # fmt: skip

    async def read(self, decoder: msgspec.json.Decoder[_Body]) -> _Body:
        """The body as what the decoder makes of JSON.

        Raises:
            TooLarge, TooSlow: as the settings say.
            Malformed: no JSON in UTF-8.
            Unprocessable: JSON of another form.
            Gone: the client hung up.
        """
        return self.decode(await self.body(), decoder)

    def decode(self, body: bytes, decoder: msgspec.json.Decoder[_Body]) -> _Body:
        """What the decoder makes of a body, or of a part of it. Raises Malformed, TooLarge and Unprocessable, as
        `read`."""
        try:
            if len(body) <= _SMALL:
                return decoder.decode(body)
            return json_bodies.decode(body, decoder, 8 * self.serving.settings.max_inputs + 1024)
        except msgspec.ValidationError as error:
            raise errors.Unprocessable(f"the body is not what this route takes, see /docs: {error}") from None
        except (msgspec.DecodeError, orjson.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise errors.Malformed(f"the body must be JSON in UTF-8: {error}") from None

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
        if self.serving.settings.truncate and params.get("truncation") is None:
            self._truncate(engine, task, params)
        return await self._patiently(engine.enqueue(task, inputs, params, **self._terms()))

    async def tokenized(
        self, engine: Engine, inputs: Sequence[_Input], tokenize: Callable[[Sequence[_Input]], list[Any]]
    ) -> list[Any]:
        """What `tokenize` makes of each text or list of token ids, in turn with everybody's and under the limits of
        `answer`. Raises as that."""
        found = list(await self._patiently(engine.read(inputs, tokenize, **self._terms())))
        self._listed = sum(map(len, found))
        return found

    async def aside(self, size: int, work: Callable[[], _Result]) -> _Result:
        """What work in Python on so many bytes of a body gives; that on many is done beside the event loop."""
        return work() if size <= _SMALL else await asyncio.to_thread(work)

    def reply(self, content: Any, status: int = 200) -> Response:
        """A JSON response with the timing headers of what was answered: text-embeddings-inference's names, in
        milliseconds, and the same with `-us`, in microseconds. Content may hold NumPy arrays."""
        if self.long:
            return LongResponse(json_pieces(content), self.timings())
        body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
        return Response(body, status, self.timings(), media_type="application/json")

    @property
    def answered(self) -> list[Timing]:
        """Timings of what was answered."""
        return [timing for _, timing in self.steps]

    def age(self) -> float:
        """Seconds since the request came."""
        return time.perf_counter() - self._start

    @property
    def long(self) -> bool:
        """Whether an answer may take long to encode."""
        return self.tokens + self._listed > _LONG

    @property
    def tokens(self) -> int:
        """Tokens of what was answered."""
        return sum(timing.tokens for timing in self.answered)

    def timings(self) -> dict[str, str]:
        """The headers that `reply` adds."""
        headers = {}
        if self.steps:
            seconds = {
                "x-total-time": self.age(),
                "x-tokenization-time": sum(timing.tokenize for timing in self.answered),
                "x-queue-time": sum(timing.queue for timing in self.answered),
                "x-inference-time": sum(timing.compute for timing in self.answered),
            }
            for name, value in seconds.items():
                headers[name] = str(int(value * 1e3))
                headers[f"{name}-us"] = str(int(value * 1e6))
            headers["x-compute-tokens"] = str(self.tokens)
        return headers

    async def body(self) -> bytes:
        """The body as it was before it was compressed. Raises TooLarge, TooSlow, Malformed, UnknownEncoding and Gone,
        as `read`."""
        most = self.serving.settings.max_body_bytes
        encoding = self.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in json_bodies.ENCODINGS:
            known = ", ".join(json_bodies.ENCODINGS)
            raise errors.UnknownEncoding(f"the content-encoding must be one of {known}, found {encoding!r:.40}")
        announced = self.headers.get("content-length", "")
        size = int(announced[:_MOST_DIGITS]) if announced.isdigit() else 0
        if size > most:
            raise errors.TooLarge(f"the body has {announced} bytes, at most {most} are allowed; send fewer inputs")
        await self._take(most if encoding != "identity" else size)
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            parts = [message.get("body", b"")]
        else:
            await self._take(size or most)
            try:
                parts = await asyncio.wait_for(self._parts(message, most), self.serving.settings.body_timeout)
            except asyncio.TimeoutError:
                raise errors.TooSlow(
                    f"the body did not arrive in {self.serving.settings.body_timeout} seconds"
                ) from None
        self._arrived = time.perf_counter()
        if sum(map(len, parts)) > most:
            raise errors.TooLarge(f"the body has more than the {most} bytes that are allowed; send fewer inputs")
        body = b"".join(parts)
        if encoding != "identity":
            body = json_bodies.inflated(body, most)
        self.release(keep=len(body))
        return body

    def release(self, keep: int = 0) -> None:
        """Give back what the body holds of the budget, but for so many bytes."""
        keep = keep if keep > _SMALL else 0
        if self._held > keep:
            self.serving.budget.give(self.client, self._held - keep)
            self._held = keep

    async def _take(self, size: int) -> None:
        if size > _SMALL and not self._held:
            self._held = await self.serving.budget.take(self.client, size)

    async def _parts(self, message: Any, most: int) -> list[bytes]:
        """The parts of a body, to be read until they are too long."""
        parts: list[bytes] = []
        size = 0
        while True:
            if message["type"] == "http.disconnect":
                raise Gone
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > most or not message.get("more_body"):
                return parts
            message = await self._receive()

    def _terms(self) -> dict[str, Any]:
        """Whose a request is and what it may cost. The characters that are read, and so memory and time, are no more
        than a body may have."""
        settings = self.serving.settings
        return {
            "client": self.client,
            "priority": self._priority(),
            "deadline": self._deadline(),
            "limits": Limits(settings.max_inputs, settings.max_body_bytes, settings.max_tokens),
        }

    def _truncate(self, engine: Engine, task: str, params: dict[str, Any]) -> None:
        from distilrt import tasks

        if "truncation" in tasks.find(task).params:
            params["truncation"] = True

    def _priority(self) -> int:
        if self.priority is not None:
            return self.priority
        text = self.headers.get("x-priority", "0")
        try:
            return int(text)
        except ValueError:
            raise errors.Unprocessable(f"x-priority must be an integer, found {text!r:.40}") from None

    def _deadline(self) -> float | None:
        most, seconds, text = self.serving.settings.deadline, self.timeout, self.headers.get("x-deadline-ms")
        if seconds is None and text is not None:
            if not text.isascii() or not text.isdigit() or not text.strip("0"):
                raise errors.Unprocessable(f"x-deadline-ms must be an integer above 0, found {text!r:.40}")
            if len(text) > _MOST_DIGITS:
                raise errors.Malformed(f"x-deadline-ms may have at most {_MOST_DIGITS} digits, found {len(text)}")
            seconds = int(text) / 1e3
        if seconds is not None:
            most = seconds if most is None else min(most, seconds)
        if most is None:
            return None
        left = most - (time.perf_counter() - self._arrived)
        if left <= 0:
            raise DeadlineExceeded(f"the deadline of {most:g} seconds passed before the request could be queued; "
                                   "give it more time")  # fmt: skip
        return left

    async def _patiently(self, request: Request) -> Any:
        """The answer to a request, with its timing noted; a client that hangs up cancels it."""
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
            _PATIENCE, lambda: listening.append(asyncio.create_task(listen()))
        )
        try:
            answer = await future
            if request.timing is not None:
                self.steps.append((self.age(), request.timing))
            return answer
        except asyncio.CancelledError:
            if gone:
                raise Gone from None
            raise
        finally:
            timer.cancel()
            for task in listening:
                task.cancel()


def _network(address: str) -> str:
    """An address, or the /64 network of an IPv6 one, of which a single machine may have every address."""
    with suppress(ValueError):  # no address, as a proxy may forward
        found = IPv6Address(address) if ":" in address else None
        if found is not None and found.ipv4_mapped is None:
            return str(IPv6Address(int(found) >> 64 << 64)) + "/64"
    return address
