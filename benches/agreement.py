"""Whether `distilrt bench` can be believed on this machine: the same run twice, each with an engine slowed by 5 %.

    python -m benches.agreement --model FOLDER --peer onnxruntime:int8

The two runs must agree within 5 % in the ratio to the same peer, and each must find the slowed engine slower than the
other. That one waits a twentieth of each answer's time; it spins, for a sleep would take longer and make it easy. The
exit code is 1 where one of these fails.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from distilrt.bench import command, ratios, roofline, samples, scenarios, session, targets, terminal
from distilrt.bench.changes import changes
from distilrt.bench.findings import Findings, facts
from distilrt.bench.progress import Bar
from distilrt.bench.targets import Spec
from distilrt.cpu_count import usable_cores

SLOWER = 0.05
ALLOWED = 0.05
SLOWED = "slowed distilrt"


@dataclass(frozen=True, slots=True)
class Slowed(Spec):
    """distilrt, whose process slows it."""

    @property
    def label(self) -> str:
        """Beside that which is not."""
        return SLOWED


class SlowingSession(session.Session):
    """A session whose process slows distilrt where it is told to."""

    def __init__(self, spec: Spec, given: samples.Samples) -> None:
        self.module = "benches.agreement" if isinstance(spec, Slowed) else session.Session.module
        super().__init__(spec, given)


def slowed(answer: Callable[[Sequence[int]], Any]) -> Callable[[Sequence[int]], Any]:
    """`answer`, and then 5 % of its time for nothing."""

    async def longer(indices: Sequence[int]) -> list[Any]:
        start = time.perf_counter()
        found: list[Any] = await answer(indices)
        end = time.perf_counter() + SLOWER * (time.perf_counter() - start)
        while time.perf_counter() < end:
            await asyncio.sleep(0)
        return found

    return longer


class _SlowedTarget(targets.Distilrt):
    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.answer = slowed(self.answer)  # type: ignore[assignment,method-assign]
        self.answer_all = slowed(self.answer_all)  # type: ignore[assignment,method-assign]


def _run(specs: Sequence[Spec], given: samples.Samples, plan: scenarios.Plan, model: str, threads: int) -> Findings:
    found = Findings(facts(model, threads), plan.describe())
    with Bar(8.0 + len(specs) * (plan.seconds + 5.0), Console(stderr=True), log=False) as bar:
        scenarios.run(specs, [given], plan, found, exact_model=model, say=bar.step,
                      peaks=lambda: roofline.Roofline({}, None))  # fmt: skip
    terminal.show(found, Console(markup=False, highlight=False))
    if bar.stopped:
        raise typer.Exit(130)
    if len(found.rows) < len(specs):
        raise typer.Exit(1)
    return found


def beside_itself(found: Findings) -> ratios.Estimate:
    """How many times as fast the slowed engine is as the other."""
    (usual,) = (row for row in found.rows if row["target"] == targets.OURS)
    (slow,) = (row for row in found.rows if row["target"] == SLOWED)
    return ratios.beside(slow["rounds_ms"], usual["rounds_ms"])


def main(
    model: Annotated[str, typer.Option("--model", "-m")],
    peer: Annotated[str, typer.Option(help="With its dtype, as in onnxruntime:int8.")] = "onnxruntime:int8",
    dtype: Annotated[str, typer.Option(help="Of distilrt.")] = "int8",
    scenario: Annotated[str, typer.Option(help="single, multi or offline.")] = "single",
    workload: str = "mixed",
    duration: float = 10.0,
    threads: int | None = None,
) -> None:
    """Run twice."""
    plan, given = scenarios.Plan(scenario, duration), samples.make(workload, model)
    name, its_dtype = targets.parse(peer, "float32")
    specs = [
        Spec(name, its_dtype, command.for_peers(model, [given]), threads=threads),
        Spec(targets.OURS, dtype, model, threads=threads),
        Slowed(targets.OURS, dtype, model, threads=threads),
    ]
    scenarios.Session = SlowingSession  # type: ignore[assignment,attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        # Processes of targets do not look where they are, nor may they see the folder `kernels` beside this one.
        Path(folder, "benches").symlink_to(Path(__file__).parent)
        os.environ["PYTHONPATH"] = folder
        first, again = (_run(specs, given, plan, model, threads or usable_cores()) for _ in range(2))
    (same,) = (change for change in changes([first], [again], specs[0].named) if SLOWED not in change.what)
    typer.echo(f"again, {same}")
    slower = [beside_itself(found) for found in (first, again)]
    for each in slower:
        low, high = each.interval
        typer.echo(f"{SLOWED} beside the other: {each.ratio - 1:+.1%} (95 %: {low - 1:+.1%} to {high - 1:+.1%})")
    agree = abs(same.factor.log) <= math.log1p(ALLOWED)
    found = all(each.changed and each.log < 0 for each in slower)
    typer.echo(f"two runs {'agree' if agree else 'DISAGREE'}; the slowed engine was {'' if found else 'NOT '}found")
    if not agree or not found:
        raise typer.Exit(1)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        typer.run(main)
    else:  # as the process of a session
        targets.Distilrt = _SlowedTarget  # type: ignore[misc]
        session.main()
