"""The load generator: sends queries one after the other or at Poisson times, and notes what became of each.

In an open loop a query's latency counts from the time it was meant to be sent, whatever held the generator up: a slow
target cannot slow the schedule down and hide its own queue ("coordinated omission").
"""

from __future__ import annotations

import asyncio
import select
import selectors
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from distilrt.bench.samples import Samples
from distilrt.bench.statistics import Seconds, Window

Answer = Callable[[Sequence[int]], Awaitable[list[Any]]]
BACK_OFF = (0.01, 0.08)  # seconds before a closed loop asks again who refused; doubled each time up to the second
DRAIN = 60.0  # seconds that answers may take after the last query was sent
TOGETHER = 8  # queries sent without a look at answers, where several are due


class TargetError(Exception):
    """A query got no answer; the message is the reason, short enough to be counted by."""


class Target(ABC):
    """What a load generator sends queries to: indices of samples that the target has at hand, as it takes them.

    Attributes:
        dtype, version: what computes, known after `prepare`.
    """

    dtype: str
    version: str

    @abstractmethod
    async def prepare(self, samples: Samples) -> None:
        """Take the inputs that `answer` names by index, and get ready for them."""

    @abstractmethod
    async def answer(self, indices: Sequence[int]) -> list[Any]:
        """Raw answers to one query of these samples.

        Raises:
            TargetError: there are none.
        """

    @abstractmethod
    async def answer_all(self, indices: Sequence[int]) -> list[Any]:
        """The same for very many samples, in whatever batches suit the target."""

    def decode(self, raw: Any) -> Any:
        """A raw answer as `answers.parse` takes it."""
        return raw

    async def close(self) -> None:  # noqa: B027 (an engine in a process that ends has nothing to give back)
        """Give back what it holds."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one window sends.

    Attributes:
        scenario: `single`: one sample after the other; `multi`: `size` samples after the other; `server`: single
            samples at Poisson times; `offline`: all at once; `flood`: single samples, always `size` in flight.
        seconds, count: the least of each; whichever is reached last ends the window.
        rate: queries per second of `server`.
        size: see `scenario`.
        seed: of the order of samples and of their times.
        lead: seconds in which a closed loop asks already, and nothing counts yet.
    """

    scenario: str
    seconds: float
    count: int
    rate: float = 0.0
    size: int = 1
    seed: int = 0
    lead: float = 0.0


def arrivals(rate: float, seconds: float, count: int, seed: int) -> Seconds:
    """Times of a Poisson process of `rate` per second: all before `seconds`, and at least `count`."""
    random = np.random.default_rng(seed)
    expected = rate * seconds
    times = np.cumsum(random.exponential(1 / rate, int(max(count, expected + 6 * expected**0.5)) + 1))
    return times[: max(count, int(np.searchsorted(times, seconds)))]


async def measure(target: Target, lengths: Sequence[int], load: Load) -> Window:
    """Run one window; `lengths` has the tokens of each of the target's samples."""
    if load.scenario == "server":
        return await _open_loop(target, lengths, load)
    return await _closed_loop(target, lengths, load)


class _Record:
    """Collects a window while it runs."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self._lengths = lengths
        self.latencies: list[float] = []
        self.lags: list[float] = []
        self.failures: Counter[str] = Counter()
        self.samples = self.tokens = 0
        self.end = 0.0

    async def ask(self, answer: Answer, indices: Sequence[int], since: float) -> bool:
        """Send a query and note what became of it; whether it was answered."""
        try:
            await answer(indices)
        except TargetError as error:
            self.end = time.perf_counter()
            self.failures[str(error)] += 1
            return False
        self.end = time.perf_counter()
        self.latencies.append(self.end - since)
        self.samples += len(indices)
        self.tokens += sum(self._lengths[i] for i in indices)
        return True

    def window(self, start: float) -> Window:
        return Window(np.array(self.latencies), np.array(self.lags), self.samples, self.tokens,
                      max(self.end - start, 1e-9), self.failures)  # fmt: skip


def _order(lengths: Sequence[int], seed: int) -> Callable[[int], list[int]]:
    """Takes the next samples of a random order of all, again and again."""
    random, left = np.random.default_rng(seed), list[int]()

    def take(count: int) -> list[int]:
        while len(left) < count:
            left.extend(random.permutation(len(lengths)).tolist())
        taken = left[:count]
        del left[:count]
        return taken

    return take


async def _closed_loop(target: Target, lengths: Sequence[int], load: Load) -> Window:
    """Lanes that each ask again once they were answered: the `size` of a flood, otherwise one."""
    record, take = _Record(lengths), _order(lengths, load.seed)
    before = _order(lengths, load.seed + 1)  # of its own: the same queries count, however many go before them
    size = {"multi": load.size, "offline": len(lengths)}.get(load.scenario, 1)
    answer = target.answer_all if load.scenario == "offline" else target.answer
    start = time.perf_counter()
    while time.perf_counter() - start < load.lead:
        with suppress(TargetError):
            await answer(before(size))
    start, sent = time.perf_counter(), 0

    async def lane() -> None:
        nonlocal sent
        pause = BACK_OFF[0]
        while sent < load.count or time.perf_counter() - start < load.seconds:
            sent += 1
            if await record.ask(answer, take(size), time.perf_counter()):
                pause = BACK_OFF[0]
            else:
                await asyncio.sleep(pause)
                pause = min(2 * pause, BACK_OFF[1])

    await asyncio.gather(*(lane() for _ in range(load.size if load.scenario == "flood" else 1)))
    return record.window(start)


async def _open_loop(target: Target, lengths: Sequence[int], load: Load) -> Window:
    record, take = _Record(lengths), _order(lengths, load.seed)
    times = arrivals(load.rate, load.seconds, load.count, load.seed)
    order = take(len(times))
    queries = list[asyncio.Task[bool]]()
    start, together = time.perf_counter() + 0.01, 0
    for offset, index in zip(times.tolist(), order, strict=True):
        since = start + offset
        left = since - time.perf_counter()
        together = 0 if left > 0 else together + 1
        if left > 0 or together % TOGETHER == 0:
            await asyncio.sleep(max(left, 0))
        record.lags.append(time.perf_counter() - since)
        queries.append(asyncio.create_task(record.ask(target.answer, [index], since)))
    answered, unanswered = await asyncio.wait(queries, timeout=DRAIN)
    for query in unanswered:
        query.cancel()
    await asyncio.gather(*unanswered, return_exceptions=True)
    if unanswered:
        record.end = time.perf_counter()
        record.failures[f"no answer in {DRAIN:.0f} s"] += len(unanswered)
    for query in answered:
        query.result()  # raises what is no `TargetError`
    return record.window(start)


if hasattr(selectors, "EpollSelector"):

    class _Precise(selectors.EpollSelector):
        """epoll waits whole milliseconds, which is too coarse for a schedule; select on the epoll itself is not."""

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            if timeout is not None and timeout > 0:
                select.select([self.fileno()], [], [], timeout)
                timeout = 0
            return super().select(timeout)

else:
    _Precise = selectors.DefaultSelector  # type: ignore[misc,assignment]


def new_loop() -> asyncio.AbstractEventLoop:
    """An event loop whose timers are exact to some microseconds."""
    return asyncio.SelectorEventLoop(_Precise())
