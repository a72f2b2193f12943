"""Hold a server under load for long, or over it, and see that it stays itself:

    python -m benches.serving.soak --minutes 60          steady load; memory flat, every answer right and exactly one
    python -m benches.serving.soak --overload --minutes 5   1.5 times what it takes; the rest is refused, at once

The exit code is 1 where a promise was broken.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benches.serving.compare import texts
from benches.serving.servers import Server, model
from distilrt.bench import answers, load, samples, targets
from distilrt.bench.command import CACHE
from distilrt.bench.latencies import Window, percentile
from distilrt.bench.load import Load
from distilrt.bench.targets import Spec

FLAT = 1.05  # memory at the end over memory after the first part
ACCEPTED = 2.0  # p99 of accepted requests over that at 80 % load
REFUSAL = 5e-3  # seconds, p99
PART = 30.0  # seconds between two looks at the memory


class Checked(targets.Server):
    """A server whose every answer is compared with its own first answer to the same text."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.sent = self.wrong = 0
        self.outcomes: Counter[str] = Counter()
        self._first: dict[int, answers.Answer] = {}

    async def answer(self, indices: Sequence[int]) -> list[Any]:
        """As the server answers."""
        self.sent += 1
        try:
            bodies = await super().answer(indices)
        except load.TargetError as error:
            self.outcomes[str(error)] += 1
            raise
        self.outcomes["answered"] += 1
        answer = answers.parse(json.loads(bodies[0]))
        first = self._first.setdefault(indices[0], answer)
        self.wrong += not np.allclose(answer.numbers, first.numbers, rtol=0, atol=1e-4)
        return bodies


Plan = Callable[[Checked, Callable[[Load], Window]], list[str]]  # what it finds broken


def measure(server: Server, folder: Path, plan: Plan) -> list[str]:
    """What `plan` finds broken, and whether every request was answered exactly once and right."""
    given = samples.make("mixed", str(folder))
    loop = load.new_loop()
    target = Checked(Spec(server.url, server.dtype, str(folder)))
    loop.run_until_complete(target.prepare(given))
    broken = plan(target, lambda wanted: loop.run_until_complete(load.measure(target, given.lengths, wanted)))
    loop.run_until_complete(target.close())
    loop.close()
    if sum(target.outcomes.values()) != target.sent:
        broken.append(f"{target.sent} requests and {sum(target.outcomes.values())} outcomes")
    if target.wrong:
        broken.append(f"{target.wrong} answers differ from the first to the same text")
    if others := {name: count for name, count in target.outcomes.items() if name not in ("answered", "HTTP 429")}:
        broken.append(f"outcomes that should not be: {others}")
    typer.echo(f"{target.sent} requests: {dict(target.outcomes)}")
    return broken


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
        flood = window(Load("flood", min(part, 10.0), 1, size=32))
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


def overload(server: Server, seconds: float) -> Plan:
    """1.5 times what the server takes, after a stretch at 80 %."""

    def plan(target: Checked, window: Callable[[Load], Window]) -> list[str]:
        flood = window(Load("flood", min(10.0, seconds), 1, size=32))
        limit = flood.samples / flood.seconds
        below = window(Load("server", min(30.0, seconds), 1, rate=0.8 * limit, seed=1))
        sizes, over = list[float](), []
        for turn in range(6):
            over.append(window(Load("server", seconds / 6, 1, rate=1.5 * limit, seed=2 + turn)))
            sizes.append(server.rss_mb())
        usual = percentile(below.latencies, 99)
        accepted = percentile(np.concatenate([each.latencies for each in over]), 99)
        refused = np.concatenate([each.refused_after for each in over])
        typer.echo(f"takes {limit:.0f}/s; p99 at 80 % {1e3 * usual:.1f} ms, of those accepted at 150 % "
                   f"{1e3 * accepted:.1f} ms; {len(refused)} refused, p99 "
                   f"{1e3 * percentile(refused, 99):.1f} ms")  # fmt: skip
        broken = flat(sizes)
        if accepted > ACCEPTED * usual:
            broken.append(f"p99 of accepted requests is {accepted / usual:.1f} times that at 80 % load")
        if not len(refused):
            broken.append("nothing was refused at 150 % load")
        elif percentile(refused, 99) > REFUSAL:
            broken.append(f"refusals take {1e3 * percentile(refused, 99):.1f} ms")
        return broken

    return plan


def main(
    name: Annotated[str, typer.Option("--server", help="Of servers.py.")] = "distilrt",
    minutes: float = 60.0,
    over: Annotated[bool, typer.Option("--overload", help="1.5 times what it takes.")] = False,
    threads: int = 2,
    cache: Path = CACHE,
) -> None:
    """Run, and say what was broken."""
    folder = model(cache, texts())
    with Server(name, folder, threads) as server:
        plan = overload(server, 60 * minutes) if over else steady(server, 60 * minutes)
        broken = measure(server, folder, plan)
    for line in broken:
        typer.echo(f"BROKEN: {line}")
    if broken:
        raise typer.Exit(1)
    typer.echo("all promises kept")


if __name__ == "__main__":
    typer.run(main)
