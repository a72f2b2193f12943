"""A server as the load generator's `Target`: any that speaks a format of `wire`, asked over HTTP by aiohttp."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Sequence
from typing import Any

import aiohttp
from yarl import URL

from distilrt.bench.load import Target, TargetError
from distilrt.bench.samples import Samples
from distilrt.bench.targets import Spec
from distilrt.bench.wire import FORMATS
from distilrt.errors import InvalidParameter

MOST_CONNECTIONS = 2000  # further requests wait for one, which counts as their latency
CONNECT = 5.0  # seconds
IDLE = 2.0  # seconds; servers hang up after a few, perhaps just as the next request is on its way


class Server(Target):
    """The client of one server, or of several replicas that get requests in turn."""

    def __init__(self, spec: Spec) -> None:
        self._spec, self._form = spec, FORMATS[spec.wire]
        self._session: aiohttp.ClientSession | None = None
        self.dtype = "unknown" if spec.dtype == "auto" else spec.dtype
        self.version = spec.wire

    async def prepare(self, samples: Samples) -> None:
        """Write the requests, so that sending costs no more than it must, and ask who serves.

        Raises:
            InvalidParameter: the format has no such task.
            TargetError: nobody answers.
        """
        paths, bases = self._form.paths, self._spec.name.split(",")
        if samples.task not in paths:
            raise InvalidParameter(
                f"{self._spec.wire} is measured for {', '.join(paths)}, and this checkpoint is for "
                f"{samples.task}; take another --format or checkpoint"
            )
        path = paths[samples.task]
        # A model's own URL has no slash at its end.
        self._urls = itertools.cycle([URL((base.rstrip("/") + path).rstrip("/")) for base in bases])
        self._samples = samples
        self._bodies = [self._body([i]) for i in range(len(samples.inputs))]
        for base in bases:
            self.version = (await self._ask("GET", URL(base)))[0] or self._spec.wire

    def _body(self, indices: Sequence[int]) -> bytes:
        given = self._samples
        return self._form.encode(given.task, [given.inputs[i] for i in indices], given.params, self._spec.served)

    async def _ask(self, method: str, url: URL, body: bytes | None = None) -> tuple[str, int, bytes]:
        """What the server calls itself, its status and its answer."""
        if self._session is None:  # It belongs to the running loop.
            headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
            if self._spec.key is not None:
                headers["Authorization"] = f"Bearer {self._spec.key}"
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=MOST_CONNECTIONS, keepalive_timeout=IDLE),
                timeout=aiohttp.ClientTimeout(sock_connect=CONNECT),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=headers,
            )
        try:
            async with self._session.request(method, url, data=body, allow_redirects=False) as response:
                return response.headers.get("Server", ""), response.status, await response.read()
        except aiohttp.ClientConnectorError as error:
            reason = os.strerror(error.os_error.errno) if error.os_error.errno else str(error.os_error)
            raise TargetError(f"cannot connect to {error.host}:{error.port}: {reason}") from None
        except aiohttp.ServerTimeoutError:
            raise TargetError(f"no connection to {url.host}:{url.port} in {CONNECT:g} s") from None
        except aiohttp.ClientResponseError as error:
            raise TargetError(f"broken HTTP: {error.message}") from None
        except (aiohttp.ClientError, OSError):
            raise TargetError("connection lost") from None

    async def answer(self, indices: Sequence[int]) -> list[Any]:
        """The body, unread, of the answer to one request for all of these."""
        body = self._bodies[indices[0]] if len(indices) == 1 else self._body(indices)
        _, status, found = await self._ask("POST", next(self._urls), body)
        if status != 200:
            raise TargetError(f"HTTP {status}")
        return [found]

    async def answer_all(self, indices: Sequence[int]) -> list[Any]:
        """Single requests, so many at a time as a client with much work keeps in flight; one that fails ends all."""
        answers: list[Any] = [None] * len(indices)
        places = iter(enumerate(indices))

        async def lane() -> None:
            for place, index in places:
                (answers[place],) = await self.answer([index])

        lanes = [asyncio.ensure_future(lane()) for _ in range(self._spec.in_flight)]
        try:
            await asyncio.gather(*lanes)
        finally:
            for each in lanes:
                each.cancel()
        return answers

    def decode(self, raw: Any) -> Any:
        """The answer to a request of one sample, as `answers.parse` takes it."""
        return self._form.decode(raw)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
