"""Hold a server under load for long, or over it, and see that it stays itself:

    python -m benches.serving.soak --minutes 60          steady load; memory flat, every answer right and exactly one
    python -m benches.serving.soak --overload --minutes 5   1.5 times what it takes; the rest is refused, at once

At the end it is told to stop while it computes, and must answer what it took. The exit code is 1 where a promise was
broken. `--no-times` only shows times, for machines that do other work meanwhile.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import numpy as np
import typer
from rich.console import Console

from benches.serving.compare import texts
from benches.serving.servers import Server, model
from distilrt.bench import answers, load, samples, targets
from distilrt.bench.http_client import Refused
from distilrt.bench.load import Load
from distilrt.bench.progress import Bar
from distilrt.bench.statistics import Window, percentile
from distilrt.bench.targets import Spec
from distilrt.bench.verbs import CACHE

FLAT = 1.05  # memory at the end over memory after the first part
ACCEPTED = 2.0  # p99 of accepted requests over that at 80 % load
REFUSAL = 5e-3  # seconds, p99
PART = 30.0  # seconds between two looks at the memory
UNDER_WAY = 64  # requests when the server is told to stop
END = 40.0  # seconds in which it must
_COUNTED = re.compile(r'^distilrt_http_responses_total\{code="(\d+)",route="/"\} (\S+)$', re.M)


class Checked(targets.Server):
    """A server whose every answer is compared with its own first answer to the same text."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.sent = self.wrong = 0
        self.outcomes: Counter[str] = Counter()
        self.refused_after: list[float] = []
        self._first: dict[int, answers.Answer] = {}

    def begin(self, index: int) -> asyncio.Future[bytes]:
        """As the server answers."""
        self.sent += 1
        answer = super().begin(index)
        answer.add_done_callback(partial(self._note, index))
        return answer

    async def answer(self, indices: Sequence[int]) -> list[Any]:
        """The same; of one text."""
        (index,) = indices
        return [await self.begin(index)]

    def _note(self, index: int, body: asyncio.Future[bytes]) -> None:
        if body.cancelled():
            self.outcomes["given up"] += 1
        elif (error := body.exception()) is not None:
            self.outcomes[str(error)] += 1
            if isinstance(error, Refused):
                self.refused_after.append(error.after)
        else:
            self.outcomes["answered"] += 1
            answer = answers.parse(json.loads(body.result()))
            first = self._first.setdefault(index, answer)
            self.wrong += not np.allclose(answer.numbers, first.numbers, rtol=0, atol=1e-4)


Plan = Callable[[Checked, Callable[[Load], Window]], list[str]]  # what it finds broken


def measure(server: Server, folder: Path, plan: Plan) -> list[str]:
    """What `plan` finds broken, and whether every request was answered exactly once and right."""
    given = samples.make("mixed", str(folder))
    loop = load.new_loop()
    target = Checked(Spec(server.url, server.kind.dtype, str(folder)))
    loop.run_until_complete(target.prepare(given))
    before = counted(server.url)
    broken = plan(target, lambda wanted: loop.run_until_complete(load.measure(target, given.lengths, wanted)))
    answered = counted(server.url)
    answered.subtract(before)
    loop.run_until_complete(target.close())
    loop.close()
    if sum(target.outcomes.values()) != target.sent:
        broken.append(f"{target.sent} requests and {sum(target.outcomes.values())} outcomes")
    seen = Counter({"200" if name == "answered" else name.removeprefix("HTTP "): count
                    for name, count in target.outcomes.items()})  # fmt: skip
    if answered and +answered != +seen:
        broken.append(f"the server counts {dict(+answered)} responses, the client {dict(+seen)}")
    if target.wrong:
        broken.append(f"{target.wrong} answers differ from the first to the same text")
    if others := {name: count for name, count in target.outcomes.items() if name not in ("answered", "HTTP 429")}:
        broken.append(f"outcomes that should not be: {others}")
    typer.echo(f"{target.sent} requests: {dict(target.outcomes)}; the server counts {dict(+answered)}")
    return broken


def counted(url: str) -> Counter[str]:
    """Responses to `POST /` by status, as distilrt's `/metrics` counts them; none of another server."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    return Counter({code: int(float(number)) for code, number in _COUNTED.findall(text)})


def drained(server: Server, folder: Path) -> list[str]:
    """Stop the server while requests are under way: each must be answered or refused, and the process then end."""
    given = samples.make("mixed", str(folder))
    loop = load.new_loop()
    target = targets.Server(Spec(server.url, server.kind.dtype, str(folder)))

    async def burst(stop: bool) -> list[Any]:
        """Answers, or what was raised instead."""
        tasks = [asyncio.create_task(target.answer([index])) for index in range(UNDER_WAY)]
        if stop:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            server.process.send_signal(signal.SIGTERM)
        found: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
        return found

    async def both() -> list[Any]:
        await target.prepare(given)
        await burst(stop=False)  # opens the connections, so that all requests of the next are sent before the signal
        found = await burst(stop=True)
        await target.close()
        return found

    found = loop.run_until_complete(both())
    loop.close()
    ends = Counter("answered" if isinstance(each, list) else str(each) for each in found)
    typer.echo(f"stopped with {UNDER_WAY} requests under way: {dict(ends)}")
    lost = {name: count for name, count in ends.items() if name not in ("answered", "HTTP 429", "HTTP 503")}
    broken = [f"requests under way were lost at the end: {lost}"] if lost else []
    try:
        status = server.process.wait(END)
    except subprocess.TimeoutExpired:
        return [*broken, f"the server did not end in {END:.0f} s"]
    return broken if status == 0 else [*broken, f"the server ended with {status}"]


def flat(sizes: Sequence[float]) -> list[str]:
    """Whether memory stays as it is once everything was touched: the median of the last third over the second."""
    third = len(sizes) // 3
    if not third:
        return []
    early, late = (float(np.median(part)) for part in (sizes[third : 2 * third], sizes[-third:]))
    typer.echo(f"memory: {early:.0f} MB, at the end {late:.0f} MB")
    return [f"memory grew from {early:.0f} to {late:.0f} MB"] if late > FLAT * early else []


def steady(server: Server, seconds: float, part: float = PART) -> Plan:
    """Half of what the server takes, for so long."""

    def plan(target: Checked, window: Callable[[Load], Window]) -> list[str]:
        flood = window(Load("flood", min(part, 10.0, seconds), 1, size=32))
        rate, sizes, end, turn = 0.5 * flood.samples / flood.seconds, list[float](), time.monotonic() + seconds, 0
        while time.monotonic() < end:
            turn += 1
            found = window(Load("server", min(part, seconds / 6), 1, rate=rate, seed=turn))
            sizes.append(server.rss_mb())
            typer.echo(f"{rate:.0f}/s: p50 {1e3 * percentile(found.latencies, 50):.1f} ms, p99 "
                       f"{1e3 * percentile(found.latencies, 99):.1f} ms, {sizes[-1]:.0f} MB, "
                       f"{sum(found.failures.values())} refused")  # fmt: skip
        return flat(sizes)

    return plan


def overload(server: Server, seconds: float, times: bool = True) -> Plan:
    """1.5 times what the server takes, after a stretch at 80 %; `times`: hold times, too, to what is promised."""

    def plan(target: Checked, window: Callable[[Load], Window]) -> list[str]:
        flood = window(Load("flood", min(10.0, seconds), 1, size=32))
        limit = flood.samples / flood.seconds
        below = window(Load("server", min(30.0, seconds), 1, rate=0.8 * limit, seed=1))
        sizes, over = list[float](), []
        target.refused_after.clear()
        for turn in range(6):
            over.append(window(Load("server", seconds / 6, 1, rate=1.5 * limit, seed=2 + turn)))
            sizes.append(server.rss_mb())
        usual = percentile(below.latencies, 99)
        accepted = percentile(np.concatenate([each.latencies for each in over]), 99)
        late = percentile(np.concatenate([each.lags for each in over]), 99)
        refused = np.array(target.refused_after)
        typer.echo(f"takes {limit:.0f}/s; p99 at 80 % {1e3 * usual:.1f} ms, of those accepted at 150 % "
                   f"{1e3 * accepted:.1f} ms; {len(refused)} refused, p99 {1e3 * percentile(refused, 99):.1f} ms from "
                   f"sending; the client itself sent late by p99 {1e3 * late:.1f} ms")  # fmt: skip
        slow = []
        if accepted > ACCEPTED * usual:
            slow.append(f"p99 of accepted requests is {accepted / usual:.1f} times that at 80 % load")
        if not len(refused):
            slow.append("nothing was refused at 150 % load")
        elif percentile(refused, 99) > REFUSAL:
            slow.append(f"refusals take {1e3 * percentile(refused, 99):.1f} ms")
        if not times:
            typer.echo("".join(f"not held here: {line}\n" for line in slow), nl=False)
        return flat(sizes) + (slow if times else [])

    return plan


def main(
    name: Annotated[str, typer.Option("--server", help="Of servers.py, with distilrt's format.")] = "distilrt",
    minutes: float = 60.0,
    over: Annotated[bool, typer.Option("--overload", help="1.5 times what it takes.")] = False,
    times: Annotated[bool, typer.Option(help="Whether times break a promise.")] = True,
    threads: int = 2,
    cache: Path = CACHE,
) -> None:
    """Run, and say what was broken."""
    folder = model(cache, texts())
    with Server(name, folder, threads) as server:
        plan = overload(server, 60 * minutes, times) if over else steady(server, 60 * minutes)
        with Bar(60 * minutes, Console(stderr=True)) as bar:
            bar.step("1.5 times what it takes" if over else "half of what it takes", 60 * minutes)
            broken = measure(server, folder, plan) + drained(server, folder)
        if bar.stopped:
            raise typer.Exit(130)
    for line in broken:
        typer.echo(f"BROKEN: {line}")
    if broken:
        raise typer.Exit(1)
    typer.echo("all promises kept")


if __name__ == "__main__":
    typer.run(main)
